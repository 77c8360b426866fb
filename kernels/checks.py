"""Check shape contracts, stated once at the door of an operator."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor


def lifted(tensor: Tensor) -> Tensor:
    """Convert to float32, in which operators compute and sum; a float64 tensor is returned unchanged."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that `lifted` gives a tensor: float64 for float64, float32 for everything else."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def shapes(**contract: tuple[Tensor, str]) -> dict[str, int]:
    """Check tensors against named shapes and return the sizes that the names bind.

    `shapes(planes=(planes, "B 3 H W C"), points=(points, "B P 3"))` requires five and three dimensions, the literal 3s,
    and one and the same B; it returns the sizes of B, H, W, C and P by their letters.

    Raises:
        ValueError: names the first tensor that disagrees, the expected shape, where a size came from, and its shape.
    """
    bound: dict[str, tuple[int, str]] = {}
    for name, (tensor, spec) in contract.items():
        expected, got = spec.split(), list(tensor.shape)
        fits = len(expected) == len(got)
        if fits:
            for letter, size in zip(expected, got, strict=True):
                fits &= size == (int(letter) if letter.isdigit() else bound.setdefault(letter, (size, name))[0])
        if not fits:
            origins = [f"{d}={bound[d][0]} from {bound[d][1]}" for d in expected if d in bound and bound[d][1] != name]
            clause = f" with {', '.join(origins)}" if origins else ""
            raise ValueError(f"{name}: expected [{', '.join(expected)}]{clause}, got {got}")
    return {letter: size for letter, (size, _) in bound.items()}


def check_choice(argument: str, choice: Any, choices: Any) -> None:
    """Check that an argument is one of the values of a `Literal`.

    Raises: `ValueError` lists the values.
    """
    if choice not in get_args(choices):
        raise ValueError(f"{argument}: expected one of {', '.join(get_args(choices))}, got {choice!r}; choose one")
