"""Decode frames of stored clips: by PyAV anywhere, by DALI on a GPU (NVDEC) or, with DALI 2.1.0, on the CPU.

The RGB values of both are within 2 of 255 levels of each other. Letters: N frames of a clip, S their side.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.files import check_regular
from triportrait.core.optional_packages import MISSING, fault, install, line, reason

logger = logging.getLogger(__name__)

Request = tuple[Path, Sequence[int]]  # a video, the numbers of its frames
Decoder = Callable[[Sequence[Request]], list[Tensor | ValueError]]


def decode(path: Path, rows: Sequence[int]) -> np.ndarray:
    """Decode some frames of a video by PyAV, each from the key frame before it.

    Args:
        rows: numbers of frames, in any order, with repetitions.

    Returns:
        uint8 [N, S, S, 3].

    Raises:
        ValueError: the video does not decode, or has fewer frames.
    """
    import av

    pending, frames = sorted(set(rows)), dict[int, np.ndarray]()
    try:
        check_regular(path)
        with av.open(f"file:{path}") as container:
            stream = container.streams.video[0]
            rate, base = stream.average_rate, stream.time_base
            assert rate is not None and base is not None
            while pending:
                container.seek(int(pending[0] / rate / base), stream=stream)
                before = len(frames)
                for frame in container.decode(stream):
                    number = round(float((frame.pts or 0) * base * rate))
                    if number in pending:
                        frames[number] = _rgb(frame)
                        pending.remove(number)
                    if not pending or pending[0] > number + 8:
                        break
                if len(frames) == before:
                    raise ValueError(f"it has no frame {pending[0]}")
    except (OSError, av.error.FFmpegError, AssertionError, IndexError, TypeError) as error:
        raise ValueError(f"{path.name} does not decode") from error
    return np.stack([frames[row] for row in rows])


def _rgb(frame: Any) -> np.ndarray:
    """Convert an 8-bit 4:2:0 frame in BT.601 to uint8 [S, S, 3], with chroma interpolated as DALI does it."""
    if frame.format.name != "yuv420p":
        raise ValueError(f"its frames are {frame.format.name}, expected yuv420p")
    planes, height = torch.from_numpy(frame.to_ndarray()).float(), frame.height
    luma = (planes[:height] - 16) * (255 / 219)
    chroma = planes[height:].reshape(1, 2, height // 2, frame.width // 2)
    u, v = F.interpolate((chroma - 128) * (255 / 224), scale_factor=2, mode="bilinear", align_corners=False)[0]
    rgb = torch.stack([luma + 1.402 * v, luma - 0.344136 * u - 0.714136 * v, luma + 1.772 * u], -1)
    return rgb.round().clamp(0, 255).byte().numpy()


class AvDecoder:
    """A decoder of frames by PyAV, clip after clip."""

    def __call__(self, requests: Sequence[Request]) -> list[Tensor | ValueError]:
        """Return uint8 [N, S, S, 3] of each request, or the error that tells why there is none."""
        decoded: list[Tensor | ValueError] = []
        for path, rows in requests:
            try:
                decoded.append(torch.from_numpy(decode(path, rows)))
            except ValueError as error:
                decoded.append(error)
        return decoded


class DaliDecoder:
    """A decoder of frames by a DALI pipeline, which takes the clips of a batch at once.

    Args:
        device: of the decoder (NVDEC on a GPU); on the CPU DALI 2.1.0 is needed, later ones decode no H.264 there.
        batch: most clips at a time.

    Raises: `InputError` where DALI is missing or cannot decode.
    """

    def __init__(self, device: torch.device, batch: int = 16) -> None:
        self._device, self._batch = device, batch
        self._pipeline = self._built()

    def __call__(self, requests: Sequence[Request]) -> list[Tensor | ValueError]:
        """Return uint8 [N, S, S, 3] of each request, on the CPU, or the error that tells why there is none.

        Raises: `InputError` where DALI fails on what PyAV decodes.
        """
        decoded: list[Tensor | ValueError] = []
        for start in range(0, len(requests), self._batch):
            decoded += self._decode_batch(requests[start : start + self._batch])
        return decoded

    def _decode_batch(self, requests: Sequence[Request]) -> list[Tensor | ValueError]:
        try:
            return [*self._run(requests)]
        except RuntimeError:  # one bad clip fails its whole batch without a name: PyAV finds it
            self._pipeline = self._built()
        by_av = AvDecoder()(requests)
        sound = [request for request, frames in zip(requests, by_av, strict=True) if isinstance(frames, Tensor)]
        try:
            by_dali = iter(self._run(sound) if sound else [])
        except RuntimeError as error:
            raise _refused(error) from error
        return [next(by_dali) if isinstance(frames, Tensor) else frames for frames in by_av]

    def _run(self, requests: Sequence[Request]) -> list[Tensor]:
        self._pipeline.feed_input("encoded", [np.fromfile(path, np.uint8) for path, _ in requests])
        self._pipeline.feed_input("rows", [np.asarray(rows, np.int32) for _, rows in requests])
        (out,) = self._pipeline.run()
        out = out if self._device.type == "cpu" else out.as_cpu()
        return [torch.from_numpy(np.array(out.at(i))) for i in range(len(requests))]

    def _built(self) -> Any:
        try:
            dali = importlib.import_module("nvidia.dali")
        except Exception as error:
            why = reason(error, "nvidia.dali")
            raise InputError(f"dali: it {why}; {install('dali')}, or say --decoder av") from error
        fn, types = dali.fn, dali.types
        number = self._device.index or 0 if self._device.type == "cuda" else None

        @dali.pipeline_def(
            batch_size=self._batch, num_threads=2, device_id=number, prefetch_queue_depth=1, exec_dynamic=False,
            exec_async=False, exec_pipelined=False,
        )  # fmt: skip
        def pipe() -> Any:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            rows = fn.external_source(name="rows", dtype=types.INT32, ndim=1)
            return fn.decoders.video(encoded, frames=rows, device="cpu" if number is None else "mixed")

        try:
            pipeline = pipe()
            pipeline.build()
        except RuntimeError as error:
            raise _refused(error) from error
        return pipeline


@cache
def dali_fault(device: torch.device) -> str | None:
    """Say why DALI decodes nothing on a device, None where it decoded a clip; each device is tried once.

    It may be installed and not decode: NVDEC needs a driver that is new enough, and a container that may use it.
    """
    from triportrait.serve.media.video.writer import write_video

    if (why := fault("nvidia.dali")) is not None:
        return why
    grey = np.full((2, 256, 256, 3), 128, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, grey, 25, 1, tagged=False)
        try:
            (frames,) = DaliDecoder(device, 1)([(path, [0, 1])])
        except Exception as error:  # a build of another CUDA raises its own kinds
            return f"is installed but decodes nothing on {device} ({line(error)})"
    if isinstance(frames, Tensor) and frames.shape == grey.shape and bool(((frames.int() - 128).abs() < 8).all()):
        return None
    return f"is installed but decodes other frames on {device}"


def resolve_decoder(name: str, device: torch.device) -> str:
    """Return `av` or `dali`; `auto` is DALI on a GPU where it decodes, else PyAV, with a warning where DALI fails."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "av"
    why = dali_fault(device)
    if why not in (None, MISSING):
        logger.warning("DALI %s; PyAV decodes, slower", why)
    return "dali" if why is None else "av"


def _refused(error: RuntimeError) -> InputError:
    return InputError(f"dali: it cannot decode here ({str(error).splitlines()[0]}); say --decoder av")
