"""From a head to a mesh: densities, surface, colours from all sides, texture."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.geometry.colour import View, point_colours, view_cameras, view_of
from triportrait.core.geometry.density import Progress, density_grid, field_at, visible_level
from triportrait.core.geometry.simplify import decimated, smoothed
from triportrait.core.geometry.surface import Surface, check_packages, extract
from triportrait.core.geometry.texture import baked, outward_normals, unwrapped
from triportrait.core.motion.flame import SCENE_UNITS_PER_METRE
from triportrait.core.types import Head
from triportrait.serve.media.meshes.mesh_file import HeadMesh
from triportrait.serve.media.meshes.triangles import Texture, Triangles
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.refined import sha256_of

# measured, see docs/mesh: the grid, its closed copy, marching cubes; what a texture is baked of
BYTES_PER_NODE, BYTES_PER_TEXEL, OTHER_BYTES = 14, 190, 1 << 29
RANGES = {"resolution": (16, 1024), "triangles": (100, 2_000_000), "smooth": (0, 100), "texture_size": (64, 8192)}
Colour = Literal["texture", "vertices"]


@dataclass(frozen=True)
class MeshOptions:
    """How a mesh is made.

    Attributes:
        resolution: nodes along an edge of the density grid, which spans the box of 1.3 scene units (43 cm).
        level: raw density at which the surface lies; "auto" is where rays have lost a fifth of their light.
        triangles: at most so many; None keeps all that marching cubes give, as the neighbouring nodes have it.
        smooth: passes of Taubin's filter, which does not shrink.
        texture_size: pixels of the texture's side; None is four times the network's picture, at most 4,096 px.
        colour: "texture", or "vertices" alone, which spares the unwrapping.
        published_grid: look where the published script looks, up to one spacing beside the nodes.
    """

    resolution: int = 256
    level: float | Literal["auto"] = "auto"
    triangles: int | None = 50_000
    smooth: int = 0
    texture_size: int | None = None
    colour: Colour = "texture"
    published_grid: bool = False

    def check(self) -> None:
        """Check the numbers, the packages, and that the memory suffices. Raises: `InputError`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in RANGES and value is not None:
                least, most = RANGES[field.name]
                if not (isinstance(value, int) and least <= value <= most):
                    raise InputError(
                        f"{field.name}: expected a whole number from {least} to {most:,}, got {value}; choose another"
                    )
        if self.level != "auto" and not (isinstance(self.level, int | float) and np.isfinite(self.level)):
            raise InputError(f"level: expected auto or a finite number, got {self.level!r}; choose one")
        if self.colour not in ("texture", "vertices"):
            raise InputError(f"colour: expected texture or vertices, got {self.colour!r}; choose one")
        check_packages()
        free = free_memory()
        for name, each, power in (("resolution", BYTES_PER_NODE, 3), ("texture_size", BYTES_PER_TEXEL, 2)):
            value = getattr(self, name)
            needed = 0 if value is None else each * value**power + OTHER_BYTES
            if free is not None and needed > free:
                fits = int((max(free - OTHER_BYTES, 0) / each) ** (1 / power))
                raise InputError(
                    f"{name}: expected at most {fits} with {free / 1e9:.1f} GB of memory free, got {value}, which "
                    f"takes {needed / 1e9:.1f} GB; choose less"
                )


DEFAULT_MESH = MeshOptions()


def source_stamp(source: PreparedSource, weights: str, watermark: bool) -> Stamp:
    """Make the stamp of what is generated from a source; `weights` is what the user calls them."""
    assert source.picture is not None, "it comes from Pipeline.prepare"
    return Stamp(source.picture.sha256(), weights, watermark=watermark).for_person(sha256_of(source.refined))


def free_memory() -> int | None:
    """Return the bytes of memory that are free for a new program; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


@torch.inference_mode()
def make_mesh(
    reenactor: Reenactor, head: Head, options: MeshOptions, stamp: Stamp, progress: Progress | None = None
) -> HeadMesh:
    """Make the mesh of one head.

    Args:
        reenactor: the networks.
        head: one head, its neck as it is.
        options: checked by `MeshOptions.check`.
        stamp: says where the mesh comes from.
        progress: called with the nodes of the grid that are done and their number.

    Raises:
        InputError: no density passes the level, or the head stops no light.
    """
    volume = reenactor.portrait.volume
    level = visible_level(volume, head) if options.level == "auto" else float(options.level)
    surface = extract(density_grid(volume, head, options.resolution, options.published_grid, progress), level)
    surface = smoothed(surface, options.smooth)
    if options.triangles is not None:
        surface = decimated(surface, options.triangles)
    normals = outward_normals(surface)

    def field_colour(points: Tensor, normals: Tensor) -> Tensor:
        on_device = points.to(head.planes.device).split(1 << 18)
        return torch.cat([field_at(volume, head, part)[1].cpu() for part in on_device])

    colour = point_colours(_views(reenactor, head, surface), field_colour)
    colours = (colour(surface.vertices, normals) * 255).round().to(torch.uint8)
    texture = None
    if options.colour == "texture":
        size = options.texture_size or min(4096, 4 * reenactor.image_size)
        cut = unwrapped(surface, size)
        image = baked(cut, normals[cut.places], colour, size)
        texture = Texture(cut.places.numpy(), cut.surface.faces.numpy(), cut.uv.numpy(), image.numpy())
    vertices = (surface.vertices / SCENE_UNITS_PER_METRE).numpy()
    triangles = Triangles(vertices, normals.numpy(), colours.numpy(), surface.faces.numpy())
    return HeadMesh(triangles, texture, level, stamp)


def _views(reenactor: Reenactor, head: Head, surface: Surface) -> list[View]:
    views = []
    for camera, trust in view_cameras():
        image = ((reenactor.render(head, camera).image[0].float().cpu() + 1) / 2).clamp(0, 1)
        views.append(view_of(surface, image, camera, trust))
    return views
