"""Pictures of a head's geometry: its depth and its normals as colours, seen by the camera that takes its picture.

Letters: B heads, h w of the ray grid, S side of the pictures.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.motion.flame import SCENE_UNITS_PER_METRE
from triportrait.core.motion.neck import warp_of
from triportrait.core.render.rays import camera_rays
from triportrait.core.render.volume import VolumeRenderer
from triportrait.core.types import Camera, Head
from triportrait.kernels.field import decode_field
from triportrait.kernels.march import warped

Shown = Literal["picture", "depth", "normals", "mesh"]  # what a frame can show of a head

# Depths have these colours whatever is seen, so that no colour changes from frame to frame: from so far before the
# joint of the neck, which is the world's origin, to so far behind it. A nose is 0.11 m before it.
NEAR_M, FAR_M = 0.13, 0.08
BACKGROUND = 0.8  # grey behind the head, in [-1, 1]
SURFACE = 0.5  # opacity at which the head ends
STEP_TEXELS = 1.5  # from the surface to where densities are compared; less shows the grain of the planes
_COLOURS = 256


class GeometryPictures(nn.Module):
    """Makes pictures of depth and of normals; it has constants alone, which lie on the device of its buffers."""

    colours: Tensor
    corners: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colours", depth_colours(), persistent=False)
        corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # of a tetrahedron
        self.register_buffer("corners", corners, persistent=False)

    def depth(self, depth: Tensor, opacity: Tensor, camera: Camera, side: int) -> Tensor:
        """Colour how far the surface is: yellow is near, dark violet is far, grey is the background.

        Args:
            depth, opacity: [B, 1, h, w], as in `Rendering`.
            camera: B cameras.
            side: S.

        Returns:
            [B, 3, S, S] in [-1, 1]; a colour tells the distance along the camera's axis to the plane through the
            world's origin, from NEAR_M before it to FAR_M behind it, and what is beyond has the outermost colour.
        """
        with torch.autocast(depth.device.type, enabled=False):  # places stay float32
            return self._depth(depth.float(), opacity.float(), camera, side)

    def _depth(self, depth: Tensor, opacity: Tensor, camera: Camera, side: int) -> Tensor:
        _, directions = camera_rays(camera, depth.shape[-1])
        backward = camera.world_from_camera[:, :3, 2:3]  # [B, 3, 1], the camera looks along the opposite
        along_axis = -(directions @ backward).mT.unflatten(2, depth.shape[2:]) * depth
        before_m = (camera.axis_distance[:, None, None, None] - along_axis) / SCENE_UNITS_PER_METRE
        nearness, cover = _enlarged((before_m + FAR_M) / (NEAR_M + FAR_M), opacity, side)
        place = (nearness.nan_to_num().clamp(0, 1) * (_COLOURS - 1)).round().long()[:, 0]
        return _over_background(self.colours[place].movedim(-1, 1), cover)

    def normals(
        self, depth: Tensor, opacity: Tensor, volume: VolumeRenderer, head: Head, camera: Camera, side: int
    ) -> Tensor:
        """Colour where the surface faces: right of the camera is red, up is green, towards it is blue.

        The normal is against the gradient of the density at the expected depth of a ray, from densities at the four
        corners of a tetrahedron around it, where the neck has turned, too.

        Args:
            depth, opacity: [B, 1, h, w], as in `Rendering`.
            volume: what has rendered them.
            head, camera: B heads, and from where they were seen.
            side: S.

        Returns:
            [B, 3, S, S] in [-1, 1]: the normal in the camera's axes.
        """
        with torch.autocast(depth.device.type, enabled=False):
            return self._normals(depth.float(), opacity.float(), volume, head, camera, side)

    def _normals(
        self, depth: Tensor, opacity: Tensor, volume: VolumeRenderer, head: Head, camera: Camera, side: int
    ) -> Tensor:
        config, size = volume.config, depth.shape[-1]
        origins, directions = camera_rays(camera, size)
        surface = origins + depth.flatten(2).mT * directions  # [B, R, 3]
        step = STEP_TEXELS * config.box_side / config.plane_size
        around = (surface[:, :, None] + step * self.corners).flatten(1, 2)
        points = warped(around, warp_of(head.neck)) * (2 / config.box_side)
        raw_density, _ = decode_field(head.planes, points, volume.field.weights())
        gradient = raw_density.float().unflatten(1, (-1, 4)) @ self.corners
        normals = F.normalize(-gradient, dim=-1) @ camera.world_from_camera[:, :3, :3]
        enlarged, cover = _enlarged(normals.mT.unflatten(2, (size, size)), opacity, side)
        return _over_background(F.normalize(enlarged, dim=1), cover)


def _enlarged(values: Tensor, opacity: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Enlarge values [B, C, h, w] of the head alone to S x S, and give how much of each pixel it covers, [B, 1, S, S].

    The values are blended by their opacities, so that nothing from beside the head gets in; the edge, which a ray grid
    draws as wide as its cells, is drawn as wide as a pixel.
    """
    pixels = side / opacity.shape[-1]  # along a cell of the ray grid
    blended = F.interpolate(
        torch.cat([values * opacity, opacity], 1), size=(side, side), mode="bilinear", align_corners=False
    )
    values, opacity = blended[:, :-1], blended[:, -1:]
    cover = ((opacity - SURFACE) * pixels + 0.5).clamp(0, 1)
    return values / opacity.clamp(min=1e-6), cover


def _over_background(colours: Tensor, cover: Tensor) -> Tensor:
    return torch.lerp(torch.full_like(colours, BACKGROUND), colours, cover)


def depth_colours() -> Tensor:
    """Compute the colours of depths [256, 3] in [-1, 1], the farthest first.

    Their lightness rises evenly from dark violet over green to yellow, in OKLab (B. Ottosson, 2020), whose equal steps
    look equal; so the picture reads the same in grey.
    """
    share = torch.linspace(0, 1, _COLOURS, dtype=torch.float64)
    lightness = 0.27 + 0.65 * share
    hue = torch.deg2rad(300 - 195 * share)
    chroma = 0.09 + 0.04 * (2 * share - 1) ** 2  # as much as a screen shows of each hue
    lab = torch.stack([lightness, chroma * hue.cos(), chroma * hue.sin()], 1)
    cones = lab @ torch.tensor(_CONES_FROM_OKLAB, dtype=torch.float64).T
    linear = cones**3 @ torch.tensor(_LINEAR_FROM_CONES, dtype=torch.float64).T
    encoded = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (2 * encoded - 1).float()


_CONES_FROM_OKLAB = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_LINEAR_FROM_CONES = (
    (4.0767416621, -3.3077115913, 0.2309699292), (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)  # fmt: skip
