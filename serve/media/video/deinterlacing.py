"""Interlaced frames, whose odd lines show another moment than the even ones, become whole pictures of one moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

FILTER = "bwdif"
_BLOCK_PX = 16
_STEP = 10  # levels by which a line differs from both its neighbours where fields part
_SHARE = 0.2  # of a block

Timed = tuple[Fraction, av.VideoFrame]


def deinterlaced(frames: Iterator[Timed], say: Callable[[str], None]) -> Iterator[Timed]:
    """Make whole pictures of interlaced frames: as many, with the same times.

    Only frames that the file calls interlaced and that show combs are changed: films are often called so too. From
    the first such frame on, frames come one later than they are decoded.

    Args:
        say: hears in a few words that frames could not be made whole.
    """
    fields: _Fields | None = None
    able = True
    for time_s, frame in frames:
        if fields is not None and not fields.takes(frame):
            yield from fields.finish()
            fields = None
        if fields is None:
            if able and frame.interlaced_frame:
                try:
                    fields = _Fields(frame)
                except (av.FFmpegError, ValueError):  # a libav without the filter, or a format that it does not take
                    able = False
                    say("its frames are interlaced and are used as they are, with combs where something moves")
            if fields is None:
                yield time_s, frame
                continue
        yield from fields.add(time_s, frame)
    if fields is not None:
        yield from fields.finish()


class _Fields:
    """A filter for frames of one size and format, and the frames that are in it."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._shape = (frame.width, frame.height, frame.format.name)
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        bwdif = self._graph.add(FILTER, "mode=send_frame:deint=interlaced")
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()
        self._inside: deque[Timed] = deque()
        self._pushed = 0
        self._reformatter = VideoReformatter()

    def takes(self, frame: av.VideoFrame) -> bool:
        """Whether a frame is like the first."""
        return self._shape == (frame.width, frame.height, frame.format.name)

    def add(self, time_s: Fraction, frame: av.VideoFrame) -> Iterator[Timed]:
        """Put a frame in; give those that are ready."""
        self._inside.append((time_s, frame))
        # The filter gives one frame for each, in order, if times grow evenly; the frame's own stamp is asked later.
        stamp, base = frame.pts, frame.time_base
        frame.pts, frame.time_base = self._pushed, Fraction(1, 1000)
        self._pushed += 1
        try:
            self._graph.push(frame)
        finally:
            frame.pts = stamp
            if base is not None:
                frame.time_base = base
        yield from self._ready()

    def finish(self) -> Iterator[Timed]:
        """Give the frames that are still in."""
        self._graph.push(None)
        yield from self._ready()
        while self._inside:  # a single frame has no neighbours to be made whole with
            yield self._inside.popleft()

    def _ready(self) -> Iterator[Timed]:
        while True:
            try:
                made = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            time_s, frame = self._inside.popleft()
            use = isinstance(made, av.VideoFrame) and frame.interlaced_frame and self._combs(frame)
            yield time_s, made if use else frame  # type: ignore[misc]

    def _combs(self, frame: av.VideoFrame) -> bool:
        grey = self._reformatter.reformat(frame, format="gray", threads=1).to_ndarray()
        return combs(np.asarray(grey))


def combs(grey: np.ndarray) -> bool:
    """Tell whether uint8 `[H, W]` shows two moments in its odd and even lines: lines part from both neighbours.

    Lines of one moment by themselves must not, where they do: that is a pattern of the picture.
    """
    lines = grey.astype(np.int16)
    high, wide = (lines.shape[0] - 4) // _BLOCK_PX * _BLOCK_PX, lines.shape[1] // _BLOCK_PX * _BLOCK_PX
    if high <= 0 or wide <= 0:
        return False
    here = lines[2 : 2 + high, :wide]
    parted = _parted(here, lines[1 : 1 + high, :wide], lines[3 : 3 + high, :wide])
    pattern = _parted(here, lines[:high, :wide], lines[4 : 4 + high, :wide])
    return bool(((parted > _SHARE) & (parted > 2 * pattern)).any())


def _parted(here: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The share of pixels in each block that are brighter, or darker, than both of the others."""
    up, down = here - above, here - below
    apart = ((up > _STEP) & (down > _STEP)) | ((up < -_STEP) & (down < -_STEP))
    high, wide = apart.shape
    return np.asarray(apart.reshape(high // _BLOCK_PX, _BLOCK_PX, wide // _BLOCK_PX, _BLOCK_PX).mean((1, 3)))
