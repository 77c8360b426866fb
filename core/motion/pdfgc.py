"""PD-FGC: a face crop becomes a motion vector, the expression without identity or pose (Wang et al. 2023).

Letters: B batch, M width of the motion vector: eyes 6, emotion 30, mouth 512.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.motion.encoder import MotionEncoder

CROP_SIZE = 224
_FEATURE_WIDTH = 512
_HOURGLASS_DEPTH = 4


class _ConvBlock(nn.Module):
    """Three pre-activated convolutions whose concatenated outputs are added to a shortcut."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        widths = (in_width, out_width // 2, out_width // 4, out_width // 4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths[:-1])
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(widths))
        resized = in_width != out_width
        self.shortcut_norm = nn.BatchNorm2d(in_width) if resized else None
        self.shortcut = nn.Conv2d(in_width, out_width, 1, bias=False) if resized else None

    def forward(self, x: Tensor) -> Tensor:
        outputs, y = [], x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.relu(norm(y)))
            outputs.append(y)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut(F.relu(self.shortcut_norm(x)))
        return torch.cat(outputs, dim=1) + x


class _Hourglass(nn.Module):
    """Four levels down and up; level 0 is the largest."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.across = nn.ModuleList(_ConvBlock(width, width) for _ in range(depth))
        self.down = nn.ModuleList(_ConvBlock(width, width) for _ in range(depth))
        self.bottom = _ConvBlock(width, width)
        self.up = nn.ModuleList(_ConvBlock(width, width) for _ in range(depth))

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        coarse = self.down[level](F.max_pool2d(x, 2))
        coarse = self.bottom(coarse) if level + 1 == len(self.down) else self.forward(coarse, level + 1)
        coarse = F.interpolate(self.up[level](coarse), size=x.shape[-2:], mode="bilinear", align_corners=False)
        skip = self.across[level](x)
        return skip + coarse


class _FaceNetwork(nn.Module):
    """A face alignment network with one hourglass that ends in a feature."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.stem_norm = nn.BatchNorm2d(64)
        self.block1, self.block2, self.block3 = _ConvBlock(64, 128), _ConvBlock(128, 128), _ConvBlock(128, 256)
        self.hourglass = _Hourglass(256, _HOURGLASS_DEPTH)
        self.top = _ConvBlock(256, 256)
        self.last, self.last_norm = nn.Conv2d(256, 256, 1), nn.BatchNorm2d(256)
        self.heatmaps, self.heatmap_norm = nn.Conv2d(256, 68, 1), nn.BatchNorm2d(68)
        self.shrink = nn.Conv2d(68, 1, 3, stride=2, padding=1)
        self.fc = nn.Linear((CROP_SIZE // 8) ** 2, _FEATURE_WIDTH)

    def forward(self, crop: Tensor) -> Tensor:
        x = self.block1(F.relu(self.stem_norm(self.stem(crop))))
        x = self.block3(self.block2(F.max_pool2d(x, 2)))
        x = self.top(self.hourglass(x))
        x = self.heatmaps(F.relu(self.last_norm(self.last(x))))
        x = self.shrink(F.relu(self.heatmap_norm(x)))
        return self.fc(F.relu(x.flatten(1)))


class _OutputLayers(nn.Module):
    """Linear, ReLU, norm, linear; where the published network has them, another ReLU and a last linear layer."""

    def __init__(self, out_width: int | None) -> None:
        super().__init__()
        self.fc1, self.norm = nn.Linear(_FEATURE_WIDTH, _FEATURE_WIDTH), nn.BatchNorm1d(_FEATURE_WIDTH)
        self.fc2 = nn.Linear(_FEATURE_WIDTH, _FEATURE_WIDTH)
        self.embed = None if out_width is None else nn.Linear(_FEATURE_WIDTH, out_width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(self.norm(F.relu(self.fc1(x))))
        return x if self.embed is None else self.embed(F.relu(x))


class PDFGC(MotionEncoder):
    """The motion encoder v, from a 224 x 224 face crop to eyes, emotion and mouth; it is always in evaluation mode."""

    name = architecture = "PD-FGC"
    crop_size, motion_width = CROP_SIZE, 548

    def __init__(self) -> None:
        super().__init__()
        self.face = _FaceNetwork()
        self.mouth, self.head_pose = _OutputLayers(None), _OutputLayers(6)
        self.eyes, self.emotion = _OutputLayers(6), _OutputLayers(30)
        self.eval()

    def train(self, mode: bool = True) -> PDFGC:
        """Stay in evaluation mode: the norms' statistics belong to the published weights."""
        return super().train(False)

    def to_dict(self) -> None:
        """Return nothing, as the published network has one size."""

    def forward(self, crop: Tensor) -> Tensor:
        """Compute the motion vector.

        Args:
            crop: [B, 3, 224, 224] in [-1, 1], from `motion_crop`.

        Returns:
            [B, 548]: eyes 6, emotion 30, mouth 512. The head pose is left out: motion carries no pose.
        """
        feature = self.face(crop)
        return torch.cat([self.eyes(feature), self.emotion(feature), self.mouth(feature)], dim=1)
