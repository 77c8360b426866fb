"""The adversary (section 4.2): what the generator loses to the discriminator, what that learns, and R1.

Letters: B pictures, S their side, h of the ray grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.types import Camera, Rendering
from triportrait.train.config import LossConfig, ScheduleConfig
from triportrait.train.data.pictures import Pictures
from triportrait.train.loop import Micro, Phase
from triportrait.train.objectives.discriminator import Discriminator, camera_label
from triportrait.train.objectives.losses import shrink

REAL, FAKE = "real", "fake"  # what a generator's phase leaves for the discriminator's


@dataclass(frozen=True)
class Judged:
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

    def detached(self) -> Judged:
        """The same without where it comes from."""
        return Judged(*(value.detach() for value in self.values()))

    def values(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """In the order that the discriminator takes."""
        return self.image, self.raw, self.positions, self.mask, self.label


def real(target: Pictures, rows: Tensor, size: int) -> Judged:
    """Real pictures, their rows as named, with a ray grid of a side."""
    assert target.positions is not None, "the set keeps positions where there is a discriminator"
    image = target.image[rows]
    mask = target.opacity[rows] * 2 - 1
    mask = mask if mask.shape[-1] == size else shrink(mask, size)
    return Judged(image, shrink(image, size), target.positions[rows], mask, camera_label(target.camera.take(rows)))


def fake(rendering: Rendering, target: Pictures, camera: Camera, rows: Tensor) -> Judged:
    """Renderings of the same moments from the same cameras: their positions are those of the truth."""
    assert target.positions is not None
    mask = rendering.opacity[rows] * 2 - 1
    label = camera_label(camera.take(rows))
    return Judged(rendering.image[rows], rendering.raw_image[rows], target.positions[rows], mask, label)


def opposed(
    discriminator: Discriminator,
    rendering: Rendering,
    target: Pictures,
    camera: Camera,
    rows: Tensor,
    config: LossConfig,
    made: dict[str, Any] | None,
) -> dict[str, Tensor]:
    """The adversarial term [B] of a rendering, 0 beside the rows; the discriminator's pictures go into `made`."""
    term = rendering.image.new_zeros(len(rendering.image))
    false = fake(rendering, target, camera, rows)
    if made is not None:
        made |= {REAL: real(target, rows, rendering.raw_image.shape[-1]), FAKE: false.detached()}
    if len(rows):
        term = term.index_put((rows,), config.adversary * generator_term(discriminator, false).to(term.dtype))
    return {"adversary": term}


def generator_term(discriminator: Discriminator, judged: Judged) -> Tensor:
    """softplus(-D(fake)) [B]: small where the discriminator takes a fake for real."""
    return F.softplus(-discriminator(*judged.values()))[:, 0]


def discriminator_terms(discriminator: Discriminator, true: Judged, false: Judged) -> dict[str, Tensor]:
    """softplus(D(fake)) and softplus(-D(real)), each a mean over B."""
    return {
        "D fake": F.softplus(discriminator(*false.values())).mean(),
        "D real": F.softplus(-discriminator(*true.values())).mean(),
    }


def r1_terms(discriminator: Discriminator, true: Judged, config: LossConfig) -> dict[str, Tensor]:
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


def discriminator_phases(discriminator: Discriminator, config: LossConfig, schedule: ScheduleConfig) -> list[Phase]:
    """What the discriminator does in a step, after the generator has left real and fake pictures.

    The fakes are those that the generator was moved by, one step old: rendering them anew would cost a forward pass.
    """

    def main(micro: Micro) -> dict[str, Tensor]:
        true, false, share = _shown(micro, discriminator.config.group)
        return {name: share * value for name, value in discriminator_terms(discriminator, true, false).items()}

    def regularisation(micro: Micro) -> dict[str, Tensor]:
        true, _, share = _shown(micro, discriminator.config.group)
        return {name: share * value for name, value in r1_terms(discriminator, true, config).items()}

    since = schedule.adversary_from
    return [
        Phase("discriminator", "discriminator", main, since=since, counts=True),
        Phase("R1", "discriminator", regularisation, every=schedule.r1_every, since=since),
    ]


def _shown(micro: Micro, group: int) -> tuple[Judged, Judged, float]:
    """Real and fake pictures of a micro-batch, and 1; grey ones and 0 if it has none.

    Every rank must send the same gradients in the same order, so one with nothing to show sends noughts.
    """
    true, false = micro.made[REAL], micro.made[FAKE]
    if len(true.image):
        return true, false, 1.0
    grey = Judged(*(value.new_zeros(group, *value.shape[1:]) for value in true.values()))
    return grey, grey, 0.0
