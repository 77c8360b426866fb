"""lookup_grid: trilinear, nodes at the ends, zero outside."""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels.grid import lookup_grid


def test_a_linear_function_is_reproduced_with_its_axes_in_place():
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in (3, 4, 5)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None]  # the value at a node is its place
    points = torch.rand(1, 40, 3, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(lookup_grid(grid, points), points)


def test_it_fades_to_zero_over_one_cell_outside():
    grid = torch.ones(1, 3, 3, 3, 1)
    points = torch.tensor([[[1.0, 0, 0], [1.5, 0, 0], [2.0, 0, 0], [0, -1.25, 0]]])
    assert lookup_grid(grid, points)[0, :, 0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.75])


def test_refuses_a_bad_shape_by_name():
    with pytest.raises(ValueError, match=r"points: expected \[B, P, 3\] with B=1 from grid, got \[2, 5, 3\]"):
        lookup_grid(torch.zeros(1, 3, 3, 3, 2), torch.zeros(2, 5, 3))
