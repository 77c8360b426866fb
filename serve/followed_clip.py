"""Follows the driving face of a clip on the GPU while it is there, and by the host's searches where it is not.

Cuts between shots, the first face and faces that were lost are the host's, as of `FaceTracker`; every frame is shown by
one graph, which is run again where the host finds the face in another place.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from triportrait.serve.controls import Controls
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.following import FOLLOW, HOLD, TAKE, Packed
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.followed_frames import FollowedFrames, RawFrame, ShownFrame, canvas_of
from triportrait.serve.reenactor import PreparedSource


class FollowedClip:
    """Shows a portrait as one face in a clip is, frame by frame.

    Args:
        frames: follows and shows.
        tracker: searches, and counts where the face was seen; it has a provider.
        source: the portrait.
    """

    def __init__(self, frames: FollowedFrames, tracker: FaceTracker, source: PreparedSource) -> None:
        self._frames, self._tracker, self._source = frames, tracker, source
        self._state: Packed | None = None  # of a face that was shown

    def stage(self, image: np.ndarray) -> Tensor:
        """Copy a frame, uint8 [h, w, 3], to where it is uploaded from; any thread may."""
        return self._frames.stage(image)

    def aligned(self, shown: ShownFrame) -> AlignedFace:
        """Fetch a face that was shown, as of `FollowedFrames.aligned`."""
        return self._frames.aligned(shown)

    def show(
        self, staged: Tensor, time_s: float, controls: Controls, turn: Tensor, signs: Tensor | None = None
    ) -> ShownFrame | AlignedFace:
        """Show the portrait as the face in the next frame is.

        Args:
            staged: the frame, from `stage`.
            time_s: later than that of the frame before.
            controls, turn: as of `RawFrame`.
            signs: [1, 64], of a watermark; the picture then comes without it and with it.

        Returns:
            What is shown; or, where no face was seen yet or no canvas holds the frame, the face by which `Reenactor`
            shows the frame.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        image, tracker = staged.numpy(), self._tracker
        if canvas_of(*image.shape[:2]) is None:
            self._state = None  # the host's filters follow it from here on
            return tracker.follow(image, time_s)
        frame = RawFrame(self._source, staged, time_s, controls, turn, self._state or self._frames.begin(), FOLLOW)
        cut, shown = tracker.notice_cut(image), None
        if tracker.near is not None and self._state is not None:
            shown = self._shown(frame, signs)
            if shown.found:
                tracker.saw(shown.face)
                return shown
        seen = tracker.seek(image, time_s, cut)
        if seen is not None:
            face, _, is_anew = seen
            return self._shown(replace(frame, does=TAKE, face=face, anew=is_anew), signs)
        if self._state is None:
            return replace(AlignedFace.middle(image, tracker.size_px), found=False)
        return shown or self._shown(replace(frame, does=HOLD), signs)

    def _shown(self, frame: RawFrame, signs: Tensor | None) -> ShownFrame:
        (shown,) = self._frames.show([frame], signs)()
        self._state = shown.state
        return shown
