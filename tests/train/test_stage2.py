"""Stage 2: who drives whom, where the motion is read, which targets count, and which weights a loss reaches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.train import little
from tests.train.painting import Painter, everything, found_in
from triportrait.core.render.cameras import LookAtRange, sample_look_at
from triportrait.core.types import Camera, Driving, Head, Rendering
from triportrait.train.config import LossConfig, ReenactConfig
from triportrait.train.data.contact_sheets import around
from triportrait.train.data.heads.population import Expression
from triportrait.train.data.pictures import Pictures, PictureSet, photograph
from triportrait.train.data.resize import shrink
from triportrait.train.data.scene_sampling import population
from triportrait.train.engines.schedule import ActiveTerms
from triportrait.train.jobs.show_schedule import shown_schedule
from triportrait.train.objectives.losses import feature_weight
from triportrait.train.objectives.perceptual import Gradients
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.stages import common
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages.assemble import make_discriminator
from triportrait.train.stages.motion import crops, read_motion
from triportrait.train.stages.reenact import ReenactBatch, ReenactModels, move_landmarks, pseudo_views, substitutions

CONFIG = ReenactConfig(batch=4)
INNER = [*range(17, 60)]  # brows, nose, eyes, outer lips; not the jaw line, not the inner lips: teeth lie behind them


def drawn(chosen: PictureSet, real_driving: Any = False, real_target: Any = False, seed: int = 0) -> ReenactBatch:
    """A batch of four with the substitutions that a test wants."""
    batch = stage2.draw(chosen, CONFIG, np.random.default_rng(seed))
    real_driving, real_target = (torch.tensor(x).expand(4).clone() for x in (real_driving, real_target))
    return dataclasses.replace(batch, real_driving=real_driving, real_target=real_target)


def flat(value: float, opacity: float = 1.0) -> Any:
    """Paints every head in one grey."""

    def paint(head: Head, camera: Camera) -> Rendering:
        count = len(camera.world_from_camera)
        small = torch.full((count, 3, 16, 16), value)
        depth = torch.full((count, 1, 16, 16), 4.0)
        image = torch.full((count, 3, 64, 64), value)
        return Rendering(image, small, small, depth, torch.full((count, 1, 16, 16), opacity), small, small)

    return paint


class Greys(nn.Module):
    """A motion encoder that reads nine times the mean of what it sees, and remembers that."""

    crop_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, crop: Tensor) -> Tensor:
        self.seen.append(crop)
        return crop.mean((1, 2, 3))[:, None].expand(-1, 9).clone()


def models(**changes: Any) -> ReenactModels:
    values: dict[str, Any] = {
        "portrait": Painter(flat(0.2)),
        "static": Painter(flat(0.0)),
        "motion_encoder": Greys(),
        "perceptual": Gradients(),
    }
    return ReenactModels(**(values | changes))


def test_source_and_driving_picture_are_one_head_with_two_expressions(little_cast):
    config, rng = dataclasses.replace(CONFIG, batch=20), np.random.default_rng(1)
    pairs = set()
    for _ in range(30):
        batch = stage2.draw(little_cast, config, rng)
        (source, source_view), (driving, driving_view) = (
            found_in(little_cast, x) for x in (batch.source, batch.driving)
        )
        assert torch.equal(source // 6, driving // 6), "another head drives"
        assert (source != driving).all(), "the expression stays"
        pairs |= set(zip(source.tolist(), driving.tolist(), strict=True))
        assert torch.equal(batch.source.motion, everything(little_cast)[0][source])
    assert len(pairs) == 2 * 6 * 5, "some pairs of expressions never meet"
    assert set(driving_view.tolist()) == {0, 1, 2}
    assert (source_view == 0).sum() > (driving_view == 0).sum()


@pytest.mark.parametrize("preset, target", [("paper", 0.8), ("published", 1.0)])
def test_substitutions_come_in_their_share(preset, target):
    """10,000 draws, within 4 standard deviations of a binomial; the two coins are independent."""
    config, count = STAGE_PRESETS[preset]().stage2, 10_000
    assert (config.real_driving, config.real_target) == (0.1, target)
    rng = np.random.default_rng(5)
    driving, real = (
        torch.cat(x) for x in zip(*(substitutions(config, 8, rng) for _ in range(count // 8)), strict=True)
    )
    both = driving & real
    for found, share in ((driving, 0.1), (real, target), (both, 0.1 * target)):
        assert len(found) == count
        assert abs(found.sum().item() - count * share) <= 4 * (count * share * (1 - share)) ** 0.5


def test_a_batch_is_drawn_by_the_generator_alone(little_cast):
    batches = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        np.random.seed(noise)
        batches.append(stage2.draw(little_cast, CONFIG, np.random.default_rng(seed)))

    def numbers(b: ReenactBatch) -> Tensor:
        cameras = [x.world_from_camera.flatten() for x in (b.camera_p, b.camera_q)]
        return torch.cat([b.source.image.flatten(), b.driving.image.flatten(), *cameras])

    assert torch.equal(numbers(batches[0]), numbers(batches[1]))
    assert not torch.equal(numbers(batches[0])[-64:], numbers(batches[2])[-64:])
    assert torch.equal(batches[0].real_target, batches[1].real_target)


def test_substitutions_come_in_their_shares_and_apart(little_cast):
    config, rng = ReenactConfig(batch=50, front_sources=0.6), np.random.default_rng(2)
    driving, target, front = [], [], []
    for _ in range(60):
        batch = stage2.draw(little_cast, config, rng)
        driving.append(batch.real_driving)
        target.append(batch.real_target)
        front.append(found_in(little_cast, batch.source)[1] == 0)
    one, other, near = (torch.cat(x).double() for x in (driving, target, front))
    for found, share in ((one, 0.1), (other, 0.8), (one * other, 0.08), (near, 0.6 + 0.4 / 3)):
        assert found.mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / 3000) ** 0.5)


PAPER_YAW, PAPER_PITCH = (-0.78, 0.78), (-0.25, 0.65)


@pytest.mark.parametrize(
    "preset, yaw, pitch",
    [
        ("paper", PAPER_YAW, PAPER_PITCH),
        ("published", PAPER_YAW, PAPER_PITCH),
        ("tiny", (-0.5, 0.5), (-0.15, 0.35)),
    ],
)
def test_cameras_p_are_the_preset_s_and_cameras_q_the_paper_s(preset, yaw, pitch, little_cast):
    """Extremes and means of 800 draws: the numbers of the ranges, and uniform between them."""
    config = dataclasses.replace(STAGE_PRESETS[preset]().stage2, batch=800)
    assert (config.camera_p.yaw, config.camera_p.pitch) == (yaw, pitch)
    batch = stage2.draw(little_cast, config, np.random.default_rng(3))
    yaws = []
    for camera, wanted in ((batch.camera_p, (yaw, pitch)), (batch.camera_q, (PAPER_YAW, PAPER_PITCH))):
        position = camera.world_from_camera[:, :3, 3]
        x, y, z = position.unbind(-1)
        yaws.append(torch.atan2(-x, z))
        found = yaws[-1], y / position.norm(dim=-1) * torch.pi / 2
        for value, (low, high) in zip(found, wanted, strict=True):
            margin, middle = 0.02 * (high - low), (low + high) / 2
            assert low - 1e-5 <= value.min() < low + margin
            assert high - margin < value.max() <= high + 1e-5
            assert abs(value.mean() - middle) < 4 * (high - low) / 12**0.5 / 800**0.5
    assert torch.corrcoef(torch.stack(yaws))[0, 1].abs() < 0.2


def test_every_real_frame_is_judged_in_micro_batches_of_any_number_of_them(little_cast):
    """None is left out for want of a partner: the term of three real frames of four is that of all three."""
    config = LossConfig(adversarial=0.1)
    discriminator = make_discriminator(dataclasses.replace(little.adversarial(), seed=4)).requires_grad_(False)
    asked = models(discriminator=discriminator, portrait=Painter(flat(0.2)))
    for real in ([True, False, False, False], [True, True, True, False], [False] * 4, [True] * 4):
        batch = drawn(little_cast, real_driving=True, real_target=real)
        batch = dataclasses.replace(
            batch, driving=dataclasses.replace(batch.driving, positions=torch.rand(4, 3, 64, 64))
        )
        made: dict[str, Any] = {}
        terms = stage2.losses(batch, asked, config, torch.Generator(), ActiveTerms(adversarial=True), made)
        count = sum(real)
        assert len(made["real"].image) == len(made["fake"].image) == count, real
        assert torch.equal(made["real"].image, batch.driving.image[torch.tensor(real)])
        judged = -discriminator(*made["fake"].values()) if count else torch.zeros(0, 1)
        wanted = 0.1 * nn.functional.softplus(judged).sum() / 4
        torch.testing.assert_close(terms["adversary"], wanted)


def test_the_published_coins_leave_no_real_frame_without_its_adversarial_term():
    """32 images on 8 GPUs: of 2,000 micro-batches of 4 every real frame is judged, and so few are alone."""
    config, rng = dataclasses.replace(STAGE_PRESETS["paper"]().stage2, micro_batches=8), np.random.default_rng(6)
    _, real = substitutions(config, 8_000, rng)
    per_micro = real.view(-1, 4).sum(1)
    alone = (per_micro == 1).sum().item() / real.sum().item()
    assert alone == pytest.approx(0.2**3, abs=0.004)
    said = shown_schedule("stage2", config, 128)
    assert "0.01 from 0, on every real target, 0.8% of them judged alone in micro-batches of 4" in said
    assert "0.0% of them judged alone" in shown_schedule("stage2", dataclasses.replace(config, micro_batches=1), 128)


@pytest.fixture(scope="module")
def seen_twice(studio) -> tuple[Pictures, Pictures, Camera]:
    """Four heads at 128² with faces that move, from one side and from another."""
    model = dataclasses.replace(
        little.model(),
        image_size=128,
        render=dataclasses.replace(little.model().render, plane_size=64, neural_size=32),
    )
    who, light = population(11, 4)
    face = Expression.neutral(4).replace(
        smile=torch.tensor([0.0, 0.8, -0.5, 0.3]), jaw=torch.tensor([0.0, 0.3, 0, 0.6])
    )
    first = around(torch.tensor([0.0, 0.25, -0.3, 0.1]), torch.tensor([0.0, 0.1, 0.2, -0.1]))
    other = sample_look_at(4, torch.Generator().manual_seed(0), LookAtRange(yaw=(-0.35, 0.35), pitch=(-0.1, 0.3)))
    return (*(photograph(studio.renderer, who, face, light, camera, model) for camera in (first, other)), other)


def test_landmarks_are_carried_to_other_cameras(seen_twice, record_row):
    before, after, camera = seen_twice
    moved = move_landmarks(before, camera)
    assert moved.shape == (4, 68, 2)
    error = (moved - after.landmarks).norm(dim=-1)[:, INNER]
    start = (before.landmarks - after.landmarks).norm(dim=-1)[:, INNER]
    record_row(
        "landmarks carried from one camera to another, pixels of 128",
        (f"median {error.median():.2f}", f"largest {error.max():.2f}", f"not carried: median {start.median():.2f}"),
    )
    assert error.median() < 0.3
    assert error.quantile(0.9) < 1
    assert error.max() < 3
    assert start.median() > 5
    torch.testing.assert_close(move_landmarks(before, before.camera), before.landmarks, atol=1e-3, rtol=0)


def test_landmarks_and_crops_lose_nothing_where_networks_run_in_half_precision(seen_twice):
    before, _, camera = seen_twice
    encoder = little.encoder().requires_grad_(False)

    def places() -> tuple[Tensor, Tensor, Tensor]:
        crop = crops(before.image, before.landmarks, 32)
        return move_landmarks(before, camera), crop, read_motion(encoder, before.image, before.landmarks)

    wanted = places()
    with torch.autocast("cpu", torch.bfloat16):
        found = places()
    for name, one, other, off in zip(("landmarks", "crops", "motion"), found, wanted, (0.02, 0.01, 1e-4), strict=True):
        assert one.dtype == torch.float32, name
        torch.testing.assert_close(one, other, atol=off, rtol=0, msg=name)


def test_motion_is_read_off_the_pseudo_view_unless_the_real_picture_stands_in(little_cast):
    real = [True, False, False, True]
    batch = drawn(little_cast, real_driving=real, real_target=True)
    asked = models(static=Painter(lambda head, camera: _marked(head)))
    motion, targets = pseudo_views(batch, asked)
    made, seen = asked.static.asked  # type: ignore[union-attr]
    rows = torch.tensor([1, 2])
    assert made["source"] is None
    assert made["driving"] is None
    assert torch.equal(made["neck"].fine, batch.driving.neck.fine[rows])
    assert torch.equal(seen["head"].planes, batch.driving.image[rows]), "I_d is what the static synthesizer sees"
    assert torch.equal(seen["head"].neck.fine, batch.driving.neck.fine[rows])
    assert torch.equal(seen["camera"].world_from_camera, batch.camera_p.world_from_camera[rows])
    wanted = read_motion(Greys(), batch.driving.image, batch.driving.landmarks)  # type: ignore[arg-type]
    view = (batch.driving.image / 2)[rows]
    wanted[rows] = read_motion(Greys(), view, move_landmarks(batch.driving, batch.camera_p)[rows])  # type: ignore[arg-type]
    torch.testing.assert_close(motion, wanted)
    assert len(targets) == 0
    assert not motion.requires_grad


def _marked(head: Head) -> Rendering:
    """Half as bright as the head's picture: shows which head it was."""
    small = shrink(head.planes, 16)
    return Rendering(head.planes / 2, small, small, small[:, :1], torch.ones_like(small[:, :1]), small, small)


def test_pseudo_targets_are_the_heads_alone_from_cameras_q(little_cast):
    batch = drawn(little_cast, real_driving=True, real_target=[True, False, True, False])
    asked = models(static=Painter(flat(0.5, opacity=0.25)))
    _, targets = pseudo_views(batch, asked)
    torch.testing.assert_close(targets, torch.full((2, 3, 64, 64), 1.5 * 0.25 - 1), msg="before black")
    seen = asked.static.asked[-1]  # type: ignore[union-attr]
    rows = torch.tensor([1, 3])
    assert torch.equal(seen["camera"].world_from_camera, batch.camera_q.world_from_camera[rows])
    assert torch.equal(seen["head"].planes, batch.driving.image[rows])


def test_the_static_synthesizer_makes_no_head_that_nobody_looks_at(little_cast):
    batch = drawn(little_cast, real_driving=[True, False, True, False], real_target=[True, True, False, False])
    asked = models(static=Painter(lambda head, camera: _marked(head)))
    motion, targets = pseudo_views(batch, asked)
    made, view_p, view_q = asked.static.asked  # type: ignore[union-attr]
    assert torch.equal(made["neck"].fine, batch.driving.neck.fine[1:])
    for seen, cameras, rows in ((view_p, batch.camera_p, [1, 3]), (view_q, batch.camera_q, [2, 3])):
        assert torch.equal(seen["head"].planes, batch.driving.image[rows])
        assert torch.equal(seen["camera"].world_from_camera, cameras.world_from_camera[rows])
    torch.testing.assert_close(targets, batch.driving.image[[2, 3]] / 2)
    assert len(motion) == 4

    batch = drawn(little_cast, real_driving=True, real_target=True)
    asked = models(static=Painter(flat(0.5)))
    motion, targets = pseudo_views(batch, asked)
    assert not asked.static.asked  # type: ignore[union-attr]
    assert len(targets) == 0
    torch.testing.assert_close(motion, read_motion(Greys(), batch.driving.image, batch.driving.landmarks))  # type: ignore[arg-type]


def test_the_portrait_is_asked_for_the_source_with_the_driving_motion(little_cast):
    batch = drawn(little_cast, real_driving=True, real_target=[True, False, True, False])
    asked = models()
    stage2.losses(batch, asked, LossConfig(), torch.Generator())
    made, seen = asked.portrait.asked  # type: ignore[union-attr]
    encoder: Any = Greys()
    torch.testing.assert_close(made["source"], read_motion(encoder, batch.source.image, batch.source.landmarks))
    torch.testing.assert_close(made["driving"], read_motion(encoder, batch.driving.image, batch.driving.landmarks))
    assert made["neck"] is batch.driving.neck
    assert torch.equal(seen["head"].planes, batch.source.image)
    cameras = [batch.driving.camera, batch.camera_q] * 2
    wanted = torch.stack([c.world_from_camera[i] for i, c in enumerate(cameras)])
    assert torch.equal(seen["camera"].world_from_camera, wanted)


def test_the_terms_by_hand(little_cast):
    """Two real targets, off by known amounts; two pseudo views, a grey of 0.2 against 0."""
    is_real = torch.tensor([True, False, False, True])
    batch = drawn(little_cast, real_driving=True, real_target=is_real.tolist())
    truth = batch.driving

    def paint(head: Head, camera: Camera) -> Rendering:
        rows = is_real[:, None, None, None]
        grey, small = torch.full_like(truth.image, 0.2), shrink(truth.image, 16)
        opacity = torch.where(rows, truth.opacity - 0.25, torch.ones(()))
        image = torch.where(rows, truth.image + 0.1, grey)
        return Rendering(image, small - 0.2, small, truth.depth, opacity, small, small)

    config = LossConfig(l1=2.0, raw=3.0, perceptual=5.0, opacity=7.0, eye_mouth_boost=4.0)
    terms = stage2.losses(batch, models(portrait=Painter(paint)), config, torch.Generator())
    weight = shrink(feature_weight(truth.landmarks, 64, 4.0), 16).mean((1, 2, 3))[is_real].mean().item()
    wanted = {
        "l1": 2 * 0.1 / 2,  # half of the batch has a real target
        "raw": 3 * 0.2 * weight / 2,
        "perceptual": 5 * 0.1 / 4 / 2,
        "opacity": 7 * 0.25 / 2,
        "pseudo": 5 * 0.2 / 4 / 2,
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(wanted, rel=1e-4)


def test_pseudo_views_compare_heads_and_not_what_is_behind_them(little_cast):
    batch = drawn(little_cast)
    nothing = models(portrait=Painter(flat(0.9, 0.0)), static=Painter(flat(-0.4, 0.0)))
    assert stage2.losses(batch, nothing, LossConfig(), torch.Generator())["pseudo"] == 0
    half = models(portrait=Painter(flat(1.0, 0.5)), static=Painter(flat(0.0, 0.5)))  # -1 + 2/2 against -1 + 1/2
    found = stage2.losses(batch, half, LossConfig(perceptual=1.0), torch.Generator())["pseudo"]
    torch.testing.assert_close(found, torch.tensor(0.5 / 4))


def test_real_targets_leave_no_pseudo_term_and_pseudo_views_nothing_else(little_cast):
    real, pseudo = (
        stage2.losses(drawn(little_cast, real_target=x), models(), LossConfig(), torch.Generator())
        for x in (True, False)
    )
    assert [name for name, value in real.items() if value == 0] == ["pseudo"]
    assert [name for name, value in pseudo.items() if value > 0] == ["pseudo"]


class Blindfolded:
    """The static synthesizer of a batch, whatever pictures it is given later."""

    def __init__(self, batch: ReenactBatch) -> None:
        self.inner = little.portrait(seed=2).requires_grad_(False)
        self.image = batch.driving.image

    def prepare(self, image: Tensor, motion: None) -> Any:
        return self.inner.prepare(self.image, motion)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_pseudo_views_see_the_real_picture_through_the_static_synthesizer_alone(little_cast):
    batch = drawn(little_cast)
    inverted = dataclasses.replace(batch, driving=dataclasses.replace(batch.driving, image=-batch.driving.image))

    portrait = little.portrait(motion=True).requires_grad_(False)

    def loss(batch: ReenactBatch, static: Any) -> float:
        asked = models(portrait=portrait, static=static, motion_encoder=little.encoder())
        terms = stage2.losses(batch, asked, LossConfig(), torch.Generator().manual_seed(0))
        return torch.stack(list(terms.values())).sum().item()

    blind = Blindfolded(batch)
    assert loss(batch, blind) == loss(inverted, blind) > 0
    assert loss(batch, blind.inner) == loss(batch, blind) != loss(inverted, blind.inner)


@pytest.mark.parametrize("real_target", [True, False, [True, False, True, False]], ids=["real", "pseudo", "both"])
def test_a_loss_is_finite_and_reaches_all_weights_of_the_portrait_and_none_that_are_frozen(real_target, little_cast):
    batch = drawn(little_cast, real_driving=[True, False, False, True], real_target=real_target)
    portrait, static, encoder = little.portrait(motion=True), little.portrait(seed=2), little.encoder()
    asked = ReenactModels(portrait, static, encoder, Gradients())
    terms = stage2.losses(batch, asked, LossConfig(), torch.Generator().manual_seed(1))
    assert set(terms) == {"l1", "raw", "perceptual", "opacity", "pseudo"}
    assert all(bool(value.isfinite()) for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in portrait.named_parameters():
        if name.endswith("noise_strength"):  # the noise is never used
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        reached = bool((parameter.grad != 0).any())
        assert reached or name.endswith("affine.weight"), name  # it multiplies the style, which starts at nought
    frozen = [*static.parameters(), *encoder.parameters()]
    assert all(p.requires_grad and p.grad is None for p in frozen)


def test_half_precision_changes_a_loss_little(little_cast, monkeypatch):
    monkeypatch.setattr(common, "multiplies_bf16", lambda device: True)  # a CPU without it may emulate it here
    batch, found = drawn(little_cast, real_target=[True, True, False, False]), {}
    asked = models(
        portrait=little.portrait(motion=True).requires_grad_(False),
        static=little.portrait(seed=2).requires_grad_(False),
        motion_encoder=little.encoder().requires_grad_(False),
    )
    for precision in ("fp32", "bf16"):
        lowered = dataclasses.replace(asked, precision=precision)
        terms = stage2.losses(batch, lowered, LossConfig(), torch.Generator().manual_seed(1))
        assert {value.dtype for value in terms.values()} == {torch.float32}
        found[precision] = {name: value.item() for name, value in terms.items()}
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.05)
    assert found["bf16"] != found["fp32"]


def test_a_few_steps_on_one_batch_lower_the_loss(little_cast):
    portrait = little.portrait(motion=True)
    asked = models(portrait=portrait, static=little.portrait(seed=2).requires_grad_(False))
    batch = drawn(little_cast, real_driving=True, real_target=[True, True, True, False])
    optimizer, losses = torch.optim.Adam(portrait.parameters(), 3e-3), []
    for _ in range(15):
        terms = stage2.losses(batch, asked, LossConfig(), torch.Generator())
        losses.append(torch.stack(list(terms.values())).sum())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_rows_of_heads_and_cameras(little_cast):
    batch = drawn(little_cast)
    head = Head(batch.driving.image, batch.driving.image + 1, batch.driving.neck)
    rows = torch.tensor([2, 0])
    taken = head.take(rows)
    assert torch.equal(taken.planes, head.planes[rows])
    assert torch.equal(taken.background, head.background[rows])
    assert head.neck is not None
    assert taken.neck is not None
    assert torch.equal(taken.neck.fine, head.neck.fine[rows])
    assert torch.equal(taken.neck.coarse, head.neck.coarse[rows])
    assert Head(head.planes, head.background).take(rows).neck is None
    camera = batch.camera_p.take(rows)
    assert torch.equal(camera.world_from_camera, batch.camera_p.world_from_camera[rows])
    assert Driving(None).neck is None
