"""The squares in which a mesh is fitted, and that they stand still while the face does."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.face_models import needs_face_models
from tests.serve.raw import moving_head, seen
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.faces.views import View, kept, view_of

LAST = View(100.0, 80.0, 200.0, 0.1)
NEAR = {
    "moved": View(111.0, 80.0, 200.0, 0.1),
    "larger": View(100.0, 80.0, 211.0, 0.1),
    "turned": View(100.0, 80.0, 200.0, 0.1 + math.radians(3.9)),
}
FAR = {
    "moved": View(109.0, 89.0, 200.0, 0.1),
    "larger": View(100.0, 80.0, 213.0, 0.1),
    "smaller": View(100.0, 80.0, 187.0, 0.1),
    "turned": View(100.0, 80.0, 200.0, 0.1 - math.radians(4.1)),
}


@pytest.mark.parametrize("how", NEAR)
def test_a_square_is_kept_while_the_wanted_one_is_near(how):
    assert kept(LAST, NEAR[how]) is LAST


@pytest.mark.parametrize("how", FAR)
def test_a_square_is_left_for_one_that_is_not_near(how):
    assert kept(LAST, FAR[how]) is FAR[how]


def test_a_head_upside_down_is_turned_by_little_across_180_degrees():
    last = View(100.0, 80.0, 200.0, math.pi - 0.01)
    assert kept(last, View(100.0, 80.0, 200.0, 0.01 - math.pi)) is last


@pytest.fixture(scope="module")
def provider() -> NetworkFaces:
    return NetworkFaces()


@needs_face_models
def test_a_still_face_is_fitted_in_one_square_and_a_moving_one_in_others(provider):
    head = moving_head(2, 1, 256)[0][0]
    rng = np.random.default_rng(0)
    (first,) = provider.find(head)
    near = first
    for _ in range(5):
        (near,) = provider.find(np.clip(head + rng.normal(0, 4, head.shape), 0, 255).astype(np.uint8), near, quick=True)
        assert near.view == first.view
    assert near.view != view_of(near.points)
    (moved,) = provider.find(np.roll(head, 30, axis=1), near, quick=True)
    (again,) = provider.find(np.roll(head, 30, axis=1), moved, quick=True)
    assert again.view.x == pytest.approx(first.view.x + 30, abs=6)


@needs_face_models
def test_threads_share_one_finder_and_keep_their_own_teams(provider):
    pictures = [seen((300 + 10 * k, 170), 1.0 + 0.1 * k) for k in range(8)]
    alone = [provider.find(picture, quick=True)[0].points for picture in pictures]
    team = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda picture: provider.find(picture, quick=True)[0].points, pictures * 3))
    assert all(np.array_equal(points, alone[k % 8]) for k, points in enumerate(beside))
    assert torch.get_num_threads() == team
