"""A z-buffer in plain PyTorch finds the triangle that each pixel of each picture sees.

Triangles are taken in groups of like size, each as a small box of candidate pixels; what covers a pixel and is not
cut away competes by depth, packed with its face into one integer, so that the order of work does not matter.
What belongs to fragments lies in memory component after component: that is several times as fast as row after row.
Letters: B batch, U vertices, F faces, N fragments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
_CPU_CHUNK = 1 << 17  # on a CPU, what stays in its second cache
_FRAGMENTS = 1 << 22  # at a time
_SIDES = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597)  # of the boxes, up to the picture's


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
    inverse = [1 / corner.clamp(min=1e-6) for corner in z]
    triangles = _Triangles(_flat(x), _flat(y), _flat(inverse), area.flatten())
    buffer = torch.full((batch * size * size,), _EMPTY, dtype=torch.int64, device=device)
    bounds = _Bounds(*(bound.flatten() for bound in (left, top, right, bottom)))
    for index, pixel in _covered(live.flatten(), bounds, triangles, count, size):
        (member, face), (_, within) = _split(index, batch, count), _split(pixel, batch, size * size)
        weights, depth = triangles.take(index).seen(within, size)
        depth = depth + pushed_back.index_select(0, face) + cut(member, face, weights)
        uncut = depth.isfinite().nonzero()[:, 0]
        depth, face, pixel = (value.index_select(0, uncut) for value in (depth, face, pixel))
        buffer.scatter_reduce_(0, pixel, ((depth * _DEPTH_STEPS).long() << _FACE_BITS) | face, "amin")
    pixel = (buffer < _EMPTY).nonzero()[:, 0]
    face = buffer.index_select(0, pixel) & (2**_FACE_BITS - 1)
    member, within = _split(pixel, batch, size * size)
    weights, _ = triangles.take(member * count + face if batch > 1 else face).seen(within, size)
    return Fragments(member, pixel, face, weights)


class _Bounds(NamedTuple):
    """The pixels, [L] each, among which all that triangles cover lie."""

    left: Tensor
    top: Tensor
    right: Tensor
    bottom: Tensor


class _Triangles(NamedTuple):
    """Triangles on the picture.

    Attributes:
        x, y: three [L], of the corners, pixels. inverse: 1/z of the corners. area: [L] twice the area, signed.
    """

    x: tuple[Tensor, ...]
    y: tuple[Tensor, ...]
    inverse: tuple[Tensor, ...]
    area: Tensor

    def take(self, index: Tensor) -> _Triangles:
        """Return the triangles at `index` [L']."""
        x, y, inverse = (tuple(value.index_select(0, index) for value in corners) for corners in self[:3])
        return _Triangles(x, y, inverse, self.area.index_select(0, index))

    def boxed(self, part: slice) -> _Triangles:
        """Return some triangles with two more axes, which broadcast with the rows and columns of a box."""
        x, y, inverse = (tuple(value[part, None, None] for value in corners) for corners in self[:3])
        return _Triangles(x, y, inverse, self.area[part, None, None])

    def barycentric(self, column: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return barycentric weights of pixels on the picture, one tensor per corner."""
        x, y, area = self.x, self.y, self.area
        right, down = column - x[0], row - y[0]
        second = _cross(right, down, x[2] - x[0], y[2] - y[0]) / area
        third = _cross(x[1] - x[0], y[1] - y[0], right, down) / area
        return 1 - second - third, second, third

    def seen(self, pixel: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return weights in space [L, 3] and z [L] of one pixel of each triangle, [L] in reading order."""
        places = torch.arange(size, dtype=self.area.dtype, device=pixel.device)
        column = places.repeat(size).index_select(0, pixel)
        row = places.repeat_interleave(size).index_select(0, pixel)
        a, b, c = (w * inverse for w, inverse in zip(self.barycentric(column, row), self.inverse, strict=True))
        z = 1 / (a + b + c)
        return beside(a * z, b * z, c * z), z


def _covered(
    live: Tensor, bounds: _Bounds, triangles: _Triangles, count: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield triangles and pixels that they cover: places [N] among all triangles, and among all pixels.

    Args:
        live: bool [L], the triangles that are asked for. count: how many a picture has. size: side of the pictures.
    """
    chosen = live.nonzero()[:, 0]
    if not len(chosen):
        return
    chosen, groups = _grouped(chosen, bounds, size)
    triangles = triangles.take(chosen)
    left, top = (bound.index_select(0, chosen) for bound in bounds[:2])
    first_pixel = chosen // count * (size * size) if len(live) > count else torch.zeros_like(chosen)
    most = _CPU_CHUNK if live.device.type == "cpu" else _CHUNK
    places = torch.arange(size, device=live.device)
    steps = places.to(left.dtype)
    found: list[tuple[Tensor, Tensor]] = []
    total = 0
    for group in groups:
        for part in group.parts(most):
            corner_x, corner_y = left[part].clamp(max=size - group.columns), top[part].clamp(max=size - group.rows)
            cell = group.inside(triangles.boxed(part), corner_x, corner_y, steps)
            corner = first_pixel[part] + (corner_y * size + corner_x).long()
            index, pixel = chosen[part, None].expand(-1, group.columns * group.rows), group.pixels(corner, places)
            found.append((index.flatten().index_select(0, cell), pixel.flatten().index_select(0, cell)))
            total += len(cell)
            if total >= _FRAGMENTS:
                yield _joined(found)
                found, total = [], 0
    if found:
        yield _joined(found)


class _Group(NamedTuple):
    """Triangles that fit into boxes of the same size.

    Attributes:
        columns, rows: of a box. start, stop: places of the triangles.
    """

    columns: int
    rows: int
    start: int
    stop: int

    def parts(self, most: int) -> Iterator[slice]:
        """Yield the triangles some at a time, so that their boxes have about `most` pixels, and one box at least."""
        step = max(1, most // (self.columns * self.rows))
        for begin in range(self.start, self.stop, step):
            yield slice(begin, min(begin + step, self.stop))

    def inside(self, triangles: _Triangles, left: Tensor, top: Tensor, steps: Tensor) -> Tensor:
        """Return the places, among the pixels of all boxes, of those that lie on their triangle.

        Args:
            triangles: N of them, as `_Triangles.boxed` gives them. left, top: [N] of the boxes.
            steps: [S] 0, 1, ... of the side of the pictures, in the type of the corners.
        """
        column, row = left[:, None, None] + steps[: self.columns], top[:, None, None] + steps[: self.rows, None]
        first, second, third = triangles.barycentric(column, row)
        return (torch.minimum(torch.minimum(first, second), third) >= 0).flatten().nonzero()[:, 0]

    def pixels(self, corner: Tensor, places: Tensor) -> Tensor:
        """Return the pixels [N, rows, columns] of boxes whose first ones are at `corner` [N]; places: [S] 0, 1, ..."""
        return corner[:, None, None] + (places[: self.rows, None] * len(places) + places[: self.columns])


def _grouped(chosen: Tensor, bounds: _Bounds, size: int) -> tuple[Tensor, list[_Group]]:
    """Sort triangles by the boxes that they fit into.

    Args:
        chosen: [N] places of triangles among the bounds.

    Returns:
        The places in their new order, and the groups of that order.
    """
    width, height = ((most - least).index_select(0, chosen) + 1 for least, most in (bounds[::2], bounds[1::2]))
    if chosen.device.type != "cpu":  # there, few large steps are faster than many small ones
        width = height = torch.maximum(width, height)
    sides = [side for side in _SIDES if side < size] + [size]
    limits = torch.tensor(sides, dtype=width.dtype, device=width.device)
    kind = torch.bucketize(width, limits) * len(sides) + torch.bucketize(height, limits)
    stops = torch.bincount(kind, minlength=len(sides) ** 2).cumsum(0).tolist()
    boxes = [(columns, rows) for columns in sides for rows in sides]
    groups = [_Group(*box, start, stop) for box, start, stop in zip(boxes, [0, *stops], stops, strict=False)]
    return chosen.index_select(0, kind.argsort(stable=True)), groups


def _joined(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    index, pixel = (torch.cat(values) for values in zip(*found, strict=True))
    return index, pixel


def _flat(corners: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(values.flatten() for values in corners)


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
