"""Triton where it is installed; without it kernels can be imported, and are refused when they should run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

try:
    import triton
    import triton.language as tl

    HAVE_TRITON = True
except Exception:  # a laptop, or a library that does not load: the definitions run
    HAVE_TRITON = False

    class _Absent:
        """This object takes the place of triton and of its language while modules are imported."""

        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return arguments[0] if len(arguments) == 1 else self  # a decorator, with options or without

    triton, tl = _Absent(), _Absent()


MAX_GRID_YZ = 65535  # programs along the second and third axis of a grid


def device_of(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Make a tensor's device the current one, on which Triton launches."""
    return torch.cuda.device_of(tensor)


def tile_side(size: int) -> int:
    """Return the side of a tensor-core tile that holds `size` numbers: a power of two from 16."""
    return max(16, triton.next_power_of_2(size))


__all__ = ["HAVE_TRITON", "MAX_GRID_YZ", "device_of", "tile_side", "tl", "triton"]
