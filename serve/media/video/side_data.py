"""What a decoded frame carries beside its pixels, also where libav knows kinds of it that PyAV has no name for."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.sidedata.sidedata import Type

_KINDS = 64  # libav 8.1 counts to 31


def side_data(frame: av.VideoFrame, name: str) -> bytes | None:
    """The side data of a frame by PyAV's name of its kind.

    PyAV looks at all kinds to find one: it raises for a kind that it has no name for, and frees the words beside the
    profile of a PNG twice. So all others are taken off first.

    Returns: its bytes; None where there is none.
    """
    kind: Any = Type.__members__.get(name)
    if kind is None:
        return None
    try:
        found: Any = _with_only(frame, int(kind.value)).side_data.get(name)  # type: ignore[attr-defined]
    except (av.FFmpegError, ValueError):
        return None
    return None if found is None else bytes(found)


def _with_only(frame: av.VideoFrame, kind: int) -> av.VideoFrame:
    """The same frame with one kind of side data, by its number."""
    graph = av.filter.Graph()
    time_base = frame.time_base or Fraction(1, 1000)
    end = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    for other in range(_KINDS):
        if other != kind:
            removed = graph.add("sidedata", f"mode=delete:type={other}")
            end.link_to(removed)
            end = removed
    end.link_to(graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    graph.push(None)
    pulled = graph.pull()
    if not isinstance(pulled, av.VideoFrame):
        raise ValueError("the filter gave no picture")
    return pulled
