"""sample_triplane: bilinear, zero outside, the mean of three planes."""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels.triplane import sample_triplane


def make(B=2, P=37, H=5, W=9, C=4, dtype=torch.float32):
    planes = torch.randn(B, 3, H, W, C, dtype=dtype)
    points = torch.rand(B, P, 3, dtype=dtype) * 2.4 - 1.2  # some outside the cube
    return planes, points


def by_hand(plane, u, v):
    """Plane [H, W, C] at one (u, v), texel by texel."""
    H, W, C = plane.shape
    x, y = ((u + 1) * W - 1) / 2, ((v + 1) * H - 1) / 2
    total = torch.zeros(C, dtype=plane.dtype)
    for j in range(H):
        for i in range(W):
            total += max(0.0, 1 - abs(x - i)) * max(0.0, 1 - abs(y - j)) * plane[j, i]
    return total


def test_agrees_with_a_loop_over_texels():
    planes, points = make(dtype=torch.float64)
    result = sample_triplane(planes, points)
    for b in range(2):
        for p in range(37):
            x, y, z = points[b, p].tolist()
            want = (by_hand(planes[b, 0], x, y) + by_hand(planes[b, 1], y, z) + by_hand(planes[b, 2], z, x)) / 3
            torch.testing.assert_close(result[b, p], want)


def test_a_tap_outside_the_plane_is_zero():
    planes = torch.ones(1, 3, 4, 4, 2)
    inside, edge, outside = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [3.0, 3.0, 3.0]
    result = sample_triplane(planes, torch.tensor([[inside, edge, outside]]))
    # at x = 1 the two planes that use x lose half a texel
    torch.testing.assert_close(result[0, :, 0], torch.tensor([1.0, 2 / 3, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_planes_are_looked_up_in_float32(dtype):
    planes, points = make(H=64, W=64, dtype=torch.float64)
    half = sample_triplane(planes.to(dtype), points.float())
    assert half.dtype == dtype
    expected = sample_triplane(planes.to(dtype).double(), points)
    assert (half.double() - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 8, 3), r"points: expected \[B, P, 3\] with B=2 from planes, got \[1, 8, 3\]"),
        ((2, 8, 2), r"points: expected \[B, P, 3\] with B=2 from planes, got \[2, 8, 2\]"),
        ((2, 8), r"points: expected \[B, P, 3\] with B=2 from planes, got \[2, 8\]"),
    ],
)
def test_refuses_a_bad_shape_by_name(shape, message):
    with pytest.raises(ValueError, match=message):
        sample_triplane(make()[0], torch.zeros(shape))
