"""Densities of a head on a regular grid, and the level at which a viewer sees its surface.

Letters: N nodes along an edge of the grid, P points, R rays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.neck import warp_of
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.rays import camera_rays
from triportrait.core.render.volume import VolumeRenderer
from triportrait.core.types import Camera, Head
from triportrait.kernels.field import decode_field
from triportrait.kernels.march import warped

PUBLISHED_LEVEL = 25.0  # raw density at which the published script extracts its mesh, on 128³ nodes
CHUNK = 1 << 18  # points at a time; bounds the memory, changes no density
SEEN = 0.2  # of a ray's light lost: there depths agree best with the true surfaces of procedural heads, see docs/mesh
OPAQUE = 0.95  # of a ray's light lost: it has met a head
LEVEL_RAYS, LEVEL_SAMPLES = 48, 256  # along a side of a view, and on each ray
FEWEST_RAYS = 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DensityGrid:
    """Raw densities at the nodes of a cube.

    Attributes:
        values: [N, N, N] float32 on the CPU; `values[i, j, k]` is the raw density, before the softplus, at the i-th x,
            j-th y and k-th z.
        origin: the first node along each axis, scene units.
        spacing: between neighbouring nodes, scene units.
    """

    values: Tensor
    origin: float
    spacing: float


@torch.inference_mode()
def field_at(volume: VolumeRenderer, head: Head, points: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the field of one head at points in space, through the neck if it turned.

    Args:
        volume: the renderer, which holds the field.
        head: one head.
        points: [P, 3] float32 on the head's device, scene units.

    Returns:
        raw_density [P] float32, before the softplus; colour [P, 3] float32, the raw image's, in [0, 1] sRGB.
    """
    weights = volume.field.weights()
    weights = weights._replace(feature_weight=weights.feature_weight[:3], feature_bias=weights.feature_bias[:3])
    with torch.autocast(points.device.type, enabled=False):
        canonical = warped(points[None], warp_of(head.neck)) * (2 / volume.config.box_side)
        raw_density, colour = decode_field(head.planes, canonical, weights)
    return raw_density[0].float(), colour[0].float().clamp(0, 1)


def density_grid(
    volume: VolumeRenderer, head: Head, resolution: int, published_grid: bool = False,
    progress: Progress | None = None,
) -> DensityGrid:  # fmt: skip
    """Compute the raw densities of one head at resolution³ nodes that span the box from face to face.

    Args:
        volume: the renderer, which holds the field.
        head: one head; its neck turns where `head.neck` says so.
        resolution: N, nodes along an edge, at least 2.
        published_grid: look where the published script looks: it divides the node's number without rounding, so that
            densities come from up to one spacing beside their node, x + (j + k / N) / N and y + k / N spacings.
        progress: called with the nodes that are done and N³.

    Returns:
        The densities. They take 4 N³ bytes.
    """
    half = volume.config.box_side / 2
    spacing = 2 * half / (resolution - 1)
    values = torch.empty(resolution**3)
    device = head.planes.device
    for start in range(0, len(values), CHUNK):
        n = torch.arange(start, min(start + CHUNK, len(values)), device=device)
        z, y, x = n % resolution, n // resolution % resolution, n // resolution**2
        if published_grid:
            y, x = y + z / resolution, x + (y + z / resolution) / resolution
        points = torch.stack([x, y, z], -1) * spacing - half
        values[start : start + len(n)] = field_at(volume, head, points)[0].cpu()
        if progress is not None:
            progress(start + len(n), len(values))
    return DensityGrid(values.view(resolution, resolution, resolution), -half, spacing)


@torch.inference_mode()
def visible_level(volume: VolumeRenderer, head: Head, cameras: Camera | None = None) -> float:
    """Compute the raw density at which a viewer sees the surface of a head.

    It is the median, over the rays that the head stops, of the raw density where a ray has lost `SEEN` of its light.

    Args:
        volume: the renderer, which holds the field.
        head: one head.
        cameras: the views; by default three, from the front and from 30 degrees on either side.

    Raises:
        InputError: hardly a ray is stopped.
    """
    if cameras is None:
        cameras = Camera.cat([turned(fixed_camera(), yaw, 0.0) for yaw in (-math.pi / 6, 0.0, math.pi / 6)])
    cameras = cameras.to(head.planes.device)
    half = volume.config.box_side / 2  # what the renderer samples
    stopped = []
    for view in range(len(cameras.intrinsics)):
        camera = cameras.take([view])
        origins, directions = camera_rays(camera, LEVEL_RAYS)
        middle = float(camera.axis_distance)
        depths = torch.linspace(middle - half, middle + half, LEVEL_SAMPLES, device=directions.device)
        points = origins[0, :, None] + depths[:, None] * directions[0, :, None]  # [R, S, 3]
        raw = torch.cat([field_at(volume, head, part)[0] for part in points.flatten(0, 1).split(CHUNK)])
        raw = raw.view(-1, LEVEL_SAMPLES)
        density = F.softplus((raw[:, 1:] + raw[:, :-1]) / 2 - 1)
        optical_depth = F.pad((density * depths.diff()).cumsum(1), (1, 0))  # [R, S], up to each sample
        raw, optical_depth = (x[optical_depth[:, -1] >= -math.log(1 - OPAQUE)] for x in (raw, optical_depth))
        wanted = optical_depth.new_full((len(raw), 1), -math.log(1 - SEEN))
        after = torch.searchsorted(optical_depth, wanted)
        (low, high), (dim, dense) = ((x.gather(1, after - 1), x.gather(1, after)) for x in (optical_depth, raw))
        stopped.append(torch.lerp(dim, dense, (wanted - low) / (high - low))[:, 0])
    levels = torch.cat(stopped)
    if len(levels) < FEWEST_RAYS:
        raise InputError(
            f"level: expected a head that stops light, {len(levels)} rays of {len(cameras.intrinsics)} views are "
            "stopped; give other weights, or name a raw density where one can be named"
        )
    return float(levels.median())
