"""Planes and a camera become a feature image: R without super-resolution (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.config import RenderConfig
from triportrait.core.motion.neck import undo_neck
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import Camera, NeckGrid
from triportrait.kernels.composite import composite, interval_weights
from triportrait.kernels.field import FieldWeights, decode_field
from triportrait.kernels.importance import importance_depths, merge_samples, stratified_depths

RAY_CHUNK = 4096  # rays of the whole batch at a time; bounds the memory of inference, changes no ray


@dataclass(frozen=True)
class VolumeSamples:
    """A rendered ray grid.

    Attributes:
        feature: [B, R, C] in [0, 1], without background.
        depth: [B, R], scene units along the unit ray.
        opacity: [B, R] in [0, 1].
    """

    feature: Tensor
    depth: Tensor
    opacity: Tensor


class Field(nn.Module):
    """The MLP behind the planes. Stored weights have unit scale; the gain 1 / sqrt(inputs) is applied when used."""

    def __init__(self, config: RenderConfig) -> None:
        super().__init__()
        self.hidden = _UnitLinear(config.plane_width, config.field_hidden)
        self.density = _UnitLinear(config.field_hidden, 1)
        self.feature = _UnitLinear(config.field_hidden, config.plane_width)
        nn.init.zeros_(self.density.weight)

    def weights(self) -> FieldWeights:
        """The weights as they multiply, for `kernels.field.decode_field`."""
        return FieldWeights(
            self.hidden.scaled(),
            self.hidden.bias,
            self.density.scaled(),
            self.density.bias,
            self.feature.scaled(),
            self.feature.bias,
        )


class _UnitLinear(nn.Module):
    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_width, in_width))
        self.bias = nn.Parameter(torch.zeros(out_width))

    def scaled(self) -> Tensor:
        return self.weight / self.weight.shape[1] ** 0.5


class VolumeRenderer(nn.Module):
    """Marches rays through the planes: even samples, as many more where they matter, composited on midpoints."""

    def __init__(self, config: RenderConfig) -> None:
        super().__init__()
        self.config = config
        self.field = Field(config)

    def forward(
        self,
        planes: Tensor,
        camera: Camera,
        neck: NeckGrid | None = None,
        size: int | None = None,
        box_scale: Tensor | None = None,
        jitter: Tensor | None = None,
        uniforms: Tensor | None = None,
    ) -> VolumeSamples:
        """Render B heads from B cameras.

        Args:
            planes: [B, 3, H, W, C].
            camera: B cameras.
            neck: how to undo the neck's rotation; None means it is still.
            size: side of the ray grid; None means the neural size of the config.
            box_scale: [B], factor on the side of the box, 1 by default.
            jitter: [B, S] in [0, 1), shared by all rays of an image; None means 0.
            uniforms: [B, R, N] in [0, 1] for the fine samples; None means evenly spread, the same for every ray. With
                both None the result depends on the inputs alone.

        Returns:
            The ray grid. Depths are clamped to each image's own first and last sample.
        """
        with torch.autocast(planes.device.type, enabled=False):  # depths, densities and sums stay float32
            return self._render(planes, camera, neck, size or self.config.neural_size, box_scale, jitter, uniforms)

    def _render(
        self, planes: Tensor, camera: Camera, neck: NeckGrid | None, size: int, box_scale: Tensor | None,
        jitter: Tensor | None, uniforms: Tensor | None,
    ) -> VolumeSamples:  # fmt: skip
        config = self.config
        origins, directions = camera_rays(camera, size)  # [B, 1, 3], [B, R, 3]
        scale = torch.ones_like(camera.axis_distance) if box_scale is None else box_scale
        half = config.box_side / 2 * scale
        depths = stratified_depths(
            camera.axis_distance - half, camera.axis_distance + half, config.num_coarse, jitter
        )  # [B, S]
        weights = self.field.weights()
        B, R = directions.shape[:2]
        parts = []
        for chunk in range(0, R, max(1, RAY_CHUNK // B)):
            rays = directions[:, chunk : chunk + max(1, RAY_CHUNK // B)]
            if uniforms is None:
                even = torch.linspace(0, 1, config.num_fine, device=rays.device)
                u = even.expand(B, rays.shape[1], -1)
            else:
                u = uniforms[:, chunk : chunk + rays.shape[1]]
            parts.append(self._march(planes, weights, origins, rays, depths, u, neck, half))
        feature, depth, opacity = (torch.cat(p, dim=1) for p in zip(*parts, strict=True))
        depth = torch.minimum(torch.maximum(depth, depths[:, :1]), depths[:, -1:])
        return VolumeSamples(feature, depth, opacity)

    def _march(
        self, planes: Tensor, weights: FieldWeights, origins: Tensor, rays: Tensor, depths: Tensor, uniforms: Tensor,
        neck: NeckGrid | None, half: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        def at(t: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, S] -> raw density [B, R, S], feature [B, R, S, C]
            points = (origins[:, None] + t[..., None] * rays[:, :, None]).flatten(1, 2)
            points = undo_neck(points, neck) * (1 / half)[:, None, None]
            raw_density, feature = decode_field(planes, points, weights)
            return raw_density.view(t.shape), feature.unflatten(1, t.shape[1:])

        coarse = depths[:, None].expand(-1, rays.shape[1], -1)  # [B, R, S]
        coarse_density, coarse_feature = at(coarse)
        fine = importance_depths(coarse, interval_weights(coarse_density, coarse), uniforms)
        fine_density, fine_feature = at(fine)
        merged = merge_samples((coarse, fine), (coarse_density, fine_density), (coarse_feature, fine_feature))
        return composite(merged[1], merged[2], merged[0])


def over_background(samples: VolumeSamples, background: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put the head before its background.

    Args:
        samples: the ray grid.
        background: [B, C, h', w'] in [0, 1]; resized (bilinear, without antialiasing) where it is not h x w.

    Returns:
        feature [B, C, h, w] in about [-1, 1], float32; depth and opacity [B, 1, h, w].
    """
    side = round(samples.depth.shape[1] ** 0.5)
    feature, depth, opacity = (
        x.mT.unflatten(2, (side, side)) for x in (samples.feature, samples.depth[..., None], samples.opacity[..., None])
    )
    return 2 * (feature + (1 - opacity) * resize_background(background, side)) - 1, depth, opacity


def resize_background(background: Tensor, side: int) -> Tensor:
    """[B, C, H, W] -> [B, C, side, side], bilinear without antialiasing, as the network was trained."""
    if background.shape[-1] == side:
        return background
    return F.interpolate(background, size=(side, side), mode="bilinear", align_corners=False)
