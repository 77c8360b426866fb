"""Tensors of the host go to a GPU from pinned memory, so that the host does not wait for the copy."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


def upload(value: Value, device: torch.device | str) -> Value:
    """Move a tensor, or all tensors of a dataclass, to a device; other values stay as they are.

    The copy to a GPU runs beside the host, from memory that nobody else has.
    """
    if isinstance(value, Tensor):
        if torch.device(device).type == "cuda" and value.device.type == "cpu":
            return value.pin_memory().to(device, non_blocking=True)  # type: ignore[return-value]
        return value.to(device)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        moved: dict[str, Any] = {field.name: upload(getattr(value, field.name), device) for field in fields(value)}
        return replace(value, **moved)
    return value
