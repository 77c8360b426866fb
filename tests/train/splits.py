"""Shares that split the few heads of the tests."""

from __future__ import annotations

from tests.train import little
from triportrait.train.data.split import head_identity, place

SEED: int = little.CLIPS["seed"]


def between(seed: int, count: int, identity_seed: int = SEED) -> float:
    """A share that holds out one of the first heads of a seed."""
    places = sorted(place(head_identity(identity_seed, head), seed) for head in range(count))
    return (places[0] + places[1]) / 2
