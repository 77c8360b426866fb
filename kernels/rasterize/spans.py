"""Rasterise in plain PyTorch by rows: a face covers one run of pixels in each row, which whole numbers bound exactly.

No pixel is tried in vain, and chunks bound the memory.
Letters: B batch, F faces, H W picture, N rows of faces, or pixels of rows, in a flat list.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from triportrait.kernels.rasterize.fixed_point import (
    EMPTY,
    HALF,
    SUBPIXELS,
    Corners,
    Vertices,
    corners_of,
    drawable,
    edge_functions,
    edge_steps,
    keys,
    sum_from_first_to_last,
)

CHUNK = 1 << 16  # rows, or pixels, at a time: what a core's second cache holds


def nearest_keys(vertices: Vertices, faces: Tensor, height: int, width: int, cull: bool) -> Tensor:
    """Return for each pixel the smallest of `keys`, [B, H, W] int64, EMPTY where nothing is."""
    B, F = len(vertices.place), len(faces)
    best = torch.full((B * height * width,), EMPTY, device=faces.device)
    corners = corners_of(vertices.place[:, faces].flatten(0, 1), vertices.inverse_depth[:, faces].flatten(0, 1))
    first, last = _rows(corners, height)
    drawn = (drawable(corners, cull) & (first <= last)).nonzero()[:, 0]  # [N], of the faces of the whole batch
    corners, first, counts = _taken(corners, drawn), first[drawn], (last - first + 1)[drawn]
    face, first_pixel = drawn % F, drawn // F * (height * width)
    for which, row in _runs(first, counts):
        of_row = _taken(corners, which)
        steps = edge_steps(of_row)
        at_first = edge_functions(of_row, steps, torch.full_like(row, HALF), row * SUBPIXELS + HALF)
        slopes = [-dy * SUBPIXELS for _, dy, _ in steps]  # from pixel to pixel
        left, right = _columns(at_first, slopes, [least for _, _, least in steps], width)
        whole = torch.stack([*at_first, *slopes, face[which], first_pixel[which] + row * width], -1)
        inverse_depth = torch.stack(of_row.inverse_depth, -1)
        for here, column in _runs(left, (right - left + 1).clamp(min=0)):
            e0, e1, e2, s0, s1, s2, number, pixel = whole[here].unbind(-1)
            functions = [e0 + s0 * column, e1 + s1 * column, e2 + s2 * column]
            weighted = torch.stack(functions, -1).double() * inverse_depth[here]
            area = (functions[0] + functions[1] + functions[2]).double()
            best.scatter_reduce_(0, pixel + column, keys(area, sum_from_first_to_last(weighted), number), "amin")
    return best.view(B, height, width)


def _taken(corners: Corners, index: Tensor) -> Corners:
    x, y, w = (tuple(part[index] for part in parts) for parts in corners[:3])
    return Corners(x, y, w, corners.sign[index])  # type: ignore[arg-type]


def _rows(corners: Corners, height: int) -> tuple[Tensor, Tensor]:
    """Return the first and the last row whose centres lie within a face's corners."""
    y0, y1, y2 = corners.y
    top, bottom = torch.minimum(torch.minimum(y0, y1), y2), torch.maximum(torch.maximum(y0, y1), y2)
    first = (top + (SUBPIXELS - 1 - HALF)) // SUBPIXELS
    return first.clamp(min=0), ((bottom - HALF) // SUBPIXELS).clamp(max=height - 1)


def _columns(at_first: list[Tensor], slopes: list[Tensor], least: list[Tensor], width: int) -> tuple[Tensor, Tensor]:
    """Return the first and the last pixel that a face covers in a row; the last is before the first where none is."""
    left, right = torch.zeros_like(slopes[0]), torch.full_like(slopes[0], width - 1)
    for function, slope, needed in zip(at_first, slopes, least, strict=True):
        spare = function - needed  # function + slope * column has to reach what is needed
        bound = spare // slope.abs().clamp(min=1)  # rounded down
        left = torch.where(slope > 0, torch.maximum(left, -bound), left)
        right = torch.where(slope < 0, torch.minimum(right, bound), right)
        right = torch.where((slope == 0) & (spare < 0), -1, right)
    return left, right


def _runs(first: Tensor, counts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the whole numbers of runs [first, first + count) chunk by chunk, as (which run, number), both [N]."""
    ends = counts.cumsum(0)
    begin = done = 0
    while begin < len(counts):
        end = max(begin + 1, int(torch.searchsorted(ends, done + CHUNK, right=True)))
        which = torch.arange(begin, end, device=first.device).repeat_interleave(counts[begin:end])
        if len(which):
            yield which, torch.arange(done, done + len(which), device=first.device) + (first - ends + counts)[which]
        begin, done = end, int(ends[end - 1])
