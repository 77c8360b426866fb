"""List every metric by its name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics import (
    coefficients,
    distributions,
    face_geometry,
    identity,
    perceptual,
    pictures,
    sound,
)
from triportrait.train.evaluation.metrics.definition import Definition, Kind, Need

_FAMILIES = (pictures, face_geometry, perceptual, distributions, identity, coefficients, sound)
METRICS: dict[str, Definition] = {each.name: each for family in _FAMILIES for each in family.DEFINITIONS}


def metric(name: str) -> Definition:
    """Return the definition of a name.

    Raises:
        InputError: there is none.
    """
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, 3) or sorted({known.split("_")[0] for known in METRICS})
    raise InputError(
        f"metric: expected a name of the catalogue, got {name!r}; did you mean {', '.join(near)}? AED alone, for"
        " example, has four definitions: name one"
    )


def measurable(kind: Kind, available: Iterable[Need]) -> list[Definition]:
    """Return the definitions that mean something for a kind of pair and need nothing else than what is available."""
    there = set(available)
    return [each for each in METRICS.values() if kind in each.kinds and there.issuperset(each.needs)]
