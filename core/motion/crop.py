"""From an aligned picture to the crop that the motion encoder reads, in closed form (the published preprocessing).

Letters: B batch, L landmarks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.motion.encoder import CROP_SIZE

ALIGNED_SIZE = 512  # pixels; the landmarks' frame
ANCHORS = ((36, 42), (42, 48), (60, 68))  # of the 68 landmarks: one eye, the other eye, the inner mouth
ANCHOR_TARGETS = ((87.0, 59.0), (137.0, 59.0), (112.0, 120.0))  # pixels of a 224² frame
INNER = (0, 192, 16, 208)  # top, bottom, left, right of that frame: what the encoder sees

# where the alignment (180 pixels per scene unit, around the centre) puts an average frontal face
CENTRED_ANCHORS = ((199.9, 221.7), (311.8, 221.9), (256.0, 342.6))


def anchors_of(landmarks: Tensor) -> Tensor:
    """[B, 68, 2 or 3] landmarks in pixels (y down) -> [B, 3, 2]: eye, eye, inner mouth."""
    return torch.stack([landmarks[:, a:b, :2].mean(1) for a, b in ANCHORS], dim=1)


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """The rotation, scale and shift that bring points nearest to their targets (Umeyama in the plane).

    Args:
        source: [B, L, 2]. target: [L, 2].

    Returns:
        [B, 2, 3], target ≈ A @ (x, y, 1); the identity where all points of a sample coincide.
    """
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(0)
    p, q = source - source_mean, target - target_mean
    spread = p.square().sum((1, 2))
    ok = spread > 1e-12
    spread = torch.where(ok, spread, torch.ones_like(spread))
    cos = (p * q).sum((1, 2)) / spread  # scale times cosine
    sin = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / spread
    turn = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
    shift = target_mean - (turn @ source_mean.mT)[..., 0]
    matrix = torch.cat([turn, shift[..., None]], -1)
    identity = torch.eye(2, 3).to(matrix)
    return torch.where(ok[:, None, None], matrix, identity)


def motion_crop(image: Tensor, landmarks: Tensor | None = None) -> Tensor:
    """Warp the face to its standard place and cut it out.

    Args:
        image: [B, 3, S, S], aligned, in [-1, 1].
        landmarks: [B, 68, 2 or 3] in pixels of the 512² aligned picture, y down, whatever S is. None: the face is
            where the alignment puts an average frontal one.

    Returns:
        [B, 3, 224, 224] in [-1, 1].
    """
    B, _, _, S = image.shape
    anchors = (
        image.new_tensor(CENTRED_ANCHORS).expand(B, 3, 2) if landmarks is None else anchors_of(landmarks).to(image)
    )
    if S != ALIGNED_SIZE:
        anchors = (anchors + 0.5) * (S / ALIGNED_SIZE) - 0.5
    forward = similarity(anchors, image.new_tensor(ANCHOR_TARGETS))  # crop_from_image
    inverse = torch.linalg.inv(torch.cat([forward, forward.new_tensor([[[0.0, 0, 1]]]).expand(B, 1, 3)], 1))[:, :2]
    pixels = torch.arange(CROP_SIZE, device=image.device, dtype=image.dtype)
    ys, xs = torch.meshgrid(pixels, pixels, indexing="ij")
    frame = torch.stack([xs, ys, torch.ones_like(xs)], -1)  # [224, 224, 3]
    at = torch.einsum("bij,hwj->bhwi", inverse, frame)  # image pixels
    warped = F.grid_sample(image, 2 * at / (S - 1) - 1, align_corners=True)
    top, bottom, left, right = INNER
    inner = warped[:, :, top:bottom, left:right]
    return F.interpolate(inner, size=(CROP_SIZE, CROP_SIZE), mode="bilinear", align_corners=False)
