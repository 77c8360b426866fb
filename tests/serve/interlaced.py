"""Small films whose frames hold two moments, for tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

W, H, COUNT, SPEED = 160, 128, 8, 3
_BLOCKS = np.kron(np.random.default_rng(0).integers(40, 216, (H // 8, W // 8 + 8, 1)), np.ones((8, 8, 3)))


def moment(field: int) -> np.ndarray:
    """What the camera sees at a field's time: a pattern that moves 3 px a field; uint8 [H, W, 3]."""
    return np.ascontiguousarray(_BLOCKS[:, SPEED * field : SPEED * field + W].astype(np.uint8))


def interlaced_film(path: Path, combed: bool, flagged: bool, fmt: str = "yuv420p", order: str = "tff") -> Path:
    """A video whose frames hold two moments (the first in the field that `order` shows first) or one."""
    flags = {"flags": "+ildct+ilme"} if flagged else {}
    with av.open(path, "w") as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"crf": "8", "bf": "0", **flags})
        stream.width, stream.height, stream.pix_fmt = W, H, fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        graph = av.filter.Graph()
        source = graph.add_buffer(width=W, height=H, format=av.VideoFormat(fmt), time_base=Fraction(1, 25))
        field, sink = graph.add("setfield", order if flagged else "prog"), graph.add("buffersink")
        source.link_to(field)
        field.link_to(sink)
        graph.configure()
        first = 0 if order == "tff" else 1
        for k in range(COUNT):
            image = moment(2 * k).copy()
            if combed:
                image[1 - first :: 2] = moment(2 * k + 1)[1 - first :: 2]
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=fmt, dst_colorspace=1, dst_color_range=1)
            frame.pts, frame.time_base = k, Fraction(1, 25)
            graph.push(frame)
            made: Any = graph.pull()
            made.pts, made.time_base = k, Fraction(1, 25)
            file.mux(stream.encode(made))
        file.mux(stream.encode(None))
    return path
