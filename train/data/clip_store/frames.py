"""Frames of stored clips: by PyAV anywhere, by DALI on a GPU (NVDEC) or, with DALI 2.1.0, on the CPU.

Both give RGB within 2 of 255 levels of each other. Letters: N frames of a clip, S their side.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
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
from triportrait.core.libraries import MISSING, fault, install, line, reason

Request = tuple[Path, Sequence[int]]  # a video, the numbers of its frames
Decoder = Callable[[Sequence[Request]], list[Tensor | ValueError]]


def decode(path: Path, rows: Sequence[int]) -> np.ndarray:
    """Some frames of a video, by PyAV: from the key frame before each, so that none before it is decoded.

    Args:
        rows: numbers of frames, in any order, with repetitions.

    Returns:
        uint8 [N, S, S, 3].

    Raises:
        ValueError: the video does not decode, or has fewer frames.
    """
    import av

    wanted, found = sorted(set(rows)), dict[int, np.ndarray]()
    try:
        check_regular(path)
        with av.open(f"file:{path}") as container:
            stream = container.streams.video[0]
            rate, base = stream.average_rate, stream.time_base
            assert rate is not None and base is not None
            while wanted:
                container.seek(int(wanted[0] / rate / base), stream=stream)
                before = len(found)
                for frame in container.decode(stream):
                    number = round(float((frame.pts or 0) * base * rate))
                    if number in wanted:
                        found[number] = _rgb(frame)
                        wanted.remove(number)
                    if not wanted or wanted[0] > number + 8:
                        break
                if len(found) == before:
                    raise ValueError(f"it has no frame {wanted[0]}")
    except (OSError, av.error.FFmpegError, AssertionError, IndexError, TypeError) as error:
        raise ValueError(f"{path.name} does not decode") from error
    return np.stack([found[row] for row in rows])


def _rgb(frame: Any) -> np.ndarray:
    """uint8 [S, S, 3] of an 8-bit 4:2:0 frame in BT.601: chroma between the centres of its samples, as DALI has it."""
    if frame.format.name != "yuv420p":
        raise ValueError(f"its frames are {frame.format.name}, expected yuv420p")
    planes, high = torch.from_numpy(frame.to_ndarray()).float(), frame.height
    luma = (planes[:high] - 16) * (255 / 219)
    chroma = planes[high:].reshape(1, 2, high // 2, frame.width // 2)
    u, v = F.interpolate((chroma - 128) * (255 / 224), scale_factor=2, mode="bilinear", align_corners=False)[0]
    rgb = torch.stack([luma + 1.402 * v, luma - 0.344136 * u - 0.714136 * v, luma + 1.772 * u], -1)
    return rgb.round().clamp(0, 255).byte().numpy()


class AvDecoder:
    """Frames by PyAV, clip after clip."""

    def __call__(self, requests: Sequence[Request]) -> list[Tensor | ValueError]:
        """uint8 [N, S, S, 3] of each request, or why there is none."""
        found: list[Tensor | ValueError] = []
        for path, rows in requests:
            try:
                found.append(torch.from_numpy(decode(path, rows)))
            except ValueError as error:
                found.append(error)
        return found


class DaliDecoder:
    """Frames by a DALI pipeline, the clips of a batch at once.

    Args:
        device: of the decoder (NVDEC on a GPU); on the CPU DALI 2.1.0 is needed, later ones decode no H.264 there.
        batch: most clips at a time.

    Raises: `InputError` where DALI is missing or cannot decode.
    """

    def __init__(self, device: torch.device, batch: int = 16) -> None:
        self._device, self._batch = device, batch
        self._pipeline = self._built()

    def __call__(self, requests: Sequence[Request]) -> list[Tensor | ValueError]:
        """uint8 [N, S, S, 3] of each request on the CPU, all of as many frames, or why there is none.

        Raises: `InputError` where DALI fails on what PyAV decodes.
        """
        found: list[Tensor | ValueError] = []
        for start in range(0, len(requests), self._batch):
            found += self._some(requests[start : start + self._batch])
        return found

    def _some(self, requests: Sequence[Request]) -> list[Tensor | ValueError]:
        try:
            return [*self._run(requests)]
        except RuntimeError:  # one bad clip fails all of its batch and says not which: PyAV finds it
            self._pipeline = self._built()
        asked = AvDecoder()(requests)
        sound = [request for request, frames in zip(requests, asked, strict=True) if isinstance(frames, Tensor)]
        try:
            again = iter(self._run(sound) if sound else [])
        except RuntimeError as error:
            raise _refused(error) from error
        return [next(again) if isinstance(frames, Tensor) else frames for frames in asked]

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
    """Why DALI decodes nothing on a device, None where it decoded a clip; asked once for each.

    It may be installed where it does not: NVDEC wants a driver that is new enough, and a container that is lent it.
    """
    from triportrait.train.data.clips import write_video

    if (why := fault("nvidia.dali")) is not None:
        return why
    grey = np.full((2, 256, 256, 3), 128, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, grey, 25, 1, told_colours=False)
        try:
            (found,) = DaliDecoder(device, 1)([(path, [0, 1])])
        except Exception as error:  # a build of another CUDA raises its own kinds
            return f"is installed but decodes nothing on {device} ({line(error)})"
    if isinstance(found, Tensor) and found.shape == grey.shape and bool(((found.int() - 128).abs() < 8).all()):
        return None
    return f"is installed but decodes other frames on {device}"


def resolved(name: str, device: torch.device) -> str:
    """av or dali; auto is DALI on a GPU where it decodes, else PyAV, with a warning where DALI is there in vain."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "av"
    why = dali_fault(device)
    if why not in (None, MISSING):
        warnings.warn(f"DALI {why}; PyAV decodes, slower", RuntimeWarning, stacklevel=2)
    return "dali" if why is None else "av"


def _refused(error: RuntimeError) -> InputError:
    return InputError(f"dali: it cannot decode here ({str(error).splitlines()[0]}); say --decoder av")
