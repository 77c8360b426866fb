"""Decide which implementation of an operator runs: its Triton kernel, or its definition in plain PyTorch.

`auto` takes the kernel where every tensor is on a GPU that has one (compute capability 8.0 or more) and Triton launches
there, which is tried once, and the definition elsewhere. A backend that is asked for by name is obeyed or refused;
nothing falls back after an exception.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from triportrait.kernels.checks import check_choice
from triportrait.kernels.language import HAVE_TRITON
from triportrait.kernels.trial_launch import can_launch

Backend = Literal["auto", "triton", "reference"]
VARIABLE = "TRIPORTRAIT_BACKEND"
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # Triton reads it when a kernel is defined
MIN_CAPABILITY = (8, 0)  # mma on tf32 and bf16

_choice: Backend | None = None  # a plain global: torch.compile knows it and compiles again when it changes


class BackendUnavailable(ValueError):
    """The backend that was asked for by name cannot run here. The message is one sentence that says why."""


@contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """Choose the backend of all operators inside a `with` block; outside, `$TRIPORTRAIT_BACKEND` does.

    The choice holds for the whole process: one thread at a time may choose.

    Raises: `ValueError` for an unknown name.
    """
    global _choice
    check_choice("backend", backend, Backend)
    before, _choice = _choice, backend
    try:
        yield
    finally:
        _choice = before


def backend() -> Backend:
    """Return the backend that is chosen here. Raises: `ValueError` for an unknown name in the environment."""
    if _choice is not None:
        return _choice
    name = os.environ.get(VARIABLE, "auto")
    check_choice(f"${VARIABLE}", name, Backend)
    return name  # type: ignore[return-value]


def runs_triton(**tensors: Tensor | None) -> bool:
    """Tell whether the kernel should run on these tensors, which are all on one device.

    Raises:
        ValueError: tensors on several devices; the first that differs is named.
        BackendUnavailable: `triton` was asked for by name and cannot run.
    """
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first, device = next((name, tensor.device) for name, tensor in present.items())
    for name, tensor in present.items():
        if tensor.device != device:
            raise ValueError(f"{name}: expected on {device} as {first} is, got {tensor.device}; move it there")
    chosen = backend()
    if chosen == "reference":
        return False
    if chosen == "auto":
        return device.type == "cuda" and HAVE_TRITON and _capability(device) >= MIN_CAPABILITY and can_launch(device)
    if not HAVE_TRITON:
        raise BackendUnavailable(
            "backend triton: the package is not installed or does not load; install triton or use backend auto"
        )
    if device.type == "meta":
        return True  # tensors without memory: whoever records launches wants them
    if device.type == "cuda":
        capability = _capability(device)
        if capability < MIN_CAPABILITY:
            least, actual = (".".join(map(str, pair)) for pair in (MIN_CAPABILITY, capability))
            raise BackendUnavailable(
                f"backend triton: expected compute capability {least} or more, {first} is on one of {actual}; use "
                "backend auto"
            )
    elif not INTERPRETED:
        raise BackendUnavailable(
            f"backend triton: expected CUDA tensors, {first} is on {device}; use backend auto, or set "
            "TRITON_INTERPRET=1 before triportrait is imported"
        )
    return True


def alert_not_deterministic(operator: str) -> None:
    """Refuse a backward pass with atomic sums, or warn of it, where PyTorch was asked for determinism.

    Raises: `RuntimeError` where `torch.use_deterministic_algorithms(True)` asks for the same bits from run to run.
    """
    if torch.are_deterministic_algorithms_enabled():
        sentence = f"{operator}: its gradient is added in no order; march_rays has a deterministic form"
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(sentence)
        warnings.warn(sentence, stacklevel=2)


def same_dtype(**tensors: Tensor | None) -> torch.dtype:
    """Return the one dtype of these tensors.

    Raises: `ValueError` names the first that differs.
    """
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first, dtype = next((name, tensor.dtype) for name, tensor in present.items())
    for name, tensor in present.items():
        if tensor.dtype != dtype:
            raise ValueError(f"{name}: expected {dtype} as {first} has, got {tensor.dtype}; convert it")
    return dtype


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
