"""The terms of Eq. 2 and Eq. 5, each a plain function of a rendering and its truth.

Letters: B batch, S side of a picture, h side of the ray grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.core.motion.neck import warp_of
from triportrait.core.types import NeckGrid
from triportrait.kernels.field import FieldWeights, decode_field
from triportrait.kernels.march import warped
from triportrait.kernels.triplane import sample_triplane
from triportrait.train.data.generated.truth import GeneratedTruth
from triportrait.train.data.upload import upload

EYES_AND_MOUTH = ((36, 42), (42, 48), (48, 68))  # of the 68 landmarks
SPREAD = 0.75  # radius of what counts more, in extents of the eye or mouth
FLOOR_PX = 1.5
LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
EYE_CORNERS = ((36, 39), (42, 45))
CLOSED_SCALE, WIDE_OPEN = 0.97, 0.3
DENSITY_POINTS = 1000
DENSITY_STEP = 0.008  # deviation in plane units: 0.4 % of the box


def feature_weight(landmarks: Tensor, size: int, factor: float) -> Tensor:
    """Return a map that makes eyes and mouth count more; they are under 5 % of the pixels.

    Args:
        landmarks: [B, 68, 2] pixels of a picture of side `size`, the centre of the first pixel at 0.5.
        factor: how much more their centres count.

    Returns:
        [B, 1, size, size]: 1 + factor around each eye and the mouth, 1 far away, divided by its mean.
    """
    pixel = torch.arange(size, device=landmarks.device) + 0.5
    weight = landmarks.new_zeros(len(landmarks), size, size)
    for start, end in EYES_AND_MOUTH:
        points = landmarks[:, start:end]
        centre = points.mean(1)  # [B, 2]
        radius = SPREAD * (points.amax(1) - points.amin(1)).amax(-1) / 2 + FLOOR_PX
        across = (pixel - centre[:, :1]) / radius[:, None]  # [B, S]
        down = (pixel - centre[:, 1:]) / radius[:, None]
        bump = torch.exp(-0.5 * (across[:, None, :].square() + down[:, :, None].square()))
        weight = torch.maximum(weight, bump)
    weight = 1 + factor * weight[:, None]
    return weight / weight.mean((2, 3), keepdim=True)


def l1(picture: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean absolute difference of pictures [B, C, S, S], with a weight [B, 1, S, S] of mean 1 -> [B]."""
    difference = (picture - target).abs()
    return (difference if weight is None else weight * difference).mean((1, 2, 3))


def over_black(picture: Tensor, opacity: Tensor) -> Tensor:
    """Return a picture [B, C, S, S] in [-1, 1] before black, -1, by its opacity [B, 1, S, S] in [0, 1]."""
    return (picture + 1) * opacity - 1


def layer_pairs(
    foreground: Tensor, background: Tensor, target: Tensor, opacity: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the third and fourth pair of the published reconstruction loss: the head alone, and what is beside it.

    The head is compared with the target before black by the target's opacity o, a background b with the target where
    no head is: 2 b (1 - o) - 1 and 2 t (1 - o) - 1, t the target in [0, 1].

    Args:
        foreground, background: [B, 3, h, h] in [0, 1], as of `Rendering`.
        target: [B, 3, h, h] in [-1, 1]. opacity: [B, 1, h, h] of the target.

    Returns:
        (picture, truth) of the head and of the background, each [B, 3, h, h] in [-1, 1].
    """
    beside = 1 - opacity
    return (
        (2 * foreground - 1, over_black(target, opacity)),
        (over_black(2 * background - 1, beside), over_black(target, beside)),
    )


def opacity_loss(opacity: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of opacities [B, 1, h, h] in [0, 1] -> [B]."""
    return (opacity - target).abs().mean((1, 2, 3))


def depth_loss(depth: Tensor, target: Tensor, opacity: Tensor) -> Tensor:
    """Return the mean absolute difference of depths [B, 1, h, h] in scene units where the truth is opaque -> [B]."""
    inside = (opacity > 0.9).float()
    return ((depth - target).abs() * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)


def weighed_depth_loss(depth: Tensor, target: Tensor, opacity: Tensor) -> Tensor:
    """Return the mean over the picture of the absolute difference of depths [B, 1, h, h], weighed by the truth's
    opacity -> [B]: the published term, for truths that have a depth everywhere."""
    return ((depth - target).abs() * opacity).mean((1, 2, 3))


def density_smoothness(planes: Tensor, weights: FieldWeights, rng: torch.Generator) -> Tensor:
    """Return the mean absolute difference of the raw density at random points of the box and beside them, [B].

    The published code scatters its points over a cube that is larger than the box, where planes hold nothing.

    Args:
        planes: [B, 3, H, W, C].
        weights: of the field behind them.
    """
    batch = len(planes)
    points = torch.rand(batch, DENSITY_POINTS, 3, generator=rng, device=rng.device) * 2 - 1  # plane units
    beside = points + DENSITY_STEP * torch.randn(batch, DENSITY_POINTS, 3, generator=rng, device=rng.device)
    density, _ = decode_field(planes.float(), upload(torch.cat([points, beside], 1), planes.device), weights)
    density = density.flatten(1)
    return (density[:, :DENSITY_POINTS] - density[:, DENSITY_POINTS:]).abs().mean(1)


def plane_loss(planes: Tensor, neck: NeckGrid | None, truth: GeneratedTruth, box_side: float) -> Tensor:
    """Return L_T, the mean absolute difference of the mean plane feature at the truth's points -> [B].

    GenHead carries the points to its canonical face, the student undoes the neck's rotation alone: its planes hold the
    expression.

    Args:
        planes: [B, 3, H, W, C] of the network. neck: what undoes the neck's rotation in these views.
        box_side: scene units.
    """
    points = warped(truth.points.float(), warp_of(neck)) * (2 / box_side)
    feature = sample_triplane(planes.float(), points)
    return (feature - truth.plane_feature.float()).abs().mean((1, 2))


def feature_loss(feature: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of feature images [B, C, h, h] -> [B]."""
    return (feature - target).abs().mean((1, 2, 3))


def closed_eye_scale(landmarks: Tensor) -> Tensor:
    """Return the factor [B] by which the static synthesizer's box shrinks where eyes close, as in the published code.

    The synthesizer's lids stay open: its pseudo views are shrunk by up to 3 %, so that closing lids are not taken for
    open ones. The published code measures the opening on FLAME's landmarks before a frontal camera, ours on those of
    the picture.

    Args:
        landmarks: [B, 68, 2] pixels.

    Returns:
        0.97 + 0.1 rho, 0.97 to 1, where rho is the mean opening of the lids over the mean width of the eyes.
    """

    def mean_distance(pairs: tuple[tuple[int, int], ...]) -> Tensor:
        return torch.stack([(landmarks[:, a] - landmarks[:, b]).norm(dim=-1) for a, b in pairs]).mean(0)

    opening, width = mean_distance(LIDS), mean_distance(EYE_CORNERS)
    rho = (opening / width.clamp(min=1e-6)).clamp(0, WIDE_OPEN)
    return (CLOSED_SCALE + 0.1 * rho).clamp(CLOSED_SCALE, 1.0)
