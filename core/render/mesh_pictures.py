"""Pictures of meshes: shaded, with smooth edges, alone or laid over a photograph.

Letters: B batch, U vertices, F faces, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.types import Camera
from triportrait.kernels.rasterize import interpolate, rasterize

SAMPLES = 3  # along each side of a pixel: nine points of it are looked at
CLAY = (0.78, 0.76, 0.74)
LIGHTS = (  # where a light stands, in camera axes, and how bright it is
    ((-0.45, 0.55, 0.70), 0.75),
    ((0.80, 0.10, 0.45), 0.22),
)
AMBIENT = 0.16
GAMMA = 2.2


def picture_points(vertices: Tensor, camera: Camera, size: int) -> Tensor:
    """Project vertices into a square picture, as `rasterize` takes them.

    Args:
        vertices: [B, U, 3] scene units.
        camera: B cameras, or one for all.
        size: pixels of the picture's side.

    Returns:
        [B, U, 3]: x to the right and y down in pixels, depth along the camera's axis in scene units.
    """
    rotation, position = camera.world_from_camera[:, :3, :3], camera.world_from_camera[:, None, :3, 3]
    x, y, z = ((vertices - position) @ rotation).unbind(-1)  # camera axes: x right, y up, looking along -z
    K, depth = camera.intrinsics, -z
    across, up = x / depth, y / depth
    u = K[:, 0, 0, None] * across - K[:, 0, 1, None] * up + K[:, 0, 2, None]
    v = K[:, 1, 2, None] - K[:, 1, 1, None] * up
    return torch.stack([u * size, v * size, depth], -1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Average the normals of the faces around each vertex, weighted by their areas.

    Args:
        vertices: [B, U, 3].
        faces: [F, 3] int64, counter-clockwise as seen from outside.

    Returns:
        [B, U, 3] unit vectors outwards; 0 where a vertex has no face with an area.
    """
    a, b, c = vertices[:, faces].unbind(2)
    normals = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        total = total.index_add(1, corner, normals)
    return F.normalize(total, dim=-1, eps=1e-30)


def mesh_picture(
    vertices: Tensor,
    faces: Tensor,
    camera: Camera,
    size: int = 512,
    colours: Tensor | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Tensor:
    """Draw meshes shaded, both sides of each face, lit from beside the camera.

    Args:
        vertices: [B, U, 3] float32, scene units.
        faces: [F, 3] int64, counter-clockwise as seen from outside.
        camera: B cameras, or one for all.
        size: pixels of the pictures' side.
        colours: [U, 3] or [B, U, 3] in [0, 1], sRGB, of the vertices; None is grey clay.
        background: red, green and blue of 0 to 255.

    Returns:
        [B, size, size, 3] uint8.

    Raises: `ValueError` where a shape disagrees.
    """
    light, coverage = _shaded(vertices, faces, camera, size, colours)
    behind = torch.tensor(background, device=light.device) / 255
    return _as_bytes(light + (1 - coverage) * behind**GAMMA)


def overlay_mesh(
    pictures: Tensor,
    vertices: Tensor,
    faces: Tensor,
    camera: Camera,
    opacity: float = 0.6,
    colours: Tensor | None = None,
) -> Tensor:
    """Lay shaded meshes over pictures that their cameras took.

    Args:
        pictures: [B, H, H, 3] uint8.
        vertices, faces, camera, colours: as in `mesh_picture`.
        opacity: from 0, where nothing is laid over, to 1, where the mesh hides the picture.

    Returns:
        [B, H, H, 3] uint8.

    Raises:
        InputError: the opacity is not between 0 and 1, or a picture is not square.
        ValueError: a shape disagrees.
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity: expected 0 to 1, got {opacity:g}; choose a number between them")
    if pictures.ndim != 4 or pictures.shape[1] != pictures.shape[2]:
        raise InputError(f"pictures: expected [B, H, H, 3], got {list(pictures.shape)}; crop them to squares")
    light, coverage = _shaded(vertices, faces, camera, pictures.shape[1], colours)
    return _as_bytes(opacity * light + (1 - opacity * coverage) * (pictures.to(light) / 255) ** GAMMA)


def _shaded(
    vertices: Tensor, faces: Tensor, camera: Camera, size: int, colours: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return linear light [B, size, size, 3], dark where nothing is, and the share of each pixel that is covered."""
    with torch.no_grad():
        fine = size * SAMPLES
        raster = rasterize(picture_points(vertices, camera, fine), faces, fine, fine)
        if colours is None:
            colours = vertices.new_tensor(CLAY).expand_as(vertices)
        attributes = torch.cat([vertex_normals(vertices, faces), colours.expand_as(vertices), vertices], -1)
        seen = (raster.face >= 0)[..., None]
        pixels = interpolate(attributes, faces, raster)
        normal, colour, place = F.normalize(pixels[..., :3], dim=-1), pixels[..., 3:6], pixels[..., 6:]
        towards = camera.world_from_camera[:, None, None, :3, 3] - place
        normal = torch.where((normal * towards).sum(-1, keepdim=True) < 0, -normal, normal)  # of the side that is seen
        normal = normal @ camera.world_from_camera[:, None, :3, :3]  # in camera axes
        brightness = torch.full_like(normal[..., :1], AMBIENT)
        for position, strength in LIGHTS:
            light = F.normalize(normal.new_tensor(position), dim=0)
            brightness += strength * (normal @ light).clamp(min=0)[..., None]
        linear = torch.where(seen, colour**GAMMA * brightness, 0.0)
        both = torch.cat([linear, seen.to(linear)], -1).permute(0, 3, 1, 2)
        mean = F.avg_pool2d(both, SAMPLES).permute(0, 2, 3, 1)
        return mean[..., :3], mean[..., 3:]


def _as_bytes(linear: Tensor) -> Tensor:
    return (linear.clamp(0, 1) ** (1 / GAMMA) * 255).round().to(torch.uint8)
