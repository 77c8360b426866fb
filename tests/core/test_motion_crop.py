"""The motion crop: anchors land where the motion encoder expects them."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.core.motion.motion_crop import (
    ANCHOR_TARGETS,
    CENTRED_ANCHORS,
    anchors_of,
    inverse_similarity,
    motion_crop,
    similarity,
)


def landmarks_at(anchors):
    """68 landmarks whose three anchors are these points."""
    landmarks = torch.zeros(1, 68, 2)
    for (first, last), point in zip(((36, 42), (42, 48), (60, 68)), anchors, strict=True):
        landmarks[0, first:last] = torch.tensor(point)
    return landmarks


def blob(size, x, y, radius):
    """[1, 3, size, size]: 1 at a point, fading; -1 elsewhere."""
    grid = torch.arange(size, dtype=torch.float32)
    distance = (grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2
    return (2 * torch.exp(-distance / (2 * radius**2)) - 1).expand(1, 3, size, size)


def brightest(image):
    flat = image[0, 0].argmax().item()
    return flat % image.shape[-1], flat // image.shape[-1]


def in_crop(x, y):
    """Where a pixel of the 224 frame is in the crop: rows 0 to 191 and columns 16 to 207, doubled up to 224."""
    return (x - 16 + 0.5) * 224 / 192 - 0.5, (y + 0.5) * 224 / 192 - 0.5


def test_similarity_recovers_scale_turn_and_shift():
    source = torch.tensor([[[0.0, 0], [2, 0], [1, 3]]])
    angle, scale = 0.4, 1.7
    turn = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = similarity(source, source[0] @ turn.T + torch.tensor([5.0, -2]))
    torch.testing.assert_close(matrix[0], torch.cat([turn, torch.tensor([[5.0], [-2]])], 1), atol=1e-5, rtol=0)


def test_similarity_never_mirrors():
    source = torch.tensor([[[0.0, 0], [2, 0], [1, 3]]])
    matrix = similarity(source, source[0] * torch.tensor([-1.0, 1]))
    assert matrix[0, :, :2].det() >= 0


def test_coinciding_landmarks_give_the_identity():
    for point in ((1.0, 1.0), (250.3, 300.7)):
        points = torch.tensor(point).expand(1, 3, 8, 2).mean(2)  # with rounding, as the anchors of 68 landmarks
        torch.testing.assert_close(similarity(points, torch.tensor(ANCHOR_TARGETS)), torch.eye(2, 3)[None])


@pytest.mark.parametrize("anchor", range(3))
def test_a_mark_on_an_anchor_arrives_at_its_target(anchor):
    anchors = ((180.0, 240.0), (300.0, 230.0), (250.0, 370.0))
    fit = similarity(torch.tensor([anchors]), torch.tensor(ANCHOR_TARGETS))[0]
    x, y = (fit @ torch.tensor([*anchors[anchor], 1.0])).tolist()
    crop = motion_crop(blob(512, *anchors[anchor], radius=8), landmarks_at(anchors))
    assert brightest(crop) == pytest.approx(in_crop(x, y), abs=1.01)


def test_without_landmarks_the_face_is_where_the_alignment_puts_it():
    image = torch.rand(1, 3, 512, 512) * 2 - 1
    torch.testing.assert_close(motion_crop(image), motion_crop(image, landmarks_at(CENTRED_ANCHORS)), atol=1e-3, rtol=0)


def test_landmarks_are_in_512_pixels_whatever_the_picture():
    small, large = blob(128, 63.5, 80.0, 3), blob(512, 255.5, 321.5, 12)
    torch.testing.assert_close(motion_crop(small), motion_crop(large), atol=0.05, rtol=0)


def test_outside_the_picture_is_grey_and_the_range_is_kept():
    far = landmarks_at(((-400.0, 0.0), (-300.0, 0.0), (-350.0, 120.0)))
    crop = motion_crop(torch.ones(1, 3, 512, 512), far)
    assert crop.shape == (1, 3, 224, 224)
    assert crop.abs().max() <= 1
    assert (crop == 0).float().mean() > 0.5


def test_the_crop_is_a_bilinear_lookup_in_pixel_coordinates():
    """Against a loop: warp to 224 with whole pixel coordinates, cut, then resize by cell centres."""
    image = torch.rand(1, 3, 512, 512) * 2 - 1
    anchors = ((190.3, 231.7), (309.1, 226.2), (251.4, 352.8))
    fit = similarity(torch.tensor([anchors]), torch.tensor(ANCHOR_TARGETS))[0].double()
    inverse = torch.linalg.inv(torch.cat([fit, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)]))

    def bilinear(picture, x, y):
        x0, y0 = math.floor(x), math.floor(y)
        total = torch.zeros(3, dtype=torch.float64)
        for j in (y0, y0 + 1):
            for i in (x0, x0 + 1):
                if 0 <= i < picture.shape[2] and 0 <= j < picture.shape[1]:
                    total += (1 - abs(x - i)) * (1 - abs(y - j)) * picture[:, j, i].double()
        return total

    def warped(column, row):  # of the 224 frame
        x, y, _ = (inverse @ torch.tensor([column, row, 1.0], dtype=torch.float64)).tolist()
        return bilinear(image[0], x, y)

    crop = motion_crop(image, landmarks_at(anchors))
    for row, column in ((10, 20), (100, 57), (200, 150), (223, 223)):
        y, x = ((c + 0.5) * 192 / 224 - 0.5 for c in (row, column))
        x0, y0 = math.floor(x), math.floor(y)
        expected = sum(
            (1 - abs(x - i)) * (1 - abs(y - j)) * warped(min(max(i, 0), 191) + 16, min(max(j, 0), 191))
            for j in (y0, y0 + 1)
            for i in (x0, x0 + 1)
        )
        torch.testing.assert_close(crop[0, :, row, column].double(), expected, atol=1e-3, rtol=0)


def test_the_centred_anchors_are_where_the_alignment_puts_them():
    """The published reference points, moved up by 0.1, at 180 pixels a unit around (256, 256), y down."""
    points = {"eye": (-0.31148657, 0.09036078), "other eye": (0.30979887, 0.08972035)}
    corners = ((-0.25216928, -0.5813392), (0.2484662, -0.5812824))
    points["mouth"] = tuple((a + b) / 2 for a, b in zip(*corners, strict=True))
    for expected, anchor in zip(points.values(), CENTRED_ANCHORS, strict=True):
        assert anchor == pytest.approx((256 + 180 * expected[0], 256 - 180 * (expected[1] + 0.1)), abs=1e-3)


def test_inverse_similarity_undoes_it():
    matrix = similarity(torch.rand(4, 3, 2) * 300, torch.tensor(ANCHOR_TARGETS))
    point = torch.tensor([13.0, 77.0, 1.0])
    there = torch.cat([matrix @ point, torch.ones(4, 1)], 1)
    back = (inverse_similarity(matrix) @ there[..., None])[..., 0]
    torch.testing.assert_close(back, point[:2].expand(4, 2), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "shape, landmarks", [((1, 3, 64, 96), None), ((1, 3, 64, 64), (1, 98, 2)), ((1, 3, 64, 64), (2, 68, 2))]
)
def test_refuses_bad_shapes(shape, landmarks):
    with pytest.raises(ValueError, match="expected"):
        motion_crop(torch.zeros(shape), None if landmarks is None else torch.zeros(landmarks))


def test_a_batch_has_its_own_crops():
    image = torch.rand(2, 3, 512, 512)
    landmarks = torch.cat([landmarks_at(CENTRED_ANCHORS), landmarks_at(((100.0, 90), (200.0, 90), (150.0, 220)))])
    both = motion_crop(image, landmarks)
    torch.testing.assert_close(both[1:], motion_crop(image[1:], landmarks[1:]), atol=1e-5, rtol=0)
    assert anchors_of(landmarks).shape == (2, 3, 2)
