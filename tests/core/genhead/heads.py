"""The tiny generator with rule-made weights and the open head, and what it draws."""

from __future__ import annotations

from typing import Any

import torch

from triportrait.core.config import genhead_tiny
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import neck_with_parts
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.seeded_weights import rule_genhead
from triportrait.core.tracking.head_model import load_head_model
from triportrait.core.types import Camera


def tiny_genhead() -> GenHead:
    generator = rule_genhead(genhead_tiny())
    head = load_head_model()
    generator.set_head_model(neck_with_parts(generator.config, head.flame, identity=head.identity))
    return generator


def two_heads() -> dict[str, Any]:
    """The arguments of `GenHead.forward`: a frontal head with its mouth open, and one that turned its neck."""
    generator = torch.Generator().manual_seed(0)

    def draws(width: int, spread: float) -> torch.Tensor:
        return torch.randn(2, width, generator=generator) * spread

    pose = torch.zeros(2, 6)
    pose[:, 3], pose[1, 1] = 0.3, 0.25
    expression = torch.zeros(2, 10)
    expression[:, 0] = -1.2  # opens the lips of the open head
    camera = Camera.cat([fixed_camera(), turned(fixed_camera(), 0.3, 0.1)])
    return {
        "latent": draws(32, 1.0), "shape": draws(12, 0.5), "expression": expression, "pose": pose,
        "eyes": torch.zeros(2, 6), "camera": camera,
    }  # fmt: skip


def only(row: int, heads: dict[str, Any]) -> dict[str, Any]:
    rows = [row]
    return {name: value.take(rows) if isinstance(value, Camera) else value[rows] for name, value in heads.items()}
