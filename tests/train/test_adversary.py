"""The adversary's terms against numbers computed by hand, on a discriminator that is a sum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from triportrait.core.types import Camera, Rendering
from triportrait.train.config import LossConfig, ScheduleConfig
from triportrait.train.data.pictures import Pictures
from triportrait.train.objectives import adversary
from triportrait.train.objectives.adversary import FAKE, REAL, DiscriminatorInput, adversarial_loss, r1_terms
from triportrait.train.stages.adversarial import discriminator_phases
from triportrait.train.stages.stage import MicroBatch

LOSSES = LossConfig(adversarial=0.25, r1_image=1.0, r1_positions=10.0, r1_mask=3.0)


class Weighing(nn.Module):
    """Logits: each kind of picture's mean times its weight; the label adds its sum."""

    class config:
        group = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, image: Tensor, raw: Tensor, positions: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        means = torch.stack([x.mean((1, 2, 3)) for x in (image, raw, positions, mask)], 1)
        return (means * self.weight).sum(1, keepdim=True) + label.sum(1, keepdim=True) * 0


def camera(count: int) -> Camera:
    return Camera(torch.eye(4).expand(count, 4, 4), torch.eye(3).expand(count, 3, 3))


def pictures(values: list[float]) -> Pictures:
    """B pictures of one shade each; raw size is half."""
    shade = torch.tensor(values)[:, None, None, None]
    count = len(values)
    return Pictures(
        image=shade.expand(count, 3, 8, 8),
        opacity=torch.full((count, 1, 4, 4), 0.75),
        depth=torch.zeros(count, 1, 4, 4),
        landmarks=torch.zeros(count, 68, 2),
        camera=camera(count),
        motion=torch.zeros(count, 9),
        neck=None,
        positions=torch.full((count, 3, 8, 8), -0.5),
    )


def rendering(values: list[float]) -> Rendering:
    shade = torch.tensor(values)[:, None, None, None].requires_grad_()
    count = len(values)
    small = shade.expand(count, 3, 4, 4) / 2
    opacity = torch.full((count, 1, 4, 4), 0.25)
    return Rendering(shade.expand(count, 3, 8, 8), small, small, small[:, :1], opacity, small, small)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def logit(shade: float, raw: float, mask: float) -> float:
    return shade + 2 * raw + 3 * -0.5 + 4 * mask


def test_the_generator_loses_where_the_discriminator_sees_a_fake():
    discriminator, made = Weighing(), dict[str, Any]()
    seen = rendering([0.2, -0.4, 0.6])
    rows = torch.tensor([0, 2])
    target = pictures([0.1, 0.3, 0.5])
    term = adversarial_loss(discriminator, seen, target, target.camera, rows, LOSSES, made)["adversary"]
    wanted = [0.25 * softplus(-logit(s, s / 2, -0.5)) if i != 1 else 0.0 for i, s in enumerate((0.2, -0.4, 0.6))]
    assert term.tolist() == pytest.approx(wanted, rel=1e-5)
    term.sum().backward()
    false, true = made[FAKE], made[REAL]
    assert all(not value.requires_grad for value in false.values())
    assert false.image[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.6])
    assert true.image[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.5])
    assert true.raw.shape == (2, 3, 4, 4)
    assert true.mask.unique().tolist() == [0.5]
    assert false.mask.unique().tolist() == [-0.5]
    assert true.label.shape == (2, 25)
    assert torch.equal(true.positions, false.positions)


def test_the_discriminator_learns_from_what_the_generator_left():
    discriminator, made = Weighing(), dict[str, Any]()
    target = pictures([0.1, 0.5])
    adversarial_loss(discriminator, rendering([0.2, 0.6]), target, target.camera, torch.tensor([0, 1]), LOSSES, made)
    main, r1 = discriminator_phases(discriminator, LOSSES, ScheduleConfig(adversarial_from=70, r1_every=4))
    assert (main.engine, r1.engine, r1.every) == ("discriminator", "discriminator", 4)
    assert [main.due(step, 69 + step) for step in range(2)] == [False, True]
    assert [r1.due(step, 100) for step in range(5)] == [True, False, False, False, True]
    micro = MicroBatch(None, torch.Generator(), 100, made)
    terms = {name: value.item() for name, value in main.terms(micro).items()}
    fakes = [softplus(logit(s, s / 2, -0.5)) for s in (0.2, 0.6)]
    reals = [softplus(-logit(s, s, 0.5)) for s in (0.1, 0.5)]
    assert terms == pytest.approx({"D fake": sum(fakes) / 2, "D real": sum(reals) / 2}, rel=1e-5)


def test_r1_by_hand():
    """The logit's slope by an input's pixel is weight / pixels; its squared norm is weight² / pixels."""
    discriminator = Weighing()
    shapes = (3, 8), (3, 4), (3, 8), (1, 4)
    true = DiscriminatorInput(*(torch.rand(2, C, side, side) for C, side in shapes), torch.zeros(2, 25))
    terms = {name: value.item() for name, value in r1_terms(discriminator, true, LOSSES).items()}
    wanted = {
        "R1 image": 0.5 * (1 / 192 + 4 / 48), "R1 positions": 5 * (9 / 192), "R1 mask": 1.5 * (16 / 16),
    }  # fmt: skip
    assert terms == pytest.approx(wanted, rel=1e-5)
    sum(r1_terms(discriminator, true, LOSSES).values()).backward()
    assert discriminator.weight.grad.tolist() == pytest.approx([1 / 192, 2 / 48, 10 * 3 / 192, 3 * 4 / 16], rel=1e-5)


def test_a_micro_batch_without_real_pictures_sends_noughts_for_every_weight():
    """A rank that sent none would keep the others waiting."""
    discriminator, made = Weighing(), dict[str, Any]()
    target = pictures([0.1, 0.5])
    term = adversarial_loss(
        discriminator, rendering([0.2, 0.6]), target, target.camera, torch.tensor([], dtype=torch.long), LOSSES, made
    )
    assert term["adversary"].tolist() == [0, 0]
    micro = MicroBatch(None, torch.Generator(), 0, made)
    phases = discriminator_phases(discriminator, LOSSES, ScheduleConfig())
    assert phases
    for phase in phases:
        terms = phase.terms(micro)
        assert terms
        assert all(value.item() == 0 for value in terms.values())
        discriminator.weight.grad = None
        sum(terms.values()).backward()
        assert discriminator.weight.grad is not None, phase.name
        assert not discriminator.weight.grad.any(), phase.name


def test_a_set_without_positions_is_no_material():
    bare = pictures([0.1])
    object.__setattr__(bare, "positions", None)
    with pytest.raises(AssertionError, match="keeps positions"):
        adversary.real(bare, torch.tensor([0]), 4)
