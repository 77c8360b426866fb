"""Every number of the published schedule, by name."""

from __future__ import annotations

import math

import pytest
import torch

import triportrait.core.tracking.published_fit as published
from triportrait.core.errors import InputError
from triportrait.core.tracking.clip_fit import fit_clip
from triportrait.core.tracking.fit import Start
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
    from triportrait.core.tracking.clip_fit import CAMERA

    betas = torch.zeros(1, 22) if start else None
    lids = lid_table(model.flame) if start else None
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
    held[lid_table(model.flame)] = False
    expected = 1e6 * float(moved[held].square().mean())
    loss = spoiled(monkeypatch, away, start=True) - spoiled(monkeypatch, away, start=False)
    assert loss == pytest.approx(expected, rel=1e-3) and 0 < (~held).sum() < 200


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
