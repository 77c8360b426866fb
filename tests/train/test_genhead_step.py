"""What the phases of a step of GenHead's training hand to whom: a spy looks at every input of the discriminator."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.train import little_gan
from triportrait.core.genhead.synthesis import Synthesis
from triportrait.core.genhead.weights import neck_with_parts
from triportrait.core.render.cameras import camera_label
from triportrait.core.render.face_maps import FaceMaps
from triportrait.core.seeded_weights import rule_genhead
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.data.picture_sources import StoredPictures
from triportrait.train.data.resize import shrink
from triportrait.train.data.training_pictures import TrainingPictures
from triportrait.train.genhead_config import GenHeadLosses
from triportrait.train.objectives.blurred import blurred
from triportrait.train.stages import genhead as stage
from triportrait.train.stages.head_geometry import HeadGeometry
from triportrait.train.stages.stage import MicroBatch

SEEN = 3  # images: a quarter of the way to no blur
DIFFERENT = GenHeadLosses(
    density=1.5, face_in_eyes=2.0, face_in_mouth=3.0, distortion_eyes=5.0, distortion_mouth=7.0,
    light_through_eyes=11.0, light_through_mouth=13.0,
)  # fmt: skip


class Spy(nn.Module):
    """A discriminator that remembers what it saw; all of it has a part in its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[torch.Tensor, ...]] = []

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        self.seen.append(values)
        return self.weight * sum(value.square().flatten(1).mean(1, keepdim=True) for value in values)


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """The phases' terms by name, what the spy saw in each, the batch, the noise that was drawn, and the networks."""
    folder = tmp_path_factory.mktemp("step")
    little_gan.write_store(folder / "store")
    config = dataclasses.replace(little_gan.training(), losses=DIFFERENT)
    pictures = TrainingPictures(StoredPictures(folder / "store"), config.generator)
    spy, generator = Spy(), rule_genhead(config.generator)
    neck = neck_with_parts(config.generator, load_head_model().flame)
    models = stage.GenHeadModels(generator, spy, HeadGeometry(neck, config.generator))  # type: ignore[arg-type]
    micro = MicroBatch(pictures.draw(2, np.random.default_rng(3), 1), torch.Generator().manual_seed(1), SEEN)
    noises: list[Any] = []
    shares: list[float] = []
    jittered: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        synthesis, draw_styles, render = Synthesis.forward, stage.draw_styles, stage.render_heads
        patch.setattr(Synthesis, "forward", lambda self, styles, noise="const", rng=None: (
            noises.append((noise, rng)) or synthesis(self, styles, noise, rng)))  # fmt: skip
        patch.setattr(stage, "draw_styles", lambda g, head, rng, share: (
            shares.append(share) or draw_styles(g, head, rng, share)))  # fmt: skip
        patch.setattr(
            stage,
            "render_heads",
            lambda m, painted, head, *numbers: (
                jittered.append(all(n is not None and n.std() > 0.2 for n in numbers))
                or render(m, painted, head, *numbers)
            ),
        )
        terms, seen = {}, {}
        for phase in stage.phases(models, config, None):
            spy.seen = []
            terms[phase.name] = dict(phase.terms(micro))
            seen[phase.name] = spy.seen
    return config, models, micro, terms, seen, (noises, shares, jittered)


def expected_real(models: Any, micro: Any) -> list[torch.Tensor]:
    pictures = micro.batch.real
    return [
        pictures.image, shrink(pictures.image, 16), positions(models, pictures.head),
        shrink(pictures.mask, 16) * 2 - 1, camera_label(pictures.head.camera),
    ]  # fmt: skip


def positions(models: Any, head: Any) -> torch.Tensor:
    flame = models.geometry.neck.flame
    vertices, _ = flame(torch.cat([head.shape, head.expression], 1), torch.zeros(2, 3), head.pose[:, 3:], head.eyes)
    return FaceMaps(models.geometry.neck).positions(vertices, head.camera, 32)


def with_blur(config: Any, values: Any) -> list[torch.Tensor]:
    sigma = 1.5 * (1 - SEEN / 12)
    assert config.schedule.blur_at(SEEN) == pytest.approx(sigma)
    return [blurred(values[0], sigma), blurred(values[1], sigma / 2), *values[2:]]


def same(got: Any, expected: Any) -> None:
    assert len(got) == len(expected) == 5
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_the_generator_is_judged_by_what_it_drew(step):
    config, models, micro, terms, seen, _ = step
    (fake,) = seen["main"]
    head = micro.batch.drawn
    assert not torch.equal(camera_label(head.camera), camera_label(micro.batch.real.head.camera))
    torch.testing.assert_close(fake[4], camera_label(head.camera))
    torch.testing.assert_close(fake[2], positions(models, head))
    with torch.no_grad():
        share = config.schedule.swapping_at(SEEN)
        again = stage.draw_heads(models, head, torch.Generator().manual_seed(1), share).rendering
    torch.testing.assert_close(fake[3], again.opacity * 2 - 1, atol=1e-5, rtol=0)
    handed_on = micro.handed_on["fake"]
    torch.testing.assert_close(handed_on.image, again.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(handed_on.raw, again.raw_image, atol=1e-5, rtol=0)
    assert not handed_on.image.requires_grad
    same(fake, with_blur(config, handed_on.values()))
    assert terms["main"]["adversary"].requires_grad
    logits = sum(value.square().flatten(1).mean(1) for value in fake)
    torch.testing.assert_close(terms["main"]["adversary"], F.softplus(-logits).mean())


def test_the_discriminator_sees_real_and_drawn_heads_behind_the_same_blur(step):
    config, models, micro, terms, seen, _ = step
    false, true = seen["discriminator"]
    same(true, with_blur(config, expected_real(models, micro)))
    same(false, with_blur(config, micro.handed_on["fake"].values()))
    answers = [sum(value.square().flatten(1).mean(1) for value in values) for values in (false, true)]
    torch.testing.assert_close(terms["discriminator"]["D fake"], F.softplus(answers[0]).mean())
    torch.testing.assert_close(terms["discriminator"]["D real"], F.softplus(-answers[1]).mean())


def test_r1_looks_at_real_pictures_before_the_blur(step):
    config, models, micro, terms, seen, _ = step
    (true,) = seen["R1"]
    real = expected_real(models, micro)
    same(true, with_blur(config, real))
    leaves = [value.clone().requires_grad_(True) for value in real[:4]]
    answer = models.discriminator(*with_blur(config, [*leaves, real[4]])).sum()
    squares = [g.square().sum((1, 2, 3)).mean() for g in torch.autograd.grad(answer, leaves)]
    for name, value in (
        ("R1 image", (squares[0] + squares[1]) / 2), ("R1 positions", 10 * squares[2] / 2), ("R1 mask", squares[3] / 2),
    ):  # fmt: skip
        torch.testing.assert_close(terms["R1"][name], value, rtol=1e-4, atol=1e-7)


def test_each_term_has_its_own_mask_and_weight(step):
    config, models, micro, terms, _, _ = step
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        drawn = stage.draw_heads(models, micro.batch.drawn, rng, config.schedule.swapping_at(SEEN))
    opacity, rays, box = drawn.rendering.opacity, 256, config.generator.render.box_side
    parts = drawn.parts
    own = {"face in eyes": 0.0, "face in mouth": 0.0, "distortion eyes": 0.0, "distortion mouth": 0.0}
    middles = ((parts.depths[..., 1:] + parts.depths[..., :-1]) / 2 / box).double()
    apart = (middles[..., :, None] - middles[..., None, :]).abs()
    w = parts.weights.double()
    pairs = (w[..., :, None] * w[..., None, :] * apart).sum((-1, -2))
    along = pairs + (w.square() * parts.depths.diff(dim=-1) / box).sum(-1) / 3
    for name, mask, density in (
        ("eyes", parts.eye, F.softplus(parts.face_density * parts.inside_eyes)),
        ("mouth", parts.mouth, F.softplus(parts.face_density)),
    ):
        own[f"face in {name}"] = float((density.mean(-1) * mask).sum(1).mean() / rays)
        own[f"distortion {name}"] = float((along * mask).sum(1).mean() / rays)
        seen = drawn.masks.eye if name == "eyes" else drawn.masks.mouth
        own[f"light through {name}"] = float(((1 - opacity) * seen).mean())
    weights = dict(zip(("face in eyes", "face in mouth", "distortion eyes", "distortion mouth", "light through eyes",
                        "light through mouth"), (2, 3, 5, 7, 11, 13), strict=True))  # fmt: skip
    assert terms["main"].keys() == {"adversary", *weights}
    for name, weight in weights.items():
        assert own[name] > 0, name
        assert float(terms["main"][name].detach()) == pytest.approx(weight * own[name], rel=1e-3), name


def test_noise_is_new_and_samples_are_jittered(step):
    config, _, micro, _, _, (noises, shares, jittered) = step
    assert len(noises) == 3, "planes and background, and the planes of the density's phase"
    assert all(kind == "random" and rng is micro.rng for kind, rng in noises)
    assert shares == [pytest.approx(1 - 0.5 * SEEN / 16)] * 2 == [pytest.approx(config.schedule.swapping_at(SEEN))] * 2
    assert jittered == [True]
