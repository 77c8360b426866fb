"""Films decoded by NVDEC, the decoder that a GPU has beside its cores, through libav, which still reads the file.

What libav reads stays: times, turns, colours, fields, damage of packets. Only the pictures come from the GPU, as NV12
or P010, and are laid out as the CPU's decoder lays them out. The codecs taken define each bit of a picture, so that
both give the same ones.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice, zip_longest
from typing import Any

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.reformatter import VideoReformatter

from triportrait.serve.media.video.decoding import Reads, Tally, decoded
from triportrait.serve.media.video.side_data import side_data
from triportrait.serve.media.video.timestamps import Clock

CODECS = ("h264", "hevc", "vp8", "vp9")
# The layout of the CPU's pictures -> that of the GPU's.
LAYOUTS = {"yuv420p": "nv12", "yuvj420p": "nv12", "yuv420p10le": "p010le"}
_COMPARED = 8  # pictures, so that some are predicted from others


def accelerator(gpu: int) -> HWAccel:
    """Return what opens NVDEC of a GPU; libav decodes itself what that card cannot."""
    return HWAccel("cuda", device=str(gpu), allow_software_fallback=True)


def why_not_nvdec(reads: Reads, gpu: int) -> str | None:
    """Say why NVDEC of a GPU does not decode a film as the CPU does, None where its first pictures are the same.

    Args:
        reads: opens the film.
        gpu: number of the card.
    """
    with reads(None) as (container, stream):
        codec = stream.codec_context.codec.canonical_name
        if codec not in CODECS:
            return f"is {codec}, which two decoders need not decode alike"
        expected = list(islice(decoded(container, stream, Tally(), Clock()), _COMPARED))
    layout = expected[0].format.name
    if layout not in LAYOUTS:
        return f"has pictures in {layout}, which few cards decode"
    try:
        with reads(accelerator(gpu)) as (container, stream):
            if not stream.codec_context.is_hwaccel:
                return f"is decoded by {stream.codec_context.codec.name}, which uses no GPU"
            raw = list(islice(decoded(container, stream, Tally(), Clock()), _COMPARED))
    except av.FFmpegError as error:
        return f"is not opened by NVDEC ({error.strerror}), which wants a GPU and its driver"
    if any(frame.format.name != LAYOUTS[layout] for frame in raw):
        return f"has {expected[0].width} x {expected[0].height} px in {codec}, which NVDEC does not decode here"
    made = [_laid_out(frame, layout, VideoReformatter()) for frame in raw]
    if not all(a is not None and b is not None and _same(a, b) for a, b in zip_longest(expected, made)):
        return "comes out of NVDEC with other pictures"
    return None


def decoded_by_nvdec(
    reads: Reads, gpu: int, tally: Tally, clock: Clock, by_dts: bool
) -> Generator[av.VideoFrame, None, None]:
    """Decode what decodes, as `decoding.decoded` does, with the CPU's layout of pictures.

    Raises:
        av.FFmpegError: the GPU fails.
    """
    reformatter = VideoReformatter()
    layouts = {gpus: cpus for cpus, gpus in LAYOUTS.items() if cpus != "yuvj420p"}
    with reads(accelerator(gpu)) as (container, stream):
        for frame in decoded(container, stream, tally, clock, by_dts):
            yield _laid_out(frame, layouts.get(frame.format.name, frame.format.name), reformatter)


def _laid_out(frame: av.VideoFrame, layout: str, reformatter: VideoReformatter) -> av.VideoFrame:
    """Return a picture in another layout of the same numbers."""
    if frame.format.name == layout:
        return frame
    made = reformatter.reformat(frame, format=layout, threads=1)
    made.colorspace, made.color_range = frame.colorspace, frame.color_range  # it puts others for some that it knows
    made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
    return made


def _same(a: av.VideoFrame, b: av.VideoFrame) -> bool:
    """Tell whether two pictures are the same, and are shown at the same time in the same way."""

    def told(frame: av.VideoFrame) -> tuple[object, ...]:
        colours = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
        turn = side_data(frame, "DISPLAYMATRIX")
        return frame.width, frame.height, frame.format.name, frame.pts, frame.dts, frame.interlaced_frame, colours, turn

    if told(a) != told(b):
        return False
    return all(np.array_equal(_shown(p, a), _shown(q, b)) for p, q in zip(a.planes, b.planes, strict=True))


def _shown(plane: Any, frame: av.VideoFrame) -> np.ndarray:
    """Return the samples of a plane without what pads its lines, as bytes [H, W]."""
    width = plane.width * (2 if frame.format.name.endswith("10le") else 1)
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, :width]
