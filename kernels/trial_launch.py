"""Try one small launch on a device: Triton may be installed where nothing can be compiled or launched.

It wants a C compiler and Python's headers at its first launch, and a GPU that takes what came of it.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch

from triportrait.kernels.language import device_of, tl, triton


@triton.jit
def write_one(out_ptr):
    """Write a 1."""
    tl.store(out_ptr, 1.0)


def launch(device: torch.device) -> None:
    """Launch a kernel on a CUDA device. Raises: whatever Triton raises where that cannot be done."""
    out = torch.empty(1, device=device)
    with device_of(out):
        write_one[(1,)](out)


@cache
def can_launch(device: torch.device) -> bool:
    """Try once for each CUDA device whether a kernel can be launched on it. Where none can, a warning says why."""
    try:
        launch(device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        warnings.warn(
            f"Triton is installed but launches nothing on {device} ({reason[:200]}); PyTorch's operators run, slower",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
        return False
    return True
