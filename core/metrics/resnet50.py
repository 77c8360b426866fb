"""ResNet-50 (He 2015) as a trunk: what is pooled after the last stage, under the names of the published files.

Two forms of it are published. They differ in where a stage shrinks its input, and in how the stem pools.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 2048  # of the pooled feature
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # inner width and number of blocks
EXPANSION = 4


class _Bottleneck(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int, caffe: bool) -> None:
        super().__init__()
        out_width = EXPANSION * width
        first_stride, middle_stride = (stride, 1) if caffe else (1, stride)
        self.conv1 = nn.Conv2d(in_width, width, 1, first_stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, middle_stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width))
            if stride > 1 or in_width != out_width
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


class ResNet50(nn.Module):
    """ResNet-50 without its classifier.

    Args:
        caffe: True for the form of Caffe, where the first 1x1 convolution of a stage has the stride and the stem pools
            without padding; False for v1.5, where the 3x3 convolution has the stride and the stem pools with padding.
    """

    def __init__(self, caffe: bool) -> None:
        super().__init__()
        self.caffe = caffe
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_width = 64
        for i, (width, num_blocks) in enumerate(STAGES, start=1):
            stride = 1 if i == 1 else 2
            blocks = [_Bottleneck(in_width, width, stride, caffe)]
            in_width = EXPANSION * width
            blocks += [_Bottleneck(in_width, width, 1, caffe) for _ in range(1, num_blocks)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))

    def stem(self, image: Tensor) -> Tensor:
        """Return what the first stage reads of images [B, 3, H, W]: [B, 64, H / 4, W / 4]."""
        x = F.relu(self.bn1(self.conv1(image)))
        return F.max_pool2d(x, 3, 2, ceil_mode=True) if self.caffe else F.max_pool2d(x, 3, 2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the feature of images [B, 3, H, W], the mean over the last stage: [B, 2048]."""
        x = self.stem(image)
        for i in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{i}")(x)
        return x.mean((2, 3))
