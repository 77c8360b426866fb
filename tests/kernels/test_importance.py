"""Coarse depths, importance depths and the merge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")  # a GPU's image may lack it
from hypothesis import given, settings
from hypothesis import strategies as st

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.importance import importance_depths, merge_samples, stratified_depths


def test_even_depths_and_their_jitter():
    near, far = torch.tensor([2.0, 3.0]), torch.tensor([4.0, 6.0])
    assert stratified_depths(near, far, 3).tolist() == [[2.0, 3.0, 4.0], [3.0, 4.5, 6.0]]
    jitter = torch.tensor([[0.0, 0.5, 0.9], [0.5, 0.0, 0.0]])
    moved = stratified_depths(near, far, 3, jitter)
    torch.testing.assert_close(moved, torch.tensor([[2.0, 3.5, 4.9], [3.75, 4.5, 6.0]]))


def by_hand(depths, weights, uniforms):
    """One ray, as the definition reads, in float64."""
    S = len(depths)
    padded = np.concatenate([[-np.inf], weights, [-np.inf]])
    peak = np.maximum(padded[:-1], padded[1:])
    smooth = (peak[:-1] + peak[1:]) / 2 + 0.01
    pdf = smooth[1 : S - 2] + 1e-5
    cdf = np.concatenate([[0], np.cumsum(pdf / pdf.sum())])
    middles = (depths[1:] + depths[:-1]) / 2
    result = []
    for u in uniforms:
        right = int(np.searchsorted(cdf, u, side="right"))
        below, above = max(right - 1, 0), min(right, len(cdf) - 1)
        width = cdf[above] - cdf[below]
        width = 1.0 if width < 1e-5 else width
        result.append(middles[below] + (u - cdf[below]) / width * (middles[above] - middles[below]))
    return np.array(result)


def test_agrees_with_the_definition_ray_by_ray():
    depths = torch.rand(2, 5, 9, dtype=torch.float64).cumsum(-1)
    weights, uniforms = torch.rand(2, 5, 8, dtype=torch.float64) ** 4, torch.rand(2, 5, 11, dtype=torch.float64)
    result = importance_depths(depths, weights, uniforms)
    for b in range(2):
        for r in range(5):
            expected = by_hand(depths[b, r].numpy(), weights[b, r].numpy(), uniforms[b, r].numpy())
            np.testing.assert_allclose(result[b, r].numpy(), expected, rtol=1e-12)


def test_samples_gather_where_the_weight_is():
    depths = torch.linspace(0, 1, 48)[None, None]
    weights = torch.zeros(1, 1, 47)
    weights[..., 30] = 1.0  # between depths 30/47 and 31/47
    fine = importance_depths(depths, weights, torch.linspace(0, 1, 48)[None, None])
    assert ((fine - 30.5 / 47).abs() < 2.5 / 47).float().mean() > 0.7


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 12), st.integers(1, 9), st.sampled_from([0.0, 1e-30, 1.0, 1e4]), st.integers(0, 10_000))
def test_depths_stay_between_the_midpoints_whatever_the_weights(S, N, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    depths = torch.rand(1, 2, S, generator=generator).cumsum(-1)
    weights = torch.rand(1, 2, S - 1, generator=generator) * scale
    uniforms = torch.rand(1, 2, N, generator=generator)
    uniforms[..., 0] = 1.0
    fine = importance_depths(depths, weights, uniforms)
    middles = (depths[..., 1:] + depths[..., :-1]) / 2
    assert (fine >= middles[..., :1] - 1e-5).all()
    assert (fine <= middles[..., -1:] + 1e-5).all()


def test_merge_keeps_values_with_their_depths():
    coarse, fine = torch.tensor([[[1.0, 3.0, 5.0]]]), torch.tensor([[[4.0, 0.5]]])
    values = (coarse * 10, fine * 10)
    features = (torch.stack([coarse, -coarse], -1), torch.stack([fine, -fine], -1))
    depths, ten, both = merge_samples((coarse, fine), values, features)
    assert depths[0, 0].tolist() == [0.5, 1.0, 3.0, 4.0, 5.0]
    torch.testing.assert_close(ten, depths * 10)
    torch.testing.assert_close(both, torch.stack([depths, -depths], -1))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_where_depths_coincide_the_first_set_comes_first_and_each_keeps_its_order(backend):
    coarse, fine = torch.tensor([[[1.0, 2.0, 2.0, 3.0]]]), torch.tensor([[[2.0, 3.0, 2.0]]])
    names = torch.arange(4.0)[None, None], torch.arange(10.0, 13.0)[None, None]
    with use_backend(backend):
        depths, merged = merge_samples((coarse, fine), names)
    assert depths[0, 0].tolist() == [1, 2, 2, 2, 2, 3, 3]
    assert merged[0, 0].tolist() == [0, 1, 2, 10, 12, 3, 11]


def test_refuses_weights_that_do_not_fit():
    depths = torch.rand(1, 2, 6).cumsum(-1)
    with pytest.raises(ValueError, match=r"weights: expected \[B, R, S-1\] with S=6 >= 4 from depths, got \[1, 2, 6\]"):
        importance_depths(depths, torch.rand(1, 2, 6), torch.rand(1, 2, 3))
    with pytest.raises(ValueError, match=r"S=3 >= 4"):
        importance_depths(depths[..., :3], torch.rand(1, 2, 2), torch.rand(1, 2, 3))


def test_refuses_values_that_are_not_of_the_samples():
    depths = torch.zeros(1, 2, 3), torch.zeros(1, 2, 2)
    with pytest.raises(
        ValueError, match=r"values_0_0: expected \[B, R, S\] with .*S=3 from depths_0.*, got \[1, 2, 5\]"
    ):
        merge_samples(depths, (torch.zeros(1, 2, 5), torch.zeros(1, 2, 2)))
