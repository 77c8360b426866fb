"""Stage 1: what a batch holds, the terms against numbers by hand, and which weights a loss reaches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.train import little
from tests.train.painting import Painter, everything, found_in
from triportrait.core.types import Camera, Head, Rendering
from triportrait.train.config import LossConfig, ScheduleConfig, StageConfig
from triportrait.train.data.generated.truth import GeneratedTruth
from triportrait.train.data.pictures import PictureSet
from triportrait.train.data.resize import shrink
from triportrait.train.engines.schedule import active_terms
from triportrait.train.objectives.losses import feature_weight
from triportrait.train.objectives.perceptual import Gradients
from triportrait.train.stages import common
from triportrait.train.stages import static as stage1
from triportrait.train.stages.initialize import reads_motion
from triportrait.train.stages.static import StaticModels

CONFIG = StageConfig(batch=3, views=2, front_sources=0.7)


def sources_of(sets: list[PictureSet], config: StageConfig, draws: int = 60) -> list[stage1.StaticBatch]:
    rng = np.random.default_rng(1)
    return [stage1.draw(sets, config, rng) for _ in range(draws)]


def test_a_batch_shows_the_same_moment_from_other_sides(little_cast):
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    assert batch.source.image.shape == (3, 3, 64, 64)
    assert batch.target.image.shape == (6, 3, 64, 64)
    poses, _ = found_in(little_cast, batch.source)
    target_poses, target_views = found_in(little_cast, batch.target)
    assert torch.equal(target_poses, poses.repeat_interleave(2)), "the views of the first source come first"
    assert (target_views[::2] != target_views[1::2]).all(), "no view twice"
    assert torch.equal(batch.target.motion, batch.source.motion.repeat_interleave(2, 0))


def test_a_batch_is_drawn_by_the_generator_alone(little_cast):
    batches = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        np.random.seed(noise)
        batches.append(stage1.draw([little_cast], CONFIG, np.random.default_rng(seed)))
    one, same, other = (torch.cat([b.source.image, b.target.image]) for b in batches)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_all_poses_are_drawn_and_sources_come_from_the_front_in_their_share(little_cast):
    config = dataclasses.replace(CONFIG, batch=20)
    batches = sources_of([little_cast], config)
    poses, views = (torch.cat(x) for x in zip(*(found_in(little_cast, b.source) for b in batches), strict=True))
    assert set(poses.tolist()) == set(range(12))
    front = (views == 0).float().mean().item()
    assert front == pytest.approx(0.7 + 0.3 / 3, abs=4 * (0.8 * 0.2 / 1200) ** 0.5)
    target_views = torch.cat([found_in(little_cast, b.target)[1] for b in batches])
    assert torch.bincount(target_views, minlength=3).min() > 0.28 * len(target_views), "targets come from all sides"


def test_strangers_come_in_their_share(little_cast, little_strangers):
    config = dataclasses.replace(CONFIG, batch=20, strangers=0.25)
    sets = [little_cast, little_strangers]
    known = everything(little_cast)[1].flatten(0, 1)
    positions = torch.cat([b.source.camera.world_from_camera[:, :3, 3] for b in sources_of(sets, config)])
    of_cast = ((positions[:, None] - known).norm(dim=-1) == 0).any(1).float().mean().item()
    assert of_cast == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 1200) ** 0.5)
    nobody = sources_of(sets, dataclasses.replace(config, strangers=0.0), draws=3)
    positions = torch.cat([b.source.camera.world_from_camera[:, :3, 3] for b in nobody])
    assert ((positions[:, None] - known).norm(dim=-1) == 0).any(1).all()


def test_the_terms_by_hand(little_cast):
    """A portrait that is off by known amounts, the picture on its left half alone: there the weights matter."""
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    truth, left = batch.target, (torch.arange(64) < 32).float().expand(6, 1, 64, 64)

    def paint(head: Head, camera: Camera) -> Rendering:
        small = shrink(truth.image, 16)
        opacity = truth.opacity - 0.25
        return Rendering(truth.image + 0.1 * left, small - 0.2, small, truth.depth + 0.3, opacity, small, small)

    painter = Painter(paint)
    config = LossConfig(l1=2.0, raw=3.0, perceptual=5.0, opacity=7.0, depth=11.0, eye_mouth_boost=4.0)
    models = StaticModels(painter, Gradients())  # type: ignore[arg-type]
    terms = stage1.losses(batch, models, config, torch.Generator())
    weight = feature_weight(truth.landmarks, 64, 4.0)
    wanted = {
        "l1": 2 * 0.1 * (weight * left).mean().item(),
        "raw": 3 * 0.2 * shrink(weight, 16).mean().item(),
        "perceptual": 5 * Gradients()(0.1 * left.expand(6, 3, 64, 64), torch.zeros(()), weight).mean().item(),
        "opacity": 7 * 0.25,
        "depth": 11 * 0.3,
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(wanted, rel=1e-4)
    assert wanted["raw"] == pytest.approx(0.6, rel=0.05)
    assert wanted["l1"] == pytest.approx(0.1, rel=0.2)
    assert wanted["l1"] != pytest.approx(0.1, rel=1e-3), "faces are not quite symmetric, or the weight would not show"


def test_the_four_pairs_of_the_published_loss_by_hand(little_cast):
    """A portrait whose picture, ray grid, head and background are off by amounts of their own."""
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    truth = batch.target
    small, mask = shrink(truth.image, 16), truth.opacity  # [6, 3, 16, 16], [6, 1, 16, 16]
    head = (small + 1) / 2 * mask + 0.05  # in [0, 1]: 0.1 of [-1, 1] everywhere
    behind = (small + 1) / 2 + 0.2  # 0.4 of [-1, 1], where no head is

    def paint(_: Head, camera: Camera) -> Rendering:
        return Rendering(truth.image + 0.1, small - 0.2, small, truth.depth, mask, head, behind)

    config = LossConfig(
        l1=1.0, raw=1.0, perceptual=1.0, raw_perceptual=2.0, foreground=3.0, background=5.0, opacity=0.0, depth=0.0,
        eye_mouth_boost=0.0,
    )  # fmt: skip
    terms = stage1.losses(batch, StaticModels(Painter(paint), Gradients()), config, torch.Generator())  # type: ignore[arg-type]
    off = 0.4 * (1 - mask).expand(6, 3, 16, 16)
    wanted = {
        "l1": 0.1, "raw": 0.2, "perceptual": 0.1 / 4, "raw perceptual": 2 * 0.2 / 4,  # one colour: the coarsest level
        "foreground": 3 * 0.1, "foreground perceptual": 3 * 0.1 / 4,
        "background": 5 * off.mean().item(),
        "background perceptual": 5 * Gradients()(off, torch.zeros(())).mean().item(),
        "opacity": 0.0, "depth": 0.0,
    }  # fmt: skip
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert 0.1 < off.mean() < 0.35, "some of each picture is background"


def test_the_layers_of_a_rendering_are_reached_by_their_own_terms(little_cast):
    """The head's pair moves planes and no background, the background's pair the background alone."""
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    nothing = LossConfig(l1=0.0, raw=0.0, perceptual=0.0, opacity=0.0, depth=0.0)
    for layer, others in (("foreground", "background_encoder"), ("background", "plane_decoder")):
        portrait = little.portrait()
        config = dataclasses.replace(nothing, **{layer: 1.0})
        terms = stage1.losses(batch, StaticModels(portrait, Gradients()), config, torch.Generator())
        assert {name for name, value in terms.items() if value} == {layer, f"{layer} perceptual"}
        sum(terms.values()).backward()  # type: ignore[union-attr]
        still = [p for n, p in portrait.named_parameters() if others in n and p.grad is not None and p.grad.any()]
        moved = [p for n, p in portrait.reconstructor.named_parameters() if p.grad is not None and p.grad.any()]
        assert moved
        assert not still


def test_each_view_shows_its_own_head_and_necks_are_the_views(little_cast):
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    painter = Painter(lambda head, camera: pytest.fail("far enough"))
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        stage1.losses(batch, StaticModels(painter, Gradients()), LossConfig(), torch.Generator())  # type: ignore[arg-type]
    made, seen = painter.asked
    assert made["source"] is None and made["driving"] is None, "the static synthesizer knows no motion"
    assert torch.equal(seen["head"].planes, batch.source.image.repeat_interleave(2, 0))
    assert torch.equal(seen["head"].background, seen["head"].planes + 5)
    assert seen["head"].neck is batch.target.neck
    assert seen["camera"] is batch.target.camera
    assert seen["jitter"].shape == (6, 6)
    assert seen["uniforms"].shape == (6, 256, 6)
    for name in ("jitter", "uniforms"):
        assert 0 <= seen[name].min() < 0.1
        assert 0.9 < seen[name].max() < 1


def test_a_loss_is_finite_and_reaches_all_weights_but_those_that_read_motion(little_cast):
    portrait = little.portrait(seed=0)
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    terms = stage1.losses(batch, StaticModels(portrait, Gradients()), LossConfig(), torch.Generator().manual_seed(1))
    assert set(terms) == {"l1", "raw", "perceptual", "opacity", "depth"}
    assert all(value.isfinite() and value > 0 for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in portrait.named_parameters():
        if reads_motion(name) or name.endswith("noise_strength"):  # the noise is never used
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            reached = bool((parameter.grad != 0).any())
            assert reached or name.endswith("affine.weight"), name  # it multiplies the style, which starts at nought


TAUGHT = LossConfig(distill_planes=0.5, distill_feature=0.25)


def with_truth(batch: stage1.StaticBatch, **known: Any) -> stage1.StaticBatch:
    """The batch as if GenHead had drawn it: 50 points inside of the box, and images at its rays."""
    count = len(batch.target.image)
    rng = torch.Generator().manual_seed(9)
    values: dict[str, Any] = {
        "points": 0.6 * (torch.rand(count, 50, 3, generator=rng) - 0.5),
        "plane_feature": torch.zeros(count, 50, 8),
        "background": torch.rand(count, 8, 16, 16, generator=rng),
        "foreground": torch.rand(count, 8, 16, 16, generator=rng),
    }
    target = dataclasses.replace(batch.target, truth=GeneratedTruth(**values | known))
    return dataclasses.replace(batch, target=target)


def test_what_genhead_knows_by_hand(little_cast):
    """A portrait whose layers and depth are off by known amounts: the background is compared whole, and depth by the
    truth's opacity."""
    batch = with_truth(stage1.draw([little_cast], CONFIG, np.random.default_rng(0)))
    target, truth = batch.target, batch.target.truth
    assert truth is not None and truth.foreground is not None and target.depth is not None
    small = shrink(target.image, 16)
    depth = target.depth

    def paint(_: Head, camera: Camera) -> Rendering:
        behind, head = truth.background + 0.1, truth.foreground - 0.2  # type: ignore[operator]
        return Rendering(target.image, small, small, depth + 0.5, target.opacity, head, behind)

    config = LossConfig(
        l1=0.0, raw=0.0, perceptual=0.0, opacity=0.0, background=3.0, depth=2.0, distill_feature=0.25,
        eye_mouth_boost=0.0,
    )  # fmt: skip
    terms = stage1.losses(batch, StaticModels(Painter(paint), Gradients()), config, torch.Generator())  # type: ignore[arg-type]
    wanted = {
        "background": 3 * 0.2, "background perceptual": 3 * 0.2 / 4,  # of [-1, 1], one colour: the coarsest level
        "depth": 2 * 0.5 * target.opacity.mean().item(),
        "feature": 0.25 * 2 * (0.1 + 0.2),
    }  # fmt: skip
    assert {n: v.item() for n, v in terms.items() if v} == pytest.approx(wanted, rel=1e-4)
    smaller = with_truth(batch, foreground=None, background=truth.background[:, :3])
    terms = stage1.losses(smaller, StaticModels(Painter(paint), Gradients()), config, torch.Generator())  # type: ignore[arg-type]
    assert "feature" not in terms, "the feature images were not kept"
    assert terms["background"].item() == pytest.approx(3 * 0.2, rel=1e-4)


def test_rays_of_another_side_are_compared_at_the_smaller(little_cast):
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    rng = torch.Generator().manual_seed(2)
    layer, depth = torch.rand(6, 8, 16, 16, generator=rng), 4 + torch.rand(6, 1, 16, 16, generator=rng)
    ones, small = torch.ones(6, 1, 16, 16), shrink(batch.target.image, 16)
    batch = with_truth(batch, background=shrink(layer, 8), foreground=shrink(layer, 8))
    target = dataclasses.replace(batch.target, depth=shrink(depth, 8) - 0.25, opacity=torch.ones(6, 1, 8, 8))

    def paint(_: Head, camera: Camera) -> Rendering:
        return Rendering(target.image, small, small, depth, ones, layer, layer)

    models = StaticModels(Painter(paint), Gradients())  # type: ignore[arg-type]
    config = dataclasses.replace(TAUGHT, distill_planes=0.0, depth=1.0)
    terms = stage1.losses(dataclasses.replace(batch, target=target), models, config, torch.Generator())
    assert terms["depth"].item() == pytest.approx(0.25, rel=1e-4)
    assert terms["feature"].item() == pytest.approx(0, abs=1e-6)
    assert terms["opacity"] == 0


def test_the_terms_of_generated_heads_reach_what_they_compare(little_cast):
    student, batch = little.portrait(seed=1), with_truth(stage1.draw([little_cast], CONFIG, np.random.default_rng(0)))
    terms = stage1.losses(batch, StaticModels(student, Gradients()), TAUGHT, torch.Generator())
    for name, reached, not_reached in (
        ("planes", "reconstructor.plane_decoder", "volume"),
        ("feature", "volume.field", "superres"),
    ):
        student.zero_grad(set_to_none=True)
        terms[name].backward(retain_graph=True)
        moved = {n for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}
        assert any(n.startswith(reached) for n in moved)
        assert not any(n.startswith(not_reached) for n in moved)


def test_what_genhead_knows_counts_until_its_time_is_over_and_where_it_drew_the_pictures(little_cast):
    schedule = ScheduleConfig(distill_until=100)
    over = [active_terms(schedule, TAUGHT, seen, 16) for seen in (99, 100)]
    assert [one.distill for one in over] == [True, False]
    batch, models = (
        stage1.draw([little_cast], CONFIG, np.random.default_rng(0)),
        StaticModels(little.portrait(), Gradients()),
    )
    for given, active, wanted in (
        (with_truth(batch), over[0], {"planes", "feature", "depth"}),
        (with_truth(batch), over[1], set()),
        (batch, over[0], {"depth"}),
    ):
        found = stage1.losses(given, models, TAUGHT, torch.Generator(), active)
        assert {"planes", "feature", "depth"} & set(found) == wanted


@pytest.mark.parametrize("term", ["l1", "raw", "perceptual", "opacity", "depth"])
def test_a_term_is_off_where_its_weight_is_nought(term, little_cast):
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    models, rng = StaticModels(little.portrait().requires_grad_(False), Gradients()), torch.Generator()
    terms = stage1.losses(batch, models, LossConfig(**{term: 0.0}), rng)
    assert [name for name, value in terms.items() if value == 0] == [term]


def test_the_losses_follow_from_the_generator(little_cast):
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    models = StaticModels(little.portrait().requires_grad_(False), Gradients())
    values = []
    for seed in (3, 3, 4):
        terms = stage1.losses(batch, models, LossConfig(), torch.Generator().manual_seed(seed))
        values.append(sum(terms.values()).item())
    assert values[0] == values[1] != values[2]


def test_half_precision_changes_a_loss_little_and_its_terms_stay_float32(little_cast, monkeypatch):
    monkeypatch.setattr(common, "multiplies_bf16", lambda device: True)  # a CPU without it may emulate it here
    batch = stage1.draw([little_cast], CONFIG, np.random.default_rng(0))
    portrait, found = little.portrait().requires_grad_(False), {}
    for precision in ("fp32", "bf16"):
        models = StaticModels(portrait, Gradients(), precision)
        terms = stage1.losses(batch, models, LossConfig(), torch.Generator().manual_seed(1))
        assert {value.dtype for value in terms.values()} == {torch.float32}
        found[precision] = {name: value.item() for name, value in terms.items()}
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.05)
    assert found["bf16"] != found["fp32"]


def test_a_few_steps_on_one_batch_lower_the_loss(little_cast):
    portrait = little.portrait()
    batch = stage1.draw([little_cast], dataclasses.replace(CONFIG, batch=2), np.random.default_rng(0))
    optimizer, losses = torch.optim.Adam(portrait.parameters(), 3e-3), []
    for _ in range(25):
        terms = stage1.losses(batch, StaticModels(portrait, Gradients()), LossConfig(), torch.Generator())
        losses.append(torch.stack(list(terms.values())).sum())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
