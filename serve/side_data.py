"""What a decoded frame carries beside its pixels, also where libav knows kinds of it that PyAV has no name for."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import av

# PyAV refuses all side data of a frame for one kind without a name, and says the number of that kind.
_UNNAMED = re.compile(r"(\d+) is not a valid")
_MOST_UNNAMED = 64


def side_data(frame: av.VideoFrame, name: str) -> bytes | None:
    """The side data of a frame by PyAV's name of its kind; kinds without a name are passed over.

    Returns: its bytes; None where there is none.
    """
    for _ in range(_MOST_UNNAMED):
        try:
            found: Any = frame.side_data.get(name)  # type: ignore[attr-defined]
            return None if found is None else bytes(found)
        except ValueError as error:
            unnamed = _UNNAMED.match(str(error))
            if unnamed is None:
                return None
            try:
                frame = _without(frame, int(unnamed[1]))
            except (av.FFmpegError, ValueError):
                return None
    return None


def _without(frame: av.VideoFrame, kind: int) -> av.VideoFrame:
    """The same frame without one kind of side data, by its number."""
    graph = av.filter.Graph()
    time_base = frame.time_base or Fraction(1, 1000)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    removed = graph.add("sidedata", f"mode=delete:type={kind}")
    sink = graph.add("buffersink")
    source.link_to(removed)
    removed.link_to(sink)
    graph.configure()
    graph.push(frame)
    graph.push(None)
    pulled = graph.pull()
    if not isinstance(pulled, av.VideoFrame):
        raise ValueError("the filter gave no picture")
    return pulled
