"""Weights measured on procedural heads: what is photographed, what is compared, what known methods get."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train import little
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.core.types import Camera, Driving
from triportrait.train.data.heads.population import Expression
from triportrait.train.data.pictures import Pictures, neck_grids
from triportrait.train.data.scene_sampling import expressions
from triportrait.train.evaluation.image_metrics import agreement, depth_error, opacity_iou, psnr, sharpness, ssim
from triportrait.train.evaluation.measure import (
    ANOTHER_HEAD,
    SAME_HEAD,
    measure,
    measure_probe,
    measure_scene,
    run_task,
    tasks,
)
from triportrait.train.evaluation.methods import (
    OURS,
    SOURCE_EXPRESSION,
    STATIC,
    Method,
    Prediction,
    WeightsAndBaselines,
    copy_source,
)
from triportrait.train.evaluation.motion_response import Probe, products, response, responses
from triportrait.train.evaluation.protocol import (
    CASES,
    CROSS,
    CROWD,
    NEW_VIEWS,
    SELF,
    Group,
    Plan,
    ProbeSpec,
    Scene,
    SceneSpec,
    Sitter,
    driving_seed,
    groups,
    unseen,
)
from triportrait.train.runs.weights import Cast
from triportrait.train.stages.motion import read_motion

KNOWN = Cast(3, 2)
GROUP = Group("cast", 3, 2)
AXES = ("jaw", "blink", "gaze x")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return SceneSpec(GROUP, 1, 0, little.model()).render()


@pytest.fixture(scope="module")
def probe() -> Probe:
    return ProbeSpec(GROUP, 1, 0, little.model(), AXES).render()


# numbers by hand


def test_psnr_by_hand():
    black, grey = torch.full((2, 3, 8, 8), -1.0), torch.full((2, 3, 8, 8), -0.8)
    assert psnr(grey, black).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)  # 0.1 off on [0, 1]
    assert psnr(black - 3, black).tolist() == [100.0, 100.0], "what cannot be shown counts, or agreement is infinite"
    half = torch.zeros(2, 1, 8, 8)
    half[0, :, :7] = 1  # 56 pixels
    half[1, :, :6] = 1  # 48 pixels, too few
    mixed = torch.where(half[0].bool(), grey, black + 2)
    inside = psnr(mixed, black, half)
    assert inside[0].item() == pytest.approx(20.0, abs=1e-4)
    assert math.isnan(inside[1].item())
    assert psnr(mixed, black)[0] < 10


def test_sharpness_by_hand():
    """A staircase of brightness: half its steps are half as sharp, none is not sharp at all."""
    stairs = torch.arange(16.0).expand(1, 3, 16, 16) / 15 - 0.5
    assert sharpness(stairs, stairs).item() == pytest.approx(1)
    assert sharpness(stairs / 2, stairs).item() == pytest.approx(0.5)
    assert sharpness(stairs * 0, stairs).item() == 0
    assert sharpness(stairs.mT, stairs).item() == pytest.approx(1), "whichever way it goes"
    left = torch.zeros(1, 1, 16, 16)
    left[..., :8] = 1
    mixed = torch.cat([stairs[..., :9], stairs[..., 8:9].expand(1, 3, 16, 7)], -1)
    assert sharpness(mixed, stairs, left).item() == pytest.approx(1)
    assert sharpness(mixed, stairs).item() < 0.8
    assert sharpness(stairs, torch.zeros(1, 3, 16, 16)).isfinite().all(), "a truth without detail"


def test_ssim_by_hand():
    one, other, constant = torch.full((1, 3, 32, 64), -0.6), torch.full((1, 3, 32, 64), 0.2), 0.01**2
    wanted = (2 * 0.2 * 0.6 + constant) / (0.2**2 + 0.6**2 + constant)
    everywhere = torch.ones(1, 1, 32, 64)
    assert ssim(one, other).item() == pytest.approx(wanted, abs=1e-4)
    assert ssim(one, other, everywhere).item() == pytest.approx(wanted, abs=1e-4)
    assert ssim(one, one).item() == pytest.approx(1, abs=1e-6)
    left, right = everywhere.clone(), everywhere.clone()
    left[..., 20:], right[..., :44] = 0, 0  # the window is 11 wide: none of these reaches the middle
    halves = torch.where(torch.arange(64) < 32, one, other)
    assert ssim(halves, one, left).item() == pytest.approx(1, abs=1e-4)
    assert ssim(halves, one, right).item() == pytest.approx(wanted, abs=1e-4)
    few = torch.zeros_like(left)
    few[..., :7, :7] = 1
    assert math.isnan(ssim(one, one, few).item())


def test_iou_by_hand():
    found, true = torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    found[0, 0, :2], true[0, 0, 1:3] = 0.6, 0.9  # 8 and 8 pixels, 4 in common
    found[1], true[1] = 0.5, 0.4  # nothing is above a half
    found[2] = 1.0
    assert opacity_iou(found, true).tolist() == pytest.approx([4 / 12, 1, 0])


# what is photographed


def test_the_truth_is_the_source_s_head_with_what_drives(scene):
    own, other = scene.shots
    (itself,), (driven,), views = own.truths[SELF], other.truths[CROSS], other.truths[NEW_VIEWS]
    sitter, stranger = Sitter.of(3, 1), Sitter.of(driving_seed(3), 1)
    (source, source_camera), (first, first_camera), (face, camera) = (unseen(3, 1, k) for k in range(3))
    assert own.driving is itself
    for pictures, wanted, seen in (
        (scene.source, source, source_camera),
        (itself, first, first_camera),
        (other.driving, face, camera),
        (driven, face, camera),
    ):
        assert torch.equal(pictures.motion, wanted.vector)
        assert torch.equal(pictures.camera.world_from_camera, seen.world_from_camera)
    again = stranger.photograph(face, camera, little.model())
    assert torch.equal(other.driving.image, again.image), "another head drives"
    assert torch.equal(driven.image, sitter.photograph(face, camera, little.model()).image)
    neck = neck_grids(sitter.identity, face, little.model())
    for pictures in (driven, other.driving):
        assert pictures.neck is not None and torch.equal(pictures.neck.fine, neck.fine), "the neck of the source's head"
    assert again.neck is not None
    assert not torch.equal(again.neck.fine, neck.fine)
    for view, yaw in zip(views, (30, -30), strict=True):
        assert torch.equal(view.motion, face.vector)
        x, _, z = view.camera.world_from_camera[0, :3, 3].tolist()
        assert math.degrees(math.atan2(-x, z)) == pytest.approx(yaw, abs=1e-3)
    assert len({bytes(p.numpy()) for p in (source.vector, first.vector, face.vector)}) == 3


def test_nothing_was_seen_in_training_but_the_faces_of_the_cast():
    cast, held_out = groups(KNOWN, Plan(heads=5))
    assert (cast.seed, cast.count, held_out.count) == (3, 2, 5), "the cast is no larger than it is"
    seeds = {cast.seed, held_out.seed, driving_seed(cast.seed), driving_seed(held_out.seed), 4, 8}
    assert len(seeds) == 6
    people = [Sitter.of(seed, 0).identity.skin for seed in seeds]
    assert len({bytes(p.numpy()) for p in people}) == 6
    seen = expressions(3, 64, 48).vector
    drawn = torch.cat([unseen(3, head, purpose)[0].vector for head in range(4) for purpose in range(3)])
    moving = drawn[drawn.abs().amax(-1) > 0]
    assert len(moving) >= 8
    assert not (moving[:, None] == seen[None]).all(-1).any()


def test_another_seed_is_another_protocol_and_the_same_heads():
    first, second = (SceneSpec(GROUP, 0, seed, little.model()).render() for seed in (0, 1))
    assert not torch.equal(first.source.motion, second.source.motion)
    assert not torch.equal(first.source.camera.world_from_camera, second.source.camera.world_from_camera)


def test_another_head_drives_a_probe_before_the_same_camera(probe):
    assert probe.driving is not None
    assert tuple(probe.ends) == tuple(probe.driving) == AXES
    for axis in AXES:
        for true, drives in zip(probe.ends[axis], probe.driving_pair(axis), strict=True):
            assert torch.equal(true.motion, drives.motion)
            assert true.camera is drives.camera
            assert true.neck is drives.neck
            assert not torch.equal(true.image, drives.image)
            grid = neck_grids(Sitter.of(3, 1).identity, Expression.neutral(1).replace(jaw=0.8), little.model())
            assert true.neck is not None
            torch.testing.assert_close(true.neck.fine[..., :3], grid.fine[..., :3])
    assert replace(probe, driving=None).driving_pair("jaw") is probe.ends["jaw"]


# what is compared


def test_copying_gives_the_source(scene):
    shown = copy_source(scene.source, scene.shots[1].driving, [scene.source.camera] * 2)
    assert [answer.image is scene.source.image for answer in shown] == [True, True]
    assert shown[0].opacity is None


def view_of(folder: Path, source: Pictures, motion: Pictures, drives: Pictures) -> Tensor:
    """What the network shows from the camera of `drives`, step by step."""
    portrait, encoder = load_portrait(folder), load_motion_encoder(folder)
    v_s, v_d = (read_motion(encoder, p.image, p.landmarks) for p in (source, motion))
    head = portrait.reenact(portrait.prepare(source.image, v_s), Driving(v_d, drives.neck))
    return portrait.render(head, drives.camera).image


def test_the_network_and_its_baselines_are_what_they_say(weights, scene):
    methods = WeightsAndBaselines(weights, weights.with_name("static")).methods()
    own, other = (shot.driving for shot in scene.shots)
    for name, motion in ((OURS, other), (SOURCE_EXPRESSION, scene.source)):
        (shown,) = methods[name](scene.source, other, [other.camera])
        torch.testing.assert_close(shown.image, view_of(weights, scene.source, motion, other), atol=1e-4, rtol=1e-4)
        assert shown.opacity is not None
        assert shown.opacity.shape == other.opacity.shape
    static = load_portrait(weights.with_name("static"))
    head = static.reenact(static.prepare(scene.source.image, None), Driving(None, other.neck))
    (shown,) = methods[STATIC](scene.source, other, [other.camera])
    torch.testing.assert_close(shown.image, static.render(head, other.camera).image, atol=1e-4, rtol=1e-4)
    follow = {
        name: [methods[name](scene.source, driving, [other.camera])[0].image for driving in (own, replace(other))]
        for name in methods
    }
    with_neck = [replace(p, neck=other.neck) for p in (own, other)]
    for name, moves in ((OURS, True), (SOURCE_EXPRESSION, False), (STATIC, False)):
        first, second = (methods[name](scene.source, p, [other.camera])[0].image for p in with_neck)
        assert torch.equal(first, second) != moves, f"{name}: expression"
        assert not torch.equal(*follow[name]), f"{name}: the neck follows"


def test_a_prepared_source_is_not_taken_for_another(weights, scene):
    ours = WeightsAndBaselines(weights).methods()[OURS]
    other = scene.shots[1].driving
    first = ours(scene.source, other, [other.camera])[0].image
    own = scene.shots[0].driving
    second = ours(own, other, [other.camera])[0].image
    torch.testing.assert_close(second, view_of(weights, own, other, other), atol=1e-4, rtol=1e-4)
    assert torch.equal(first, ours(scene.source, other, [other.camera])[0].image)
    assert not torch.equal(first, second)


# what known methods get


def oracle(scene: Scene) -> Method:
    truths = {id(t.camera): t for shot in scene.shots for case in shot.truths.values() for t in case}

    def truth(source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
        seen = [truths[id(camera)] for camera in cameras]
        return [Prediction(true.image, true.opacity, true.depth) for true in seen]

    return truth


def test_the_truth_gets_full_marks(scene):
    values = measure_scene(scene, {"truth": oracle(scene)}).values
    assert {case for _, case, _ in values} == set(CASES)
    for (_, case, metric), found in values.items():
        assert len(found) == (2 if case == NEW_VIEWS else 1)
        best = {"psnr": 100.0, "psnr face": 100.0, "depth error": 0.0}.get(metric, 1.0)
        assert found == pytest.approx([best] * len(found), abs=1e-4), metric


def test_results_agree_where_they_do_not_depend_on_who_drives(scene):
    def blend(source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
        return [Prediction(0.9 * source.image + 0.1 * driving.image) for _ in cameras]

    agreed = measure_scene(scene, {"copy": copy_source, "blend": blend}).agreement
    assert agreed["copy"] == 100
    assert 20 < agreed["blend"] < 60
    faces = [driving.motion for driving in scene.crowd]
    assert len(faces) == CROWD
    assert all(torch.equal(face, faces[0]) for face in faces)
    neck = scene.shots[1].driving.neck
    assert all(driving.neck is neck for driving in scene.crowd)
    assert len({driving.image.sum().item() for driving in scene.crowd}) == CROWD  # different heads


def test_depth_error_by_hand():
    depth, truth = torch.tensor([[[[1.0, 2.0], [3.0, 9.0]]]]), torch.tensor([[[[1.5, 2.0], [2.0, 1.0]]]])
    opacity = torch.tensor([[[[1.0, 0.95], [0.91, 0.9]]]])
    assert depth_error(depth, truth, opacity).tolist() == [0.5]
    assert depth_error(depth, truth, opacity * 0).isnan().all()


def test_agreement_by_hand():
    one, two, three = (torch.full((1, 3, 8, 8), value) for value in (0.0, 0.2, 0.4))
    found = agreement([one, two, three], torch.ones(1, 1, 8, 8))
    assert found.item() == pytest.approx((20 + 20 + 20 * math.log10(5)) / 3, abs=1e-4)


def test_copies_are_compared_with_the_truth_of_their_case(scene):
    values = measure_scene(scene, {"copy": copy_source}).values
    (itself,) = scene.shots[0].truths[SELF]
    assert values["copy", SELF, "psnr"] == pytest.approx(psnr(scene.source.image, itself.image).tolist())
    assert values["copy", SELF, "ssim"] == pytest.approx(ssim(scene.source.image, itself.image).tolist())
    assert all(math.isnan(v) for v in values["copy", CROSS, "iou"])
    views = scene.shots[1].truths[NEW_VIEWS]
    wanted = [psnr(scene.source.image, view.image).item() for view in views]
    assert values["copy", NEW_VIEWS, "psnr"] == pytest.approx(wanted)
    assert wanted[0] != wanted[1]
    assert values["copy", SELF, "psnr face"] != values["copy", SELF, "psnr"]


Answering = Callable[[Probe, Pictures, Pictures], Tensor]  # probe, what drives, its truth -> picture
RESPONSES: dict[str, tuple[Answering, float, float]] = {
    "the truth": (lambda probe, driving, truth: truth.image, 1, 1),
    "half of the motion": (
        lambda probe, driving, truth: torch.lerp(probe.ends["jaw"][0].image, truth.image, 0.5), 1, 0.5,
    ),
    "a dead network": (lambda probe, driving, truth: probe.source.image, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", RESPONSES)
def test_answers_to_axes_by_what_is_shown(case, probe):
    show, correlation, gain = RESPONSES[case]
    truths = {
        id(drives): true
        for pairs in (probe.driving, probe.ends)
        for axis in AXES
        for drives, true in zip(pairs[axis], probe.ends[axis], strict=True)
    }

    def method(source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
        assert source is probe.source
        assert cameras[0] is driving.camera
        return [Prediction(show(probe, driving, truths[id(driving)]), None)]

    found = measure_probe(probe, method, on_sheet=True)
    assert set(found.products) == {(who, axis) for who in (SAME_HEAD, ANOTHER_HEAD) for axis in AXES}
    for product in found.products.values():
        answered = response(product)
        assert answered.correlation == pytest.approx(correlation, abs=1e-4)
        assert answered.gain == pytest.approx(gain, abs=1e-4)
    assert found.axes is not None
    assert torch.equal(found.axes.truths[""], probe.ends["jaw"][0].image)
    assert torch.equal(found.axes.driving["blink"], probe.driving_pair("blink")[1].image)
    assert torch.equal(found.axes.results["blink"], show(probe, *(p["blink"][1] for p in (probe.driving, probe.ends))))


def test_a_stranger_s_picture_is_no_answer(probe):
    """Showing what drives moves the right way in the wrong face."""
    found = measure_probe(probe, lambda source, driving, cameras: [Prediction(driving.image, None)])
    assert response(found.products[SAME_HEAD, "jaw"]).correlation == pytest.approx(1, abs=1e-4)
    assert response(found.products[ANOTHER_HEAD, "jaw"]).correlation < 0.9


def test_products_add_up_over_probes(probe):
    def noisy(source: Pictures, driving: Pictures) -> Tensor:
        return driving.image + 0.1 * torch.randn(driving.image.shape, generator=torch.Generator().manual_seed(1))

    single = products(probe, noisy)
    assert {axis: response(p) for axis, p in single.items()} == responses(probe, noisy)
    both, own, theirs = single["jaw"].tolist()
    assert response(single["jaw"] * 2) == response(single["jaw"])
    assert response(single["jaw"]).gain == pytest.approx(both / theirs)
    assert response(single["jaw"]).correlation == pytest.approx(both / math.sqrt(own * theirs))


@dataclass(frozen=True)
class Copies:
    """Candidates of which the first shows what drives, the second copies the source and says that it is nowhere."""

    def methods(self) -> dict[str, Method]:
        def mirror(source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
            return [Prediction(driving.image, None) for _ in cameras]

        def nowhere(source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
            return [Prediction(source.image, torch.zeros(1, 1, 16, 16)) for _ in cameras]

        return {"mirror": mirror, "nowhere": nowhere}


def test_means_are_over_heads_and_views():
    work = tasks((GROUP,), Copies(), Plan(heads=2, axes_heads=2, geometry_heads=0, axes=("jaw",)), little.model())
    assert [type(task.spec) for task in work] == [ProbeSpec, ProbeSpec, SceneSpec, SceneSpec]
    told: list[int] = []
    (found,) = measure(work, lambda: told.append(1))
    assert len(told) == 4
    assert found.group == GROUP
    probes, scenes = ([run_task(task) for task in half] for half in (work[:2], work[2:]))
    for case in CASES:
        for metric in ("psnr", "ssim face"):
            values = [v for one in scenes for v in one.values["mirror", case, metric]]
            assert found.pictures["mirror"][case][metric] == pytest.approx(np.mean(values), abs=1e-4)
    assert found.pictures["mirror"][CROSS]["iou"] is None
    assert found.pictures["nowhere"][CROSS]["iou"] == 0
    for who in (SAME_HEAD, ANOTHER_HEAD):
        together = response(probes[0].products[who, "jaw"] + probes[1].products[who, "jaw"])
        assert found.response[who]["jaw"]["gain"] == pytest.approx(together.gain, abs=1e-4)
        assert found.response[who]["jaw"]["correlation"] == pytest.approx(together.correlation, abs=1e-4)
    each = [response(one.products[ANOTHER_HEAD, "jaw"]).gain for one in probes]
    assert abs(each[0] - each[1]) > 0.01, "these heads would not tell a sum from its last term"
    assert len(found.rows) == 2
    assert len(found.axes) == 2
