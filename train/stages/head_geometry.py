"""What a head model gives GenHead's training: posed meshes, masks of eyes and mouth, maps of positions (uv)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from triportrait.core.config import GenHeadConfig
from triportrait.core.genhead.deformation import PosedHead
from triportrait.core.genhead.masks import PartMasks, draw_openings, has_openings, soften
from triportrait.core.genhead.regions import PartRegions
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.face_maps import FaceMaps
from triportrait.core.types import Camera, NeckGrid
from triportrait.train.data.training_pictures import HeadParameters


class HeadGeometry:
    """A head model on a device; it stays outside the generator, so that checkpoints do not repeat its tables.

    Args:
        neck: with the lists of `part_tables`. config: the generator's sizes.
    """

    def __init__(self, neck: NeckField, config: GenHeadConfig) -> None:
        self.neck, self.config = neck.eval().requires_grad_(False), config
        self.regions = PartRegions(neck).to(neck.flame["template"].device)
        self._maps = FaceMaps(neck)
        self._still = lru_cache(maxsize=2)(self._make_still)

    @torch.no_grad()
    def pose(self, head: HeadParameters) -> PosedHead:
        """Pose B heads. Their necks are straight, so that nothing undoes a rotation: the grids are 0."""
        jaw = head.pose[:, 3:]
        still = torch.zeros_like(jaw)
        target, _ = self.neck.flame(torch.cat([head.shape, head.expression], 1), still, jaw, head.eyes)
        betas = torch.cat([head.shape, torch.zeros_like(head.expression)], 1)
        mouth_target, _ = self.neck.flame(betas, still, jaw, torch.zeros_like(head.eyes))
        return PosedHead(self._still(len(jaw)), target, mouth_target, target)

    def masks(self, posed: PosedHead, camera: Camera) -> PartMasks:
        """Draw the masks of eyes and mouth for the ray grid of training."""
        maps = self._maps if has_openings(self.neck) else None
        openings = draw_openings(self.neck, posed.vertices, camera, self.config.mask_size, maps)
        return soften(*openings, self.config.ray_size)

    def positions(self, posed: PosedHead, camera: Camera) -> Tensor:
        """Show where each visible point lies on the head at rest: [B, 3, S, S] in about [-1, 1]."""
        return self._maps.positions(posed.vertices, camera, self.config.image_size)

    def _make_still(self, batch: int) -> NeckGrid:
        neck, like = self.config.neck, self.neck.flame["template"]
        fine, coarse = (
            like.new_zeros(batch, size, size, size, width)
            for size, width in ((neck.fine_size, 4), (neck.coarse_size, 3))
        )
        return NeckGrid(fine, coarse, self.config.render.box_side, neck.near_squared_distance)
