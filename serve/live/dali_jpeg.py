"""Driving frames decoded by DALI: by nvJPEG on a GPU, by libjpeg-turbo on the CPU.

Only what is asked for by name comes here: one small JPEG at a time is soon decoded by a core, while a GPU has to wait
for the network's kernels and to give the picture back to the face finder, which works on the CPU.
"""

from __future__ import annotations

import importlib
import io
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from triportrait.core.optional_packages import install, line, reason
from triportrait.serve.live.inference import (
    LARGEST_DRIVING_PX,
    check_jpeg,
    decode_jpeg,
    encode_jpeg,
    example_picture,
)
from triportrait.serve.live.uploads import MOST_RATIO
from triportrait.serve.media.pictures.decoding_cost import bare_jpeg
from triportrait.serve.media.pictures.picture_file import DAMAGE
from triportrait.serve.media.video.decoders import DecoderChoice

logger = logging.getLogger(__name__)

MOST_BROKEN = 8  # pipelines; a bad picture breaks one, and building another takes about as long as a frame
_MEAN_LEVELS = 2.0  # of 255, by which nvJPEG's pictures may differ

DecodeJpeg = Callable[[bytes], np.ndarray]


def chosen_jpeg_decoder(choice: DecoderChoice, device: torch.device) -> DecodeJpeg:
    """Choose who decodes driving frames that come as JPEG; where it is not the one that was named, the log says why.

    Args:
        choice: `dali` is tried on an example; all others are Pillow.
        device: of the network.
    """
    if choice == "nvdec":
        logger.warning(
            "--decoder nvdec: expected av or dali, as a camera's frames come one by one as JPEG, or as VP8; the CPU "
            "decodes them"
        )
    if choice != "dali":
        return decode_jpeg
    decoder = DaliJpeg(device)
    try:
        example = encode_jpeg(example_picture())
        made, expected = decoder.run(example), decode_jpeg(example)
        if made.shape != expected.shape or np.abs(made.astype(int) - expected).mean() > _MEAN_LEVELS:
            raise RuntimeError("it decodes other pictures")
    except Exception as error:  # a build of another CUDA raises its own kinds
        logger.warning("--decoder dali: %s; the CPU decodes the driving frames", line(error))
        return decode_jpeg
    logger.info(
        "DALI decodes driving frames that come as JPEG; VP8 over WebRTC is decoded by aiortc on the CPU, and portraits "
        "in processes with limits, which no GPU's driver fits into"
    )
    return decoder


class DaliJpeg:
    """Decodes driving frames as `inference.decode_jpeg` does; each thread has a pipeline of its own.

    What DALI fails on, Pillow decodes or words. A picture that fails breaks DALI's pipeline: after a few of these
    Pillow decodes all, so that nobody keeps the server building pipelines.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = (device.index or 0) if device.type == "cuda" else None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._broken = 0

    def __call__(self, data: bytes) -> np.ndarray:
        """Decode a driving frame to uint8 [H, W, 3].

        Raises:
            InputError: as `inference.decode_jpeg`.
        """
        check_jpeg(data)
        bare = bare_jpeg(data)
        if self._broken >= MOST_BROKEN or not _is_usual(bare):
            return decode_jpeg(data)
        try:
            return self.run(bare)
        except Exception as error:  # DALI's own kinds, on a picture that Pillow may decode
            self._local.pipeline = None
            logger.debug("DALI does not decode a driving frame: %s", line(error))
            with self._lock:
                self._broken += 1
                if self._broken == MOST_BROKEN:
                    logger.warning("%d pictures broke DALI's pipelines; the CPU decodes from here on", MOST_BROKEN)
            return decode_jpeg(data)

    def run(self, data: bytes) -> np.ndarray:
        """Decode by DALI alone, whose own errors are raised."""
        pipeline = getattr(self._local, "pipeline", None)
        if pipeline is None:
            pipeline = self._local.pipeline = _built(self._gpu)
        pipeline.feed_input("jpeg", [np.frombuffer(data, np.uint8)])
        (out,) = pipeline.run()
        return np.array((out if self._gpu is None else out.as_cpu()).at(0))


def _is_usual(data: bytes) -> bool:
    """Tell whether the header is of an upright RGB picture within the limits; Pillow words the others."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            width, height = picture.size
            return (
                picture.mode == "RGB"
                and "exif" not in picture.info  # DALI does not see every turn that stands there
                and width * height <= LARGEST_DRIVING_PX
                and max(picture.size) <= MOST_RATIO * min(picture.size)
            )
    except DAMAGE:
        return False


def _built(gpu: int | None) -> Any:
    try:
        dali = importlib.import_module("nvidia.dali")
    except Exception as error:
        raise RuntimeError(f"it {reason(error, 'nvidia.dali')} ({install('dali')})") from error

    @dali.pipeline_def(
        batch_size=1, num_threads=1, device_id=gpu, prefetch_queue_depth=1, exec_dynamic=False, exec_async=False,
        exec_pipelined=False,
    )  # fmt: skip
    def pipe() -> Any:
        jpeg = dali.fn.external_source(name="jpeg", dtype=dali.types.UINT8, ndim=1)
        device = "cpu" if gpu is None else "mixed"
        return dali.fn.decoders.image(jpeg, device=device, output_type=dali.types.RGB)

    pipeline = pipe()
    pipeline.build()
    return pipeline
