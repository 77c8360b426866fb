"""Inception-v3 of FID and KID, from the blocks of the `torch-fidelity` package and the user's file of its weights.

It is Google's network of 5 December 2015, not torchvision's. Tools agree on the network and differ in how pictures are
resized to it, which changes FID by percents: never compare sets that were resized by different rules. Letters: B batch.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.checkpoint import filled
from triportrait.core.errors import InputError
from triportrait.core.metrics.torchvision_ops import beside_torchvision
from triportrait.core.published.networks import networks_of
from triportrait.core.published.unpickle import read_pickle

SIDE = 299  # pixels
Resize = Literal["legacy_pytorch", "legacy_tensorflow", "clean"]
RESIZES: dict[Resize, str] = {
    "legacy_pytorch": "bilinear without antialiasing, as pytorch-fid resizes",
    "legacy_tensorflow": "bilinear as TensorFlow 1 resizes, which torch-fidelity, StyleGAN and EG3D follow",
    "clean": "bicubic with antialiasing, as clean-fid resizes",
}
_UNUSED = ("fc.weight", "fc.bias")  # its 1008 classes


class Inception(nn.Module):
    """The network up to its pooled feature, frozen in evaluation mode.

    Args:
        weights: torch-fidelity's weights-inception-2015-12-05-6726825d.pth, which pytorch-fid calls
            pt_inception-2015-12-05-6726825d.pth; None: random ones, for tests.

    Raises:
        InputError: torch-fidelity is missing, or the file is another.
    """

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        self.layers = nn.Sequential(_layers())
        if weights is not None:
            tensors = networks_of(read_pickle(weights), str(weights)).get("")
            if tensors is None:
                raise InputError(
                    f"{weights}: expected the weights of Inception-v3, got other networks; name another file"
                )
            used = {name: value for name, value in tensors.tensors.items() if not name.endswith("num_batches_tracked")}
            for name in _UNUSED:
                used.pop(name, None)
            filled(self.layers, used, str(weights), "Inception-v3 of 2015-12-05 (FID)")
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor, resize: Resize) -> Tensor:
        """Return the features [B, 2048] of pictures [B, 3, H, W], uint8, resized by one of the rules in use."""
        return self.layers(resized(pictures, resize)).flatten(1)  # type: ignore[no-any-return]


def resized(pictures: Tensor, rule: Resize) -> Tensor:
    """Resize pictures [B, 3, H, W], uint8, to what the network reads: [B, 3, 299, 299], about [-1, 1]."""
    if pictures.dtype != torch.uint8:
        raise InputError(f"Inception: expected pictures of uint8, got {pictures.dtype}; do not scale them")
    if rule == "legacy_pytorch":
        small = F.interpolate(pictures.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return 2 * small - 1
    if rule == "clean":
        from PIL import Image

        channels = [
            np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255)
            for plane in pictures.flatten(0, 1).cpu().numpy().astype(np.float32)
        ]
        small = torch.from_numpy(np.stack(channels)).to(pictures.device).unflatten(0, pictures.shape[:2])
    else:
        with _torch_fidelity():
            from torch_fidelity import interpolate_compat_tensorflow

        small = interpolate_compat_tensorflow.interpolate_bilinear_2d_like_tensorflow1x(
            pictures.float(), (SIDE, SIDE), align_corners=False
        )
    return (small - 128) / 128


def _layers() -> OrderedDict[str, nn.Module]:
    """Return the package's blocks in their order, under the names of the file."""
    with _torch_fidelity():
        from torch_fidelity import feature_extractor_inceptionv3 as blocks

    conv = blocks.BasicConv2d
    return OrderedDict(
        Conv2d_1a_3x3=conv(3, 32, kernel_size=3, stride=2), Conv2d_2a_3x3=conv(32, 32, kernel_size=3),
        Conv2d_2b_3x3=conv(32, 64, kernel_size=3, padding=1), MaxPool_1=nn.MaxPool2d(3, 2),
        Conv2d_3b_1x1=conv(64, 80, kernel_size=1), Conv2d_4a_3x3=conv(80, 192, kernel_size=3),
        MaxPool_2=nn.MaxPool2d(3, 2),
        Mixed_5b=blocks.InceptionA(192, pool_features=32), Mixed_5c=blocks.InceptionA(256, pool_features=64),
        Mixed_5d=blocks.InceptionA(288, pool_features=64), Mixed_6a=blocks.InceptionB(288),
        Mixed_6b=blocks.InceptionC(768, channels_7x7=128), Mixed_6c=blocks.InceptionC(768, channels_7x7=160),
        Mixed_6d=blocks.InceptionC(768, channels_7x7=160), Mixed_6e=blocks.InceptionC(768, channels_7x7=192),
        Mixed_7a=blocks.InceptionD(768), Mixed_7b=blocks.InceptionE_1(1280), Mixed_7c=blocks.InceptionE_2(2048),
        AvgPool=nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip


def _torch_fidelity() -> AbstractContextManager[None]:
    return beside_torchvision("torch-fidelity", "leave FID and KID out")
