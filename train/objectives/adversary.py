"""The adversarial terms (section 4.2): the generator's, the discriminator's, and R1.

Letters: B pictures, S their side, h of the ray grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.render.cameras import camera_label
from triportrait.core.types import Camera, Rendering
from triportrait.train.config import LossConfig
from triportrait.train.data.pictures import Pictures
from triportrait.train.data.resize import shrink
from triportrait.train.objectives.discriminator import Discriminator

Judge = Callable[..., Tensor]  # a discriminator, or one behind a blur; it takes what `values` gives
REAL, FAKE = "real", "fake"  # names of what the generator's phase hands on to the discriminator's


@dataclass(frozen=True)
class DiscriminatorInput:
    """B pictures as the discriminator sees them.

    Attributes:
        image: [B, 3, S, S]. raw: [B, 3, h, h]. positions: [B, 3, S, S]. mask: [B, 1, h, h]. All in [-1, 1].
        label: [B, 25] their cameras.
    """

    image: Tensor
    raw: Tensor
    positions: Tensor
    mask: Tensor
    label: Tensor

    def detach(self) -> DiscriminatorInput:
        """Return the pictures without their graph, so that no gradient reaches the generator."""
        return DiscriminatorInput(*(value.detach() for value in self.values()))

    def values(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the tensors in the order that the discriminator takes."""
        return self.image, self.raw, self.positions, self.mask, self.label


def real(target: Pictures, rows: Tensor, size: int) -> DiscriminatorInput:
    """Return real pictures as the discriminator sees them: the named rows, with a ray grid of side `size`."""
    assert target.positions is not None, "the set keeps positions where there is a discriminator"
    image = target.image[rows]
    mask = target.opacity[rows] * 2 - 1
    mask = mask if mask.shape[-1] == size else shrink(mask, size)
    return DiscriminatorInput(
        image, shrink(image, size), target.positions[rows], mask, camera_label(target.camera.take(rows))
    )


def fake(rendering: Rendering, target: Pictures, camera: Camera, rows: Tensor) -> DiscriminatorInput:
    """Return renderings as the discriminator sees them: their positions are those of the truth."""
    assert target.positions is not None
    mask = rendering.opacity[rows] * 2 - 1
    label = camera_label(camera.take(rows))
    return DiscriminatorInput(rendering.image[rows], rendering.raw_image[rows], target.positions[rows], mask, label)


def adversarial_loss(
    discriminator: Discriminator,
    rendering: Rendering,
    target: Pictures,
    camera: Camera,
    rows: Tensor,
    config: LossConfig,
    handed_on: dict[str, DiscriminatorInput] | None,
) -> dict[str, Tensor]:
    """Return the adversarial term [B] of a rendering, 0 beside the rows; `handed_on` gets the discriminator's input."""
    term = rendering.image.new_zeros(len(rendering.image))
    false = fake(rendering, target, camera, rows)
    if handed_on is not None:
        handed_on |= {REAL: real(target, rows, rendering.raw_image.shape[-1]), FAKE: false.detach()}
    if len(rows):
        term = term.index_put((rows,), config.adversarial * generator_term(discriminator, false).to(term.dtype))
    return {"adversary": term}


def generator_term(discriminator: Judge, fake_input: DiscriminatorInput) -> Tensor:
    """Return softplus(-D(fake)) [B]: small where the discriminator takes a fake for real."""
    return F.softplus(-discriminator(*fake_input.values()))[:, 0]


def discriminator_terms(discriminator: Judge, true: DiscriminatorInput, false: DiscriminatorInput) -> dict[str, Tensor]:
    """Return softplus(D(fake)) and softplus(-D(real)), each a mean over B."""
    return {
        "D fake": F.softplus(discriminator(*false.values())).mean(),
        "D real": F.softplus(-discriminator(*true.values())).mean(),
    }


class R1Weights(Protocol):
    """The gammas of R1, by what the gradient is taken."""

    @property
    def r1_image(self) -> float: ...
    @property
    def r1_positions(self) -> float: ...
    @property
    def r1_mask(self) -> float: ...


def r1_terms(discriminator: Judge, true: DiscriminatorInput, config: R1Weights) -> dict[str, Tensor]:
    """R1: gamma / 2 times the squared norm of the gradient by each input, means over B (reference: Mescheder 2018)."""
    image, raw, positions, mask, label = true.values()
    inputs = [x.detach().requires_grad_(True) for x in (image, raw, positions, mask)]
    logits = discriminator(*inputs, label)
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    by_image, by_raw, by_positions, by_mask = (g.float().square().sum((1, 2, 3)).mean() for g in gradients)
    return {
        "R1 image": config.r1_image / 2 * (by_image + by_raw),
        "R1 positions": config.r1_positions / 2 * by_positions,
        "R1 mask": config.r1_mask / 2 * by_mask,
    }
