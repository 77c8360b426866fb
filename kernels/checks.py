"""Shape contracts, stated once at the door of an operator."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor


def lifted(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is when it is float64: where operators compute and sum."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """What a tensor is lifted to: float64 for float64, float32 for everything else."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def shapes(**contract: tuple[Tensor, str]) -> dict[str, int]:
    """Check tensors against named shapes and return the sizes that the names bind.

    `shapes(planes=(planes, "B 3 H W C"), points=(points, "B P 3"))` requires five and three dimensions, the literal 3s,
    and one and the same B; it returns the sizes of B, H, W, C and P by their letters.

    Raises:
        ValueError: names the first tensor that disagrees, the shape wanted, where a size came from, the shape given.
    """
    bound: dict[str, tuple[int, str]] = {}
    for name, (tensor, spec) in contract.items():
        wanted, got = spec.split(), list(tensor.shape)
        fits = len(wanted) == len(got)
        if fits:
            for letter, size in zip(wanted, got, strict=True):
                fits &= size == (int(letter) if letter.isdigit() else bound.setdefault(letter, (size, name))[0])
        if not fits:
            origins = [f"{d}={bound[d][0]} from {bound[d][1]}" for d in wanted if d in bound and bound[d][1] != name]
            clause = f" with {', '.join(origins)}" if origins else ""
            raise ValueError(f"{name}: expected [{', '.join(wanted)}]{clause}, got {got}")
    return {letter: size for letter, (size, _) in bound.items()}


def known_name(argument: str, name: Any, names: Any) -> None:
    """Raises: `ValueError` for a name that is none of a `Literal`."""
    if name not in get_args(names):
        raise ValueError(f"{argument}: expected one of {', '.join(get_args(names))}, got {name!r}; choose one")
