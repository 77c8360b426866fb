"""Flatten nested dataclasses to plain JSON values and tensors by name, and rebuild them by the types of their fields.

A batch or a config is kept so without pickle: what is read can only become the types that the reader asks for.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

TENSOR = "a tensor"  # stands in the JSON where one is


def flattened(value: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Return a value as plain JSON values, and its tensors on the CPU by the path of fields that leads to each.

    Args:
        value: dataclasses, dicts by text, tensors and plain values within each other.
        name: where it begins: `batch` gives `batch.source.image`.
    """
    if isinstance(value, Tensor):
        return TENSOR, {name: value.detach().cpu().clone(memory_format=torch.contiguous_format)}
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if not isinstance(value, dict):
        return value, {}
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for key, part in value.items():
        plain[key], inner = flattened(part, f"{name}.{key}")
        tensors |= inner
    return plain, tensors


def rebuilt(kind: Any, plain: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    """Return the value that `flattened` took apart.

    Args:
        kind: its type.

    Raises:
        KeyError, TypeError: a field or a tensor is missing, or of another kind.
    """
    if get_origin(kind) in (Union, types.UnionType):
        if plain is None:
            return None
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    if kind is Tensor:
        return tensors[name]
    if kind is Path:
        return Path(plain)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(  # type: ignore[operator]
            **{
                f.name: rebuilt(hints[f.name], plain[f.name], tensors, f"{name}.{f.name}")
                for f in dataclasses.fields(kind)
            }
        )
    if get_origin(kind) is dict:
        return {key: rebuilt(get_args(kind)[1], part, tensors, f"{name}.{key}") for key, part in plain.items()}
    if get_origin(kind) is tuple:
        if not isinstance(plain, list | tuple):
            raise TypeError(f"{name} is no list")
        return tuple(plain)
    if kind in (bool, int, float, str) and type(plain) is not kind and not (kind is float and type(plain) is int):
        raise TypeError(f"{name} is of another type")
    return plain
