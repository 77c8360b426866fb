"""Which rays see an eye, and which look into the mouth: masks drawn from the mesh, softened, and shrunk to the rays.

    eye opening    the eyeballs, less what the face without them covers
    mouth opening  the whole simplified head, both sides, less what the head without the mouth's inside covers

A head model whose mesh has no such openings or lists (the open head, FLAME's own file) has landmarks: there an opening
is the polygon of the lids' landmarks (36-41, 42-47), or of the lips' inner ones (60-67), where it faces the camera.
Letters: B batch, S side of a mask, h of the ray grid, U vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.motion.neck import NeckField
from triportrait.core.render.face_maps import TABLES, FaceMaps
from triportrait.core.render.mesh_pictures import picture_points
from triportrait.core.types import Camera
from triportrait.kernels.rasterize import rasterize

OPENING = 7  # pixels: what is narrower leaves the mask of the mouth
EYE_BLUR, MOUTH_BLUR = 1.0, 2.0  # pixels
# corners of the openings among the landmarks, counter-clockwise as seen from the front
LIDS = ((36, 41, 40, 39, 38, 37), (42, 47, 46, 45, 44, 43))
INNER_LIPS = (60, 67, 66, 65, 64, 63, 62, 61)


@dataclass(frozen=True)
class PartMasks:
    """How much of each ray, and of each pixel, is eye and mouth, in [0, 1].

    Attributes:
        eye, mouth: [B, 1, h, h], for the rays.
        eye_picture, mouth_picture: [B, 1, S, S], with soft edges, for pictures.
    """

    eye: Tensor
    mouth: Tensor
    eye_picture: Tensor
    mouth_picture: Tensor


def has_openings(field: NeckField) -> bool:
    """Tell whether the lists of a published file say where the mesh is open; if not, landmarks do."""
    return TABLES["no inner mouth"] in field.mesh


@torch.no_grad()
def draw_openings(
    field: NeckField, vertices: Tensor, camera: Camera, size: int, maps: FaceMaps | None = None
) -> tuple[Tensor, Tensor]:
    """Draw the openings of eyes and mouth.

    Args:
        field: FLAME, and the tables that came with it.
        vertices: [B, U, 3], posed, with the neck turned; scene units.
        camera: B cameras.
        size: S; published 512.
        maps: the regions of `field`, where they are at hand.

    Returns:
        eye and mouth openings, [B, 1, S, S], 0 or 1.
    """
    if has_openings(field):
        regions = maps or FaceMaps(field)
        eyeballs, face, head, no_mouth = (
            regions.mask(region, vertices, camera, size)
            for region in ("eyes", "face without eyes", "head", "no inner mouth")
        )
        return eyeballs * (1 - face), head * (1 - no_mouth)
    landmarks = field.flame.landmarks(vertices)
    eyes = [_polygon(landmarks, corners, camera, size) for corners in LIDS]
    return torch.maximum(*eyes), _polygon(landmarks, INNER_LIPS, camera, size)


@torch.no_grad()
def soften(eye_opening: Tensor, mouth_opening: Tensor, ray_size: int) -> PartMasks:
    """Make the masks of openings [B, 1, S, S], 0 or 1, for a ray grid of side `ray_size`.

    For the rays an opening is shrunk with antialiasing. For pictures the eyes are blurred (7 taps); the mouth is opened
    (what is narrower than 7 pixels leaves), blurred (13 taps), and gets what the rays see of it on top, at most 1.
    """
    size = eye_opening.shape[-1]
    eye, mouth = (shrink_mask(opening, ray_size) for opening in (eye_opening, mouth_opening))
    grown = F.interpolate(mouth, size=(size, size), mode="bilinear", align_corners=False)
    mouth_picture = (blur(morphological_opening(mouth_opening), MOUTH_BLUR) + grown).clamp(max=1)
    return PartMasks(eye, mouth, blur(eye_opening, EYE_BLUR), mouth_picture)


def shrink_mask(mask: Tensor, size: int) -> Tensor:
    """Resize [B, 1, S, S] to [B, 1, size, size], bilinearly with antialiasing."""
    if mask.shape[-1] == size:
        return mask
    return F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def blur(mask: Tensor, sigma: float) -> Tensor:
    """Filter [B, 1, S, S] with the taps 2^-(k / sigma)², |k| <= floor(3 sigma), divided by their sum; zeros outside."""
    reach = int(3 * sigma)
    taps = 2 ** -((torch.arange(-reach, reach + 1, device=mask.device, dtype=mask.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    rows = F.conv2d(mask, taps.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(rows, taps.view(1, 1, 1, -1), padding=(0, reach))


def morphological_opening(mask: Tensor) -> Tensor:
    """Take the minimum over 7 x 7 pixels, then the maximum: [B, 1, S, S] without what is narrower than 7 pixels."""
    smallest = -F.max_pool2d(-mask, OPENING, stride=1, padding=OPENING // 2)
    return F.max_pool2d(smallest, OPENING, stride=1, padding=OPENING // 2)


def _polygon(landmarks: Tensor, corners: tuple[int, ...], camera: Camera, size: int) -> Tensor:
    """Draw a polygon of landmarks [B, 70, 3] where it faces the camera: [B, 1, S, S]."""
    points = picture_points(landmarks[:, list(corners)], camera, size)
    last = len(corners) - 1
    strip = [(0, 1, last)]  # from corner to corner, both rims in step: the polygon need not be convex
    for i in range(1, last // 2 + 1):
        strip += [(i, i + 1, last + 1 - i), (i + 1, last - i, last + 1 - i)]
    faces = torch.tensor([f for f in strip if len(set(f)) == 3], device=points.device)
    return (rasterize(points, faces, size, size, "back").face >= 0).float()[:, None]
