"""The dual discriminator (section 4.2) sees picture, ray grid, correspondence map and mask together, and the camera.

A residual network halves the stack of all four down to 4 x 4; the camera's mapping decides along which direction the
result is read (projection). Weights are stored at unit scale and multiplied by 1 / sqrt(fan-in) when they are used.
Activation and filters are differentiable twice, as R1 needs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.native_bf16 import multiplies_bf16
from triportrait.core.unit_scale import Linear, unit_moment
from triportrait.kernels.bias_act import GAIN, LEAK, bias_leaky_relu
from triportrait.kernels.fir import downsample_fir, smooth_fir

LABEL_WIDTH = 25  # cam2world row by row, then the normalised intrinsics
IN_CHANNELS = 10  # picture, ray grid, correspondence map: 3 each; mask: 1
STD_FLOOR = 1e-8


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The sizes of the dual discriminator.

    Attributes:
        image_size: S of the pictures, a power of two from 8.
        base: channels at a side s are base / s, at most `widest`.
        mapping_layers: layers after the embedding of the camera. mapping_rate: factor on their learning rate.
        group: size of the groups whose standard deviation the last layers see; left-over samples join a group.
        half_from: blocks on sides from this one on run in bfloat16, on devices of `half_on`.
        half_on: kinds of device that do so, where the hardware multiplies bfloat16. The published network runs these
            blocks in float16 and clamps activations at 256; there the generator's gradient, of a mean over all pixels
            times a weight of 0.01, is below the smallest number: it is zero while the discriminator is young.
    """

    image_size: int = 512
    base: int = 32768
    widest: int = 512
    mapping_layers: int = 8
    mapping_rate: float = 0.01
    group: int = 2
    half_from: int = 64
    half_on: tuple[str, ...] = ("cuda",)

    def width(self, side: int) -> int:
        """Return the channels at a side."""
        return min(self.base // side, self.widest)


class InputStack(nn.Module):
    """The four inputs of the discriminator, stacked to [B, 10, S, S]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor, raw: Tensor, uv: Tensor, mask: Tensor) -> Tensor:
        """Stack image [B, 3, S, S], raw [B, 3, h, h], uv [B, 3, S, S] and mask [B, 1, h, h], all in [-1, 1]."""
        raw, mask = (_resized(x, self.size) for x in (raw, mask))
        return torch.cat([image, raw, uv, mask], 1)


class Conv(nn.Module):
    """A convolution at unit scale, with an optional bias, leaky ReLU and gain after it; it may halve the size."""

    def __init__(
        self, in_width: int, out_width: int, kernel: int, halves: bool = False, activates: bool = True
    ) -> None:
        super().__init__()
        self.halves, self.activates = halves, activates
        self.weight = nn.Parameter(torch.randn(out_width, in_width, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_width)) if activates else None

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """Map [B, I, H, W] to [B, O, H, W], or half the size; `gain` multiplies the result."""
        kernel = self.weight.shape[2]
        weight = (self.weight / math.sqrt(self.weight[0].numel())).to(x.dtype)
        if self.bias is None:
            return F.conv2d(downsample_fir(x) if self.halves else x, weight * gain)
        if self.halves:  # a ring of two zeros: the filter takes three of four rows more, the kernel the rest
            x = F.conv2d(smooth_fir(F.pad(x, (1, 1, 1, 1))), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=kernel // 2)
        return bias_leaky_relu(x, self.bias.to(x.dtype), LEAK, GAIN * gain)


class Block(nn.Module):
    """A residual block of two convolutions, which halves the size."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv0 = Conv(in_width, in_width, 3)
        self.conv1 = Conv(in_width, out_width, 3, halves=True)
        self.skip = Conv(in_width, out_width, 1, halves=True, activates=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, I, H, W] to [B, O, H/2, W/2]."""
        return self.skip(x, math.sqrt(0.5)) + self.conv1(self.conv0(x), math.sqrt(0.5))


class CameraMapping(nn.Module):
    """The mapping of a camera to the direction along which the discriminator reads."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.embed = Linear(LABEL_WIDTH, config.widest, activates=False)
        self.layers = nn.ModuleList(
            Linear(config.widest, config.widest, activates=True, lr_multiplier=config.mapping_rate)
            for _ in range(config.mapping_layers)
        )

    def forward(self, label: Tensor) -> Tensor:
        """Map [B, 25] to [B, D]."""
        x = unit_moment(self.embed(label))
        for layer in self.layers:
            x = layer(x)
        return x


class Discriminator(nn.Module):
    """The dual discriminator, whose logits are large for pictures that look real under their camera."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        sides = [config.image_size >> i for i in range(config.image_size.bit_length() - 3)]  # S ... 8
        widths = [config.width(side) for side in (*sides, 4)]
        self.stack = InputStack(config.image_size)
        self.stem = Conv(IN_CHANNELS, widths[0], 1)
        self.blocks = nn.ModuleList(Block(i, o) for i, o in itertools.pairwise(widths))
        self.mapping = CameraMapping(config)
        last = widths[-1]
        self.conv = Conv(last + 1, last, 3)
        self.fc = Linear(last * 16, last, activates=True)
        self.out = Linear(last, config.widest, activates=False)

    def forward(self, image: Tensor, raw: Tensor, uv: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        """Return logits [B, 1] of pictures, as in `InputStack`, and cameras [B, 25]."""
        x = self.stack(image, raw, uv, mask)
        side, halves = self.config.image_size, self._runs_half(x.device)
        for i, block in enumerate(self.blocks):
            x = x.to(torch.bfloat16 if halves and side >= self.config.half_from else torch.float32)
            if i == 0:
                x = self.stem(x)
            x, side = block(x), side // 2
        x = _append_minibatch_std(x.float(), self.config.group)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        direction = self.mapping(label)
        return (x * direction).sum(1, keepdim=True) / math.sqrt(direction.shape[1])

    def _runs_half(self, device: torch.device) -> bool:
        """Tell whether blocks run in bfloat16 on a device; an older GPU only emulates it."""
        return device.type in self.config.half_on and (device.type != "cuda" or multiplies_bf16(device))


def _resized(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _append_minibatch_std(x: Tensor, group: int) -> Tensor:
    """Append a channel with the standard deviation within each group of samples, averaged over everything else.

    With G groups sample i is in group i % G; where B is not divisible by G, the first groups have one sample more.
    """
    B, _, H, W = x.shape
    groups = max(1, B // group)
    if B % groups:
        parts = [x[first::groups].var(0, correction=0) for first in range(groups)]
        variance = torch.stack(parts)
    else:
        variance = x.unflatten(0, (-1, groups)).var(0, correction=0)
    std = (variance + STD_FLOOR).sqrt().mean((1, 2, 3))  # [G]
    return torch.cat([x, std.repeat(-(-B // groups))[:B, None, None, None].expand(-1, 1, H, W)], 1)
