"""Triangles to pixels: which face a pixel sees, where on the face, and how deep.

A pixel sees the nearest face that covers its centre. Faces that share an edge share no pixel along it, and leave none
out. `fixed_point` states the arithmetic.
Letters: B batch, U vertices, F faces, H W picture, C channels of an attribute.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import check_choice, shapes, wide_dtype
from triportrait.kernels.dispatch import backend, runs_triton
from triportrait.kernels.language import device_of
from triportrait.kernels.rasterize.fixed_point import (
    EMPTY,
    FACE_BITS,
    HALF,
    SUBPIXELS,
    Vertices,
    corners_of,
    drawable,
    edge_functions,
    edge_steps,
    keys,
    snapped,
    sum_from_first_to_last,
)
from triportrait.kernels.rasterize.gpu import rasterize_gpu
from triportrait.kernels.rasterize.spans import nearest_keys

Cull = Literal["none", "back"]
LARGEST = 1 << 14  # pixels of a side
CHUNK, CPU_CHUNK = 1 << 24, 1 << 20  # pairs of faces and pixels at a time: about 1.5 GB on a GPU


class Raster(NamedTuple):
    """What each pixel of a picture sees."""

    face: Tensor  # [B, H, W] int64, -1 where nothing is
    barycentrics: Tensor  # [B, H, W, 3], perspective-correct, in the order of the face's corners; 0 where nothing is
    depth: Tensor  # [B, H, W] along the camera's axis, in the unit of the points' z; 0 where nothing is


def rasterize(points: Tensor, faces: Tensor, height: int, width: int, cull: Cull = "none") -> Raster:
    """Find the face that each pixel sees, the place on it, and its depth.

    Args:
        points: [B, U, 3] float32 or float64, vertices in the picture: x to the right and y down in pixels, with the
            first pixel's centre at 0.5; z along the camera's axis, positive in front of the camera.
        faces: [F, 3] int64, indices into the vertices, the same for the whole batch.
        height, width: of the picture, at most 16,384 pixels.
        cull: "back" leaves out faces that run clockwise in the picture; "none" draws both sides.

    Returns:
        what each pixel sees. Barycentrics and depth have the dtype of the points.

    Raises:
        ValueError: a shape, a dtype or a name is wrong, a side is too large, or, on a CPU, a face names a vertex that
            is not there.

    x and y are rounded to 1/256 of a pixel first. Of two faces that are equally deep, to float32, the one that stands
    first in `faces` is seen. A face is left out, not clipped, where one of its vertices is at the camera or behind it
    (z below 1e-30), deeper than 1e30, not finite, more than 2^21 pixels from the picture's first corner or, for the
    kernel, not there. A face without an area draws nothing. Every backend returns the same faces, to the bit.
    Nothing is differentiable here; `interpolate` is, in the attributes. The kernels never wait for the device, and a
    CUDA graph can hold them.
    """
    shapes(points=(points, "B U 3"), faces=(faces, "F 3"))
    check_choice("cull", cull, Cull)
    if points.dtype != wide_dtype(points):
        raise ValueError(f"points: expected float32 or float64, got {points.dtype}; convert them")
    if faces.dtype != torch.int64:
        raise ValueError(f"faces: expected int64, got {faces.dtype}; convert them")
    for name, side in (("height", height), ("width", width)):
        if not 1 <= side <= LARGEST:
            raise ValueError(f"{name}: expected 1 to {LARGEST} pixels, got {side}; draw it in pieces")
    triton = runs_triton(points=points, faces=faces)
    if points.device.type == "cpu":
        _check_faces(faces, points.shape[1])
    with torch.no_grad():
        vertices = snapped(points)
        if triton:
            with device_of(points):
                return Raster(*rasterize_gpu(vertices, faces, height, width, cull == "back", points.dtype))
        nearest = nearest_keys_reference if backend() == "reference" else nearest_keys
        key = nearest(vertices, faces, height, width, cull == "back")
        return _seen(vertices, faces, key, points.dtype)


def interpolate(attributes: Tensor, faces: Tensor, raster: Raster) -> Tensor:
    """Interpolate attributes of vertices over the pixels that see their faces.

    Args:
        attributes: [B, U, C] float.
        faces: [F, 3] int64, those of `rasterize`.
        raster: what `rasterize` returned.

    Returns:
        [B, H, W, C] in the dtype of the attributes, 0 where nothing is. It is differentiable in the attributes alone:
        the points that were rasterised get no gradient.

    Raises: `ValueError` where a shape disagrees.
    """
    n = shapes(
        face=(raster.face, "B H W"), barycentrics=(raster.barycentrics, "B H W 3"), attributes=(attributes, "B U C"),
        faces=(faces, "F 3"),
    )  # fmt: skip
    seen = (raster.face >= 0)[..., None]
    if not n["F"]:
        return attributes.new_zeros(*raster.face.shape, n["C"]) + attributes[:, :0].sum()
    images = torch.arange(n["B"], device=faces.device).view(-1, 1, 1, 1)
    vertices = faces[raster.face.clamp(min=0)] + images * n["U"]  # [B, H, W, 3]
    weights = raster.barycentrics.to(attributes.dtype).flatten(0, 2)
    sums = F.embedding_bag(vertices.flatten(0, 2), attributes.flatten(0, 1), per_sample_weights=weights, mode="sum")
    return torch.where(seen, sums.view(*raster.face.shape, n["C"]), 0.0)


def nearest_keys_reference(vertices: Vertices, faces: Tensor, height: int, width: int, cull: bool) -> Tensor:
    """Compute the definition: try every face at every pixel. Returns [B, H, W] int64, EMPTY where nothing is."""
    B, device = len(vertices.place), faces.device
    x = torch.arange(width, device=device) * SUBPIXELS + HALF
    y = (torch.arange(height, device=device) * SUBPIXELS + HALF)[:, None]
    best = torch.full((B, height, width), EMPTY, device=device)
    pairs = CPU_CHUNK if device.type == "cpu" else CHUNK
    step = max(1, pairs // max(1, B * height * width))
    for start in range(0, len(faces), step):
        chunk = faces[start : start + step]
        corners = corners_of(*(part[:, chunk][:, :, None, None] for part in vertices))
        steps = edge_steps(corners)
        functions = edge_functions(corners, steps, x, y)  # three of [B, f, H, W]
        covered = drawable(corners, cull)
        for function, (_, _, least) in zip(functions, steps, strict=True):
            covered = covered & (function >= least)
        weighted = [e.double() * w for e, w in zip(functions, corners.inverse_depth, strict=True)]
        total = torch.where(covered, sum_from_first_to_last(torch.stack(weighted, -1)), 1.0)
        area = (functions[0] + functions[1] + functions[2]).double()
        numbers = torch.arange(start, start + len(chunk), device=device)
        key = torch.where(covered, keys(area, total, numbers[:, None, None]), EMPTY)
        best = torch.minimum(best, key.amin(1))
    return best


def _seen(vertices: Vertices, faces: Tensor, key: Tensor, dtype: torch.dtype) -> Raster:
    """Unpack the faces that pixels see, and compute the places on them."""
    B, height, width = key.shape
    face = torch.where(key == EMPTY, -1, key & ((1 << FACE_BITS) - 1))
    barycentrics = torch.zeros(B, height, width, 3, dtype=dtype, device=key.device)
    depth = torch.zeros(B, height, width, dtype=dtype, device=key.device)
    image, row, column = (face >= 0).nonzero(as_tuple=True)
    seen = faces[face[image, row, column]]  # [N, 3]
    corners = corners_of(*(part[image[:, None], seen] for part in vertices))
    functions = edge_functions(corners, edge_steps(corners), column * SUBPIXELS + HALF, row * SUBPIXELS + HALF)
    weighted = torch.stack([e.double() * w for e, w in zip(functions, corners.inverse_depth, strict=True)], -1)
    total = sum_from_first_to_last(weighted)
    barycentrics[image, row, column] = (weighted / total[:, None]).to(dtype)
    depth[image, row, column] = ((functions[0] + functions[1] + functions[2]).double() / total).to(dtype)
    return Raster(face, barycentrics, depth)


def _check_faces(faces: Tensor, num_vertices: int) -> None:
    """Raises: `ValueError` where a face names a vertex that is not there."""
    if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < num_vertices:
        raise ValueError(
            f"faces: expected indices from 0 to {num_vertices - 1}, got {int(faces.min())} to {int(faces.max())}; give "
            "those of these points"
        )
