"""Deep3DFaceRecon (Deng 2019): one aligned face becomes 257 coefficients of the Basel Face Model.

AED compares the 64 of the expression, APD the 3 angles of the head. The network keeps the published names of its
tensors. Letters: B batch, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from triportrait.core.metrics.resnet50 import WIDTH, ResNet50
from triportrait.core.motion.flame import rotation_vectors

CROP = 224  # pixels
SIZES = (80, 64, 80, 3, 27, 2, 1)  # identity, expression, texture, angles, lighting, shift across and up, towards
FOCAL, CAMERA_Z = 1015.0, 10.0  # pixels of the crop; decimetres from the head's origin
# the angles at which FLAME's canonical head faces the camera as the Basel Face Model does at zero, radians
FLAME_OFFSET = (0.08489475, 0.002882, 0.00353599)


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of B faces.

    Attributes:
        identity: [B, 80].
        expression: [B, 64].
        texture: [B, 80].
        angles: [B, 3] radians about x, y and z.
        lighting: [B, 27], nine spherical harmonics of red, of green and of blue.
        translation: [B, 3] decimetres.
    """

    identity: Tensor
    expression: Tensor
    texture: Tensor
    angles: Tensor
    lighting: Tensor
    translation: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Coefficients:
        """Split what the network gives, [B, 257]."""
        identity, expression, texture, angles, lighting, *translation = values.split(SIZES, dim=1)
        return cls(identity, expression, texture, angles, lighting, torch.cat(translation, 1))


class FaceReconstructor(nn.Module):
    """Deep3DFaceRecon's network."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet50(caffe=False)
        self.final_layers = nn.ModuleList(nn.Conv2d(WIDTH, size, 1) for size in SIZES)

    def forward(self, face: Tensor) -> Tensor:
        """Return the coefficients [B, 257] of aligned faces [B, 3, 224, 224], RGB in [0, 1]."""
        feature = self.backbone(face)[..., None, None]
        return torch.cat([layer(feature) for layer in self.final_layers], 1).flatten(1)


def head_rotation(angles: Tensor) -> Tensor:
    """Return the rotations Rz Ry Rx [B, 3, 3] of angles [B, 3] about x, y and z, in radians."""
    x, y, z = (_about(axis, angles[:, axis]) for axis in range(3))
    return z @ y @ x


def project(points: Tensor, angles: Tensor, translation: Tensor) -> Tensor:
    """Project points of the face into the crop.

    Args:
        points: [B, P, 3] decimetres, x right, y up, z towards the viewer.
        angles: [B, 3] radians.
        translation: [B, 3] decimetres.

    Returns:
        [B, P, 2] pixels of the crop of 224, x to the right and y **up**.
    """
    placed = points @ head_rotation(angles).mT + translation[:, None]
    return FOCAL * placed[..., :2] / (CAMERA_Z - placed[..., 2:]) + CROP / 2


def flame_head_rotation(angles: Tensor) -> Tensor:
    """Return the rotation vectors [B, 3], in radians, that turn FLAME's canonical head as the angles [B, 3] say."""
    offset = torch.tensor([FLAME_OFFSET], dtype=angles.dtype, device=angles.device)
    return rotation_vectors(head_rotation(offset) @ head_rotation(angles))


def _about(axis: int, angle: Tensor) -> Tensor:
    """Return the right-handed rotations about one axis, [B, 3, 3]."""
    following, last = (axis + 1) % 3, (axis + 2) % 3
    rotation = torch.zeros(len(angle), 3, 3, dtype=angle.dtype, device=angle.device)
    rotation[:, axis, axis] = 1
    rotation[:, following, following] = rotation[:, last, last] = angle.cos()
    rotation[:, following, last], rotation[:, last, following] = -angle.sin(), angle.sin()
    return rotation
