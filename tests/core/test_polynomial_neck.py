"""The neck of a mean head: polynomials of its rotation."""

from __future__ import annotations

import pytest
import torch

from triportrait.core.checkpoint import demo_weights, load_portrait, save_weights
from triportrait.core.config import NeckConfig, tiny
from triportrait.core.errors import InputError
from triportrait.core.motion.polynomial_neck import LIMITS, PolynomialNeck, fit_polynomial_neck
from triportrait.core.types import NeckGrid

CONFIG = NeckConfig(fine_size=3, coarse_size=2)
NOT_READ = torch.zeros(1, 1)


def cubic(rotation: torch.Tensor) -> NeckGrid:
    """Grids whose numbers are polynomials of degree three."""
    x, y, z = rotation[0]
    values = 0.1 + x + 0.5 * y * z - x * y * y + torch.arange(27 * 4 + 8 * 3) * (z + y**3) / 50
    return NeckGrid(values[:108].view(1, 3, 3, 3, 4), values[108:].view(1, 2, 2, 2, 3), 1.3, 3e-3)


def turned(neck: PolynomialNeck, rotation: torch.Tensor) -> NeckGrid:
    return neck(NOT_READ, NOT_READ, rotation, NOT_READ, NOT_READ)


def test_it_gives_what_was_fitted_and_a_batch_is_its_members():
    neck = PolynomialNeck(CONFIG, 1.3, fit_polynomial_neck(cubic))
    rotations = torch.tensor([[0.2, -0.5, 0.1], [-0.3, 0.3, 0.0], [0.0, 0.0, 0.0]])
    batch = turned(neck, rotations)
    for row, rotation in enumerate(rotations):
        expected = cubic(rotation[None])
        torch.testing.assert_close(batch.fine[row, ..., :3], expected.fine[0, ..., :3], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batch.coarse[row], expected.coarse[0], rtol=1e-4, atol=1e-5)
    assert batch.near_squared_distance == CONFIG.near_squared_distance
    assert batch.box_side == 1.3
    assert (batch.fine[..., 3] >= 0).all(), "a squared distance"


def test_a_neck_that_turns_too_far_stays_at_the_limit():
    neck = PolynomialNeck(CONFIG, 1.3, fit_polynomial_neck(cubic))
    far, limit = (turned(neck, torch.tensor([r])) for r in ((0.0, 3.0, -9.0), (0.0, LIMITS[1], -LIMITS[2])))
    assert torch.equal(far.fine, limit.fine)
    assert torch.equal(far.coarse, limit.coarse)


def test_the_package_s_head_turns_and_a_straight_neck_moves_nothing():
    neck = load_portrait(demo_weights()).neck
    assert isinstance(neck, PolynomialNeck)
    straight, aside = (turned(neck, torch.tensor([r])) for r in ((0.0, 0.0, 0.0), (0.0, 0.3, 0.0)))
    assert straight.fine[..., :3].abs().max() < 1e-6
    assert straight.coarse.abs().max() < 1e-6
    # a point in front of the nose came from where the head's turn by 0.3 rad about y had taken it
    nose = torch.tensor([0.0, 0.0, 0.35])
    i, j, k = ((nose / 1.3 + 0.5) * 12).floor().long().tolist()
    centre = (torch.tensor([i, j, k]) + 0.5) / 12 * 1.3 - 0.65
    cos, sin = torch.tensor(0.3).cos(), torch.tensor(0.3).sin()
    back = torch.tensor([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    torch.testing.assert_close(aside.fine[0, i, j, k, :3], back @ centre - centre, rtol=0, atol=0.01)


def test_tables_of_other_grids_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"neck: expected the tables .* make them again"):
        PolynomialNeck(CONFIG, 1.3, {"coefficients": torch.zeros(20, 7)})
    portrait = load_portrait(demo_weights())
    save_weights(tmp_path, "portrait", portrait.state_dict(), tiny(), {})
    assert load_portrait(tmp_path).neck is None
    save_weights(tmp_path, "neck", {"coefficients": torch.zeros(20, 7)}, None, {})
    with pytest.raises(InputError, match="neck: expected the tables"):
        load_portrait(tmp_path)
