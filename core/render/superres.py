"""Super-resolution from the ray grid to the picture: two or four times the size by style-modulated convolutions.

The style of the published network is one constant vector, so the modulated weights are constants too: `fold` multiplies
them out once, and the folded module equals the unfolded one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.config import RenderConfig
from triportrait.core.pixel_shuffle import pixel_shuffle
from triportrait.kernels.bias_act import GAIN, LEAK, bias_leaky_relu
from triportrait.kernels.fir import TAPS, smooth_fir, upsample_fir

DEMODULATION_FLOOR = 1e-8
FEW_PRODUCTS = 1024  # channels in times out: up to here a doubling's filter takes longer than four times the products


class Affine(nn.Module):
    """A linear layer from the style to one factor per input channel; the stored weight has unit scale."""

    def __init__(self, style_width: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, style_width))
        self.bias = nn.Parameter(torch.ones(width))

    def forward(self, style: Tensor) -> Tensor:
        return F.linear(style, self.weight / math.sqrt(self.weight.shape[1]), self.bias)


class StyledConv(nn.Module):
    """A 3x3 convolution whose input channels are scaled by the style and whose output has unit scale again."""

    def __init__(self, in_width: int, out_width: int, style_width: int, doubles: bool) -> None:
        super().__init__()
        self.doubles = doubles
        self.weight = nn.Parameter(torch.randn(out_width, in_width, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_width))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.affine = Affine(style_width, in_width)

    def plain_weight(self, style: Tensor) -> Tensor:
        """Return the weight [O, I, 3, 3] with the style [D] multiplied in and each output channel normalised."""
        weight = self.weight * self.affine(style)[:, None, None]
        return weight * (weight.square().sum((1, 2, 3), keepdim=True) + DEMODULATION_FLOOR).rsqrt()

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        """Convolve [B, I, H, W] to [B, O, H, W], or twice the size; noise [H, W] is added before the bias."""
        return _convolve(
            x, self.plain_weight(style), self.bias, self.doubles, None if noise is None else noise * self.noise_strength
        )


class ToRgb(nn.Module):
    """A 1x1 convolution to three channels, scaled by the style, not normalised."""

    def __init__(self, in_width: int, style_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, in_width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = Affine(style_width, in_width)

    def plain_weight(self, style: Tensor) -> Tensor:
        """Return the weight [3, I, 1, 1] with the style [D] multiplied in."""
        return self.weight * (self.affine(style) / math.sqrt(self.weight.shape[1]))[:, None, None]

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Convolve [B, I, H, W] to [B, 3, H, W]."""
        return F.conv2d(x, self.plain_weight(style), self.bias)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, doubles: bool, noise: Tensor | None = None) -> Tensor:
    if doubles:  # the stored weight acts as a true convolution here, as a correlation below
        x = smooth_fir(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), gain=4.0)
    else:
        x = F.conv2d(x, weight, padding=1)
    if noise is not None:
        x = x + noise
    return bias_leaky_relu(x, bias, LEAK, GAIN)


class SuperresBlock(nn.Module):
    """One doubling of the size: two convolutions, and their contribution to the picture."""

    def __init__(self, in_width: int, out_width: int, style_width: int) -> None:
        super().__init__()
        self.conv0 = StyledConv(in_width, out_width, style_width, doubles=True)
        self.conv1 = StyledConv(out_width, out_width, style_width, doubles=False)
        self.to_rgb = ToRgb(out_width, style_width)


def _at_size(x: Tensor, size: int) -> Tensor:
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


class SuperResolution(nn.Module):
    """The network from features on the ray grid to the picture, whose size each block doubles.

    Convolutions run in the dtype of the weights; the picture is summed in the dtype of `raw_image`.
    """

    style: Tensor

    def __init__(self, config: RenderConfig) -> None:
        super().__init__()
        self.size = config.neural_size
        self.register_buffer("style", torch.zeros(config.style_width))
        widths = (config.plane_width, *config.superres_widths)
        self.blocks = nn.ModuleList(SuperresBlock(a, b, config.style_width) for a, b in itertools.pairwise(widths))

    def forward(self, raw_image: Tensor, feature: Tensor, noises: Sequence[Tensor] | None = None) -> Tensor:
        """Compute the picture, not clamped.

        Args:
            raw_image: [B, 3, h, w], rendered colours in about [-1, 1].
            feature: [B, C, h, w], rendered features in about [-1, 1]. Both are resized to the neural size first.
            noises: maps, one per convolution, at the sizes 2h, 2h, 4h, 4h; none are used at inference.

        Returns:
            [B, 3, S, S], S = neural_size doubled once for each block.
        """
        x, image = _at_size(feature, self.size).to(self.style.dtype), _at_size(raw_image, self.size)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, SuperresBlock)
            noise0, noise1 = (None, None) if noises is None else noises[2 * i : 2 * i + 2]
            x = block.conv1(block.conv0(x, self.style, noise0), self.style, noise1)
            image = upsample_fir(image) + block.to_rgb(x, self.style).to(image.dtype)
        return image

    def fold(self) -> FoldedSuperResolution:
        """Return the same function with the style multiplied into the weights, for inference."""
        return FoldedSuperResolution(self)


def _phases(weight: Tensor) -> Tensor:
    """Join a doubling convolution [O, I, 3, 3] and the filter behind it into one convolution [4 O, I, 3, 3].

    Its channels are the pixels of 2x2 cells.
    """
    O, I = weight.shape[:2]
    taps = weight.new_tensor(TAPS)
    both = F.conv2d(weight.reshape(O * I, 1, 3, 3), 4 * torch.outer(taps, taps)[None, None], padding=3)
    both = both.view(O, I, 3, 2, 3, 2).permute(0, 3, 5, 1, 2, 4)  # 6x6, every second of its rows and columns
    return both.flip(4, 5).reshape(4 * O, I, 3, 3)


class FoldedSuperResolution(nn.Module):
    """`SuperResolution` as plain convolutions.

    The filter behind a doubling convolution is folded in where that is small; elsewhere it stays separate, as it would
    make four times the work.
    """

    def __init__(self, origin: SuperResolution) -> None:
        super().__init__()
        self.size = origin.size
        self.num_blocks = len(origin.blocks)
        with torch.no_grad():
            for i, block in enumerate(origin.blocks):
                assert isinstance(block, SuperresBlock)
                for name, part in (("conv0", block.conv0), ("conv1", block.conv1), ("to_rgb", block.to_rgb)):
                    weight = part.plain_weight(origin.style)
                    if name == "conv0" and weight.shape[0] * weight.shape[1] <= FEW_PRODUCTS:
                        weight = _phases(weight)
                    weight = weight.to(memory_format=torch.channels_last)
                    self.register_buffer(f"{name}_weight_{i}", weight, persistent=False)
                    self.register_buffer(f"{name}_bias_{i}", part.bias.detach().clone(), persistent=False)

    def forward(self, raw_image: Tensor, feature: Tensor) -> Tensor:
        """Compute the picture like `SuperResolution.forward`, without noise."""
        x, image = (
            _at_size(feature, self.size).to(self.get_buffer("conv0_bias_0").dtype),
            _at_size(raw_image, self.size),
        )
        for i in range(self.num_blocks):
            weights = [
                (self.get_buffer(f"{n}_weight_{i}"), self.get_buffer(f"{n}_bias_{i}"))
                for n in ("conv0", "conv1", "to_rgb")
            ]
            (weight, bias), (weight1, bias1), to_rgb = weights
            if len(weight) == len(bias):
                x = _convolve(x, weight, bias, doubles=True)
            else:
                x = bias_leaky_relu(pixel_shuffle(F.conv2d(x, weight, padding=1)), bias, LEAK, GAIN)
            x = _convolve(x, weight1, bias1, doubles=False)
            image = upsample_fir(image) + F.conv2d(x, *to_rgb).to(image.dtype)
        return image
