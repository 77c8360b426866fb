"""Cut the crop that the motion encoder reads from an aligned picture, in closed form (the published preprocessing).

Letters: B batch, L landmarks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.motion.pdfgc import CROP_SIZE
from triportrait.kernels.checks import shapes

ALIGNED_SIZE = 512  # pixels; the landmarks' frame
ANCHORS = ((36, 42), (42, 48), (60, 68))  # of the 68 landmarks: one eye, the other eye, the inner mouth
ANCHOR_TARGETS = ((87.0, 59.0), (137.0, 59.0), (112.0, 120.0))  # pixels of a 224² frame
INNER = (0, 192, 16, 208)  # top, bottom, left, right of that frame: what the encoder sees

# What the alignment aims at: 180 pixels per scene unit around the middle, these places of the eyes and mouth corners.
_PIXELS_PER_UNIT, _MIDDLE = 180.0, 256.0
_ALIGNED = ((-0.31148657, 0.19036078), (0.30979887, 0.18972035), (-0.25216928, -0.4813392), (0.2484662, -0.4812824))


def _aligned_anchors() -> tuple[tuple[float, float], ...]:
    left, right, *mouth = ((_MIDDLE + _PIXELS_PER_UNIT * x, _MIDDLE - _PIXELS_PER_UNIT * y) for x, y in _ALIGNED)
    return left, right, ((mouth[0][0] + mouth[1][0]) / 2, (mouth[0][1] + mouth[1][1]) / 2)


CENTRED_ANCHORS = _aligned_anchors()  # where an average frontal face has its anchors in an aligned picture


def anchors_of(landmarks: Tensor) -> Tensor:
    """Average landmarks [B, 68, 2 or 3] in pixels (y down) to [B, 3, 2]: eye, eye, inner mouth."""
    return torch.stack([landmarks[:, a:b, :2].mean(1) for a, b in ANCHORS], dim=1)


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """Find the rotation, scale and shift that bring points nearest to their targets (Umeyama in the plane).

    Args:
        source: [B, L, 2]. target: [L, 2].

    Returns:
        [B, 2, 3], target ≈ A @ (x, y, 1); the identity where all points of a sample coincide.
    """
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(0)
    p, q = source - source_mean, target - target_mean
    spread = p.square().sum((1, 2))
    is_map = spread > 1e-6 * source.square().sum((1, 2)).clamp(min=1e-12)  # the points do not coincide
    spread = torch.where(is_map, spread, torch.ones_like(spread))
    cos = (p * q).sum((1, 2)) / spread  # scale times cosine
    sin = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / spread
    turn = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
    shift = target_mean - (turn @ source_mean.mT)[..., 0]
    matrix = torch.cat([turn, shift[..., None]], -1)
    is_map &= (cos.square() + sin.square()) > 1e-12  # and the map has a size
    identity = torch.eye(2, 3, device=matrix.device, dtype=matrix.dtype)
    return torch.where(is_map[:, None, None], matrix, identity)


def inverse_similarity(matrix: Tensor) -> Tensor:
    """Invert similarities [B, 2, 3] in closed form."""
    cos, sin = matrix[:, 0, 0], matrix[:, 1, 0]
    turn = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2)) / (cos.square() + sin.square())[:, None, None]
    return torch.cat([turn, -turn @ matrix[:, :, 2:]], -1)


def motion_crop(image: Tensor, landmarks: Tensor | None = None, size: int = CROP_SIZE) -> Tensor:
    """Warp the face to its standard place and cut it out.

    Args:
        image: [B, 3, S, S], aligned, in [-1, 1].
        landmarks: [B, 68, 2 or 3] in pixels of the 512² aligned picture, y down, whatever S is. None: the face is
            where the alignment puts an average frontal one.
        size: side of the crop, the motion encoder's `crop_size`.

    Returns:
        [B, 3, size, size] in [-1, 1].

    Raises:
        ValueError: a shape disagrees.
    """
    B, S = image.shape[0], image.shape[-1]
    shapes(image=(image, f"B 3 {S} {S}"))
    if landmarks is not None:
        shapes(image=(image, "B 3 S S"), landmarks=(landmarks, f"B 68 {landmarks.shape[-1]}"))
    return cut(image, crop_map(None if landmarks is None else landmarks.to(image), S).to(image).expand(B, 2, 3), size)


def crop_map(landmarks: Tensor | None, side: int, targets: Tensor | None = None) -> Tensor:
    """Map pixels of the crop's 224² frame to those of a picture of `side` pixels: [B, 2, 3], or one without landmarks.

    The few numbers are computed in closed form, on the device of the landmarks.

    Args:
        landmarks: as of `motion_crop`.
        side: pixels.
        targets: ANCHOR_TARGETS on that device, so that they need not be copied there.
    """
    anchors = torch.tensor(CENTRED_ANCHORS)[None] if landmarks is None else anchors_of(landmarks)
    if side != ALIGNED_SIZE:
        anchors = (anchors + 0.5) * (side / ALIGNED_SIZE) - 0.5
    with torch.autocast(anchors.device.type, enabled=False):  # half precision would be half a pixel off
        targets = anchors.new_tensor(ANCHOR_TARGETS) if targets is None else targets
        return inverse_similarity(similarity(anchors, targets))


def cut(image: Tensor, image_from_crop: Tensor, size: int = CROP_SIZE) -> Tensor:
    """Cut crops [B, 3, size, size] from pictures [B, 3, S, S], placed by the maps [B, 2, 3] of `crop_map`."""
    S = image.shape[-1]
    with torch.autocast(image.device.type, enabled=False):
        top, bottom, left, right = INNER
        rows, columns = (
            torch.arange(a, b, device=image.device, dtype=image.dtype) for a, b in ((top, bottom), (left, right))
        )
        ys, xs = torch.meshgrid(rows, columns, indexing="ij")
        frame = torch.stack([xs, ys, torch.ones_like(xs)], -1)  # [192, 192, 3]
        at = torch.einsum("bij,hwj->bhwi", image_from_crop, frame)  # image pixels
    inner = F.grid_sample(image, 2 * at / (S - 1) - 1, align_corners=True)
    return F.interpolate(inner, size=(size, size), mode="bilinear", align_corners=False, antialias=size < INNER[1])
