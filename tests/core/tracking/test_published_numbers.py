"""Every number of the published schedule, by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import triportrait.core.tracking.clip_fit as clip_fit
import triportrait.core.tracking.published_clip as published_clip
import triportrait.core.tracking.published_fit as published
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame
from triportrait.core.tracking.clip_fit import CAMERA, fit_clip, fit_stills
from triportrait.core.tracking.fit import Start, nearest_known
from triportrait.core.tracking.head_model import load_head_model
from triportrait.core.tracking.published_clip import FIRST_Z
from triportrait.core.tracking.published_fit import lid_table, with_lids


def test_the_first_translation():
    assert pytest.approx(-4.590, abs=5e-4) == FIRST_Z
    assert pytest.approx(-3 / (math.tan(math.pi / 30) * 6.2189)) == FIRST_Z


def test_steps_and_rate():
    assert (published.TRANSLATION_STEPS, published.STEPS, published.LEARNING_RATE) == (1500, 3000, 1e-3)


def off(**pixels):
    """Points of one picture that are off by these pixels across, by landmark, and the picture."""
    seen = torch.zeros(1, 70, 2)
    for name, value in pixels.items():
        seen[0, int(name[1:]), 0] = value
    return seen, torch.zeros(1, 70, 2)


@pytest.mark.parametrize(
    ("landmark", "weight"),
    [(0, 1 / 140), (36, 1 / 140 + 2 / 8), (39, 1 / 140 + 2 / 8), (45, 1 / 140 + 2 / 8), (48, 1 / 140 + 2 / 40),
     (67, 1 / 140 + 2 / 40), (37, 1 / 140 + 1 / 8), (44, 1 / 140 + 1 / 8), (40, 1 / 140 + 1 / 8),
     (47, 1 / 140 + 1 / 8)],
)  # fmt: skip
def test_the_loss_of_the_translation(landmark, weight):
    assert float(published._near(*off(**{f"p{landmark}": 3.0}))) == pytest.approx(9 * weight)


def test_the_loss_of_lids_weighs_places_openings_and_likeness():
    seen, target = torch.zeros(1, 70, 2), torch.zeros(1, 70, 2)
    for points in (seen, target):  # all lids open by 20 pixels
        points[0, [37, 38, 43, 44], 1] = -10
        points[0, [41, 40, 47, 46], 1] = 10
    assert float(published._lids(seen, target)) == 0
    moved = seen.clone()
    moved[0, 37, 1] -= 2  # one upper lid: its place, its opening, and that both eyes are alike
    expected = 5 * 4 / 8 + 2 * 4 / 4 + 4 / 2
    assert float(published._lids(moved, target)) == pytest.approx(expected)
    target[0, [37, 38, 43, 44], 1], target[0, [41, 40, 47, 46], 1] = -4, 4  # open by 8: counts as shut
    seen = target.clone()
    assert float(published._lids(seen, target)) == pytest.approx(2 * 64)
    target[0, [37, 38, 43, 44], 1] = -4.01
    assert float(published._lids(target, target)) == 0


def test_which_lids_face_each_other():
    lids = list(zip(published.UPPER_LIDS, published.LOWER_LIDS, strict=True))
    assert lids == [(37, 41), (38, 40), (43, 47), (44, 46)]
    assert published.EYE_CORNERS == (36, 39, 42, 45)
    assert (published.MOUTH.start, published.MOUTH.stop) == (48, 68)


def test_landmarks_of_lids_lie_on_the_published_vertices_of_flame():
    vertices = torch.arange(5023.0)[None, :, None].expand(1, -1, 3)

    class Model:
        def landmarks(self, vertices):
            return torch.full((1, 70, 3), -1.0)

    points = with_lids(Model(), vertices)[0, :, 0]
    assert points[[37, 38, 40, 41, 43, 44, 46, 47]].tolist() == [
        (2452 + 2454) / 2, 2471, 2276, 2360, 1292, 1217, 999, 827
    ]  # fmt: skip
    assert (points == -1).sum() == 62
    assert (with_lids(Model(), vertices[:, :100]) == -1).all()


def test_eyes_beyond_a_quarter_turn_come_back():
    eyes = torch.tensor([[1.6, 0.0, 0.0], [1.5, 0.0, 0.0]])
    expected = torch.tensor([[1.6 - math.pi, -math.pi, -math.pi], [1.5, 0, 0]])
    torch.testing.assert_close(published._wrapped(eyes), expected)


def spoiled(monkeypatch, away, start):
    """The loss of the last step where betas were moved by `away`, everything else in place."""
    model = load_head_model()
    told = []

    def descend(values, steps, loss):
        if len(values) > 1:
            with torch.no_grad():
                values[0].add_(away)
            told.append(loss())
        return published._Best([value.detach() for value in values], torch.zeros(1))

    monkeypatch.setattr(published, "_descend", descend)
    betas = torch.zeros(1, 22) if start else None
    lids = lid_table(model.flame, model.mesh) if start else None
    points = model.flame.landmarks(model.flame(torch.zeros(1, 22), *torch.zeros(2, 1, 3), torch.zeros(1, 6))[0])
    at = torch.tensor([[0.0, 0, -4.5]])
    pixels = CAMERA.project(points + at[:, None])
    published.published_fit(model.flame, 12, pixels, CAMERA, torch.eye(3)[None], at, None, betas, lids)
    return float(told[0].detach())


@pytest.mark.parametrize(("direction", "weight"), [(0, 4.0), (11, 4.0), (12, 0.5), (21, 0.5)])
def test_betas_are_held_by_their_absolute_values(monkeypatch, direction, weight):
    away = torch.zeros(1, 22)
    away[0, direction] = 1e-4
    loss = spoiled(monkeypatch, away, start=False) - spoiled(monkeypatch, 0 * away, start=False)
    assert loss == pytest.approx(weight * 1e-4, rel=0.2)  # landmarks move by a hundredth of a pixel


def test_a_start_holds_all_but_the_lids_by_a_million(monkeypatch):
    assert published.HELD == 1e6
    away = torch.zeros(1, 22)
    away[0, 0] = 0.1
    model = load_head_model()
    moved = 0.1 * model.flame["shape_directions"][..., 0]
    held = torch.ones(len(moved), dtype=torch.bool)
    held[lid_table(model.flame, model.mesh)] = False
    expected = 1e6 * float(moved[held].square().mean())
    loss = spoiled(monkeypatch, away, start=True) - spoiled(monkeypatch, away, start=False)
    assert loss == pytest.approx(expected, rel=1e-3) and 0 < (~held).sum() < 200


def test_the_published_list_of_lid_vertices_is_that_of_the_mesh_tables(monkeypatch):
    listed = torch.tensor([[3, 9, 27]])
    model = replace(load_head_model(), mesh={"eyelids_idxs": listed})
    asked, real = [], published.published_fit
    monkeypatch.setattr(published_clip, "published_fit", lambda *a, **k: asked.append(a[8]) or real(*a, **k))
    zeros = torch.zeros
    start = Start(zeros(1, 12), zeros(1, 2, 10), zeros(1, 2, 3), torch.eye(3).expand(1, 2, 3, 3))
    published_clip.published_clip(model, *marks(2), CAMERA, start, steps=(1, 1))
    assert [lids.tolist() for lids in asked] == [[3, 9, 27]]


def marks(count):
    """Landmarks of so many pictures, all seen."""
    draw = torch.Generator().manual_seed(0)
    return 256 + 60 * torch.randn(count, 70, 2, generator=draw), torch.ones(count, 70)


def short(monkeypatch):
    """Let the schedule take few steps, and note the pictures of each solve."""
    asked, real = [], published.published_fit

    def few(*arguments, **_):
        asked.append(arguments[2])
        return real(*arguments, steps=(2, 2))

    monkeypatch.setattr(published_clip, "published_fit", few)
    return asked


def test_a_still_never_gets_the_face_of_another_person(monkeypatch):
    asked, model, (pixels, weights) = short(monkeypatch), load_head_model(), marks(4)
    weights[1, 5], weights[3] = 0, 0
    found = fit_stills(model, pixels, weights, method="published")
    assert [len(part) for part in asked] == [2], "what is thrown away is not solved"
    alone = fit_stills(model, pixels[2:3], weights[2:3], method="published")
    torch.testing.assert_close(found.records[2], alone.records[0])
    fitted = found.fitted
    for still in (1, 3):
        assert not fitted.shape[still].any() and not fitted.expression[still].any() and not fitted.angles[still].any()
        assert not torch.allclose(fitted.rotation[still], fitted.rotation[0])
    assert found.error_px.isnan().tolist() == [False, True, False, True]
    assert found.quality.tolist() == [1, 0, 1, 0] and found.outliers.tolist()[1::2] == [0, 0]
    assert found.records.isfinite().all()


def test_stills_are_refused_only_where_none_is_whole(monkeypatch):
    asked, model, (pixels, weights) = short(monkeypatch), load_head_model(), marks(6)
    monkeypatch.setattr(clip_fit, "STILLS", 2)
    weights[:4, 68:] = 0  # the pupils of the first two batches
    found = fit_stills(model, pixels, weights, method="published")
    assert found.quality.tolist() == [0, 0, 0, 0, 1, 1] and sum(map(len, asked)) == 2
    with pytest.raises(InputError, match="expects all 70 of a picture, and none has them"):
        fit_stills(model, pixels[:4], weights[:4], method="published")


def test_frames_that_lack_a_landmark_get_the_answer_of_the_nearest_of_their_clip(monkeypatch):
    asked, model, (pixels, weights) = short(monkeypatch), load_head_model(), marks(5)
    weights[[0, 1, 3], 7] = 0
    found = fit_clip(model, pixels, weights, method="published")
    assert [len(part) for part in asked] == [2]
    assert torch.equal(found.records[[0, 1, 3]], found.records[[2, 2, 2]])  # the earlier where two are as near
    assert found.error_px.isnan().tolist() == [True, True, False, True, False]


def test_the_published_schedule_takes_a_hundred_pictures_at_once(monkeypatch):
    assert published_clip.AT_ONCE == 100
    asked, model, (pixels, weights) = short(monkeypatch), load_head_model(), marks(7)
    whole = fit_clip(model, pixels, weights, method="published")
    monkeypatch.setattr(published_clip, "AT_ONCE", 3)
    parted = fit_clip(model, pixels, weights, method="published")
    assert [len(part) for part in asked] == [7, 3, 3, 1]
    torch.testing.assert_close(parted.records, whole.records)


def test_the_model_of_the_caller_stays_where_it_is(monkeypatch):
    short(monkeypatch)
    model, moved = load_head_model(), []
    monkeypatch.setattr(Flame, "to", lambda flame, *_: moved.append(flame) or flame)
    fit_clip(model, *marks(1), method="published")
    assert len(moved) == 1 and moved[0] is not model.flame


def test_the_nearest_of_many_frames_needs_no_table_of_all_pairs():
    draw = torch.Generator().manual_seed(0)
    known = torch.rand(40, 30, generator=draw) < 0.15
    known[known.sum(1) == 0, 4] = True
    number = torch.arange(30)
    apart = (number[:, None] - number).abs()[None] + torch.where(known, 0, 99)[:, None]
    assert torch.equal(nearest_known(known), apart.argmin(-1))
    long = torch.zeros(1, 300_000, dtype=torch.bool)  # of all pairs: 720 GB
    long[0, 7] = True
    assert (nearest_known(long) == 7).all()


def test_the_published_method_is_a_choice_of_the_clip_fit(monkeypatch):
    model = load_head_model()
    monkeypatch.setattr("triportrait.core.tracking.published_clip.published_fit", lambda *a, **k: told(*a, **k))
    asked = {}

    def told(flame, num_shape, pixels, camera, rotation, translation, jaw, start, lids, steps):
        asked.update(steps=steps, at=translation, start=start, lids=lids)
        B = len(pixels)
        return published.PublishedFit(
            torch.zeros(B, 12), torch.zeros(B, 10), torch.zeros(B, 3), translation, torch.zeros(B)
        )

    landmarks = 256 + 60 * torch.randn(2, 70, 2, generator=torch.Generator().manual_seed(0))
    found = fit_clip(model, landmarks, torch.ones(2, 70), method="published")
    assert asked["steps"] == (1500, 3000) and asked["start"] is None and found.records.shape == (2, 437)
    zeros = torch.zeros
    start = Start(zeros(1, 12), zeros(1, 2, 10), zeros(1, 2, 3), torch.eye(3).expand(1, 2, 3, 3))
    fit_clip(model, landmarks, torch.ones(2, 70), method="published", start=start)
    torch.testing.assert_close(asked["at"], torch.tensor([[0, 0, -4.590]]).expand(2, 3), atol=1e-3, rtol=0)
    assert len(asked["lids"]) >= 8
    with pytest.raises(InputError, match="expected none with the published schedule"):
        fit_clip(model, landmarks, torch.ones(2, 70), method="published", shape=zeros(12))
