"""EMOCA's emotion network (Danecek 2022), whose feature AED_f compares; its published names are kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.metrics.resnet50 import WIDTH, ResNet50
from triportrait.core.metrics.warp import similarity_crop

CROP = 224  # pixels
OUTPUTS = 10  # eight classes of AffectNet, valence, arousal
GROWTH = 1.1 * 1.25  # of the landmarks' box, whose side is the mean of width and height


class EmotionNetwork(nn.Module):
    """The network that tells emotion, valence and arousal of a face."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet50(caffe=True)
        self.linear = nn.Linear(WIDTH, OUTPUTS)

    def forward(self, face: Tensor) -> Tensor:
        """Return the feature [B, 2048], not negative, of faces [B, 3, 224, 224], RGB in [0, 1]."""
        return self.backbone(face)  # type: ignore[no-any-return]

    def outputs(self, feature: Tensor) -> Tensor:
        """Return eight classes, valence and arousal [B, 10], before any activation, of features [B, 2048]."""
        return self.linear(feature)  # type: ignore[no-any-return]


def emotion_crop(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Crop the square about a face's landmarks.

    Args:
        image: uint8 [H, W, 3], RGB.
        landmarks: [68, 2 or 3] pixels, the centre of the first pixel at 0.

    Returns:
        float32 [224, 224, 3] in [0, 1], black beyond the picture.

    Raises:
        InputError: the landmarks lie on one point.
    """
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    side = float((high - low).mean()) * GROWTH
    if not side > 0:
        raise InputError("landmarks: expected a face, got points at one place; leave this face out")
    scale = (CROP - 1) / side
    corner = torch.tensor(-scale * ((low + high) / 2 - side / 2), dtype=torch.float32)
    picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    turn, shift = torch.tensor([complex(scale)], dtype=torch.complex64), torch.view_as_complex(corner)[None]
    return similarity_crop(picture, turn, shift, CROP)[0].permute(1, 2, 0).numpy()
