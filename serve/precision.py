"""Chooses half precision where it shows the same picture: it is tried on one frame at load."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.psnr import psnr
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.image_tensors import to_size
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.reenactor import Reenactor

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GATE_DB = 50.0  # against the same frame in float32
SAMPLE = Path(__file__).with_name("sample.jpg")  # a procedural head
SAMPLE_YAW = 0.2  # radians

logger = logging.getLogger(__name__)


def use_precision(reenactor: Reenactor, precision: Precision) -> None:
    """Let the networks of a reenactor run in a precision, if its frame is as good.

    `auto` is float32 on a CPU. On a GPU it tries bfloat16, where the GPU has it, then float16, which is as fast and has
    three bits more, then takes float32 with a warning. The log says which it is, and how good each was that was tried.

    Raises:
        InputError: the frame of the named precision is below GATE_DB of PSNR against that in float32.
    """
    first = _automatic(reenactor.device) if precision == "auto" else precision
    if first == "fp32":
        return
    reference, measured = _frame(reenactor), []
    for name in ("bf16", "fp16") if precision == "auto" and first == "bf16" else (first,):
        reenactor.dtype = DTYPES[name]
        psnr_db = psnr(_frame(reenactor), reference)
        reenactor.dtype = None
        measured.append(f"{name} {psnr_db:.1f} dB")
        if psnr_db >= GATE_DB:
            logger.info("precision: %s; against float32's frame %s; %g are wanted", name, ", ".join(measured), GATE_DB)
            reenactor.dtype = DTYPES[name]
            reenactor.keep_half()
            return
    if precision != "auto":
        raise InputError(
            f"--precision {first}: expected a frame within {GATE_DB:g} dB of float32's, these weights give "
            f"{psnr_db:.1f} dB; use --precision fp32"
        )
    logger.info("precision: fp32; against its frame %s; %g are wanted", ", ".join(measured), GATE_DB)
    logger.warning(
        "half precision shows other pictures with these weights (%s, %g are wanted): fp32 it is, several times slower",
        ", ".join(measured), GATE_DB,
    )  # fmt: skip


def sample_picture(size_px: int) -> np.ndarray:
    """Read the head on which precisions are compared, uint8 [size_px, size_px, 3]."""
    return to_size(read_picture(SAMPLE), size_px)


def _automatic(device: torch.device) -> str:
    """Choose what `auto` tries first."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


@torch.inference_mode()
def _frame(reenactor: Reenactor) -> Tensor:
    """Render the sample, driven by its own mirror image, seen from the side: [1, 3, S, S]."""
    picture = sample_picture(reenactor.image_size)
    mirrored = AlignedFace.whole(np.ascontiguousarray(picture[:, ::-1]))
    head = reenactor.head(reenactor.prepare(AlignedFace.whole(picture)), mirrored)
    return reenactor.render(head, turned(fixed_camera(), SAMPLE_YAW, 0.0)).image
