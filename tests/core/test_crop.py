"""The motion crop: anchors land where the motion encoder expects them."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.core.motion.crop import ANCHOR_TARGETS, CENTRED_ANCHORS, anchors_of, motion_crop, similarity


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
    torch.testing.assert_close(similarity(torch.ones(1, 3, 2), torch.tensor(ANCHOR_TARGETS)), torch.eye(2, 3)[None])


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
    assert crop.shape == (1, 3, 224, 224) and crop.abs().max() <= 1 and (crop == 0).float().mean() > 0.5


def test_a_batch_has_its_own_crops():
    image = torch.rand(2, 3, 512, 512)
    landmarks = torch.cat([landmarks_at(CENTRED_ANCHORS), landmarks_at(((100.0, 90), (200.0, 90), (150.0, 220)))])
    both = motion_crop(image, landmarks)
    torch.testing.assert_close(both[1:], motion_crop(image[1:], landmarks[1:]), atol=1e-5, rtol=0)
    assert anchors_of(landmarks).shape == (2, 3, 2)
