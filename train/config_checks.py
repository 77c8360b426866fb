"""Check the numbers of a config: they are positive, unless the metadata of a field say otherwise."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

from triportrait.core.config import GenHeadConfig, ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import Elevation, LookAtRange

LARGEST = 1e12
_RULE = "numbers"  # key of the metadata


def nonnegative(default: float) -> Any:
    """Return a field whose number may be 0, which switches something off or has no other meaning than 0."""
    return dataclasses.field(default=default, metadata={_RULE: "nonnegative"})


def share(default: float) -> Any:
    """Return a field whose number is a share, from 0 to 1."""
    return dataclasses.field(default=default, metadata={_RULE: "share"})


def check_fields(values: Any, prefix: str = "") -> None:
    """Check the numbers of a config and of the configs within it.

    Args:
        values: a dataclass; a model's config within it checks itself.
        prefix: path of the config, for the sentence.

    Raises: `InputError` for the first number that is out of range.
    """
    for f in dataclasses.fields(values):
        value, name = getattr(values, f.name), f"{prefix}{f.name}"
        if isinstance(value, ModelConfig | GenHeadConfig):
            continue
        if isinstance(value, LookAtRange):
            check_range(value, name)
        elif dataclasses.is_dataclass(value):
            check_fields(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(value, f.metadata.get(_RULE, "positive"), name)


def _check_number(value: float, rule: str, name: str) -> None:
    if rule == "share":
        valid, expected = 0 <= value <= 1, "a share from 0 to 1"
    else:
        valid = 0 <= value <= LARGEST and (value > 0 or rule == "nonnegative")
        expected = "a positive number" if rule == "positive" else "0 or more"
        if value > LARGEST:
            expected = f"up to {LARGEST:,.0f}"
    if not valid:
        raise InputError(f"{name}: expected {expected}, got {value}; choose another")


def check_range(cameras: LookAtRange, name: str) -> None:
    """Check a range of cameras. Raises: `InputError` for bounds that are none."""
    if cameras.elevation not in get_args(Elevation):
        raise InputError(
            f"{name}.elevation: expected one of {', '.join(get_args(Elevation))}, got {cameras.elevation!r}; choose one"
        )
    for f in dataclasses.fields(cameras):
        if f.name == "elevation":
            continue
        bounds = getattr(cameras, f.name)
        numbers = isinstance(bounds, tuple) and len(bounds) == 2 and all(type(b) in (int, float) for b in bounds)
        low = 0.0 if f.name == "radius" else -math.inf
        if not numbers or not all(map(math.isfinite, bounds)) or not low <= bounds[0] <= bounds[1]:
            raise InputError(f"{name}.{f.name}: expected two numbers, the smaller first, got {bounds!r}; choose others")
