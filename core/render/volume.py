"""Volume rendering: planes and a camera become a feature image, R without super-resolution (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.config import RenderConfig
from triportrait.core.motion.neck import warp_of
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import Camera, NeckGrid
from triportrait.kernels.dispatch import runs_triton
from triportrait.kernels.field import FieldWeights
from triportrait.kernels.importance import stratified_depths
from triportrait.kernels.march import MlpPrecision, Rays, fuses, march_rays


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
        """Return the weights as they multiply, for `kernels.field.decode_field`."""
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
    """The renderer marches rays through the planes: even samples, more where they matter, composited on midpoints."""

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
        ringed_planes: Tensor | None = None,
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
            ringed_planes: [B, 3, H + 4, W + 4, C], the planes within zeros, kept for many views where `reads_ring`.

        Returns:
            The ray grid. Depths are clamped to each image's own first and last sample.
        """
        with torch.autocast(planes.device.type, enabled=False):  # depths, densities and sums stay float32
            return self._render(
                planes, camera, neck, size or self.config.neural_size, box_scale, jitter, uniforms, ringed_planes
            )

    @property
    def reads_ring(self) -> bool:
        """Tell whether planes are read within a ring of zeros where the weights are: `ringed` makes it once."""
        weight = self.field.hidden.weight
        widths = (*weight.shape, self.field.feature.weight.shape[0])
        return runs_triton(weight=weight) and fuses(widths, self.config.num_coarse, self.config.num_fine)

    def _render(
        self, planes: Tensor, camera: Camera, neck: NeckGrid | None, size: int, box_scale: Tensor | None,
        jitter: Tensor | None, uniforms: Tensor | None, ringed_planes: Tensor | None,
    ) -> VolumeSamples:  # fmt: skip
        config = self.config
        origins, directions = camera_rays(camera, size)  # [B, 1, 3], [B, R, 3]
        scale = torch.ones_like(camera.axis_distance) if box_scale is None else box_scale
        half = config.box_side / 2 * scale
        depths = stratified_depths(
            camera.axis_distance - half, camera.axis_distance + half, config.num_coarse, jitter
        )  # [B, S]
        rays, weights = Rays(origins[:, 0], directions, size), self.field.weights()
        feature, depth, opacity = march_rays(
            planes, rays, depths, config.num_fine, half, weights, warp_of(neck), uniforms, _precision(planes),
            ringed_planes=ringed_planes,
        )  # fmt: skip
        depth = torch.minimum(torch.maximum(depth, depths[:, :1]), depths[:, -1:])
        return VolumeSamples(feature, depth, opacity)


def _precision(planes: Tensor) -> MlpPrecision:
    """Choose the precision of the MLP: the dtype of the planes, or TF32 where the user allows PyTorch the same."""
    half: dict[torch.dtype, MlpPrecision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    return half.get(planes.dtype, "tf32" if torch.backends.cuda.matmul.allow_tf32 else "exact")


def as_images(samples: VolumeSamples, background: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the ray grid as images, and its background; nothing is copied but a background of another size.

    Args:
        samples: the ray grid.
        background: [B, C, h', w'] in [0, 1]; resized (bilinear, without antialiasing) where it is not h x w.

    Returns:
        feature [B, C, h, w] in [0, 1], without background; depth and opacity [B, 1, h, w]; background [B, C, h, w].
    """
    side = round(samples.depth.shape[1] ** 0.5)
    feature, depth, opacity = (
        x.mT.unflatten(2, (side, side)) for x in (samples.feature, samples.depth[..., None], samples.opacity[..., None])
    )
    return feature, depth, opacity, resize_background(background, side)


def over_background(foreground: Tensor, opacity: Tensor, background: Tensor) -> Tensor:
    """Put the head before its background: images of `as_images` -> [B, C, h, w] in about [-1, 1], float32."""
    return 2 * (foreground + (1 - opacity) * background) - 1


def resize_background(background: Tensor, side: int) -> Tensor:
    """Resize [B, C, H, W] to [B, C, side, side], bilinearly without antialiasing, as the network was trained."""
    if background.shape[-1] == side:
        return background
    return F.interpolate(background, size=(side, side), mode="bilinear", align_corners=False)
