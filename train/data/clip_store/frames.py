"""Frames of stored clips: by PyAV anywhere, by DALI on a GPU (NVDEC) or, with DALI 2.1.0, on the CPU.

Both give RGB within 2 of 255 levels of each other. Letters: N frames of a clip, S their side.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError


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


class DaliFrames:
    """Frames through a DALI pipeline that decodes ahead.

    Args:
        requests: (video, its frames) in the order in which they will be asked for; all of as many frames.
        batch: clips at a time.
        device: of the decoder and of the tensors; on the CPU DALI 2.1.0 is needed, later ones decode no H.264 there.
        ahead: batches that are decoded before they are asked for.

    Raises: `InputError` where DALI is missing or cannot decode.
    """

    def __init__(
        self, requests: Sequence[tuple[Path, Sequence[int]]], batch: int, device: torch.device, ahead: int = 2
    ) -> None:
        try:
            dali = importlib.import_module("nvidia.dali")
            torch_side = importlib.import_module("nvidia.dali.plugin.pytorch")
        except ImportError as error:
            raise InputError("dali: it is not installed; pip install -e '.[dali]', or decode by PyAV") from error
        fn, types = dali.fn, dali.types

        def read(sample: Any) -> tuple[np.ndarray, np.ndarray]:
            if sample.idx_in_epoch >= len(requests) // batch * batch:
                raise StopIteration
            path, rows = requests[sample.idx_in_epoch]
            return np.fromfile(path, np.uint8), np.asarray(rows, np.int32)

        number = device.index or 0 if device.type == "cuda" else None

        @dali.pipeline_def(batch_size=batch, num_threads=2, device_id=number, prefetch_queue_depth=ahead)
        def pipe() -> Any:
            encoded, rows = fn.external_source(
                source=read, num_outputs=2, batch=False, dtype=[types.UINT8, types.INT32]
            )
            return fn.decoders.video(encoded, frames=rows, device="cpu" if number is None else "mixed")

        try:
            pipeline = pipe()
            pipeline.build()
            self._batches = torch_side.DALIGenericIterator([pipeline], ["frames"], size=-1, auto_reset=False)
        except RuntimeError as error:
            raise InputError(f"dali: it cannot decode here ({str(error).splitlines()[0]}); decode by PyAV") from error

    def __iter__(self) -> Any:
        for (found,) in self._batches:
            frames: Tensor = found["frames"]  # [batch, N, S, S, 3] uint8
            yield frames
