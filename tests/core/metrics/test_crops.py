"""Faces lie where the networks were trained to see them, and points that are no face are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.core.metrics.arcface import TEMPLATE, arcface_crop, arcface_points
from triportrait.core.metrics.emotion import emotion_crop
from triportrait.core.metrics.recon3d import Coefficients
from triportrait.core.metrics.recon3d_alignment import MEAN_HEAD, SCALE, align, five_points

IMAGE = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)


def head_points(pixels, centre, height, lower=0.2):
    """Where a head that looks into the camera has its five points, y down."""
    points = (MEAN_HEAD[:, :2] - (0, lower)) * pixels + centre
    return np.stack([points[:, 0], height - 1 - points[:, 1]], 1)


@pytest.mark.parametrize("form, lower", [("portrait4d", 0.2), ("upstream", 0.0)])
def test_a_head_of_known_size_is_scaled_to_the_crop_s(form, lower):
    aligned = align(IMAGE, head_points(60, (110, 90), 200, lower), form)
    assert aligned.scale == pytest.approx(SCALE / 60)
    np.testing.assert_allclose(aligned.centre, (110, 90), atol=1e-9)
    expected = (MEAN_HEAD[:, :2] - (0, lower)) * SCALE + 112
    np.testing.assert_allclose(aligned.points, expected, atol=1)  # the picture's size is cut to whole pixels


def test_eyes_in_the_wrong_order_are_another_face():
    points = head_points(60, (110, 90), 200)
    swapped = align(IMAGE, points[[1, 0, 2, 4, 3]])
    assert np.abs(swapped.points - align(IMAGE, points).points).max() > 50


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.full((5, 2), np.nan), np.zeros((4, 2)),
                                    head_points(0.01, (110, 90), 200)])  # fmt: skip
def test_points_that_are_no_face(points):
    with pytest.raises(InputError, match=r"^points: expected"):
        align(IMAGE, points)


def test_five_points_of_68():
    landmarks = np.arange(68 * 3, dtype=float).reshape(68, 3)
    assert five_points(landmarks)[:, 0].tolist() == [3 * 37.5, 3 * 43.5, 90, 144, 162]
    assert arcface_points(landmarks)[:, 0].tolist() == [3 * 38.5, 3 * 44.5, 90, 144, 162]


def test_coefficients_are_split_in_the_published_order():
    parts = Coefficients.of(torch.arange(257.0)[None])
    firsts = [values[0, 0].item() for values in vars(parts).values()]
    assert firsts == [0, 80, 144, 224, 227, 254]
    assert parts.translation.tolist() == [[254, 255, 256]]


def test_arcface_sees_the_picture_s_own_pixels_where_points_lie_on_the_template():
    crop = arcface_crop(IMAGE, np.array(TEMPLATE))
    torch.testing.assert_close(
        crop, torch.from_numpy(IMAGE[:112, :112]).permute(2, 0, 1)[None] / 127.5 - 1, atol=2e-3, rtol=0
    )
    moved = arcface_crop(IMAGE, np.add(TEMPLATE, (130, 90)))  # one corner lies beyond a picture that is not square
    torch.testing.assert_close(
        moved[0, :, :100, :100],
        torch.from_numpy(IMAGE[90:190, 130:230]).permute(2, 0, 1) / 127.5 - 1,
        atol=2e-3,
        rtol=0,
    )
    assert (moved[..., 111, 111] == -1).all()  # black
    with pytest.raises(InputError, match="expected five points of a face, got one place"):
        arcface_crop(IMAGE, np.full((5, 2), 50))


def test_the_emotion_network_sees_a_square_about_the_landmarks():
    landmarks = np.full((68, 3), 100.0)
    landmarks[0, :2], landmarks[1, :2] = (60, 50), (140, 170)  # 80 wide, 120 high
    crop = emotion_crop(IMAGE, landmarks)
    side = (80 + 120) / 2 * 1.1 * 1.25
    assert crop.dtype == np.float32
    left, top = 100 - side / 2, 110 - side / 2
    for row, column in ((0, 0), (223, 223), (100, 50)):
        x, y = left + column * side / 223, top + row * side / 223
        i, j, p, q = int(y), int(x), y - int(y), x - int(x)
        four = IMAGE[i : i + 2, j : j + 2].astype(float)
        expected = np.einsum("i,j,ijc->c", (1 - p, p), (1 - q, q), four) / 255
        np.testing.assert_allclose(crop[row, column], expected, atol=2e-3)
    with pytest.raises(InputError, match="expected a face, got points at one place"):
        emotion_crop(IMAGE, np.full((68, 2), 9.0))
