"""The terms of the losses against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import torch

from triportrait.core.types import NeckGrid
from triportrait.kernels.field import FieldWeights
from triportrait.train.data.generated.truth import GeneratedTruth
from triportrait.train.data.resize import shrink
from triportrait.train.objectives.losses import (
    closed_eye_scale,
    density_smoothness,
    depth_loss,
    feature_loss,
    feature_weight,
    l1,
    layer_pairs,
    opacity_loss,
    over_black,
    plane_loss,
    weighed_depth_loss,
)

EYE, MOUTH = 10 / 3, 6.0  # half extents: radii of 4 and 6 pixels
CENTRES = ((8.5, 10.5, EYE), (23.5, 10.5, EYE), (16.5, 24.5, MOUTH))


def face() -> torch.Tensor:
    """Landmarks [1, 68, 2] of a face that is wider than high, so that the larger extent must be found."""
    points = torch.full((68, 2), 1.0)
    for (start, end), (x, y, half) in zip(((36, 42), (42, 48), (48, 68)), CENTRES, strict=True):
        side = torch.arange(end - start) % 2 * 2.0 - 1
        points[start:end, 0], points[start:end, 1] = x + half * side, y + 0.2 * half * side
    return points[None]


def test_eyes_and_mouth_count_more_and_the_mean_is_one():
    weight = feature_weight(torch.cat([face(), face().flip(-1)]), 32, 5.0)
    assert weight.shape == (2, 1, 32, 32)
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.ones(2))
    raw = np.ones((32, 32))
    for i in range(32):
        for j in range(32):
            bumps = [
                math.exp(-0.5 * ((j + 0.5 - x) ** 2 + (i + 0.5 - y) ** 2) / (0.75 * half + 1.5) ** 2)
                for x, y, half in CENTRES
            ]
            raw[i, j] += 5 * max(bumps)
    np.testing.assert_allclose(weight[0, 0].numpy(), raw / raw.mean(), rtol=1e-5)
    assert torch.equal(weight[1, 0], weight[0, 0].T), "a picture's weight is its own"
    centre = weight[0, 0, 10, 8]
    torch.testing.assert_close(weight[0, 0, 10, 4] / centre, torch.tensor((1 + 5 * math.exp(-0.5)) / 6))
    assert centre > 5.5 * weight[0, 0, 31, 0]
    assert weight[0, 0, 24, 16] > 5.5 * weight[0, 0, 31, 0]


def test_no_factor_weighs_everything_alike():
    assert torch.equal(feature_weight(face(), 16, 0.0), torch.ones(1, 1, 16, 16))


def test_l1_is_the_mean_difference_of_each_picture():
    picture, target = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    picture[0, :, 0, 0], picture[1, 0] = 0.4, -0.8
    torch.testing.assert_close(l1(picture, target), torch.tensor([0.1, 0.8 / 3]))
    weight = torch.tensor([[4.0, 0.0], [0.0, 0.0]]).expand(2, 1, 2, 2)
    torch.testing.assert_close(l1(picture, target, weight), torch.tensor([0.4, 0.8 / 3]))


def test_opacity_is_the_mean_difference_of_each_picture():
    opacity = torch.tensor([[0.0, 0.25], [0.5, 1.0]]).expand(2, 1, 2, 2)
    target = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    torch.testing.assert_close(opacity_loss(opacity, target), torch.tensor([1.75 / 4, 2.25 / 4]))


def test_a_picture_before_black():
    picture = torch.tensor([[1.0, 0.0], [-1.0, 0.5]]).expand(1, 3, 2, 2)
    opacity = torch.tensor([[0.5, 1.0], [1.0, 0.0]])[None, None]
    wanted = torch.tensor([[0.0, 0.0], [-1.0, -1.0]]).expand(1, 3, 2, 2)
    torch.testing.assert_close(over_black(picture, opacity), wanted)


def test_the_head_alone_and_what_is_beside_it():
    """One pixel each: opacity 1, 0.25 and 0; numbers of [0, 1] by hand, doubled and less one."""
    opacity = torch.tensor([1.0, 0.25, 0.0])[None, None, None]  # [1, 1, 1, 3]
    target = 2 * torch.tensor([0.8, 0.6, 0.4]).expand(1, 3, 1, 3) - 1
    head, behind = layer_pairs(torch.full_like(target, 0.5), torch.full_like(target, 0.3), target, opacity)
    for found, wanted in zip(
        (*head, *behind),
        ((0.5, 0.5, 0.5), (0.8, 0.15, 0.0), (0.0, 0.225, 0.3), (0.0, 0.45, 0.4)),
        strict=True,
    ):
        torch.testing.assert_close(found, 2 * torch.tensor(wanted).expand(1, 3, 1, 3) - 1)
    torch.testing.assert_close(l1(*head), torch.tensor([2 * (0.3 + 0.35 + 0.5) / 3]))
    torch.testing.assert_close(l1(*behind), torch.tensor([2 * (0.0 + 0.225 + 0.1) / 3]))


def test_depth_counts_only_where_the_truth_is_opaque():
    depth = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(2, 1, 2, 2).clone().requires_grad_()
    target = torch.tensor([[1.5, 2.25], [3.0, 9.0]]).expand(2, 1, 2, 2)
    opacity = torch.stack([torch.tensor([[[1.0, 1.0], [0.95, 0.9]]]), torch.tensor([[[0.5, 0.9], [0.0, 0.2]]])])
    loss = depth_loss(depth, target, opacity)
    torch.testing.assert_close(loss, torch.tensor([0.75 / 3, 0.0]))
    loss.sum().backward()
    assert depth.grad is not None
    assert bool(depth.grad.isfinite().all())
    torch.testing.assert_close(depth.grad[0, 0], torch.tensor([[-1 / 3, -1 / 3], [0.0, 0.0]]))
    assert not depth.grad[1].any(), "a picture without a head has no depth to learn"


def test_a_smaller_picture_is_a_mean_of_the_larger_one():
    picture = torch.rand(2, 3, 8, 8)
    assert shrink(picture, 8) is picture
    torch.testing.assert_close(shrink(torch.full((1, 3, 64, 64), 0.3), 16), torch.full((1, 3, 16, 16), 0.3))
    ramp = (torch.arange(64.0)[:, None] + 0.5).expand(1, 1, 64, 64)
    blocks = torch.nn.functional.avg_pool2d(ramp, 4)
    torch.testing.assert_close(shrink(ramp, 16)[:, :, 1:-1], blocks[:, :, 1:-1])
    # a tent as wide as two of the new pixels, cut off at the rim
    reach = np.maximum(0, 1 - np.abs((np.arange(8) + 0.5)[None] - 4 * (np.arange(2) + 0.5)[:, None]) / 4)
    reach /= reach.sum(1, keepdims=True)
    wanted = np.einsum("bcij,ki,lj->bckl", picture.numpy(), reach, reach)
    np.testing.assert_allclose(shrink(picture, 2).numpy(), wanted, rtol=1e-5)


def eyes(opening: float, width: float = 10.0) -> torch.Tensor:
    """Landmarks [1, 68, 2] whose lids are so far apart, and whose eyes are so wide; the face is tilted."""
    points = torch.zeros(68, 2)
    for start, x in ((36, 20.0), (42, 50.0)):
        points[start], points[start + 3] = torch.tensor([x, 30.0]), torch.tensor([x + width, 30.0])
        for above, below, at in ((1, 5, 0.3), (2, 4, 0.7)):
            points[start + above] = torch.tensor([x + at * width, 30.0 - opening / 2])
            points[start + below] = torch.tensor([x + at * width, 30.0 + opening / 2])
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    return (points @ turn.T)[None]


def test_closed_eyes_shrink_the_box_by_three_percent():
    scales = [closed_eye_scale(eyes(opening)).item() for opening in (0.0, 1.0, 2.0, 3.0, 9.0)]
    assert [round(scale, 5) for scale in scales] == [0.97, 0.98, 0.99, 1.0, 1.0]
    assert closed_eye_scale(eyes(2.0) * 3).item() == closed_eye_scale(eyes(2.0)).item(), "sizes do not matter"


def ramp() -> tuple[torch.Tensor, FieldWeights]:
    """Planes whose feature rises along x only on the first plane, and a field that reads it: density is its third."""
    planes = torch.zeros(2, 3, 16, 16, 1)
    planes[1, 0] = (torch.arange(16) + 0.5)[None, :, None] / 8 - 1  # x in plane units
    big = 10.0  # softplus is straight there
    weights = FieldWeights(
        torch.ones(1, 1), torch.full((1,), big), torch.ones(1, 1), torch.zeros(1), torch.ones(1, 1), torch.zeros(1)
    )
    return planes, weights


def test_depth_that_is_known_everywhere_counts_by_the_opacity_of_the_truth():
    opacity = torch.tensor([1.0, 0.5, 0.25, 0.0]).view(1, 1, 2, 2)
    off = torch.tensor([1.0, -2.0, 4.0, 8.0]).view(1, 1, 2, 2)
    assert weighed_depth_loss(off + 4, torch.full((1, 1, 2, 2), 4.0), opacity).tolist() == [(1 + 1 + 1 + 0) / 4]
    assert depth_loss(off + 4, torch.full((1, 1, 2, 2), 4.0), opacity).tolist() == [1.0], "where it is opaque alone"


def test_density_that_does_not_change_is_smooth_and_a_ramp_is_not():
    planes, weights = ramp()
    found = density_smoothness(planes, weights, torch.Generator().manual_seed(0))
    assert found[0] == 0
    # a third of the mean |step along x| of 0.008 times a normal number, whose mean size is sqrt(2 / pi); at the border
    # of the box planes fall to 0, which is steeper
    wanted = 0.008 * math.sqrt(2 / math.pi) / 3
    assert 1.0 < found[1].item() / wanted < 1.6, (found, wanted)
    twice = density_smoothness(2 * planes, weights, torch.Generator().manual_seed(0))
    assert abs(twice[1].item() / found[1].item() - 2) < 0.01
    again = density_smoothness(planes, weights, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


def test_planes_are_compared_at_points_and_features_everywhere():
    planes, _ = ramp()
    points = 0.65 * torch.tensor([[[0.5, 0.0, 0.0], [0.25, 0.9, 0.9]]]).expand(2, 2, 3)  # scene units
    truth = GeneratedTruth(points, torch.zeros(2, 2, 1), torch.zeros(2, 3, 4, 4))
    found = plane_loss(planes, None, truth, 1.3)
    torch.testing.assert_close(found, torch.tensor([0.0, (0.5 + 0.25) / 2 / 3]), atol=1e-6, rtol=0)
    moved = torch.tensor([0.065, 0.0, 0.0, 0.0])  # by the neck: 0.1 of plane units, where a point is looked up
    neck = NeckGrid(moved.expand(2, 4, 4, 4, 4), moved[:3].expand(2, 3, 3, 3, 3), 4.0, 0.01)
    found = plane_loss(planes, neck, truth, 1.3)
    torch.testing.assert_close(found, torch.tensor([0.0, (0.6 + 0.35) / 2 / 3]), atol=1e-6, rtol=0)
    one = torch.tensor([1.0, -3.0])[:, None, None, None].expand(2, 4, 2, 2)
    assert feature_loss(one, torch.zeros(2, 4, 2, 2)).tolist() == [1.0, 3.0]
