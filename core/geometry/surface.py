"""The surface of a density grid: marching cubes, closed at the box, its largest component.

Letters: U vertices, F faces, N nodes along an edge of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.geometry.density import DensityGrid
from triportrait.core.optional_packages import fault, install

PACKAGES = ("skimage", "trimesh", "fast_simplification", "xatlas")  # the extra `mesh`


@dataclass(frozen=True)
class Surface:
    """A triangle mesh.

    Attributes:
        vertices: [U, 3] float32, scene units (1 unit = 1/3 m): x to the head's left, y up, z to the viewer.
        faces: [F, 3] int64, indices of vertices, counter-clockwise as seen from outside.
    """

    vertices: Tensor
    faces: Tensor


def check_packages() -> None:
    """Check that what makes meshes is installed. Raises: `InputError` says what to install."""
    for name in PACKAGES:
        if (why := fault(name)) is not None:
            raise InputError(f"mesh: expected the package {name}, it {why}; `{install('mesh')}`")


def extract(grid: DensityGrid, level: float) -> Surface:
    """Extract the closed surface where the density passes a level, and keep its largest component.

    Where the head goes on beyond the box it is cut flat, half a spacing outside. Vertices lie on the grid's edges where
    the density, linear between nodes, has the level.

    Args:
        grid: raw densities.
        level: raw density of the surface, within the grid's range.

    Returns:
        The component that encloses most; cavities and crumbs are left out.

    Raises:
        InputError: no density passes the level, or scikit-image is missing.
    """
    check_packages()
    from skimage.measure import marching_cubes

    least, most = float(grid.values.min()), float(grid.values.max())
    if not least < level < most:
        raise InputError(
            f"level: expected a raw density between {least:.3g} and {most:.3g}, those of this head, got {level:g}; "
            "choose one between them, or auto"
        )
    padded = F.pad(grid.values[None, None], (1,) * 6, mode="replicate")[0, 0]
    for axis in range(3):
        for end in (0, -1):  # mirrored at the level: the lid lies midway between the outermost nodes and these
            lid = padded.select(axis, end)
            lid.copy_(torch.minimum(lid, 2 * level - lid))
    # scikit-image winds faces for a left-handed grid: "ascent" is the one whose faces look out of a solid here
    vertices, faces, _, _ = marching_cubes(padded.numpy(), level, gradient_direction="ascent", allow_degenerate=False)
    points = torch.from_numpy(np.ascontiguousarray(vertices, np.float32))
    points = (points - 1) * grid.spacing + grid.origin
    return largest_component(Surface(points, torch.from_numpy(faces.astype(np.int64))))


def enclosed_volumes(surface: Surface) -> Tensor:
    """Compute what each face adds to the enclosed volume, [F] float64, cubic scene units."""
    a, b, c = surface.vertices.double()[surface.faces].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum(-1) / 6


def largest_component(surface: Surface) -> Surface:
    """Keep the connected component of a closed surface that encloses the largest volume."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faces = surface.faces.numpy()
    rows, columns = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(surface.vertices),) * 2)
    _, label = connected_components(links, directed=False)
    of_face = torch.from_numpy(label.astype(np.int64))[surface.faces[:, 0]]
    volumes = torch.zeros(int(label.max()) + 1, dtype=torch.float64).index_add_(0, of_face, enclosed_volumes(surface))
    return compacted(Surface(surface.vertices, surface.faces[of_face == volumes.argmax()]))


def compacted(surface: Surface) -> Surface:
    """Leave out the vertices that no face uses."""
    used, faces = torch.unique(surface.faces, return_inverse=True)
    return Surface(surface.vertices[used], faces)


def separated(surface: Surface) -> Surface:
    """Give sheets of a closed surface that touch along an edge, or in a vertex, vertices of their own."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faces = surface.faces
    starts = torch.cat([faces[:, i] for i in range(3)])
    ends = torch.cat([faces[:, (i + 1) % 3] for i in range(3)])
    low, high = torch.minimum(starts, ends), torch.maximum(starts, ends)
    _, edge, count = torch.unique(low * len(surface.vertices) + high, return_inverse=True, return_counts=True)
    corner = torch.arange(3 * len(faces)).view(3, -1)  # corner i of face f
    first, second = corner.flatten(), torch.cat([corner[1], corner[2], corner[0]])  # of an edge: where it starts, ends
    plain = count[edge] == 2
    pairs = edge[plain].argsort(stable=True).view(-1, 2)  # the two sides of each edge
    first, second, starts = first[plain][pairs], second[plain][pairs], starts[plain][pairs]
    same = starts[:, 0] == starts[:, 1]  # neighbours run along their edge in opposite directions, if all is well
    other = torch.where(same[:, None], torch.stack([first[:, 1], second[:, 1]], 1),
                        torch.stack([second[:, 1], first[:, 1]], 1))  # fmt: skip
    links = torch.stack([first[:, 0], second[:, 0]], 1).flatten().numpy(), other.flatten().numpy()
    joined = coo_matrix((np.ones(len(links[0]), bool), links), shape=(corner.numel(),) * 2)
    number, label = connected_components(joined, directed=False)
    labels = torch.from_numpy(label.astype(np.int64))
    vertices = surface.vertices.new_empty(number, 3)
    vertices[labels] = surface.vertices[torch.cat([faces[:, i] for i in range(3)])]
    return Surface(vertices, labels.view(3, -1).T.contiguous())
