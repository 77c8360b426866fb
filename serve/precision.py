"""Half precision where it shows the same pictures: tried on one frame at load, refused where it does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.serve.crop import to_size
from triportrait.serve.parameters import Tracking
from triportrait.serve.pictures import read_picture
from triportrait.serve.reenactor import Reenactor

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GATE_DB = 50.0  # against the same frame in float32
SAMPLE = Path(__file__).with_name("sample.jpg")  # a procedural head
SAMPLE_YAW = 0.2  # radians


def use_precision(reenactor: Reenactor, asked: Precision) -> str | None:
    """Let the networks of a reenactor run in a precision that was asked for, if its frame is as good.

    `auto` is bfloat16 on a GPU that has it, float16 on others, and float32 on a CPU.

    Returns:
        What the user should know: that `auto` fell back to float32.

    Raises:
        InputError: the frame of the precision asked for is more than GATE_DB away from that in float32.
    """
    name = _automatic(reenactor.device) if asked == "auto" else asked
    if name == "fp32":
        return None
    wanted = _frame(reenactor)
    reenactor.dtype = DTYPES[name]
    found = psnr(_frame(reenactor), wanted)
    if found >= GATE_DB:
        reenactor.keep_half()
        return None
    reenactor.dtype = None
    if asked == "auto":
        return f"{name} shows other pictures with these weights ({found:.1f} dB, {GATE_DB:g} are wanted): fp32 it is"
    raise InputError(
        f"--precision {name}: expected a frame within {GATE_DB:g} dB of float32's, these weights give {found:.1f} dB; "
        "use --precision fp32"
    )


def psnr(image: Tensor, wanted: Tensor) -> float:
    """dB between pictures in [-1, 1], both clamped; 0 where one is not finite."""
    error = (image.float().clamp(-1, 1) - wanted.float().clamp(-1, 1)).square().mean().item()
    if not math.isfinite(error):
        return 0.0
    return math.inf if error == 0 else 10 * math.log10(4 / error)


def sample_picture(size_px: int) -> np.ndarray:
    """The head on which precisions are compared, uint8 [size_px, size_px, 3]."""
    return to_size(read_picture(SAMPLE), size_px)


def _automatic(device: torch.device) -> str:
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


@torch.inference_mode()
def _frame(reenactor: Reenactor) -> Tensor:
    """The sample, driven by its own mirror image, seen from the side: [1, 3, S, S]."""
    picture, known = sample_picture(reenactor.image_size), Tracking()
    head = reenactor.head(reenactor.prepare(picture, known), np.ascontiguousarray(picture[:, ::-1]), known)
    return reenactor.render(head, turned(fixed_camera(), SAMPLE_YAW, 0.0)).image
