"""The identity loss: its network's published tensors, and a crop that follows the face."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.core.published.network_contract import manifest
from triportrait.train.objectives.identity import TEMPLATE, FaceIdentity, aligned_crop, identity_loss


def face(points, size=160):
    """A smooth picture that hangs on the points: whatever moves them moves it."""
    pixel = torch.arange(size, dtype=torch.float32)
    down, across = torch.meshgrid(pixel, pixel, indexing="ij")
    side = (points[1] - points[0]).norm()
    picture = torch.zeros(3, size, size)
    for i, (x, y) in enumerate(points.tolist()):
        picture[i % 3] += torch.exp(-((across - x) ** 2 + (down - y) ** 2) / (0.05 * side**2))
    return picture[None] * 2 - 1


def moved(turn_deg, scale, shift):
    turn = scale * complex(math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg)))
    there = torch.view_as_complex(torch.tensor(TEMPLATE)) * turn + complex(*shift)
    return torch.view_as_real(there)


def test_its_tensors_are_the_published_ones():
    ours = {n: list(t.shape) for n, t in FaceIdentity().state_dict().items() if "num_batches" not in n}
    assert ours == {name: list(shape) for name, shape in manifest("arcface").items() if "num_batches" not in name}
    assert sum(p.numel() for p in FaceIdentity().parameters()) == 24_025_600


def test_points_on_the_template_give_the_picture_s_own_pixels():
    points = torch.tensor(TEMPLATE)
    picture = face(points)
    torch.testing.assert_close(aligned_crop(picture, points[None]), picture[..., :112, :112], atol=1e-4, rtol=0)


@pytest.mark.parametrize("turn, scale, shift", [(0, 1, (20, 10)), (20, 1.2, (30, -5)), (-35, 0.8, (10, 50))])
def test_the_crop_follows_the_face(turn, scale, shift):
    upright = torch.tensor(TEMPLATE)
    points = moved(turn, scale, shift)
    crop = aligned_crop(face(points), points[None])
    difference = (crop - face(upright)[..., :112, :112]).abs()[..., 30:100, 30:80]
    assert difference.max() < 0.05


def test_a_stranger_is_farther_than_a_copy_and_gradients_reach_the_picture():
    torch.manual_seed(0)
    network, points = FaceIdentity(), torch.tensor(TEMPLATE)[None].repeat(2, 1, 1)
    target = torch.rand(2, 3, 128, 128) * 2 - 1
    picture = torch.stack([target[0], -target[1]]).requires_grad_()
    loss = identity_loss(network, picture, target, points)
    assert loss[0] < 1e-5
    assert loss[1] > 100 * loss[0].abs()
    (slope,) = torch.autograd.grad(loss[1], picture)
    assert not slope[0].any()
    assert slope[1, :, :112, :112].any()
    assert not slope[1, :, 113:].any()


def test_it_is_never_trained():
    network = FaceIdentity()
    assert not network.train().training
    assert not any(p.requires_grad for p in network.parameters())


def test_a_file_that_is_none_of_it_is_refused():
    tensors = {name: value.clone() for name, value in FaceIdentity().state_dict().items() if "num_batches" not in name}
    FaceIdentity().load(tensors)
    del tensors["fc.weight"]
    with pytest.raises(InputError, match="no tensors of ArcFace's r18"):
        FaceIdentity().load(tensors)
