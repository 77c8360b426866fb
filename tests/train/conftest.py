"""Procedural heads for the tests: few, small, and each mesh built once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from triportrait.core.types import Camera
from triportrait.train.data.heads.population import Expression, Identity, Light
from triportrait.train.data.heads.render import HeadRenderer, HeadView
from triportrait.train.data.scenes import population
from triportrait.train.data.sheets import around

SEED = 1


@dataclass(frozen=True)
class Studio:
    """A renderer and the first heads of a seed, from the front unless said otherwise."""

    renderer: HeadRenderer
    identity: Identity
    light: Light

    def shoot(
        self,
        expression: Expression,
        heads: list[int],
        size: int = 96,
        antialias: int = 1,
        camera: Camera | None = None,
    ) -> HeadView:
        flat = torch.zeros(len(heads))
        return self.renderer.render(
            self.identity.take(heads),
            expression,
            self.light.take(heads),
            camera or around(flat, flat),
            size,
            antialias,
        )


@pytest.fixture(scope="session")
def studio() -> Studio:
    identity, light = population(SEED, 8)
    return Studio(HeadRenderer(), identity, light)
