"""Define how well views of one head agree, without its truth: what one view shows is looked for in another.

Each pixel of view A is lifted by A's depth to a point in the world, and the point is projected into view B. There it is
seen (B's depth agrees), hidden (B sees something nearer) or contradicted (B looks through it, at something farther or
at the background). Seen pixels are compared. Letters: S side of the pictures, h side of the ray grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.render.mesh_pictures import picture_points
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import Camera
from triportrait.train.evaluation.image_metrics import LEAST_ERROR, OPAQUE
from triportrait.train.evaluation.metrics.measures import MM, Measure

SEEN_MM = 10.0
TRANSPARENT = 0.1
_WHOLE = 0.999  # of the weight of the four rays around a pixel

MEASURES = (
    Measure(
        "reprojection_psnr", "PSNR",
        "Peak signal to noise ratio, on [0, 1], between the colours of A and those that B has at the same points, over"
        " the seen pixels of all pairs.",
        "dB", "higher", needs_truth=False,
    ),
    Measure(
        "reprojection_seen", "seen",
        f"Share of A's opaque pixels whose point lies within {SEEN_MM:g} mm of what B sees there.",
        "", "higher", needs_truth=False,
    ),
    Measure(
        "reprojection_contradicted", "contradicted",
        f"Share of A's opaque pixels whose point B looks through: B sees the background there, or something more than"
        f" {SEEN_MM:g} mm farther. The rest is hidden from B, or at its silhouette.",
        "", "lower", needs_truth=False,
    ),
    Measure(
        "depth_disagreement_mm", "depths",
        "Mean difference between a point's distance from B's camera and the depth that B has there, over points that B"
        " does not hide and that lie inside its silhouette.",
        "mm", "lower", needs_truth=False,
    ),
    Measure(
        "relief_mm", "relief",
        "Root mean square distance of A's points from the plane that fits them best, the mean over views. It tells a"
        " flat picture, on which all views agree, from a head.",
        "mm", None, needs_truth=False,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """One picture of a head, with depth.

    Attributes:
        image: [3, S, S] in [-1, 1].
        depth: [h, h] along the unit ray, scene units.
        opacity: [h, h] in [0, 1].
        camera: one camera.
    """

    image: Tensor
    depth: Tensor
    opacity: Tensor
    camera: Camera


def compare_views(views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Return every measure of `MEASURES` by its name; NaN where it is not defined.

    Args:
        views: pictures of one head that does not move.
        pairs: (A, B), places in `views`.
    """
    found = [_reproject(views[a], views[b]) for a, b in pairs]
    opaque, seen, contradicted, unhidden = (
        sum(getattr(one, name) for one in found) for name in ("opaque", "seen", "contradicted", "unhidden")
    )
    error = sum(one.squared_error for one in found) / seen if seen else math.nan
    return {
        "reprojection_psnr": -10 * math.log10(max(error, LEAST_ERROR)) if seen else math.nan,
        "reprojection_seen": seen / opaque if opaque else math.nan,
        "reprojection_contradicted": contradicted / opaque if opaque else math.nan,
        "depth_disagreement_mm": MM * sum(one.difference for one in found) / unhidden if unhidden else math.nan,
        "relief_mm": _mean([_relief(view) for view in views]),
    }


@dataclass(frozen=True)
class _Pair:
    """Sums over the pixels of A.

    Attributes:
        opaque, seen, contradicted, unhidden: how many pixels.
        squared_error: of seen pixels, the sum over pixels of the mean over channels on [0, 1].
        difference: of unhidden pixels, the sum of |distance - depth|, scene units.
    """

    opaque: int
    seen: int
    contradicted: int
    unhidden: int
    squared_error: float
    difference: float


def _reproject(a: View, b: View) -> _Pair:
    points, opaque = _lifted(a)
    colours = _unit(a.image).flatten(1).mT[opaque]  # [n, 3]
    points = points[opaque]
    where, distance = projected(points, b.camera)
    in_picture = (where.abs() < 1).all(-1)
    depth_there, solid_there = _depth_at(b, where)
    behind = distance - depth_there
    tolerance = SEEN_MM / MM
    inside = in_picture & solid_there
    seen = inside & (behind.abs() <= tolerance)
    through = in_picture & (sampled(b.opacity[None], where)[0] < TRANSPARENT)
    unhidden = inside & (behind <= tolerance)
    error = (sampled(_unit(b.image), where).mT - colours).square().mean(-1)
    return _Pair(
        opaque=int(opaque.sum()),
        seen=int(seen.sum()),
        contradicted=int((through | (inside & (behind < -tolerance))).sum()),
        unhidden=int(unhidden.sum()),
        squared_error=error[seen].sum().item(),
        difference=behind[unhidden].abs().sum().item(),
    )


def _lifted(view: View) -> tuple[Tensor, Tensor]:
    """Return the points [S², 3] that the pixels of a view show, and which of them are of the head, bool [S²]."""
    size = view.image.shape[-1]
    origins, directions = camera_rays(view.camera, size)
    solid = (view.opacity > OPAQUE).to(view.depth)
    depth, weight = (
        F.interpolate(grid[None, None], size=(size, size), mode="bilinear", align_corners=False).flatten()
        for grid in (view.depth * solid, solid)
    )
    return origins[0] + directions[0] * depth[:, None], weight > _WHOLE


def projected(points: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Project points [n, 3] to places [n, 2] in [-1, 1], x right and y down, and their distances [n] from it."""
    distance = (points - camera.world_from_camera[0, :3, 3]).norm(dim=-1)
    return picture_points(points[None], camera, 2)[0, :, :2] - 1, distance


def _depth_at(view: View, where: Tensor) -> tuple[Tensor, Tensor]:
    """Read the depth at places [n, 2]: [n] scene units, and bool [n], whether all four rays around them are solid."""
    solid = (view.opacity > OPAQUE).to(view.depth)
    depth, weight = sampled(torch.stack([view.depth * solid, solid]), where)
    return depth, weight > _WHOLE


def sampled(image: Tensor, where: Tensor) -> Tensor:
    """Read an image [C, H, W] at places [n, 2] in [-1, 1], bilinearly: [C, n]."""
    return F.grid_sample(image[None], where[None, None], padding_mode="border", align_corners=False)[0, :, 0]


def _relief(view: View) -> float:
    """Return the root mean square distance of a view's points from the plane that fits them best, mm."""
    points, opaque = _lifted(view)
    if int(opaque.sum()) < 4:
        return math.nan
    points = points[opaque].double()
    spread = torch.linalg.svdvals(points - points.mean(0))
    return MM * spread[-1].item() / len(points) ** 0.5


def _unit(image: Tensor) -> Tensor:
    return (image.clamp(-1, 1) + 1) / 2


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
