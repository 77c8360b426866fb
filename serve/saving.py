"""Writes animated frames as a video or a picture: marked, signed, with sound, whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.animation import AnimatedFrame
from triportrait.serve.media.output_file import VIDEO_ENDINGS
from triportrait.serve.media.pictures.picture_file import write_picture
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video.clips import Clip, open_clip
from triportrait.serve.media.video.encoders import Encoder
from triportrait.serve.media.video.writer import VideoWriter
from triportrait.serve.overlap import WriteBehind
from triportrait.serve.part_times import PartTimes

WRITTEN_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
FPS = Fraction(25)  # of frames that come from no clip

logger = logging.getLogger(__name__)


def is_picture_name(path: Path) -> bool:
    """Tell whether a result of this name is a picture, which holds one frame."""
    return path.suffix.lower() in WRITTEN_PICTURES


def _first_of(frames: Iterator[AnimatedFrame]) -> AnimatedFrame:
    frame = next(frames, None)
    if frame is None:
        raise InputError("frames: expected at least one frame, got none; an animation gives its frames once")
    if not isinstance(frame, AnimatedFrame):
        raise InputError(
            f"frames: expected those of Pipeline.animate or Pipeline.frame, got {type(frame).__name__}; change a "
            "picture by dataclasses.replace(frame, image=...)"
        )
    return frame


def write_frames(
    frames: Iterable[AnimatedFrame], path: Path, stamp_for: Callable[[AnimatedFrame], Stamp], *,
    sound: Path | None, overwrite: bool, encoder: Encoder, times: PartTimes,
) -> int:  # fmt: skip
    """Write frames as a video, or one as a picture; the file appears only when it is whole.

    Args:
        frames: read one by one, and closed at the end; a thread marks and writes them.
        path: a video has one of `VIDEO_ENDINGS`, a picture one of `WRITTEN_PICTURES`.
        stamp_for: gives, for the first frame, the stamp that marks the pictures and signs the file.
        sound: the video whose sound is taken, up to where the frames end.
        overwrite: replace an existing file.
        encoder: what makes H.264, see `chosen_encoder`.
        times: measures the writing.

    Returns:
        The number of frames.

    Raises:
        InputError: there is no frame, a picture is to hold several, or the output cannot be written.
    """
    rest = iter(frames)
    try:
        first = _first_of(rest)
        stamp = stamp_for(first)
        if is_picture_name(path):
            if next(rest, None) is not None:
                raise InputError(
                    f"{path}: a picture holds one frame, more came; name a video ({' '.join(VIDEO_ENDINGS)})"
                )
            with times.part("write a frame"):
                write_picture(path, _marked(first, stamp), overwrite=overwrite, finish=stamp.sign)
            return 1
        return _write_video(first, rest, path, stamp, sound, overwrite, encoder, times)
    finally:
        close = getattr(rest, "close", None)
        if close is not None:
            close()


def _write_video(
    first: AnimatedFrame, rest: Iterator[AnimatedFrame], path: Path, stamp: Stamp, sound: Path | None,
    overwrite: bool, encoder: Encoder, times: PartTimes,
) -> int:  # fmt: skip
    driving = first.origin.driving
    sound_clip = _sound_clip(first, sound)
    height, width = first.image.shape[:2]
    count, last_s = 0, 0.0
    with VideoWriter(
        path, size_px=(width, height), fps=FPS if driving is None else driving.clip.fps, audio_from=sound_clip,
        overwrite=overwrite, encoder=encoder, finish=stamp.sign,
    ) as video:  # fmt: skip

        def write(frame: AnimatedFrame) -> None:
            with times.part("write a frame"):
                video.write(_marked(frame, stamp), frame.time_s)

        with WriteBehind(write) as writer:
            for frame in chain([first], rest):
                if frame.image.shape != first.image.shape:
                    raise InputError(
                        f"frames: expected all of {width} x {height} px, got {frame.image.shape[1]} x "
                        f"{frame.image.shape[0]} px; give pictures of one size"
                    )
                writer.put(frame)
                count, last_s = count + 1, frame.time_s
        if sound_clip is not None and (driving is None or sound_clip is not driving.clip):
            sound_clip.cut_s = Fraction(last_s) + 1 / video.fps  # the sound ends with the frames
    if driving is not None:
        for warning in driving.new_warnings():
            logger.warning("%s", warning)
    return count


def _marked(frame: AnimatedFrame, stamp: Stamp) -> np.ndarray:
    """The picture as it is written: marked here, unless the network's device has done it."""
    if stamp.marks and frame.marked is not None and np.array_equal(frame.marked[0], frame.image):
        return frame.marked[1]
    return stamp.mark(frame.image)


def _sound_clip(first: AnimatedFrame, sound: Path | None) -> Clip | None:
    """Open the video whose sound is taken; the driving clip is used as it is, for it knows where its frames end."""
    if sound is None:
        return None
    driving = first.origin.driving
    name = None if driving is None else driving.name
    is_driving = isinstance(name, Path) and name.exists() and sound.exists() and name.samefile(sound)
    return driving.clip if driving is not None and is_driving else open_clip(sound)
