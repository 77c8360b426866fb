"""Part-wise volume rendering: two sets of planes, one behind the eyes and inside the mouth, one for everything else.

Samples, importance and compositing are the portrait network's; between them each sample is carried to the canonical
face once for the face's planes, and, on rays that see an eye or look into the mouth, once for the other planes.
Letters: B batch, R rays, S coarse and N fine samples, L samples of one pass, Q rays that part E is computed for, C
channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from triportrait.core.config import GenHeadConfig
from triportrait.core.genhead.deformation import (
    PosedHead,
    eye_points,
    face_points,
    inside_eye_boxes,
    mouth_points,
    straighten,
)
from triportrait.core.genhead.fuse import Fuse, fuse_parts, gate_density
from triportrait.core.genhead.masks import PartMasks
from triportrait.core.genhead.regions import PartRegions
from triportrait.core.render.rays import camera_rays
from triportrait.core.render.volume import Field, VolumeSamples
from triportrait.core.types import Camera
from triportrait.kernels.composite import composite, interval_weights
from triportrait.kernels.field import FieldWeights, decode_field
from triportrait.kernels.importance import importance_depths, merge_samples, stratified_depths
from triportrait.kernels.triplane import sample_triplane

RAY_CHUNK = 4096  # rays of the whole batch at a time; bounds the memory, changes no ray


@dataclass(frozen=True)
class _Scene:
    """What all rays share. planes_e and planes_f are [B, 3, H, W, C]."""

    planes_e: Tensor
    planes_f: Tensor
    weights: FieldWeights
    posed: PosedHead
    regions: PartRegions
    fuse: Fuse
    half_side: float


@dataclass(frozen=True)
class _RayPiece:
    """Rays of a chunk.

    Attributes:
        origins: [B, 1, 3]. directions: [B, R, 3].
        parted: [B, Q], the rays for which part E is computed.
        eye, mouth: [B, Q], e and m of those.
    """

    origins: Tensor
    directions: Tensor
    parted: Tensor
    eye: Tensor
    mouth: Tensor

    def points(self, depths: Tensor) -> Tensor:
        """Return the samples [B, R, L, 3] at depths [B, R, L]."""
        return self.origins[:, :, None] + depths[..., None] * self.directions[:, :, None]


@dataclass(frozen=True)
class PartRays:
    """What lies along the rays that see an eye or look into the mouth, for the losses that keep the parts apart.

    All images have as many of them as fit the one with most, so that some rays of the others see neither: their `eye`
    and `mouth` are 0.

    Attributes:
        depths: [B, Q, L], coarse and fine samples, ascending; scene units along the unit ray.
        weights: [B, Q, L - 1], how much each interval adds to its ray.
        face_density: [B, Q, L] raw, part F's alone, coarse samples first.
        inside_eyes: [B, Q, L], which of the same samples are in a box around an eyeball.
        eye, mouth: [B, Q], e and m.
    """

    depths: Tensor
    weights: Tensor
    face_density: Tensor
    inside_eyes: Tensor
    eye: Tensor
    mouth: Tensor


class PartRenderer(nn.Module):
    """The renderer of GenHead; the MLP behind both sets of planes is one."""

    def __init__(self, config: GenHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.field = Field(config.render)

    def forward(
        self,
        planes: Tensor,
        camera: Camera,
        posed: PosedHead,
        regions: PartRegions,
        masks: PartMasks,
        fuse: Fuse | None = None,
        jitter: Tensor | None = None,
        uniforms: Tensor | None = None,
    ) -> VolumeSamples:
        """Render B heads from B cameras.

        Args:
            planes: [B, 6, H, W, C]; the first three of eyes and mouth, the others of the rest.
            camera: B cameras.
            posed: B poses.
            regions: the lists of vertices that carry samples.
            masks: of the same cameras and poses; their `eye` and `mouth` decide the side of the ray grid.
            fuse: None takes "hard" up to the side `hard_fuse_size` of the ray grid and "auto" above.
            jitter: [B, S] in [0, 1), shared by all rays of an image; None means 0.
            uniforms: [B, R, N] in [0, 1] for the fine samples; None means evenly spread, the same for every ray.

        Returns:
            The ray grid. Depths are clamped to each image's own first and last sample.

        Raises: `ValueError` where a shape disagrees, or the fuse is unknown.

        Differentiable in planes and weights. The memory is that of a few thousand rays: with gradients each chunk of
        them is computed again on the way back.
        """
        samples, _ = self._render(planes, camera, posed, regions, masks, fuse, jitter, uniforms, tells_parts=False)
        return samples

    def forward_with_parts(
        self,
        planes: Tensor,
        camera: Camera,
        posed: PosedHead,
        regions: PartRegions,
        masks: PartMasks,
        fuse: Fuse | None = None,
        jitter: Tensor | None = None,
        uniforms: Tensor | None = None,
    ) -> tuple[VolumeSamples, PartRays]:
        """Render like `forward`, and keep what lies along the rays that see a part; differentiable in the same."""
        samples, parts = self._render(planes, camera, posed, regions, masks, fuse, jitter, uniforms, tells_parts=True)
        assert parts is not None
        return samples, parts

    def _render(
        self, planes: Tensor, camera: Camera, posed: PosedHead, regions: PartRegions, masks: PartMasks,
        fuse: Fuse | None, jitter: Tensor | None, uniforms: Tensor | None, tells_parts: bool,
    ) -> tuple[VolumeSamples, PartRays | None]:  # fmt: skip
        with torch.autocast(planes.device.type, enabled=False):  # depths, densities and sums stay float32
            config, size = self.config.render, masks.eye.shape[-1]
            chosen: Fuse = fuse or ("hard" if size <= self.config.hard_fuse_size else "auto")
            origins, directions = camera_rays(camera, size)  # [B, 1, 3], [B, R, 3]
            depths = self._coarse_depths(camera, jitter)  # [B, S]
            scene = _Scene(
                planes[:, :3].contiguous(), planes[:, 3:].contiguous(), self.field.weights(), posed, regions, chosen,
                config.box_side / 2,
            )  # fmt: skip
            pieces = []
            step = max(1, RAY_CHUNK // max(1, len(planes)))
            chunks = _pieces(origins, directions, masks.eye.flatten(1), masks.mouth.flatten(1), step)
            for number, piece in enumerate(chunks):
                u = None if uniforms is None else uniforms[:, number * step : (number + 1) * step]
                arguments = (scene, piece, depths, config.num_fine, u, tells_parts)
                if torch.is_grad_enabled():
                    pieces.append(checkpoint(_march, *arguments, use_reentrant=False, preserve_rng_state=False))
                else:
                    pieces.append(_march(*arguments))
            feature, depth, opacity, *along = (torch.cat(parts, 1) for parts in zip(*pieces, strict=True))
            depth = torch.minimum(torch.maximum(depth, depths[:, :1]), depths[:, -1:])
            seen = [torch.cat([getattr(piece, name) for piece in chunks], 1) for name in ("eye", "mouth")]
            return VolumeSamples(feature, depth, opacity), PartRays(*along, *seen) if tells_parts else None

    def points_beside(self, camera: Camera, masks: PartMasks, picks: Tensor, jitter: Tensor | None = None) -> Tensor:
        """Choose among the coarse samples on rays that meet neither eyes nor mouth, where L_T compares planes.

        Args:
            camera, masks, jitter: as in `forward`.
            picks: [B, P] in [0, 1), which of those samples, in the order of rays and depths; one may come twice.

        Returns:
            [B, P, 3] scene units. Where every ray meets a part, all rays are taken.
        """
        with torch.autocast(picks.device.type, enabled=False):
            beside = ((masks.eye + masks.mouth) == 0).flatten(1)  # [B, R]
            beside = beside | ~beside.any(1, keepdim=True)
            rays = beside.int().argsort(dim=1, descending=True, stable=True)  # [B, R], those first
            count = beside.sum(1, keepdim=True) * self.config.render.num_coarse
            place = torch.minimum((picks.double() * count).long(), count - 1)
            ray = rays.gather(1, place // self.config.render.num_coarse)
            origins, directions = camera_rays(camera, masks.eye.shape[-1])
            depths = self._coarse_depths(camera, jitter).gather(1, place % self.config.render.num_coarse)
            return origins + depths[..., None] * directions.gather(1, ray[..., None].expand(-1, -1, 3))

    def _coarse_depths(self, camera: Camera, jitter: Tensor | None) -> Tensor:
        """Return the coarse samples [B, S] along the unit ray."""
        distance, half = camera.axis_distance, self.config.render.box_side / 2
        return stratified_depths(distance - half, distance + half, self.config.render.num_coarse, jitter)

    def part_densities(self, planes: Tensor, points: Tensor, posed: PosedHead, regions: PartRegions) -> Tensor:
        """Compute each part's own raw density at world points, as a regulariser of the density asks for.

        Args:
            planes: [B, 6, H, W, C]. points: [B, P, 3], scene units. posed, regions: as in `forward`.

        Returns:
            [B, P, 3] of the face, the eyes and the mouth's inside, neither masked nor fused. Differentiable in planes
            and weights.
        """
        with torch.autocast(planes.device.type, enabled=False):
            straight, half = straighten(points, posed), self.config.render.box_side / 2
            weights = self.field.weights()
            parts = ((planes[:, 3:], face_points), (planes[:, :3], eye_points), (planes[:, :3], mouth_points))
            densities = [
                decode_field(part.contiguous(), carry(straight, posed, regions) / half, weights)[0]
                for part, carry in parts
            ]
            return torch.stack(densities, -1)

    def face_features(self, planes: Tensor, points: Tensor, posed: PosedHead, regions: PartRegions) -> Tensor:
        """Read the face's planes at world points: what the planes of stage 1 are compared with (L_T).

        Args:
            planes: [B, 6, H, W, C]. points: [B, P, 3], scene units. posed, regions: as in `forward`.

        Returns:
            [B, P, C], the mean over the three planes.
        """
        canonical = face_points(straighten(points, posed), posed, regions)
        return sample_triplane(planes[:, 3:].contiguous(), canonical * (2 / self.config.render.box_side))


def _pieces(origins: Tensor, directions: Tensor, eye: Tensor, mouth: Tensor, step: int) -> list[_RayPiece]:
    """Cut rays [B, R, .] into chunks, and choose those of each for which part E is computed.

    On a ray with e = m = 0 the fuse is part F alone. In each image as many rays are chosen as the image with most of
    them has in that chunk: tensors stay rectangular. Counting them waits for the device, once.
    """
    sees_part = (eye + mouth) > 0  # [B, R]
    counts = torch.stack([part.sum(1).max() for part in sees_part.split(step, 1)]).tolist()
    pieces = []
    for number, count in enumerate(counts):
        rows = slice(number * step, (number + 1) * step)
        parted = sees_part[:, rows].int().argsort(dim=1, descending=True, stable=True)[:, : int(count)]  # [B, Q]
        e, m = (mask[:, rows].gather(1, parted) for mask in (eye, mouth))
        pieces.append(_RayPiece(origins, directions[:, rows], parted, e, m))
    return pieces


def _march(
    scene: _Scene, piece: _RayPiece, depths: Tensor, num_fine: int, uniforms: Tensor | None, tells_parts: bool
) -> tuple[Tensor, ...]:
    """March a chunk of rays: feature [B, R, C], depth and opacity [B, R]; asked for, the first four of `PartRays`."""
    B, R = piece.directions.shape[:2]
    coarse = depths[:, None].expand(-1, R, -1).contiguous()  # [B, R, S]
    coarse_density, coarse_feature, *coarse_parts = _fused_field(scene, piece, coarse)
    if uniforms is None:
        uniforms = torch.linspace(0, 1, num_fine, dtype=depths.dtype, device=depths.device).expand(B, R, -1)
    fine = importance_depths(coarse, interval_weights(coarse_density.detach(), coarse), uniforms)
    fine_density, fine_feature, *fine_parts = _fused_field(scene, piece, fine)
    sorted_depths, density, feature = merge_samples(
        (coarse, fine), (coarse_density, fine_density), (coarse_feature, fine_feature)
    )
    pixel, depth, opacity = composite(density, feature, sorted_depths)
    marched = pixel.to(opacity.dtype), depth, opacity
    if not tells_parts:
        return marched
    parted_depths = _rows(sorted_depths, piece.parted)
    weights = interval_weights(_rows(density, piece.parted), parted_depths)
    along = (torch.cat(both, -1) for both in zip(coarse_parts, fine_parts, strict=True))
    return *marched, parted_depths, weights, *along


def _fused_field(scene: _Scene, piece: _RayPiece, depths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute raw density [B, R, L] and feature [B, R, L, C] at depths [B, R, L] of rays; of those for which part E is
    computed, part F's raw density and what is inside the boxes around the eyeballs, [B, Q, L] both."""
    B, R, L = depths.shape
    straight = straighten(piece.points(depths).flatten(1, 2), scene.posed)  # [B, R L, 3]
    canonical = face_points(straight, scene.posed, scene.regions)
    density_f, feature_f = _decoded(scene.planes_f, canonical, scene, L)
    parted_f = _rows(density_f, piece.parted)
    if not piece.parted.shape[1]:
        return density_f, feature_f, parted_f, torch.zeros_like(parted_f, dtype=torch.bool)
    straight = _rows(straight.view(B, R, L, 3), piece.parted).flatten(1, 2)  # [B, Q L, 3]
    inside = inside_eye_boxes(straight, scene.posed, scene.regions).view(B, -1, L)
    in_mouth = (piece.mouth > 0)[..., None].expand(-1, -1, L).flatten(1)[..., None]  # [B, Q L, 1]
    canonical = torch.where(
        in_mouth, mouth_points(straight, scene.posed, scene.regions), eye_points(straight, scene.posed, scene.regions)
    )
    density_e, feature_e = _decoded(scene.planes_e, canonical, scene, L)
    density, feature = fuse_parts(
        scene.fuse, gate_density(density_e, inside, piece.mouth), feature_e, parted_f,
        _rows(feature_f, piece.parted), piece.eye[..., None] * inside, piece.mouth,
    )  # fmt: skip
    return _put(density_f, piece.parted, density), _put(feature_f, piece.parted, feature), parted_f, inside


def _decoded(planes: Tensor, canonical: Tensor, scene: _Scene, num_samples: int) -> tuple[Tensor, Tensor]:
    """Read planes at canonical points [B, P, 3]: raw density [B, R, L] and feature [B, R, L, C]."""
    density, feature = decode_field(planes, canonical / scene.half_side, scene.weights)
    return density.unflatten(1, (-1, num_samples)), feature.unflatten(1, (-1, num_samples))


def _rows(x: Tensor, rays: Tensor) -> Tensor:
    """Select rays [B, Q] of [B, R, ...]."""
    index = rays.view(*rays.shape, *([1] * (x.dim() - 2))).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


def _put(x: Tensor, rays: Tensor, values: Tensor) -> Tensor:
    """Replace rays [B, Q] of [B, R, ...] by values [B, Q, ...]."""
    index = rays.view(*rays.shape, *([1] * (x.dim() - 2))).expand(-1, -1, *x.shape[2:])
    return x.scatter(1, index, values)
