"""The stand-ins for LPIPS: fixed, and blind to nothing that they promise to see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triportrait.core.errors import InputError
from triportrait.core.metrics.torchvision_ops import declare
from triportrait.train.objectives.lpips_distance import Lpips
from triportrait.train.objectives.perceptual import Gradients, RandomFeatures, perceptual

NAMES = ("gradients", "random_features")


def pictures(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side) * 2 - 1


@pytest.mark.parametrize("name", NAMES)
def test_only_equal_pictures_have_no_distance(name):
    distance, one, other = perceptual(name), pictures(), pictures()
    assert torch.equal(distance(one, one.clone()), torch.zeros(2))
    assert (distance(one, other) > 0.05).all()
    nearer = torch.lerp(one, other, 0.3)
    assert (distance(one, nearer) < distance(one, other)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_members(name):
    distance, one, other, weight = perceptual(name), pictures(3), pictures(3), torch.rand(3, 1, 32, 32) + 0.5
    together = distance(one, other, weight)
    alone = [distance(one[i : i + 1], other[i : i + 1], weight[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_gradients_by_hand():
    picture, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    picture[:, :, 0, 0] = 1
    # across -1, 0 and down -1, 0: means of a half each; the colours differ by a quarter
    torch.testing.assert_close(Gradients(levels=1)(picture, target), torch.tensor([(0.5 + 0.5) / 2 + 0.25]))
    weight = torch.tensor([[5.0, 3.0], [2.0, 7.0]])[None, None]
    torch.testing.assert_close(Gradients(levels=1)(picture, target, weight), torch.tensor([(1.5 + 1.0) / 2 + 0.25]))
    # two levels of a picture whose left upper quarter is off by one: 4 of 12 neighbours differ, then 1 of 2
    picture = torch.nn.functional.interpolate(picture, scale_factor=2)
    wanted = (2 * 2 / 12 + 2 * 1 / 2) / 4 + 0.25 / 2
    torch.testing.assert_close(Gradients(levels=2)(picture, torch.zeros(1, 3, 4, 4)), torch.tensor([wanted]))


def test_gradients_see_another_colour_at_the_coarsest_level_only():
    one, colour = pictures(), torch.tensor([0.5, -0.25, 0.1])[:, None, None]
    for levels in (1, 4):
        wanted = colour.abs().mean() / levels  # all gradients agree
        torch.testing.assert_close(Gradients(levels)(one + colour, one), wanted.expand(2))
    stripes = torch.ones(1, 1, 1, 32)
    stripes[..., ::2] = -1  # the mean of each coarse pixel stays
    fine = Gradients()(one + 0.2 * stripes, one)
    torch.testing.assert_close(fine, torch.full((2,), 0.4 / 8), msg="neighbours differ by 0.4, across, at one level")


def test_what_weighs_more_counts_more():
    one = pictures()
    other = one.clone()
    other[..., 4:8, 4:8] += 0.5
    away, there = torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)
    away[..., 20:, 20:], there[..., :16, :16] = 1, 1
    for distance in (Gradients(), RandomFeatures()):
        colours = (distance(one, other, 2 * away) - distance(one, other, away)).abs()
        assert torch.equal(colours, torch.zeros(2)), "nothing differs there"
        more, less = distance(one, other, 3 * there), distance(one, other, there)
        full = distance(one, other)
        rest = distance(one, other, away)  # what no weight touches: the colours of the coarsest level
        torch.testing.assert_close(more - rest, 3 * (less - rest))
        torch.testing.assert_close(less, full)
    assert torch.equal(RandomFeatures()(one, other, away), torch.zeros(2))


def test_random_features_are_fixed_by_their_seed():
    first, second, third = RandomFeatures(), RandomFeatures(), RandomFeatures(seed=1)
    one, other = pictures(), pictures()
    assert torch.equal(first(one, other), second(one, other))
    assert not torch.equal(first(one, other), third(one, other))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_trained_but_the_picture(name):
    distance, picture = perceptual(name), pictures().requires_grad_()
    assert isinstance(distance, nn.Module)
    assert not any(p.requires_grad for p in distance.parameters())
    distance(picture, pictures()).sum().backward()
    assert picture.grad is not None
    assert (picture.grad != 0).float().mean() > 0.9


def test_an_unknown_name_is_one_sentence():
    with pytest.raises(InputError, match=r"^perceptual: expected one of gradients, random_features, lpips, got 'l2'; "):
        perceptual("l2")
    with pytest.raises(InputError, match=r"^lpips: expected the file of VGG-16's weights, got none; name it by --vgg$"):
        perceptual("lpips")


@pytest.mark.parametrize("side", [64, 77, 128])
def test_lpips_compares_ray_grids_of_any_side(side):
    """77 px is one of the sides that the ray grid has while it grows."""
    declare()
    pytest.importorskip("lpips")
    distance, one = Lpips(None), pictures(1, side)
    nearer, further = (one.lerp(-one, share).requires_grad_() for share in (0.1, 0.4))
    found = distance(nearer, one, torch.full((1, 1, side, side), 2.0))
    assert 0 < found < 2 * distance(further, one)
    found.sum().backward()
    assert nearer.grad is not None
    assert (nearer.grad != 0).float().mean() > 0.9
