"""A z-buffer in plain PyTorch finds the triangle that each pixel of each picture sees.

Triangles are taken in groups of like size, each as a small box of candidate pixels; what covers a pixel and is not
cut away competes by depth, packed with its face into one integer, so that the order of work does not matter.
What belongs to fragments lies in memory component after component: that is several times as fast as row after row.
Letters: B batch, U vertices, F faces, N fragments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from triportrait.core.types import Camera
from triportrait.train.data.heads.shapes import beside, dot

_FACE_BITS = 20
_DEPTH_STEPS = 2**20  # per scene unit
_EMPTY = 2**62
_CHUNK = 1 << 22  # candidate pixels at a time
_CPU_CHUNK = 1 << 16  # on a CPU, what stays in its second cache
_SIDES = (1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 25, 33, 49, 65)  # of boxes, then each twice the last


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
        several = values.dim() == 3 and len(values) > 1
        first = self.member * values.shape[-2] if several else 0  # the row of the member's first vertex
        rows = [faces[:, corner].index_select(0, self.face) + first for corner in range(3)]
        w = self.weights.unbind(-1)
        components = []
        for value in values.flatten(0, -2).unbind(-1):
            a, b, c = (value.index_select(0, row) for row in rows)
            components.append(w[0] * a + w[1] * b + w[2] * c)
        return beside(*components)


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
    batch, count, device = len(pixels), len(faces), pixels.device
    x, y, z = (
        [value.index_select(1, faces[:, corner]) for corner in range(3)]
        for value in (pixels[..., 0], pixels[..., 1], forward)
    )  # three [B, F] each
    area = _cross(x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0])
    left, right = _least(x).ceil().clamp(min=0), _most(x).floor().clamp(max=size - 1)
    top, bottom = _least(y).ceil().clamp(min=0), _most(y).floor().clamp(max=size - 1)
    live = visible & (right >= left) & (bottom >= top) & (area.abs() > 1e-9)
    live &= two_sided | (area < 0)  # y points down: what faces the camera turns clockwise
    live &= _least(z) > 0
    triangles = _Triangles(
        *(torch.stack(corners).flatten(1) for corners in (x, y, [1 / corner.clamp(min=1e-6) for corner in z])),
        area.flatten(),
    )
    left, right, top, bottom = (bound.flatten() for bound in (left, right, top, bottom))
    buffer = torch.full((batch * size * size,), _EMPTY, dtype=torch.int64, device=device)
    for width, height, chosen in _boxes(live.flatten(), right - left, bottom - top):
        part = triangles.take(chosen)
        columns = torch.arange(width, dtype=left.dtype, device=device)
        rows = torch.arange(height, dtype=left.dtype, device=device)
        column, row = left[chosen, None, None] + columns, top[chosen, None, None] + rows[:, None]
        first, second, third = part.boxed().barycentric(column, row)
        covered = (torch.minimum(torch.minimum(first, second), third) >= 0) & (column < size) & (row < size)
        cell = covered.flatten().nonzero()[:, 0]
        member, face = _split(chosen, batch, count)
        pixel = (member * size)[:, None, None] + row.long()
        pixel = (pixel * size + column.long()).flatten().index_select(0, cell)
        which = torch.arange(len(chosen), device=device)[:, None].expand(-1, width * height).flatten()
        which = which.index_select(0, cell)
        weights, z_seen = _in_space(
            [weight.flatten().index_select(0, cell) for weight in (first, second, third)],
            part.inverse.index_select(1, which),
        )
        member, face = (index.index_select(0, which) for index in (member, face))
        z_seen = z_seen + pushed_back.index_select(0, face) + cut(member, face, weights)
        uncut = z_seen.isfinite()
        if not bool(uncut.all()):
            z_seen, face, pixel = z_seen[uncut], face[uncut], pixel[uncut]
        buffer.scatter_reduce_(0, pixel, ((z_seen * _DEPTH_STEPS).long() << _FACE_BITS) | face, "amin")
    pixel = (buffer < _EMPTY).nonzero()[:, 0]
    face = buffer.index_select(0, pixel) & (2**_FACE_BITS - 1)
    member, within = _split(pixel, batch, size * size)
    part = triangles.take(member * count + face if batch > 1 else face)
    places = torch.arange(size, dtype=left.dtype, device=device)
    column, row = (place.index_select(0, within) for place in (places.repeat(size), places.repeat_interleave(size)))
    weights, _ = _in_space(part.barycentric(column, row), part.inverse)
    return Fragments(member, pixel, face, weights)


class _Triangles(NamedTuple):
    """Triangles on the picture, all [3, L] of their corners but the last.

    Attributes:
        x, y: pixels. inverse: 1/z of the corners. area: [L] twice the area, signed.
    """

    x: Tensor
    y: Tensor
    inverse: Tensor
    area: Tensor

    def take(self, index: Tensor) -> _Triangles:
        """Return the triangles at `index` [L']."""
        return _Triangles(*(value.index_select(-1, index) for value in self))

    def boxed(self) -> _Triangles:
        """Return these triangles with two more axes, which broadcast with the rows and columns of a box."""
        return _Triangles(*(value[..., None, None] for value in self))

    def barycentric(self, column: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return barycentric weights of pixels on the picture, one tensor per corner."""
        x, y, area = self.x, self.y, self.area
        right, down = column - x[0], row - y[0]
        second = _cross(right, down, x[2] - x[0], y[2] - y[0]) / area
        third = _cross(x[1] - x[0], y[1] - y[0], right, down) / area
        return 1 - second - third, second, third


def _boxes(live: Tensor, width: Tensor, height: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the sides of boxes in pixels, and the triangles (indices into the arguments, [L] each) that they hold.

    Args:
        live: bool, the triangles that are asked for. width, height: the extents of their corners, pixels.
    """
    chosen = live.nonzero()[:, 0]
    if not len(chosen):
        return
    width, height = width.index_select(0, chosen) + 1, height.index_select(0, chosen) + 1
    on_cpu = live.device.type == "cpu"
    if not on_cpu:  # there, few large steps are faster than many small ones
        width = height = torch.maximum(width, height)
    sides = list(_SIDES)
    while sides[-1] < max(float(width.max()), float(height.max())):
        sides.append(2 * sides[-1])
    bounds = torch.tensor(sides, dtype=width.dtype, device=width.device)
    kind = torch.bucketize(width, bounds) * len(sides) + torch.bucketize(height, bounds)
    chosen = chosen.index_select(0, kind.argsort(stable=True))
    counts = torch.bincount(kind, minlength=len(sides) ** 2).tolist()
    for number, group in enumerate(chosen.split(counts)):
        box = sides[number // len(sides)], sides[number % len(sides)]
        for part in group.split(max(1, (_CPU_CHUNK if on_cpu else _CHUNK) // (box[0] * box[1]))):
            if len(part):
                yield *box, part


def _split(index: Tensor, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Split places among `batch` times `length` things into the places of a member and within it."""
    if batch == 1:
        return torch.zeros_like(index), index
    return index // length, index % length


def _least(corners: list[Tensor]) -> Tensor:
    return torch.minimum(torch.minimum(corners[0], corners[1]), corners[2])


def _most(corners: list[Tensor]) -> Tensor:
    return torch.maximum(torch.maximum(corners[0], corners[1]), corners[2])


def _cross(ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
    return ax * by - bx * ay


def _in_space(weights: Sequence[Tensor], inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Turn weights on the picture, 3 of [N], and 1/z of the corners [3, N] into weights in space [N, 3], and z [N]."""
    a, b, c = (weight * of_corner for weight, of_corner in zip(weights, inverse, strict=True))
    z = 1 / (a + b + c)
    return beside(a * z, b * z, c * z), z
