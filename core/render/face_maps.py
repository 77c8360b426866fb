"""Pictures of what FLAME's regions cover: the correspondence map (uv) and the masks that training looks at.

A published checkpoint carries the tables of the regions. Eyeballs, the face without them, and the face at rest follow
from FLAME itself, so that a FLAME file is enough for them; the mouth's inside does not.
Letters: B batch, U vertices, F faces, S side of the picture, L landmarks.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.flame import CANONICAL_JAW, NUM_JOINTS, check_indices
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.mesh_pictures import picture_points
from triportrait.core.types import Camera
from triportrait.kernels.rasterize import Cull, Raster, interpolate, rasterize

Region = Literal["eyes", "face without eyes", "no inner mouth", "head"]
TABLES = {"eyes": "eye_idxs", "face without eyes": "face_idxs", "no inner mouth": "noinmouth_idxs"}
EYEBALLS_BACK, POSITIONS_SPAN = 0.5, 0.6  # scene units
EYE_JOINTS = slice(NUM_JOINTS - 2, NUM_JOINTS)


class FaceMaps:
    """The regions of a FLAME mesh, drawn by the published code's conventions.

    Args:
        field: FLAME, and the tables that came with it.

    Raises:
        InputError: a table of a region names a vertex that is not there.
    """

    def __init__(self, field: NeckField) -> None:
        self._field = field
        self._faces = {region: self._faces_of(region) for region in TABLES}
        self._rest = self._at_rest()

    @torch.no_grad()
    def positions(self, vertices: Tensor, camera: Camera, size: int = 512) -> Tensor:
        """Show where each visible point lies on the face at rest (uv).

        Args:
            vertices: [B, U, 3] scene units, what `Flame` gives.
            camera: B cameras, or one for all.
            size: S.

        Returns:
            [B, 3, S, S] x, y and z in about [-1, 1]: the place on the canonical face, whose eyeballs are pushed back so
            that none is taken for a lid, divided by 0.6 scene units; 0 beside it. What is turned away is not drawn.
        """
        faces = self._field.flame["faces"]
        raster = _drawn(vertices, faces, camera, size, "back")
        rest = self._rest.expand(len(vertices), -1, -1)
        return interpolate(rest, faces, raster).permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def mask(self, region: Region, vertices: Tensor, camera: Camera, size: int = 512) -> Tensor:
        """Show what a region alone covers, whatever else is in front of it.

        Args:
            region: "eyes": both eyeballs. "face without eyes": everything else. "no inner mouth": what is left without
                the mouth's inside. "head": the simplified mesh, both sides of it; of the others what faces the camera.
            vertices, camera, size: as in `positions`.

        Returns:
            [B, 1, S, S] float32, 1 where the region is seen.

        Raises: `InputError` where the region is unknown, or where its table is not at hand.
        """
        if region == "head":
            coarse = self._field.coarse_vertices(vertices)
            return _covered(_drawn(coarse, self._field.mesh["coarse_faces"], camera, size, "none"))
        if region not in TABLES:
            raise InputError(f"region: expected one of {', '.join(get_args(Region))}, got {region!r}; choose one")
        if (faces := self._faces[region]) is None:
            raise InputError(
                f"{TABLES[region]}: expected this table of a published checkpoint, got tables of FLAME alone, which do "
                f"not tell the region {region!r}; convert the published portrait network"
            )
        return _covered(_drawn(vertices, faces, camera, size, "back"))

    def _faces_of(self, region: str) -> Tensor | None:
        """Return the triangles [F, 3] all of whose corners belong to a region; None where nothing tells which do."""
        inside = self._vertices_of(region)
        faces = self._field.flame["faces"]
        return None if inside is None else faces[inside[faces].all(1)]

    def _vertices_of(self, region: str) -> Tensor | None:
        """Tell for each vertex [U] whether it belongs to a region."""
        flame, mesh, table = self._field.flame, self._field.mesh, TABLES[region]
        count = len(flame["template"])
        if table in mesh:
            check_indices(table, mesh[table], count)
            inside = torch.zeros(count, dtype=torch.bool, device=mesh[table].device)
            inside[mesh[table]] = True
            return inside
        on_eyes = flame["skinning_weights"][:, EYE_JOINTS].sum(1) > 0.5  # eyeballs turn with their joints alone
        if region == "no inner mouth" or not on_eyes.any():
            return None
        return on_eyes if region == "eyes" else ~on_eyes

    @torch.no_grad()
    def _at_rest(self) -> Tensor:
        """Return the positions [U, 3] of the canonical face."""
        flame = self._field.flame
        eyes = torch.zeros(1, 6, device=flame["template"].device)
        betas = eyes.new_zeros(1, flame["shape_directions"].shape[-1])
        rest, _ = flame(betas, eyes[:, :3], eyes.new_tensor([CANONICAL_JAW]), eyes)
        if (eyeballs := self._vertices_of("eyes")) is not None:
            rest[0, eyeballs, 2] -= EYEBALLS_BACK
        return rest[0] / POSITIONS_SPAN  # type: ignore[no-any-return]


def landmark_pixels(landmarks: Tensor, camera: Camera, size: int = 512) -> Tensor:
    """Project landmarks as the published code does: y runs up, so `size - 1 - y` is the row of a picture.

    Args:
        landmarks: [B, L, 3] scene units, what `Flame.landmarks` gives.
        camera: B cameras, or one for all.
        size: of the picture, pixels.

    Returns:
        [B, L, 2] pixels, x to the right and y up.
    """
    x, y, _ = picture_points(landmarks, camera, size).unbind(-1)
    return torch.stack([x, size - y], -1)


def _covered(raster: Raster) -> Tensor:
    return (raster.face >= 0).float()[:, None]


def _drawn(vertices: Tensor, faces: Tensor, camera: Camera, size: int, cull: Cull) -> Raster:
    return rasterize(picture_points(vertices, camera, size), faces, size, size, cull)
