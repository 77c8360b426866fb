"""Persons' files for tests: of any networks, learned or not."""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.core.person import (
    THUMBNAIL,
    LowRank,
    Person,
    least_rank,
    refinable_weights,
    thumbnail_of,
    weights_hash,
)
from triportrait.core.portrait import Portrait4D


def person_of(portrait: Portrait4D, crop: Tensor | None = None, scale: float = 0.0, rank: int = 2) -> Person:
    """Make a person of networks.

    Args:
        portrait: the networks.
        crop: uint8 [S, S, 3], the aligned source; black by default.
        scale: of what was learned; 0 is nothing.
        rank: of the updates.
    """
    rng, render = torch.Generator().manual_seed(7), portrait.config.render

    def drawn(*shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=rng)).half().float()  # as a file holds it

    updates = {}
    for name, layer in refinable_weights(portrait):
        rows, columns = layer.weight.shape[0], layer.weight[0].numel()
        width = least_rank(layer, rank)
        updates[name] = LowRank(drawn(rows, width), drawn(width, columns))
    planes = drawn(1, 3, render.plane_size, render.plane_size, render.plane_width)
    small = torch.zeros(THUMBNAIL, THUMBNAIL, 3, dtype=torch.uint8) if crop is None else thumbnail_of(crop)
    return Person(planes, updates, weights_hash(portrait), small, {"source": "photo.jpg", "weights": "demo"})
