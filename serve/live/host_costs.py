"""What a frame costs the host beside the network: measured once at the start, part by part, on one thread."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch

from triportrait.serve.live.admission import HostCost
from triportrait.serve.live.inference import Engine, encode_jpeg, example_picture

REPETITIONS = 9
_CLOCK = Fraction(1, 90_000)  # of RTP


def host_costs(engine: Engine, threads: int) -> dict[str, HostCost]:
    """Measure the parts of the host on a packaged portrait.

    Args:
        engine: finds faces and marks pictures.
        threads: how many threads find faces, and how many finish pictures.

    Returns:
        Faces, finishing (watermark where no GPU makes it, JPEG), encoding (VP8), and what a session takes of the
        machine's cores: it gets JPEG or VP8, not both.
    """
    cores = os.cpu_count() or 1
    picture = example_picture()
    jpeg, follower = encode_jpeg(picture), engine.follower()
    result = np.ascontiguousarray(engine.crop_portrait(picture)[0].crop)
    times = iter(range(1, 1 << 30))

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        faces_s = _median_s(lambda: follower.follow(engine.decode(jpeg), next(times) / 30))
        mark_s = 0.0 if engine.marks_on_device else _median_s(lambda: engine.stamp.mark(result))
        jpeg_s, vp8_s = _median_s(lambda: encode_jpeg(result)), _median_s(_vp8(result))
    finally:
        torch.set_num_threads(before)
    return {
        "faces": HostCost(faces_s, threads), "finishing": HostCost(mark_s + jpeg_s, threads),
        "encoding": HostCost(vp8_s, cores), "cores": HostCost(faces_s + mark_s + max(jpeg_s, vp8_s), cores),
    }  # fmt: skip


def _vp8(picture: np.ndarray) -> Callable[[], object]:
    """Return what encodes a picture as WebRTC does."""
    import av
    from aiortc.codecs.vpx import Vp8Encoder

    encoder, times = Vp8Encoder(), iter(range(1 << 30))

    def encode() -> object:
        frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = 3000 * next(times), _CLOCK
        return encoder.encode(frame)

    return encode


def _median_s(part: Callable[[], object]) -> float:
    """Time a part after one call that is not counted."""
    part()
    seconds = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        part()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
