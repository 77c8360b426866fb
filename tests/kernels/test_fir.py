"""The [1, 3, 3, 1] filter, against an image spread with zeros and a plain convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.fir import downsample_fir, smooth_fir, upsample_fir

FILTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def filtered(image, gain):
    C = image.shape[1]
    return F.conv2d(image, (FILTER * gain).to(image).expand(C, 1, 4, 4), groups=C)


def test_smoothing_is_the_filter_over_one_ring_of_zeros():
    image = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(smooth_fir(image, 4.0), filtered(F.pad(image, (1, 1, 1, 1)), 4.0))


def test_upsampling_is_the_filter_over_an_image_spread_with_zeros():
    image = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    spread = image.new_zeros(2, 3, 10, 12)
    spread[..., ::2, ::2] = image
    torch.testing.assert_close(upsample_fir(image), filtered(F.pad(spread, (2, 1, 2, 1)), 4.0))


def test_a_constant_stays_constant_inside():
    torch.testing.assert_close(upsample_fir(torch.ones(1, 1, 6, 6))[..., 2:-2, 2:-2], torch.ones(1, 1, 8, 8))


def test_refuses_a_bad_shape_by_name():
    with pytest.raises(ValueError, match=r"image: expected \[B, C, H, W\], got \[3, 4, 4\]"):
        upsample_fir(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("op", [smooth_fir, upsample_fir, downsample_fir])
def test_channels_last_gives_the_same(op):
    image = torch.randn(2, 3, 14, 26)
    last = image.contiguous(memory_format=torch.channels_last)
    with use_backend("triton"):
        one, other = op(image), op(last)
    assert other.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(one, op(image), rtol=1e-5, atol=1e-6)
