"""These records travel between the parts of the network.

Letters: B batch, N tokens, D their width, M width of the motion, H W of a plane, C channels, h w of the ray grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Index = Tensor | slice | list[int]  # which of B

PUBLISHED_FOCAL = 4.757182  # focal length in picture widths: a field of view of 12 degrees


@dataclass(frozen=True)
class Camera:
    """Where pictures are taken from. OpenGL axes: x right, y up, the camera looks along -z.

    Attributes:
        world_from_camera: [B, 4, 4], a rotation and a translation in scene units (1 unit = 1/3 m).
        intrinsics: [B, 3, 3], in picture widths: [[f, 0, .5], [0, f, .5], [0, 0, 1]].
    """

    world_from_camera: Tensor
    intrinsics: Tensor

    @property
    def axis_distance(self) -> Tensor:
        """Return the distance [B] from the camera to the world's origin along the camera's axis: the origin's depth."""
        rotation, position = self.world_from_camera[:, :3, :3], self.world_from_camera[:, :3, 3]
        return (rotation[:, :, 2] * position).sum(-1).abs()

    def to(self, device: torch.device | str) -> Camera:
        """Move the cameras to a device."""
        return Camera(self.world_from_camera.to(device), self.intrinsics.to(device))

    def take(self, rows: Index) -> Camera:
        """Select the cameras that `rows` names."""
        return Camera(self.world_from_camera[rows], self.intrinsics[rows])

    @classmethod
    def cat(cls, parts: Sequence[Camera]) -> Camera:
        """Concatenate cameras."""
        return cls(torch.cat([p.world_from_camera for p in parts]), torch.cat([p.intrinsics for p in parts]))


@dataclass(frozen=True)
class NeckGrid:
    """How to bring points of the driving pose back to the pose in which the planes were made.

    Attributes:
        fine: [B, G, G, G, 4], the offset (x, y, z) in scene units and the squared distance to the head, at the centres
            of a grid over the box.
        coarse: [B, g, g, g, 3], smoothed offsets for what is far from the head.
        box_side: side of the box, scene units.
        near_squared_distance: up to here the fine grid counts alone, square scene units.
    """

    fine: Tensor
    coarse: Tensor
    box_side: float
    near_squared_distance: float

    def to(self, device: torch.device | str) -> NeckGrid:
        """Move the neck poses to a device."""
        return replace(self, fine=self.fine.to(device), coarse=self.coarse.to(device))

    def take(self, rows: Index) -> NeckGrid:
        """Select the neck poses that `rows` names."""
        return replace(self, fine=self.fine[rows], coarse=self.coarse[rows])

    @classmethod
    def cat(cls, parts: Sequence[NeckGrid]) -> NeckGrid:
        """Concatenate poses of one network."""
        return replace(parts[0], fine=torch.cat([p.fine for p in parts]), coarse=torch.cat([p.coarse for p in parts]))


@dataclass(frozen=True)
class Source:
    """All that is computed from a source picture once; the paper's cache, which takes 10 frames/s to 15.

    Attributes:
        detail: [B, C, S/2, S/2] detail features; None once the source is cached.
        tokens: [B, N, D], the global features after the neutral blocks.
        grid: height and width of the tokens, N in all.
        background: [B, C, S, S] in [0, 1], or [B, C, h, w] of the ray grid once it is cached.
        static: the source keeps its own expression; no motion was taken out and none may come in.
        detail_partial: [B, C, S/2, S/2], the partial sum of the decoder's first convolution over the detail features;
            None until the source is cached by `Portrait4D.cache`.
    """

    detail: Tensor | None
    tokens: Tensor
    grid: tuple[int, int]
    background: Tensor
    static: bool
    detail_partial: Tensor | None = None

    @classmethod
    def cat(cls, parts: Sequence[Source]) -> Source:
        """Concatenate sources of one network; all are cached or none."""
        joined = {}
        for name in ("detail", "tokens", "background", "detail_partial"):
            tensors = [tensor for part in parts if (tensor := getattr(part, name)) is not None]
            joined[name] = torch.cat(tensors) if tensors else None
        return replace(parts[0], **joined)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Driving:
    """What one driving frame asks of the source.

    Attributes:
        motion: [B, M], v_d; None for a static source.
        neck: the neck pose; None keeps the neck still.
        motion_scale: [B], multiplies what cross-attention to v_d adds: at 0 the source keeps its expression, as a
            static one does; None stands for 1. Training mixes both.
    """

    motion: Tensor | None
    neck: NeckGrid | None = None
    motion_scale: Tensor | None = None


@dataclass(frozen=True)
class Head:
    """A reenacted head, ready for views from any side.

    Attributes:
        planes: [B, 3, H, W, C], channels last.
        background: [B, C, S, S] in [0, 1], what is behind the head, independent of the camera.
        neck: the neck pose; None is a still neck.
        ringed_planes: [B, 3, H + 4, W + 4, C], the planes within zeros, where many views read them so.
    """

    planes: Tensor
    background: Tensor
    neck: NeckGrid | None = None
    ringed_planes: Tensor | None = None

    def take(self, rows: Index) -> Head:
        """Select the heads that `rows` names."""
        neck = None if self.neck is None else self.neck.take(rows)
        ringed_planes = None if self.ringed_planes is None else self.ringed_planes[rows]
        return Head(self.planes[rows], self.background[rows], neck, ringed_planes)


@dataclass(frozen=True)
class Rendering:
    """One rendered view.

    Attributes:
        image: [B, 3, S, S] after super-resolution, about [-1, 1], not clamped.
        raw_image: [B, 3, h, w], the first three channels of `feature`.
        feature: [B, C, h, w] with background, about [-1, 1].
        depth: [B, 1, h, w] along the unit ray, scene units.
        opacity: [B, 1, h, w] in [0, 1].
        foreground: [B, C, h, w] in [0, 1], the head alone, already weighed by its opacity.
        background: [B, C, h, w] in [0, 1], what is behind it: feature = 2 (foreground + (1 - opacity) background) - 1.
    """

    image: Tensor
    raw_image: Tensor
    feature: Tensor
    depth: Tensor
    opacity: Tensor
    foreground: Tensor
    background: Tensor
