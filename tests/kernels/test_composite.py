"""composite: emission and absorption on midpoints."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.kernels.composite import composite, interval_weights


def make(B=2, R=3, S=6, E=4):
    depths = torch.rand(B, R, S).cumsum(-1) + 2
    return torch.randn(B, R, S) * 3, torch.rand(B, R, S, E), depths


def raw_for(density):
    """The raw density whose softplus(. - 1) is this density."""
    return math.log(math.expm1(density)) + 1


def test_a_slab_of_constant_density_transmits_exp_minus_density_times_length():
    depths = torch.linspace(3.0, 5.0, 33)[None, None]
    _, _, opacity = composite(torch.full((1, 1, 33), raw_for(0.7)), torch.ones(1, 1, 33, 1), depths)
    assert 1 - opacity.item() == pytest.approx(math.exp(-0.7 * 2), rel=1e-5)


def test_two_intervals_by_hand():
    depths = torch.tensor([[[1.0, 2.0, 4.0]]])
    feature = torch.tensor([[[[0.0], [1.0], [0.5]]]])
    raw = torch.tensor([[[raw_for(0.5)] * 3]])
    # alpha = 1 - exp(-0.5 * [1, 2]) = [0.3935, 0.6321]; weights = [0.3935, 0.6065 * 0.6321 = 0.3834]
    a, b = 1 - math.exp(-0.5), math.exp(-0.5) * (1 - math.exp(-1.0))
    assert interval_weights(raw, depths)[0, 0].tolist() == pytest.approx([a, b], rel=1e-5)
    pixel, depth, opacity = composite(raw, feature, depths)
    # the midpoints carry features 0.5 and 0.75 at depths 1.5 and 3
    assert pixel.item() == pytest.approx(a * 0.5 + b * 0.75, rel=1e-5)
    assert depth.item() == pytest.approx((a * 1.5 + b * 3) / (a + b), rel=1e-5)
    assert opacity.item() == pytest.approx(a + b, rel=1e-5)


def test_the_midpoint_averages_raw_densities_before_the_activation():
    depths, raw = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[-3.0, 5.0]]])
    expected = 1 - math.exp(-math.log1p(math.exp((-3 + 5) / 2 - 1)))
    assert interval_weights(raw, depths).item() == pytest.approx(expected, rel=1e-6)


def test_nothing_met_is_infinitely_far():
    _, depth, opacity = composite(torch.full((1, 1, 4), -1e4), torch.zeros(1, 1, 4, 1), torch.arange(4.0)[None, None])
    assert opacity.item() == 0
    assert depth.item() == math.inf


def test_opaque_and_coincident_samples_stay_finite():
    raw, feature, depths = make()
    depths[..., 3] = depths[..., 2]
    for scale in (1e4, -1e4):
        pixel, _, opacity = composite(raw.sign() * scale, feature, depths)
        assert pixel.isfinite().all()
        assert (opacity <= 1 + 1e-5).all()


def test_refuses_a_bad_shape_by_name():
    raw, feature, depths = make()
    with pytest.raises(ValueError, match=r"depths: expected \[B, R, S\] with B=2 from raw_density"):
        composite(raw, feature, depths[:, :, :-1])


def test_refuses_nothing_to_composite():
    with pytest.raises(ValueError, match=r"feature: expected \[B, R, S, E\] with S, E >= 1, got \[1, 2, 0, 3\]"):
        composite(torch.zeros(1, 2, 0), torch.zeros(1, 2, 0, 3), torch.zeros(1, 2, 0))
