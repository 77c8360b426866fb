"""The driving faces of sessions on a GPU, where the graph that shows a batch of sessions also follows their faces.

A thread of the host decodes a frame, stages it in pinned memory and notices cuts; it searches only where no face is
followed: at first, after a cut, where one was lost or jumped. What became of a frame is known once it is shown. Frames
that are larger than CANVAS, which the page does not send, are followed on the host.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.serve.controls import Controls
from triportrait.serve.faces.face import AlignedFace, Face, FaceProvider
from triportrait.serve.faces.following import FOLLOW, HOLD, TAKE, Packed
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.followed_frames import (
    CANVASES,
    FollowedFrames,
    RawFrame,
    ShownFrame,
    can_follow,
    followed_frames,
)
from triportrait.serve.reenactor import PreparedSource, Reenactor

CANVAS = CANVASES[0]  # rows and columns; it holds what the page sends, whose longer side is 480 px


@dataclass(eq=False)
class RawFace:
    """A driving frame whose face is followed when it is shown; one was seen before.

    Attributes:
        of: the face that it shows, of a session.
        image: uint8 [h, w, 3], staged.
        time_s: later than that of the session's frame before.
        number: counts the session's frames.
        does: FOLLOW, TAKE or HOLD.
        face: the one that is taken. anew: it is in another shot. begins: nothing of the state before counts.
        shown: what became of it; None until then.
    """

    of: SessionFace
    image: Tensor
    time_s: float
    number: int
    does: int
    face: Face | None = None
    anew: bool = False
    begins: bool = False
    shown: ShownFrame | None = None
    _aligned: AlignedFace | None = None

    @property
    def found(self) -> bool:
        """Tell whether the frame was shown and shows the face."""
        return self.shown is not None and self.shown.found

    @property
    def is_known(self) -> bool:
        """Tell that the face was seen, in this frame or in one before, as of `AlignedFace`."""
        return True

    def aligned(self) -> AlignedFace:
        """Fetch the face as the host's tracker gives it, once; the network's thread calls it and waits for the device.

        Raises:
            InputError: the frame could not be shown.
        """
        if self._aligned is None:
            if self.shown is None:
                raise InputError("driving face: expected one that was shown, the network failed on it; take the next")
            self._aligned = self.of.frames.aligned(self.shown)
        return self._aligned


LiveRequest = tuple[PreparedSource, AlignedFace | RawFace, Controls]


class SessionFace:
    """Follows the face of one session: `follow` is called by one thread at a time, the rest by the network's thread.

    Args:
        frames: follows and shows.
        tracker: searches.
    """

    def __init__(self, frames: FollowedFrames, tracker: FaceTracker) -> None:
        self.frames, self._tracker = frames, tracker
        # Of the thread that follows: the last frame's number and what its face does; the last taken, None where no
        # state can be followed; the number from which on a face that was shown is where the next may be near.
        self._number, self._does = 0, HOLD
        self._taken: int | None = None
        self._since = 0
        # Of the network's thread: the state, and whether the last frame showed the face.
        self._state: Packed | None = None
        self._is_followed = False
        # Under the lock: numbers of the last frames that lost the face, and that failed; the face that was last shown.
        self._lock = threading.Lock()
        self._lost = self._failed = -1
        self._seen: tuple[int, Face] | None = None

    def follow(self, image: np.ndarray, time_s: float) -> AlignedFace | RawFace:
        """Stage the next frame, uint8 [H, W, 3], at a later time, and search it for the face where none is followed.

        Returns:
            What is to be shown; before the first face, and of a frame larger than CANVAS, the face itself.
        """
        tracker = self._tracker
        self._number += 1
        if image.shape[0] > CANVAS[0] or image.shape[1] > CANVAS[1]:
            self._taken, self._since = None, self._number
            return tracker.follow(image, time_s)
        cut = tracker.notice_cut(image)
        with self._lock:
            lost, failed, seen = self._lost, self._failed, self._seen
        if self._taken is not None and failed >= self._taken:
            self._taken = None
        if not cut and self._taken is not None and self._does != HOLD and lost < self._taken:
            return self._raw(image, time_s, FOLLOW)
        if cut:
            self._since = self._number
        if seen is not None and seen[0] >= self._since:
            tracker.saw(seen[1])
        sought = tracker.seek(image, time_s, cut)
        self._since = self._number
        if sought is not None:
            face, _, is_anew = sought
            begins, self._taken = self._taken is None, self._number
            return replace(self._raw(image, time_s, TAKE), face=face, anew=is_anew, begins=begins)
        if self._taken is None:
            return replace(AlignedFace.middle(image, tracker.size_px), found=False)
        return self._raw(image, time_s, HOLD)

    def _raw(self, image: np.ndarray, time_s: float, does: int) -> RawFace:
        self._does = does
        return RawFace(self, self.frames.stage(image), time_s, self._number, does)

    def takes(self, raw: RawFace) -> bool:
        """Tell whether a frame can be shown; else the face was lost meanwhile, and `follow` has to search the frame."""
        if raw.does == TAKE or (self._state is not None and (raw.does == HOLD or self._is_followed)):
            return True
        with self._lock:
            if self._state is None:
                self._failed = raw.number
            else:
                self._lost = raw.number
        return False

    def frame(self, raw: RawFace, source: PreparedSource, controls: Controls) -> RawFrame:
        """Make what `FollowedFrames` shows."""
        state = None if raw.begins else self._state
        return RawFrame(
            source, raw.image, raw.time_s, controls, torch.eye(4), state or self.frames.begin(), raw.does, raw.face,
            raw.anew,
        )  # fmt: skip

    def was_shown(self, raw: RawFace, shown: ShownFrame) -> None:
        """Note what became of a frame."""
        raw.shown, self._state, self._is_followed = shown, shown.state, shown.found
        with self._lock:
            if shown.found:
                self._seen = raw.number, shown.face
            else:
                self._lost = raw.number

    def failed(self, raw: RawFace) -> None:
        """Note that a frame could not be shown: its numbers may not be finite, and the face is searched anew."""
        self._state, self._is_followed = None, False
        with self._lock:
            self._failed = raw.number


class DeviceFaces:
    """Follows and shows the faces of all sessions. One thread uses the network; any thread may call `follower`.

    Args:
        reenactor: the network, captured.
        finder: searches for faces.
    """

    def __init__(self, reenactor: Reenactor, finder: FaceProvider) -> None:
        self._reenactor, self._finder = reenactor, finder
        self._frames = followed_frames(reenactor, smooth=True)

    def follower(self) -> SessionFace:
        """Make what follows the face of one session."""
        reenactor = self._reenactor
        tracker = FaceTracker(self._finder, reenactor.image_size, flame=reenactor.has_flame_neck, spread=True)
        return SessionFace(self._frames, tracker)

    def capture(
        self, source: PreparedSource, image: np.ndarray, sizes: Sequence[int], marked: bool, geometry: bool = False
    ) -> None:
        """Capture the graphs of CANVAS for batches of these sizes; nothing is captured later.

        Args:
            source: any portrait.
            image: uint8 [H, W, 3] with a face.
            sizes: of `cuda_graph.BATCHES`.
            marked: whether the pictures get watermarks.
            geometry: capture batches that show depth or normals, too.
        """
        raw = self.follower().follow(image, 0.0)
        assert isinstance(raw, RawFace), "it shows a face"
        self._frames.capture(raw.of.frame(raw, source, Controls()), sizes, marked, geometry)

    def show(
        self, requests: Sequence[tuple[PreparedSource, RawFace, Controls]], signs: Tensor | None
    ) -> list[np.ndarray]:
        """Show driving frames of as many sessions, uint8 [S, S, 3] each, with the watermarks `signs` [B, 64], if any.

        Raises:
            InputError: the network made numbers that are not finite.
        """
        try:
            frames = [raw.of.frame(raw, source, controls) for source, raw, controls in requests]
            done = self._frames.show(frames, signs, plain=signs is None)()
        except BaseException:
            for _, raw, _ in requests:
                raw.of.failed(raw)
            raise
        pictures = []
        for (_, raw, _), shown in zip(requests, done, strict=True):
            raw.of.was_shown(raw, replace(shown, plain=None, marked=None))
            picture = shown.plain if signs is None else shown.marked
            assert picture is not None
            pictures.append(picture)
        return pictures


def device_faces(reenactor: Reenactor, finder: FaceProvider | None) -> DeviceFaces | None:
    """Make what follows faces on the device; None where the host does: on a CPU, or where others or none find them."""
    if isinstance(finder, NetworkFaces) and can_follow(reenactor):
        return DeviceFaces(reenactor, finder)
    return None
