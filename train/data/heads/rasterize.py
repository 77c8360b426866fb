"""A z-buffer in plain PyTorch finds the triangle that each pixel of each picture sees.

Triangles are taken in groups of like size, each as a small square of candidate pixels; what covers a pixel and is not
cut away competes by depth, packed with its face into one integer, so that the order of work does not matter.
Letters: B batch, U vertices, F faces, N fragments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from triportrait.core.types import Camera
from triportrait.train.data.heads.shapes import dot

_FACE_BITS = 20
_DEPTH_STEPS = 2**20  # per scene unit
_EMPTY = 2**62
_CHUNK = 1 << 22  # candidate pixels at a time


@dataclass(frozen=True)
class Fragments:
    """The points where pixels see the mesh.

    Attributes:
        member: [N] int64, the picture's place in the batch.
        pixel: [N] int64, the pixel's place in the batch of pictures, in reading order.
        face: [N] int64.
        weights: [N, 3] barycentric, true in space (perspective is undone).
    """

    member: Tensor
    pixel: Tensor
    face: Tensor
    weights: Tensor

    def gather(self, values: Tensor, faces: Tensor) -> Tensor:
        """Interpolate values of vertices, [B, U, C] or [U, C], to [N, C]."""
        corners = faces[self.face]
        at_corners = values[corners] if values.dim() == 2 else values[self.member[:, None], corners]  # [N, 3, C]
        w = self.weights
        return w[:, 0, None] * at_corners[:, 0] + w[:, 1, None] * at_corners[:, 1] + w[:, 2, None] * at_corners[:, 2]


Cut = Callable[[Tensor, Tensor, Tensor], Tensor]


def project(points: Tensor, camera: Camera, size: int) -> tuple[Tensor, Tensor]:
    """Project points [B, U, 3] to pixels [B, U, 2] (x right, y down, centre of pixel i at i) and z in front [B, U]."""
    pose, K = camera.world_from_camera, camera.intrinsics
    from_camera = points - pose[:, None, :3, 3]
    x, y, z = (dot(from_camera, pose[:, None, :3, axis]) for axis in range(3))
    forward = -z
    safe = forward.clamp(min=1e-6)
    right, down = x / safe, -y / safe
    u = K[:, 0, 0, None] * right + K[:, 0, 1, None] * down + K[:, 0, 2, None]
    v = K[:, 1, 1, None] * down + K[:, 1, 2, None]
    return torch.stack([u, v], -1) * size - 0.5, forward


def rasterize(
    pixels: Tensor,
    forward: Tensor,
    faces: Tensor,
    visible: Tensor,
    two_sided: Tensor,
    pushed_back: Tensor,
    size: int,
    cut: Cut,
) -> Fragments:
    """Find the nearest triangle of each pixel.

    Args:
        pixels: [B, U, 2] and forward: [B, U], as `project` gives them.
        faces: [F, 3]; those turned away are left out, except where two_sided [F].
        visible: [B, F] bool.
        pushed_back: [F] scene units added to the depth in the comparison only.
        size: side of the pictures.
        cut: takes member [N], face [N], weights [N, 3] and returns [N] by how much more a point is pushed back, scene
            units; infinity cuts it away.

    Returns:
        One fragment per covered pixel, in the order of the pixels.
    """
    batch = len(pixels)
    corners = faces.flatten()
    x, y, z = (
        value.index_select(1, corners).unflatten(1, (-1, 3)) for value in (pixels[..., 0], pixels[..., 1], forward)
    )  # [B, F, 3] each
    inverse = 1 / z.clamp(min=1e-6)
    area = _cross(x[..., 1] - x[..., 0], y[..., 1] - y[..., 0], x[..., 2] - x[..., 0], y[..., 2] - y[..., 0])
    left, right = x.amin(-1).ceil().clamp(min=0), x.amax(-1).floor().clamp(max=size - 1)
    top, bottom = y.amin(-1).ceil().clamp(min=0), y.amax(-1).floor().clamp(max=size - 1)
    live = visible & (right >= left) & (bottom >= top) & (area.abs() > 1e-9)
    live &= two_sided | (area < 0)  # y points down: what faces the camera turns clockwise
    live &= z.amin(-1) > 0
    span = torch.maximum(right - left, bottom - top)
    buffer = torch.full((batch * size * size,), _EMPTY, dtype=torch.int64, device=pixels.device)
    lower, upper = -1, 0
    widest = int(span[live].max()) if live.any() else -1
    while lower < widest:
        chosen = live & (span > lower) & (span <= upper)
        members, triangles = chosen.nonzero(as_tuple=True)
        for part in torch.arange(len(members), device=pixels.device).split(max(1, _CHUNK // (upper + 1) ** 2)):
            m, f = members[part], triangles[part]
            column, row = _squares(left[m, f], top[m, f], upper + 1)
            weights = _barycentric(x[m, f][:, None], y[m, f][:, None], area[m, f][:, None], column, row)
            covered = (weights.amin(-1) >= 0) & (column < size) & (row < size)
            which, cell = covered.nonzero(as_tuple=True)
            m, f, weights = m[which], f[which], weights[which, cell]
            pixel = (m * size + row[which, cell].long()) * size + column[which, cell].long()
            weights, z = _in_space(weights, inverse[m, f])
            z = z + pushed_back[f] + cut(m, f, weights)
            uncut = z.isfinite()
            key = ((z[uncut] * _DEPTH_STEPS).long() << _FACE_BITS) | f[uncut]
            buffer.scatter_reduce_(0, pixel[uncut], key, "amin")
        lower, upper = upper, max(1, 2 * upper)
    pixel = (buffer < _EMPTY).nonzero()[:, 0]
    face = buffer[pixel] & (2**_FACE_BITS - 1)
    member, within = pixel // (size * size), pixel % (size * size)
    column, row = (within % size).to(x.dtype), (within // size).to(x.dtype)
    weights = _barycentric(x[member, face], y[member, face], area[member, face], column, row)
    weights, _ = _in_space(weights, inverse[member, face])
    return Fragments(member, pixel, face, weights)


def _cross(ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
    return ax * by - bx * ay


def _squares(left: Tensor, top: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return columns and rows [N, side²] of the candidate pixels."""
    step = torch.arange(side, dtype=left.dtype, device=left.device)
    return (left[:, None] + step.repeat(side)), (top[:, None] + step.repeat_interleave(side))


def _barycentric(x: Tensor, y: Tensor, area: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Return barycentric weights [..., 3] on the picture."""
    right, down = column - x[..., 0], row - y[..., 0]
    second = _cross(right, down, x[..., 2] - x[..., 0], y[..., 2] - y[..., 0]) / area
    third = _cross(x[..., 1] - x[..., 0], y[..., 1] - y[..., 0], right, down) / area
    return torch.stack([1 - second - third, second, third], -1)


def _in_space(weights: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Turn weights on the picture [N, 3] and 1/z of the corners into weights in space, and z [N]."""
    scaled = weights * inverse
    z = 1 / (scaled[:, 0] + scaled[:, 1] + scaled[:, 2])
    return scaled * z[:, None], z
