"""Pictures of any number of channels from styles: the feature planes, and the background (StyleGAN2's skip form).

A learned 4 x 4 start is doubled until the picture has its size; at every size a 1 x 1 convolution adds to the picture.
The published background runs its larger blocks in float16, clamped at 256; here all of it is float32.
Letters: B batch, H side of a feature map, D width of a style, L styles, C channels of the picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.render.superres import DEMODULATION_FLOOR, Affine
from triportrait.kernels.bias_act import GAIN, LEAK, bias_leaky_relu
from triportrait.kernels.checks import check_choice, shapes
from triportrait.kernels.fir import smooth_fir, upsample_fir

Noise = Literal["const", "random", "none"]
START = 4  # side of the learned start


class ModulatedConv(nn.Module):
    """A 3x3 convolution whose input channels are scaled by each image's style, its output back to unit scale.

    Args:
        in_width, out_width, style_width: channels, and D.
        size: side of the output.
        doubles: the output is twice as large as the input.
    """

    noise_const: Tensor

    def __init__(self, in_width: int, out_width: int, style_width: int, size: int, doubles: bool) -> None:
        super().__init__()
        self.doubles = doubles
        self.weight = nn.Parameter(torch.randn(out_width, in_width, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_width))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.affine = Affine(style_width, in_width)

    def forward(self, x: Tensor, style: Tensor, noise: Noise, rng: torch.Generator | None = None) -> Tensor:
        """Convolve [B, I, H, H] by styles [B, D] to [B, O, H, H], or to twice the side."""
        scale = self.affine(style)  # [B, I]
        squares = self.weight.square().sum((2, 3))  # [O, I]
        back = (scale.square() @ squares.T + DEMODULATION_FLOOR).rsqrt()  # [B, O]
        x = x * scale[..., None, None]
        if self.doubles:  # the stored weight acts as a true convolution here, as a correlation below
            x = smooth_fir(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2), gain=4.0)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = x * back[..., None, None]
        if noise == "const":
            x = x + self.noise_const * self.noise_strength
        elif noise == "random":
            x = x + _drawn(x[:, :1], rng) * self.noise_strength
        return bias_leaky_relu(x, self.bias, LEAK, GAIN)


class ToImage(nn.Module):
    """A 1x1 convolution to the picture's channels, scaled by each image's style, not normalised."""

    def __init__(self, in_width: int, channels: int, style_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, in_width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.affine = Affine(style_width, in_width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Convolve [B, I, H, H] by styles [B, D] to [B, C, H, H]."""
        scale = self.affine(style) / math.sqrt(self.weight.shape[1])
        return F.conv2d(x * scale[..., None, None], self.weight, self.bias)


class SynthesisBlock(nn.Module):
    """One size of the picture: a doubling convolution (not at the start), a plain one, and what they add to it."""

    def __init__(self, in_width: int | None, out_width: int, channels: int, style_width: int, size: int) -> None:
        super().__init__()
        if in_width is not None:
            self.conv0 = ModulatedConv(in_width, out_width, style_width, size, doubles=True)
        self.conv1 = ModulatedConv(out_width, out_width, style_width, size, doubles=False)
        self.to_image = ToImage(out_width, channels, style_width)
        self.num_convs = 1 if in_width is None else 2

    def forward(
        self, x: Tensor, image: Tensor | None, styles: Tensor, noise: Noise, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance features [B, I, H, H] and picture [B, C, H, H] by one size; styles [B, num_convs + 1, D]."""
        if self.num_convs == 2:
            x = self.conv0(x, styles[:, 0], noise, rng)
        x = self.conv1(x, styles[:, -2], noise, rng)
        added = self.to_image(x, styles[:, -1])
        return x, added if image is None else upsample_fir(image) + added


class Synthesis(nn.Module):
    """The network from styles to a picture.

    Args:
        widths: channels of the features at the sides 4, 8, 16, ...
        channels: C of the picture.
        style_width: D.

    Attributes:
        num_styles: L, one style for each convolution and one for the last contribution to the picture. The
            contribution at another size shares the style of the convolution after it.
    """

    def __init__(self, widths: Sequence[int], channels: int, style_width: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(widths[0], START, START))
        self.blocks = nn.ModuleList(
            SynthesisBlock(in_width, out_width, channels, style_width, START << i)
            for i, (in_width, out_width) in enumerate(itertools.pairwise([None, *widths]))
            if out_width is not None
        )
        self.num_styles = 2 * len(widths)

    def forward(self, styles: Tensor, noise: Noise = "const", rng: torch.Generator | None = None) -> Tensor:
        """Compute the picture [B, C, S, S], linear, of styles [B, L, D].

        Args:
            styles: one for each layer.
            noise: "const": the stored noise of each layer. "random": new noise, as in training. "none".
            rng: draws new noise, where it is; None: PyTorch's own generator does.

        Raises: `ValueError` where a shape disagrees, or the noise is unknown.
        """
        shapes(styles=(styles, f"B {self.num_styles} D"))
        check_choice("noise", noise, Noise)
        x, image, first = self.start.expand(len(styles), -1, -1, -1), None, 0
        for block in self.blocks:
            assert isinstance(block, SynthesisBlock)
            x, image = block(x, image, styles[:, first : first + block.num_convs + 1], noise, rng)
            first += block.num_convs
        assert image is not None
        return image


def _drawn(like: Tensor, rng: torch.Generator | None) -> Tensor:
    """Draw standard normal numbers in the shape of a tensor."""
    if rng is None:
        return torch.randn_like(like)
    return torch.randn(like.shape, generator=rng, device=rng.device).to(like)
