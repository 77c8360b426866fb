"""The motion encoder: where it looks, what it learns from, that it learns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.train import little
from tests.train.painting import everything
from triportrait.core.motion.motion_crop import ANCHOR_TARGETS, INNER, anchors_of
from triportrait.core.motion.small_encoder import HEAD_COLUMNS, SmallMotionEncoder
from triportrait.train.config import OptimizerConfig, StageConfig
from triportrait.train.data.heads.population import EXPRESSION_AXES, sample_expression, stream
from triportrait.train.data.pictures import Pictures, PictureSet
from triportrait.train.engines.training_engine import Group, PlainEngine
from triportrait.train.stages import motion

SIZE = 48
CONFIG = StageConfig(batch=12, front_sources=0.7)


def every_picture(chosen: PictureSet) -> Pictures:
    number = torch.arange(len(chosen) * chosen.views)
    return chosen.take(number // chosen.views, number % chosen.views)


def test_crops_put_eyes_and_mouth_of_every_face_in_one_place(little_cast):
    """Pictures whose colours say where a pixel was tell where the anchors went."""
    landmarks = every_picture(little_cast).landmarks
    count, side = len(landmarks), 64
    x = (torch.arange(side) + 0.5).expand(side, side)
    ruler = torch.stack([x, x.T, torch.zeros(side, side)]).expand(count, 3, side, side).contiguous()
    crop = motion.crops(ruler, landmarks, SIZE)
    assert crop.shape == (count, 3, SIZE, SIZE)
    top, _, left, _ = INNER
    anchors = anchors_of(landmarks)
    worst = 0.0
    for k, (u, v) in enumerate(ANCHOR_TARGETS):
        distance = (crop[:, :2] - anchors[:, k, :, None, None]).norm(dim=1).flatten(1)
        place = distance.argmin(1)
        found = torch.stack([place % SIZE, place // SIZE], -1) + 0.5
        wanted = torch.tensor([u + 0.5 - left, v + 0.5 - top]) * SIZE / 192
        off = (found - wanted).norm(dim=-1)
        worst = max(worst, off.median().item())
        assert off.max() < 0.12 * SIZE, "the similarity of three places fits no face quite"
    assert worst < 0.05 * SIZE


def test_a_crop_does_not_depend_on_the_size_of_the_picture(little_cast):
    seen = every_picture(little_cast)
    larger = nn.functional.interpolate(seen.image, scale_factor=2, mode="bilinear", align_corners=False)
    one, other = motion.crops(seen.image, seen.landmarks, SIZE), motion.crops(larger, 2 * seen.landmarks, SIZE)
    assert (one - other).abs().mean() < 0.02


def test_a_batch_holds_the_true_motion_of_its_crops(little_cast, monkeypatch):
    for name in ("BRIGHTNESS", "CONTRAST", "TINT", "LANDMARK_PX"):
        monkeypatch.setattr(motion, name, 0.0)
    batch = motion.draw([little_cast], CONFIG, SIZE, np.random.default_rng(0))
    assert batch.crop.shape == (12, 3, SIZE, SIZE)
    assert batch.motion.shape == (12, 9)
    seen = every_picture(little_cast)
    plain = motion.crops(seen.image, seen.landmarks, SIZE)
    for crop, true in zip(batch.crop, batch.motion, strict=True):
        nearest = (plain - crop).abs().mean((1, 2, 3)).argmin()
        torch.testing.assert_close(crop, plain[nearest])
        assert torch.equal(true, seen.motion[nearest])


def test_crops_of_a_batch_are_a_little_off_brighter_or_darker(little_cast, monkeypatch):
    kinds = ("BRIGHTNESS", "CONTRAST", "TINT", "LANDMARK_PX")

    def draw(*on: str) -> Tensor:
        with monkeypatch.context() as patch:
            for name in set(kinds) - set(on):
                patch.setattr(motion, name, 0.0)
            return motion.draw([little_cast], CONFIG, SIZE, np.random.default_rng(0)).crop

    plain = draw()
    assert 0.02 < (draw("LANDMARK_PX") - plain).abs().mean() < 0.2
    for name, most in (("BRIGHTNESS", 0.15), ("TINT", 0.05)):
        added = draw(name) - plain  # [B, 3, c, c]
        numbers = added.mean((2, 3))
        assert (added - numbers[..., None, None]).abs().max() < 1e-5, "alike in all of a crop"
        assert 0.4 * most < numbers.std(0).mean() < most
        assert numbers.abs().max() <= most
        assert (numbers.std(1).max() > 0.01) == (name == "TINT"), "a tint has another number for each colour"
    factors = (draw("CONTRAST") * plain).sum((1, 2, 3)) / plain.square().sum((1, 2, 3))
    assert 0.05 < factors.std() < 0.15
    assert (factors - 1).abs().max() <= 0.15
    assert not torch.equal(draw(*kinds), plain)


def test_a_batch_is_drawn_by_the_generator_alone(little_cast):
    batches = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        np.random.seed(noise)
        batches.append(motion.draw([little_cast], CONFIG, SIZE, np.random.default_rng(seed)))
    assert torch.equal(batches[0].crop, batches[1].crop)
    assert torch.equal(batches[0].motion, batches[1].motion)
    assert not torch.equal(batches[0].crop, batches[2].crop)


def test_strangers_come_in_their_share(little_cast, little_strangers):
    config, rng = dataclasses.replace(CONFIG, batch=50, strangers=0.6), np.random.default_rng(4)
    known = everything(little_cast)[0]
    true = torch.cat([motion.draw([little_cast, little_strangers], config, 16, rng).motion for _ in range(24)])
    of_cast = (true[:, None] == known).all(-1).any(1).float().mean().item()
    assert len(true) == 1200
    assert of_cast == pytest.approx(0.4, abs=4 * (0.24 / 1200) ** 0.5)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_a_batch_of_one_set_is_whole_whatever_the_share_of_strangers(share, little_strangers):
    """As the pictures that a motion encoder is measured with are drawn: of one set alone."""
    config = dataclasses.replace(CONFIG, strangers=share)
    assert len(motion.draw([little_strangers], config, 16, np.random.default_rng(0)).motion) == 12


def test_spreads_are_those_of_the_population():
    found = sample_expression(40_000, stream(0, 1)).vector.std(0)
    torch.testing.assert_close(motion.SPREAD, found, rtol=0.04, atol=0)


class Constant(nn.Module):
    """A motion encoder that always says the same."""

    crop_size, columns = 32, HEAD_COLUMNS

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, crop: Tensor) -> Tensor:
        return self.value.expand(len(crop), 9)


def test_the_loss_by_hand():
    """Numbers are said in units of their spread: 0.30 of the jaw, 0.28 of the left lid."""
    true = torch.zeros(2, 9)
    true[0, 0], true[1, 0], true[:, 3] = 0.3, -0.15, 0.14
    encoder: Any = Constant(torch.full((9,), 0.1))
    loss = motion.losses(motion.MotionBatch(torch.zeros(2, 3, 32, 32), true), encoder)["motion"]
    squares = [0.01] * 9
    squares[0], squares[3] = (0.9**2 + 0.6**2) / 2, 0.4**2
    assert loss.item() == pytest.approx(sum(squares) / 9, rel=1e-5)


def test_saying_the_mean_costs_about_one():
    true = sample_expression(4000, stream(3, 1)).vector
    encoder: Any = Constant(true.mean(0) / motion.SPREAD)
    loss = motion.losses(motion.MotionBatch(torch.zeros(4000, 3, 4, 4), true), encoder)["motion"]
    assert loss.item() == pytest.approx(1, abs=0.06)


def test_correlations_by_hand():
    true = torch.zeros(4, 9)
    true[:, 0] = true[:, 1] = true[:, 2] = true[:, 4] = torch.tensor([1.0, 2, 3, 4])
    said = torch.zeros(4, 9)
    said[:, 0] = 3 * true[:, 0] - 5
    said[:, 1] = -true[:, 1]
    said[:, 2] = torch.tensor([1.0, 3, 2, 4])  # 4 / 5
    said[:, 3] = torch.tensor([1.0, 0, 2, 0])  # of nothing
    found = motion.correlations(said, true)
    assert list(found) == list(EXPRESSION_AXES)
    assert list(found.values()) == pytest.approx([1, -1, 0.8, 0, 0, 0, 0, 0, 0], abs=1e-6)


def test_reading_motion_is_cropping_and_asking(little_cast):
    seen, encoder = every_picture(little_cast), little.encoder()
    wanted = encoder(motion.crops(seen.image, seen.landmarks, 32))
    assert torch.equal(motion.read_motion(encoder, seen.image, seen.landmarks), wanted)


def test_a_short_training_learns_the_faces_it_sees(little_cast, record_row):
    torch.manual_seed(0)
    encoder = SmallMotionEncoder(9, crop_size=32, widths=(16, 16, 32, 32))
    config = StageConfig(batch=24, front_sources=0.7, optimizer=OptimizerConfig(lr=4e-3, warmup=100, ema_decay=0.9))
    engine = PlainEngine(encoder, [Group(list(encoder.parameters()))], config.optimizer, 60 * config.batch)
    losses, rng = [], np.random.default_rng(0)
    for _ in range(60):
        loss = motion.losses(motion.draw([little_cast], config, 32, rng), encoder)["motion"]
        engine.backward(loss)
        engine.step(config.batch)
        losses.append(loss.item())
    encoder.load_state_dict(engine.ema_state_dict())
    seen = every_picture(little_cast)
    with torch.no_grad():
        said = motion.read_motion(encoder, seen.image, seen.landmarks)
    found = motion.correlations(said, seen.motion)
    row = [f"{name} {found[name]:.2f}" for name in ("jaw", "smile", "blink_left", "gaze_x")]
    record_row("a motion encoder after 60 steps: loss, correlations on 36 pictures", (f"{losses[-1]:.3f}", *row))
    assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5])
    assert found["jaw"] > 0.6
    assert found["smile"] > 0.5
