"""Fits of clips and stills as users meet them: any rate, gaps, long films, many people, records that render back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import triportrait.core.tracking.clip_fit as clip_fit
from docs.tracking.accuracy import CAMERA, MM_PER_UNIT, heads
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame
from triportrait.core.render.rays import camera_rays
from triportrait.core.tracking.bends import second_differences
from triportrait.core.tracking.clip_fit import fit_clip, fit_stills
from triportrait.core.tracking.fit import Bends, Priors, Start, fit_landmarks
from triportrait.core.tracking.head_model import HeadModel, ModelIdentity, load_head_model
from triportrait.core.tracking.records import columns_of
from triportrait.core.types import Camera
from triportrait.train.data.heads.linear_model import LinearHead


@pytest.fixture(scope="module")
def model():
    return load_head_model()


@pytest.fixture(scope="module")
def parts():
    return LinearHead()


def film(parts, frames, swing=48, seed=1):
    """Landmarks of one head with a pixel of noise, all seen, and the truth."""
    truth = heads(parts, 1, frames, swing=swing)
    noise = torch.randn(truth.pixels[0].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return truth.pixels[0] + noise, torch.ones(frames, 70), truth


def test_a_record_puts_landmarks_where_they_were(model, parts):
    """The ray of the renderer through a pixel's middle passes by the landmark that was seen there."""
    pixels, weights, _ = film(parts, 2)
    found = fit_clip(model, pixels, weights, noise_px=1.0)
    columns = columns_of(found.records)
    label = columns["camera"]
    pose, lens = label[:, :16].unflatten(1, (4, 4)), label[:, 16:].unflatten(1, (3, 3))
    betas = torch.cat([columns["shape"][:, :12], columns["expression"][:, :10]], 1)
    vertices, _ = model.flame(betas, torch.zeros(2, 3), columns["jaw"], columns["eyes"])
    marks = model.flame.landmarks(vertices)
    size = 512
    origins, rays = camera_rays(Camera(pose, lens), size)
    column, row = pixels.round().long().unbind(-1)
    through = rays.unflatten(1, (size, size))[torch.arange(2)[:, None], row, column]
    along = marks - origins
    beside = torch.linalg.cross(along, through).norm(dim=-1) / along.norm(dim=-1)  # radians
    off_px = beside * CAMERA.focal_px
    assert off_px.mean() < 2.0  # noise, and half a pixel of rounding
    seen = CAMERA.project(marks @ pose[:, :3, :3] - (pose[:, :3, 3:].mT @ pose[:, :3, :3]))
    drift = (seen - pixels).mean((0, 1))
    assert drift.abs().max() < 0.3, "no half pixel is lost, across or down"
    assert (found.error_px - (seen - pixels).square().sum(-1).mean(-1).sqrt()).abs().max() < 1e-2


@pytest.mark.parametrize("rate", [12.5, 100.0])
def test_bends_follow_the_frame_rate(rate):
    like = torch.zeros(1).double()
    _, _, stated = second_differences(5, None, like)
    _, _, other = second_differences(5, torch.arange(5).double() / rate, like)
    torch.testing.assert_close(other, stated * (rate / 25) ** 1.5)


def test_even_movement_bends_nothing_at_uneven_times():
    times = torch.tensor([0.0, 0.04, 0.2, 0.21, 0.5]).double()
    before, after, matrix = second_differences(5, times, times)
    assert (matrix @ (3 + 7 * times)[:, None]).abs().max() < 1e-12
    steps = (3 + 7 * times).diff()
    assert (after[0, :, 0] * steps[1:] - before[0, :, 0] * steps[:-1]).abs().max() < 1e-12


def test_a_film_at_half_the_rate_may_move_twice_as_fast(model, parts):
    pixels, weights, _ = film(parts, 24)
    right = fit_clip(model, pixels[::3], weights[::3], fps=25 / 3, noise_px=1.0)
    same = fit_clip(model, pixels[::3], weights[::3], times=torch.arange(8).double() * 3 / 25, noise_px=1.0)
    wrong = fit_clip(model, pixels[::3], weights[::3], fps=200, noise_px=1.0)
    torch.testing.assert_close(right.records, same.records)
    assert right.error_px.mean() < 0.9 * wrong.error_px.mean()


def test_frames_without_a_face_are_filled_and_have_no_quality(model, parts):
    pixels, weights, _ = film(parts, 10)
    weights[3:5], weights[0] = 0, 0
    pixels[3:5] = torch.nan
    found = fit_clip(model, pixels, weights)
    gone = torch.tensor([True, False, False, True, True, False, False, False, False, False])
    assert (found.quality[gone] == 0).all() and (found.quality[~gone] > 0.6).all()
    assert found.error_px.isnan().equal(gone) and found.records.isfinite().all()


def test_spoiled_landmarks_are_counted_and_lower_the_quality(model, parts):
    pixels, weights, _ = film(parts, 6)
    pixels[2, 10:20] += 60
    found = fit_clip(model, pixels, weights)
    assert 10 <= found.outliers[2] <= 13 and found.outliers.sum() <= 26
    assert found.quality[2] < found.quality[[0, 1, 3, 4, 5]].min() - 0.08
    assert found.error_px[2] > 15, "the error is that of all landmarks"


def test_half_a_face_is_fitted(model, parts):
    pixels, weights, truth = film(parts, 4)
    left_half = [*range(8), *range(22, 27), *range(42, 48), 69]
    weights[:, left_half] = 0
    found = fit_clip(model, pixels, weights)
    placed = truth.vertices[0, :, parts.first_landmark :] @ truth.rotation[0].mT + truth.translation[0][:, None]
    assert (CAMERA.project(placed)[:, 30] - pixels[:, 30]).norm(dim=-1).max() < 5
    assert found.error_px.max() < 2.5 and (found.quality < 0.75).all()


def test_a_long_film_is_solved_in_windows_that_agree(model, parts, monkeypatch):
    pixels, weights, truth = film(parts, 60)
    weights[20:24] = 0
    shape = fit_clip(model, pixels, weights, noise_px=1.0).fitted.shape[0]
    whole = fit_clip(model, pixels, weights, shape=shape, noise_px=1.0)
    monkeypatch.setattr(clip_fit, "WINDOW", 28)
    monkeypatch.setattr(clip_fit, "MARGIN", 8)
    monkeypatch.setattr(clip_fit, "SHAPE_FRAMES", 12)
    asked = []
    real = fit_landmarks
    monkeypatch.setattr(clip_fit, "fit_landmarks", lambda *a, **k: asked.append(a[1].shape[:2]) or real(*a, **k))
    parted = fit_clip(model, pixels, weights, shape=shape, noise_px=1.0)
    assert asked == [(4, 28), (1, 28)] and parted.records.shape == (60, 437), "equal windows are solved together"
    monkeypatch.setattr(clip_fit, "STACKED", 1)
    alone = fit_clip(model, pixels, weights, shape=shape, noise_px=1.0)
    assert asked[2:] == [(1, 28)] * 5
    torch.testing.assert_close(parted.records, alone.records, atol=1e-5, rtol=0)
    torch.testing.assert_close(parted.error_px, alone.error_px, atol=1e-6, rtol=0, equal_nan=True)
    torch.testing.assert_close(parted.fitted.rotation, whole.fitted.rotation, atol=2e-3, rtol=0)
    torch.testing.assert_close(parted.fitted.translation, whole.fitted.translation, atol=0.02, rtol=0)
    free = fit_clip(model, pixels, weights, noise_px=1.0)  # its shape from twelve frames
    assert asked[7] == (1, 12)
    apart = (free.fitted.translation[0, :, 2] - truth.translation[0, :, 2]).abs().mean() * MM_PER_UNIT
    assert apart < 120 and free.error_px.nanmean() < 2


def test_a_long_gap_is_held(model, parts, monkeypatch):
    pixels, weights, _ = film(parts, 50)
    weights[6:46] = 0
    monkeypatch.setattr(clip_fit, "WINDOW", 12)
    monkeypatch.setattr(clip_fit, "MARGIN", 2)
    found = fit_clip(model, pixels, weights, shape=torch.zeros(12))
    assert found.records.isfinite().all() and (found.quality[6:46] == 0).all()
    assert (found.fitted.translation[0, :, 2] < -3).all() and (found.fitted.translation[0, :, 2] > -6).all()


def test_chosen_frames_show_the_head_from_many_sides(model, parts, monkeypatch):
    """Of a head that looks ahead for most of a film and turns within seven frames, these are chosen."""
    monkeypatch.setattr(clip_fit, "SHAPE_FRAMES", 6)
    pixels, weights, truth = film(parts, 40, swing=80)
    shown = torch.cat([torch.zeros(60).long(), torch.arange(5, 40, 5), torch.zeros(60).long()])
    some = clip_fit._spread(model.points(), pixels[shown], weights.double()[shown])
    turns = truth.rotation[0, shown[some]]
    cosine = ((turns[:, None].mT @ turns).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    apart_deg = cosine.clamp(-1, 1).acos().rad2deg() + 360 * torch.eye(len(some))
    assert len(some) == 6 and ((some >= 60) & (some < 67)).sum() == 5
    assert apart_deg.min() > 0.9, "no two of them show the same"


def test_stills_are_people_with_shapes_of_their_own(model, parts):
    truth = heads(parts, 5, 1)
    pixels, weights = truth.pixels[:, 0], torch.ones(5, 70)
    weights[3] = 0
    found = fit_stills(model, pixels, weights, noise_px=1.0)
    assert found.quality[3] == 0 and (found.quality[[0, 1, 2, 4]] > 0.7).all()
    assert not found.fitted.shape[3].any() and found.records.shape == (5, 437)
    alone = fit_stills(model, pixels[1:2], weights[1:2], noise_px=1.0)
    torch.testing.assert_close(found.records[1], alone.records[0], atol=1e-5, rtol=0)
    assert (found.fitted.shape[0] - found.fitted.shape[1]).abs().max() > 0.3


def test_unknown_noise_is_measured(model, parts):
    truth = heads(parts, 4, 1)
    noise = torch.randn(truth.pixels.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights = torch.ones(4, 70)
    noisy = (truth.pixels + 5 * noise)[:, 0]
    believed, measured = (fit_stills(model, noisy, weights, noise_px=given) for given in (1.0, None))
    assert measured.outliers.sum() < 0.3 * believed.outliers.sum()
    assert measured.fitted.shape.square().mean() < 0.7 * believed.fitted.shape.square().mean()


def test_heads_are_neither_too_near_nor_too_far(model):
    """Heads of the model itself: the mean distance is right, within what 150 of them tell."""
    random = torch.Generator().manual_seed(3)
    points, count = model.points(), 150
    betas = torch.randn(count, 22, generator=random, dtype=torch.float64)
    turned = heads(LinearHead(), count, 1)
    placed = points.points(betas, torch.zeros(count, 9).double()) @ turned.rotation[:, 0].mT
    pixels = CAMERA.project(placed + turned.translation)
    pixels = pixels + torch.randn(pixels.shape, generator=random, dtype=torch.float64)
    found = fit_stills(model, pixels, torch.ones(count, 70), noise_px=1.0)
    off = (turned.translation[:, 0, 2] - found.fitted.translation[:, 0, 2]) * MM_PER_UNIT
    assert off.mean().abs() < 2.2 * off.std() / count**0.5


def test_a_start_is_kept_near_and_begun_at(model, parts):
    pixels, weights, truth = film(parts, 3)
    zeros = torch.zeros
    shape = torch.full((1, 12), 0.8)
    tight = Start(shape, zeros(1, 3, 10), zeros(1, 3, 3), truth.rotation, 1e-4, 1e-4, 1e-4)
    found = fit_clip(model, pixels, weights, start=tight)
    torch.testing.assert_close(found.fitted.shape, shape.double(), atol=1e-3, rtol=0)
    assert found.fitted.expression.abs().max() < 1e-2 and found.fitted.angles[..., :3].abs().max() < 1e-2
    loose = Start(shape, zeros(1, 3, 10), zeros(1, 3, 3), truth.rotation, 1e3, 1e3, 1.0)
    assert fit_clip(model, pixels, weights, start=loose).error_px.mean() < found.error_px.mean()


def wide_model(model, shape=300, expression=100):
    """A model of FLAME's size: 5,023 vertices and 400 directions that grow smaller, as a principal analysis gives."""
    random = torch.Generator().manual_seed(0)
    U = 5023
    old = model.flame
    own = len(old["template"])
    rows = torch.cat([torch.arange(own), torch.randint(0, 800, (U - own,), generator=random)])
    sizes = torch.cat([0.05 / torch.arange(1, shape + 1.0) ** 1.2, 0.04 / torch.arange(1, expression + 1.0) ** 1.2])
    directions = torch.randn(U, 3, shape + expression, generator=random) * sizes / 4
    tables = {name: old[name] for name in ("parents", "faces", "landmark70_faces", "landmark70_barycentrics")}
    tables |= {
        "template": old["template"][rows],
        "shape_directions": directions,
        "pose_directions": torch.zeros(36, 3 * U),
        "joint_regressor": torch.nn.functional.pad(old["joint_regressor"], (0, U - old["joint_regressor"].shape[1])),
        "skinning_weights": old["skinning_weights"][rows],
    }
    return HeadModel(Flame(tables), shape, ModelIdentity("wide", "0" * 16))


def test_four_hundred_directions_are_condensed_to_those_that_landmarks_see(model):
    wide = wide_model(model)
    points = wide.points()
    smaller, turn_shape, turn_expression = points.condensed
    assert smaller.num_shape == turn_shape.shape[1] < 226 and smaller.num_expression <= 100
    for turn in (turn_shape, turn_expression):
        torch.testing.assert_close(turn.mT @ turn, torch.eye(turn.shape[1]).double(), atol=1e-9, rtol=0)
    betas = torch.randn(2, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    few = torch.cat([betas[:, :300] @ turn_shape, betas[:, 300:] @ turn_expression], 1)
    angles = 0.1 * torch.randn(2, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    apart = points.points(betas, angles) - smaller.points(few, angles)
    assert apart.norm(dim=-1).max() * CAMERA.focal_px / 4.3 < 0.3  # pixels
    assert model.points().condensed[0] is not None and model.points().condensed[0].num_shape == 12


def test_a_model_of_flames_size_is_fitted(model):
    wide = wide_model(model)
    points, random = wide.points(), torch.Generator().manual_seed(4)
    betas = 0.7 * torch.randn(1, 400, generator=random, dtype=torch.float64)
    at = torch.tensor([0.0, 0, -4.4]).double()
    pixels = CAMERA.project(points.points(betas, torch.zeros(1, 9).double()) + at).expand(4, -1, -1)
    noisy = pixels + torch.randn(pixels.shape, generator=random, dtype=torch.float64)
    found = fit_clip(wide, noisy, torch.ones(4, 70), noise_px=1.0)
    assert found.fitted.shape.shape == (1, 300) and found.fitted.expression.shape == (1, 4, 100)
    assert found.error_px.max() < 2 and found.fitted.shape.square().mean() < 1.2
    assert columns_of(found.records)["shape"].shape == (4, 300)


def test_what_cannot_be_fitted_is_said(model):
    pixels, weights = torch.rand(3, 70, 2), torch.ones(3, 70)
    for spoiled, words in (
        ({"fps": 0.0}, "fps: expected more than 0"),
        ({"times": torch.tensor([0.0, 0.1])}, "expected one for each of 3 frames"),
        ({"times": torch.tensor([0.0, 0.1, 0.1])}, "each after the one before"),
    ):
        with pytest.raises(InputError, match=words):
            fit_clip(model, pixels, weights, **spoiled)
    with pytest.raises(InputError, match="6 or more in a frame"):
        fit_clip(model, pixels, torch.nn.functional.pad(weights[:, :5], (0, 65)))
    with pytest.raises(InputError, match="numbers from 0 to 1"):
        fit_clip(model, pixels, 2 * weights)
    with pytest.raises(InputError, match=r"expected \[T, 70, 2\]"):
        fit_clip(model, pixels[:, :68], weights)
    with pytest.raises(InputError, match="finite"):
        fit_clip(model, pixels * torch.inf, weights)
    with pytest.raises(InputError, match="one of the stills"):
        fit_stills(model, pixels, 0 * weights)


def test_the_points_of_a_model_are_condensed_once(model, monkeypatch):
    model, turned, real = replace(model), [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda rows, **k: turned.append(rows.shape) or real(rows, **k))
    pixels, weights = 256 + 60 * torch.randn(2, 70, 2, generator=torch.Generator().manual_seed(0)), torch.ones(2, 70)
    first = fit_stills(model, pixels, weights)
    few = [shape for shape in turned if shape[-1] in (10, 12)]
    assert len(few) == 2 and model.points() is model.points()
    again = fit_clip(model, pixels, weights, film=False)
    assert [shape for shape in turned if shape[-1] in (10, 12)] == few
    assert first.model == again.model
    other = replace(model, num_shape=11)
    assert other.points().num_shape == 11 and model.points().num_shape == 12


def test_points_of_a_device_keep_what_was_condensed(model):
    points = replace(model).points()
    smaller, *turns = points.condensed
    assert points.to("cpu") is points
    moved = points.to("meta")
    assert moved is not points and moved.condensed is moved.condensed and moved.at_rest().device.type == "meta"
    assert moved.condensed[0].num_shape == smaller.num_shape
    assert [turn.device.type for turn in moved.condensed[1:]] == ["meta", "meta"]
    assert points.condensed[0] is smaller and turns[0].device.type == "cpu"


def test_priors_of_films_have_bends():
    assert Priors(bends=Bends()).bends == Bends()
