"""A surface unwrapped onto a square picture, which is filled with colours.

Letters: U vertices, F faces, T side of the texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.geometry.colour import Colour
from triportrait.core.geometry.surface import Surface
from triportrait.core.render.mesh_pictures import vertex_normals
from triportrait.kernels.rasterize import interpolate, rasterize

PADDING = 4  # texels between charts in the atlas, so that no seam shows; fewer where it is fitted into a smaller square


@dataclass(frozen=True)
class Unwrapped:
    """A surface cut along seams and laid flat.

    Attributes:
        surface: vertices on a seam stand once for each side of it.
        places: [U] int64, which vertex of the surface before each one is.
        uv: [U, 2] float32 in [0, 1], u to the right and v down from the texture's top left corner, as in glTF.
    """

    surface: Surface
    places: Tensor
    uv: Tensor


def unwrapped(surface: Surface, size: int) -> Unwrapped:
    """Cut a surface into charts and pack them into a square texture of `size` pixels (xatlas)."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(surface.vertices.numpy(), surface.faces.numpy().astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1
    packing.resolution, packing.padding, packing.bilinear = size, PADDING, True
    atlas.generate(charts, packing)
    places, faces, uv = atlas[0]
    places, faces = (torch.from_numpy(np.asarray(x).astype(np.int64)) for x in (places, faces))
    # the atlas is one sheet about as large as asked, up to 1.7 times for many charts in 512 px: uv are relative to it
    return Unwrapped(Surface(surface.vertices[places], faces), places, torch.from_numpy(uv.astype(np.float32)))


def baked(cut: Unwrapped, normals: Tensor, colour: Colour, size: int) -> Tensor:
    """Fill a texture.

    Args:
        cut: the surface.
        normals: [U, 3] of its vertices, unit vectors outwards.
        colour: as in `colour.point_colours`.
        size: T.

    Returns:
        [T, T, 3] uint8, sRGB; texels beside the charts have the colour of the nearest chart.
    """
    flat = torch.cat([cut.uv * size, torch.ones_like(cut.uv[:, :1])], 1)[None]
    raster = rasterize(flat, cut.surface.faces, size, size)
    places = interpolate(torch.cat([cut.surface.vertices, normals], 1)[None], cut.surface.faces, raster)[0]
    filled = raster.face[0] >= 0
    points, towards = places[filled].split(3, dim=1)
    texture = torch.zeros(size, size, 3)
    texture[filled] = colour(points, F.normalize(towards, dim=-1))
    # charts thinner than a texel cover the centre of none: their vertices are texels of their own
    columns, rows = (cut.uv * size).long().clamp(0, size - 1).unbind(1)
    thin = ~filled[rows, columns]
    texture[rows[thin], columns[thin]] = colour(cut.surface.vertices[thin], normals[thin])
    filled[rows[thin], columns[thin]] = True
    return (spread(texture, filled) * 255).round().to(torch.uint8)


def spread(texture: Tensor, filled: Tensor) -> Tensor:
    """Give the texels of [T, T, 3] that are not filled [T, T] the colour of the nearest one that is."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~filled.numpy(), return_distances=False, return_indices=True)
    return texture[torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))]


def outward_normals(surface: Surface) -> Tensor:
    """Compute the unit normals [U, 3] of a surface's vertices; up where a vertex has no face with an area."""
    normals = vertex_normals(surface.vertices[None], surface.faces)[0]
    return torch.where(normals.norm(dim=-1, keepdim=True) > 0.5, normals, normals.new_tensor([0.0, 1.0, 0.0]))
