"""Densities of a head on a regular grid, and the level at which a viewer sees its surface.

Letters: N nodes along an edge of the grid, P points, R rays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
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
OPAQUE = 0.95  # a ray that stops at least this share of the light has met a surface
FEWEST_OPAQUE = 16  # rays

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

    It is the median, over the rays that the head stops, of the raw density at the depth that volume rendering gives.

    Args:
        volume: the renderer.
        head: one head.
        cameras: the views; by default three, from the front and from 30 degrees on either side.

    Raises:
        InputError: hardly a ray meets the head.
    """
    if cameras is None:
        cameras = Camera.cat([turned(fixed_camera(), yaw, 0.0) for yaw in (-0.52, 0.0, 0.52)])
    cameras = cameras.to(head.planes.device)
    densities = []
    for view in range(len(cameras.intrinsics)):
        camera = cameras.take([view])
        samples = volume(head.planes, camera, head.neck, ringed_planes=head.ringed_planes)
        origins, directions = camera_rays(camera, volume.config.neural_size)
        seen = samples.opacity[0] >= OPAQUE
        points = origins[0] + samples.depth[0, :, None] * directions[0]
        densities.append(field_at(volume, head, points[seen])[0])
    stopped = torch.cat(densities)
    if len(stopped) < FEWEST_OPAQUE:
        raise InputError(
            f"level: expected a head that stops the light, {len(stopped)} rays of {len(cameras.intrinsics)} views meet "
            "one; name a level by --level, or give other weights"
        )
    return float(stopped.median())
