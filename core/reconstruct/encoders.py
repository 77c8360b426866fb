"""The encoders that read a source picture once: global features, detail features, the background (section 3.1)."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.config import EncoderConfig

LEAK = 0.01


def with_coordinates(image: Tensor) -> Tensor:
    """Append two channels that say where a pixel is.

    Args:
        image: [B, C, H, W].

    Returns:
        [B, C+2, H, W]; the first new channel runs from -1 to 1 along the width, the second along the height.
    """
    B, _, H, W = image.shape
    x = torch.linspace(-1, 1, W, device=image.device, dtype=image.dtype).expand(B, 1, H, W)
    y = torch.linspace(-1, 1, H, device=image.device, dtype=image.dtype)[:, None].expand(B, 1, H, W)
    return torch.cat([image, x, y], dim=1)


def _conv(in_width: int, out_width: int, size: int = 3, **options: int | bool) -> nn.Conv2d:
    """Make a convolution that keeps the side of the picture at stride 1."""
    dilation = int(options.get("dilation", 1))
    return nn.Conv2d(in_width, out_width, size, padding=dilation * (size // 2), **options)  # type: ignore[arg-type]


class ResidualBlock(nn.Module):
    """A residual block without norms or biases: relu(conv2(relu(conv1(x))) + shortcut(x))."""

    def __init__(self, in_width: int, out_width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_width, out_width, stride=stride, dilation=dilation, bias=False)
        self.conv2 = _conv(out_width, out_width, dilation=dilation, bias=False)
        self.shortcut = (
            nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False)
            if (in_width != out_width or stride > 1)
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class AtrousPyramid(nn.Module):
    """Parallel convolutions of growing reach and the mean of the picture, joined by a 1x1 convolution."""

    def __init__(self, in_width: int, out_width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_conv(in_width, out_width, 1, bias=False)]
            + [_conv(in_width, out_width, dilation=d, bias=False) for d in dilations]
        )
        self.pooled = _conv(in_width, out_width, 1, bias=False)
        self.project = _conv(out_width * (len(dilations) + 2), out_width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.relu(branch(x)) for branch in self.branches]
        parts.append(F.relu(self.pooled(x.mean((2, 3), keepdim=True))).expand_as(parts[0]))
        return F.relu(self.project(torch.cat(parts, dim=1)))


class GlobalEncoder(nn.Module):
    """A dilated ResNet without norms and an atrous pyramid: what the face is, at an eighth of the size."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        widths = config.trunk_widths
        self.stem = nn.Conv2d(5, widths[0], 7, stride=2, padding=3, bias=False)
        stages, in_width = [], widths[0]
        strides_dilations = ((1, 1), (2, 1), (1, 2), (1, 4))  # the last two stages see further instead of shrinking
        for width, count, (stride, dilation) in zip(widths, config.trunk_blocks, strides_dilations, strict=True):
            blocks = [
                ResidualBlock(in_width if i == 0 else width, width, stride if i == 0 else 1, dilation)
                for i in range(count)
            ]
            stages.append(nn.Sequential(*blocks))
            in_width = width
        self.stages = nn.ModuleList(stages)
        self.pyramid = AtrousPyramid(in_width, config.global_width, config.pyramid_dilations)
        self.refine = _conv(config.global_width, config.global_width, bias=False)

    def trunk(self, image: Tensor) -> Tensor:
        """Turn a picture [B, 3, H, W] in [-1, 1] into [B, C, H/8, W/8], the feature before the pyramid."""
        x = F.max_pool2d(F.relu(self.stem(with_coordinates(image))), 3, 2, padding=1)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, image: Tensor) -> Tensor:
        """Turn a picture [B, 3, H, W] in [-1, 1] into global features [B, C, H/8, W/8], not negative."""
        return F.relu(self.refine(self.pyramid(self.trunk(image))))


class DetailEncoder(nn.Module):
    """A few convolutions at half the size: what the skin and the hair look like."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        widths = config.detail_widths
        self.convs = nn.ModuleList(
            [nn.Conv2d(5, widths[0], 7, stride=2, padding=3)] + [_conv(a, b) for a, b in itertools.pairwise(widths)]
        )

    def forward(self, image: Tensor) -> Tensor:
        """Turn a picture [B, 3, H, W] in [-1, 1] into detail features [B, C, H/2, W/2]."""
        x = with_coordinates(image)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAK)
        return x


class _Down(nn.Module):
    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv = _conv(in_width, in_width)
        self.shrink = _conv(in_width, out_width, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shrink(F.leaky_relu(self.conv(x), LEAK))


class _Up(nn.Module):
    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv = _conv(in_width, out_width)
        self.grow = _conv(out_width, out_width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(torch.cat([x, skip], dim=1)), LEAK)
        return self.grow(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class BackgroundEncoder(nn.Module):
    """A U-Net that paints what is behind the head, as features of the renderer, independent of the camera."""

    def __init__(self, config: EncoderConfig, out_width: int) -> None:
        super().__init__()
        widths = config.background_widths
        self.stem = nn.Conv2d(5, widths[0], 3, stride=2, padding=1)
        self.down = nn.ModuleList(_Down(a, b) for a, b in itertools.pairwise(widths))
        self.middle = _conv(widths[-1], widths[-1])
        ups, width = [], widths[-1]
        for i in reversed(range(len(widths))):
            out = widths[max(i - 1, 0)]
            ups.append(_Up(width + widths[i], out))
            width = out
        self.up = nn.ModuleList(ups)
        self.out = _conv(widths[0], out_width)

    def forward(self, image: Tensor) -> Tensor:
        """Turn a picture [B, 3, H, W] in [-1, 1] into logits [B, C, H, W], whose sigmoid is the background."""
        skips = [F.leaky_relu(self.stem(with_coordinates(image)), LEAK)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = F.leaky_relu(self.middle(skips[-1]), LEAK)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip)
        return self.out(x)


def initialize_encoders(detail_encoder: DetailEncoder, background: BackgroundEncoder) -> None:
    """Initialise as published where weights do not come from ImageNet."""
    for conv in detail_encoder.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    for conv in background.modules():
        if isinstance(conv, nn.Conv2d) and conv.bias is not None:
            nn.init.normal_(conv.weight, 0, math.sqrt(2 / (conv.weight[0, 0].numel() * conv.out_channels)))
            nn.init.zeros_(conv.bias)
