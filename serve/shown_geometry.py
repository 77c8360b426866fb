"""Shows heads as pictures, depths or normals, of each batch every head as it was asked for, or as shaded meshes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.geometry.density import density_grid, visible_level
from triportrait.core.geometry.surface import Surface, check_packages, extract
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.geometry_pictures import BACKGROUND, GeometryPictures, Shown
from triportrait.core.render.mesh_pictures import mesh_picture
from triportrait.core.render.volume import as_images
from triportrait.core.types import Camera, Head

MOST_NODES = 128  # along an edge of the grid that a mesh is made of
RENDERED: tuple[Shown, ...] = ("picture", "depth", "normals")  # what comes of the rays of a view


def check_show(show: object, paste_back: bool = False, spell: Callable[[str], str] = str) -> None:
    """Check what a program or a command wants to be shown.

    Args:
        show: that.
        paste_back: the result is put back into the portrait.
        spell: how a sentence writes an option's name.

    Raises:
        InputError: nothing of this name can be shown, a package that makes it is missing, or it cannot be pasted back.
    """
    kinds = get_args(Shown)
    if show not in kinds:
        raise InputError(f"{spell('show')}: expected one of {', '.join(kinds)}, got {show!r}; choose one of them")
    if show == "mesh":
        check_packages()
    if paste_back and show != "picture":
        raise InputError(
            f"{spell('paste_back')}: expected a picture, which fits into the portrait, got {show}; leave "
            f"{spell('show')} out"
        )


def places_of(shows: Sequence[Shown]) -> Tensor:
    """Number what each of B heads shows, [B, 1] float32, as `shown_images` takes it."""
    return torch.tensor([[float(RENDERED.index(show))] for show in shows])


def shown_images(
    portrait: Portrait4D, geometry: GeometryPictures, head: Head, camera: Camera, places: Tensor,
    kinds: Collection[Shown] = RENDERED,
) -> Tensor:  # fmt: skip
    """Render B heads, each as it was asked for, from one march of their rays.

    Args:
        portrait: the network.
        geometry: makes pictures of depth and normals.
        head, camera: B heads, and from where they are seen.
        places: [B], what each shows, see `places_of`.
        kinds: what is made; at least what is asked for. Where a graph is captured, all of it.

    Returns:
        [B, 3, S, S] in about [-1, 1]; not finite where the numbers behind them are not.
    """
    made: dict[Shown, Tensor] = {}
    if "picture" in kinds:
        rendering = portrait.render(head, camera)
        made["picture"], depth, opacity = rendering.image, rendering.depth, rendering.opacity
    else:
        samples = portrait.volume(head.planes, camera, head.neck, ringed_planes=head.ringed_planes)
        _, depth, opacity, _ = as_images(samples, head.background)
    side = portrait.config.image_size
    if "depth" in kinds:
        made["depth"] = geometry.depth(depth, opacity, camera, side)
    if "normals" in kinds:
        made["normals"] = geometry.normals(depth, opacity, portrait.volume, head, camera, side)
    (_, images), *others = made.items()
    for kind, other in others:
        images = torch.where(places[:, None, None, None] == RENDERED.index(kind), other, images)
    return images


def surface_of(portrait: Portrait4D, head: Head) -> Surface:
    """Extract the surface of one head, in the pose that it is seen in.

    The grid has three nodes for two texels of the planes, MOST_NODES at most; on a CPU its densities take most of the
    time, on a GPU the marching cubes, which the host does.

    Raises:
        InputError: the head has no surface, or a package of the extra `mesh` is missing.
    """
    grid = density_grid(portrait.volume, head, min(MOST_NODES, 3 * portrait.config.render.plane_size // 2))
    return extract(grid, visible_level(portrait.volume, head))


def surface_picture(surface: Surface, camera: Camera, side: int, device: torch.device) -> np.ndarray:
    """Draw a surface as one camera sees it, uint8 [side, side, 3], on a device."""
    grey = round((BACKGROUND + 1) * 127.5)
    vertices, faces = surface.vertices.to(device), surface.faces.to(device)
    return mesh_picture(vertices[None], faces, camera.to(device), side, background=(grey,) * 3)[0].cpu().numpy()
