"""Films decoded by DALI: on a GPU by NVDEC, on the CPU with DALI 2.1.0.

DALI gives RGB pictures one after the other and nothing else: no times, turns, fields or damage, and colours as of
BT.601 whatever the file says. The rest is read by libav, and films are left to the CPU where DALI's pictures would not
be theirs.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Colorspace, ColorTrc

from triportrait.core.optional_packages import line, reason
from triportrait.serve.media.video.decoding import Reads, Tally, decoded
from triportrait.serve.media.video.frame_to_rgb import SCALING
from triportrait.serve.media.video.timestamps import Clock

_CODECS = ("h264", "hevc", "vp8", "vp9")
_BT601 = (5, 6)  # libav's numbers of its two namesakes
_UNTAGGED = 2
_LARGEST_BYTES = 1 << 30  # DALI takes the whole file into memory
_CHUNK = 16  # pictures at a time
_COMPARED = 8  # pictures
_MEAN_LEVELS = 2.5  # of 255, on average; chroma is interpolated differently, another matrix changes more


class DaliFault(Exception):
    """DALI is missing, fails, or gives another number of pictures; the sentence's part says which."""


def why_not_dali(reads: Reads, gpu: int | None, by_dts: bool) -> str | None:
    """Say why DALI does not decode a film as the CPU does, None where its first pictures are nearly the same.

    Args:
        reads: opens the film.
        gpu: number of the card; None decodes on the CPU.
        by_dts: only the order of decoding is known of its pictures.
    """
    with reads(None) as (container, stream):
        path = _path(container)
        expected = list(islice(decoded(container, stream, Tally(), Clock()), _COMPARED))
        why = _why_unlike(expected[0], stream.codec_context.codec.canonical_name, by_dts)
    if why is None and path.stat().st_size > _LARGEST_BYTES:
        why = f"is larger than {_LARGEST_BYTES >> 30} GB, all of which DALI would hold"
    if why is not None:
        return why
    try:
        with closing(_images(path, gpu)) as images:
            made = list(islice(images, len(expected)))
    except DaliFault as error:
        return f"is not decoded by DALI ({error})"
    if len(made) < len(expected) or any(_differs(a, b) for a, b in zip(expected, made, strict=True)):
        return "comes out of DALI with other pictures"
    return None


def _why_unlike(first: av.VideoFrame, codec: str, by_dts: bool) -> str | None:
    is_601 = first.colorspace in _BT601 or (first.colorspace == _UNTAGGED and max(first.width, first.height) <= 576)
    if codec not in _CODECS:
        return f"is {codec}, which DALI does not decode everywhere"
    if by_dts:
        return "holds no times of its pictures, without which DALI's cannot be placed"
    if first.format.name != "yuv420p":
        return f"has pictures in {first.format.name}, DALI takes yuv420p"
    if not is_601 or first.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
        return "has colours that DALI does not know, it takes all for BT.601"
    if first.interlaced_frame:
        return "is interlaced, which DALI does not tell"
    return None


def _differs(frame: av.VideoFrame, image: np.ndarray) -> bool:
    shown = frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU601, interpolation=SCALING, threads=1)
    expected = np.asarray(shown.to_ndarray())
    return expected.shape != image.shape or np.abs(expected.astype(int) - image).mean() > _MEAN_LEVELS


def decoded_by_dali(reads: Reads, gpu: int | None, tally: Tally, clock: Clock) -> Generator[av.VideoFrame, None, None]:
    """Give DALI's pictures, in RGB, with the times of the file's packets; `tally` counts as `decoding.decoded` does.

    Raises:
        DaliFault: it fails, or gives another number of pictures than the file has.
        av.FFmpegError: libav cannot read the file.
    """
    with reads(None) as (container, stream):
        path = _path(container)
        packets = [
            packet
            for packet in clock.packets(container, stream, *container.streams.audio)
            if tally.read(packet, stream, False)
        ]
        first = first_frame(reads)
        time_base = stream.time_base
        stamps = [packet.pts for packet in packets]
    if tally.is_damaged or tally.hidden or time_base is None:
        raise DaliFault("it has hidden or damaged packets, whose pictures DALI would show")
    known = [stamp for stamp in stamps if stamp is not None]
    if len(set(known)) < len(stamps):
        raise DaliFault("some of its pictures have no time of their own")
    with closing(_images(path, gpu)) as images:
        for stamp in sorted(known):
            image = next(images, None)
            if image is None or image.shape[:2] != (first.height, first.width):
                raise DaliFault("it gives fewer pictures than the file has, or of another size")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame.pts, frame.time_base = stamp, time_base
            frame.color_primaries, frame.color_trc = first.color_primaries, first.color_trc
            tally.frames += 1
            yield frame
        if next(images, None) is not None:
            raise DaliFault("it gives more pictures than the file has")


def first_frame(reads: Reads) -> av.VideoFrame:
    """Decode the first picture by the CPU, for what the file says of all."""
    with reads(None) as (container, stream):
        return next(decoded(container, stream, Tally(), Clock()))


def _path(container: InputContainer) -> Path:
    return Path(container.name.removeprefix("file:"))


def _images(path: Path, gpu: int | None) -> Generator[np.ndarray, None, None]:
    """Decode a file's pictures, uint8 [H, W, 3] each."""
    pipeline = _pipeline(gpu)
    try:
        pipeline.feed_input("film", [np.fromfile(path, np.uint8)])
        while True:
            (out,) = pipeline.run()
            chunk = np.array((out if gpu is None else out.as_cpu()).at(0))
            yield from chunk
            if len(chunk) < _CHUNK:
                return
    except StopIteration:
        return
    except RuntimeError as error:
        # It says so, too, where the last chunk was a full one.
        if "No data was provided" in str(error):
            return
        raise DaliFault(line(error)) from error


def _pipeline(gpu: int | None) -> Any:
    """Build what decodes one film, a few pictures at a time."""
    try:
        dali = importlib.import_module("nvidia.dali")
    except Exception as error:  # a build of another CUDA raises its own kinds
        raise DaliFault(f"it {reason(error, 'nvidia.dali')}") from error

    @dali.pipeline_def(
        batch_size=1, num_threads=2, device_id=gpu, prefetch_queue_depth=1, exec_dynamic=False, exec_async=False,
        exec_pipelined=False,
    )  # fmt: skip
    def pipe() -> Any:
        return dali.fn.experimental.inputs.video(
            name="film", sequence_length=_CHUNK, device="cpu" if gpu is None else "mixed",
            last_sequence_policy="partial",
        )  # fmt: skip

    try:
        pipeline = pipe()
        pipeline.build()
    except Exception as error:
        raise DaliFault(line(error)) from error
    return pipeline
