"""What the table of a clip says about its frames: cameras, landmarks in the world, the neck's grids, motion.

Two kinds of tables: of procedural heads, whose generator knows all this, and of tracked faces, where FLAME makes it of
the published parameters. Letters: T frames of a clip, N of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from triportrait.core.config import ModelConfig
from triportrait.core.motion.flame import CANONICAL_JAW, check_indices, rotation_matrices
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.types import Camera, NeckGrid
from triportrait.train.data.heads.mesh import head_neck_grid
from triportrait.train.data.heads.population import Expression, Identity
from triportrait.train.data.heads.rasterize import project, rasterize
from triportrait.train.data.multiview import from_positions

Table = Mapping[str, np.ndarray]
LANDMARKS = 68
EYEBALLS_BACK, POSITIONS_SPAN = 0.5, 0.6  # scene units
FLAME_PARAMETERS = 109  # of an expression: 100, jaw 3, eyes 6


class Tracks(Protocol):
    """The reader of one kind of table.

    Attributes:
        needs: the columns it reads, and their widths where these are fixed.
        placed: the columns that positions take, too.
        neck_of_source: whether the neck's grids depend on the source's frame, too.
        parameter_width: how many numbers an expression has.
    """

    needs: dict[str, int | None]
    placed: tuple[str, ...]
    neck_of_source: bool
    parameter_width: int

    def seen(self, table: Table, rows: Sequence[int]) -> tuple[Camera, Tensor]:
        """N cameras, and landmarks [N, 68, 3] in the world, the neck turned."""
        ...

    def neck(self, table: Table, source: int, driving: int) -> NeckGrid:
        """The grids of one driving frame, on the CPU."""
        ...

    def positions(self, table: Table, rows: Sequence[int], size: int) -> Tensor:
        """[N, 3, size, size] in about [-1, 1], where what is seen lies on the head at rest; 0 beside (uv)."""
        ...

    def parameters(self, table: Table, rows: Sequence[int]) -> Tensor:
        """[N, `parameter_width`] the expression in numbers."""
        ...

    def features(self, table: Table, rows: Sequence[int]) -> Tensor | None:
        """[N, M] what a motion encoder read off the frames, where the table keeps it."""
        ...


class HeadTracks:
    """Tables of procedural heads. See `Tracks`.

    Args:
        device: where the grids are made.
    """

    neck_of_source, parameter_width = False, 9
    placed: tuple[str, ...] = ("positions",)

    def __init__(self, model: ModelConfig, device: torch.device) -> None:
        self._model, self._device, self._stream = model, device, _side_stream(device)
        who = {f"identity.{f.name}": None for f in dataclasses.fields(Identity)}
        self.needs: dict[str, int | None] = {"camera": 25, "points": LANDMARKS, "expression": 9, "neck": 3, **who}

    def seen(self, table: Table, rows: Sequence[int]) -> tuple[Camera, Tensor]:
        """See `Tracks`."""
        return camera_from_label(_of(table, "camera", rows)), _of(table, "points", rows)

    def neck(self, table: Table, source: int, driving: int) -> NeckGrid:
        """See `Tracks`."""
        who = Identity(**{f.name: _of(table, f"identity.{f.name}", [driving]) for f in dataclasses.fields(Identity)})
        face = Expression.from_vector(_of(table, "expression", [driving]), _of(table, "neck", [driving]))
        config = self._model
        with torch.cuda.stream(self._stream):
            grid = head_neck_grid(who.to(self._device), face.to(self._device), config.neck, config.render.box_side)
            return grid.to("cpu")

    def positions(self, table: Table, rows: Sequence[int], size: int) -> Tensor:
        """See `Tracks`: as they are stored."""
        stored = _of(table, "positions", rows)
        every = size // stored.shape[1]
        return from_positions(stored).repeat_interleave(every, 2).repeat_interleave(every, 3)

    def parameters(self, table: Table, rows: Sequence[int]) -> Tensor:
        """See `Tracks`."""
        return _of(table, "expression", rows)

    def features(self, table: Table, rows: Sequence[int]) -> Tensor | None:
        """See `Tracks`: the motion encoder reads every picture."""
        return None


class FlameTracks:
    """Tables of tracked faces: FLAME in the rectified pose, seen by the camera that shows the same head. See `Tracks`.

    Args:
        field: FLAME and its coarse mesh, with the published table of landmarks.
        motion_width: M of the motion that the tables keep; None: it is not needed.
    """

    neck_of_source, parameter_width = True, FLAME_PARAMETERS
    placed: tuple[str, ...] = ()

    def __init__(self, field: NeckField, motion_width: int | None) -> None:
        self._field = field.eval().requires_grad_(False)
        self._rest = self._at_rest()
        self._stream = _side_stream(self._device)
        self.needs: dict[str, int | None] = {"camera": 25, "shape": 300, "expression": 100, "pose": 6, "eyes": 6}
        if motion_width is not None:
            self.needs["motion"] = motion_width

    @torch.no_grad()
    def seen(self, table: Table, rows: Sequence[int]) -> tuple[Camera, Tensor]:
        """See `Tracks`."""
        with torch.cuda.stream(self._stream):
            camera, vertices = self._heads(table, rows)
            return camera, self._field.flame.landmarks(vertices)[:, :LANDMARKS].cpu()

    @torch.no_grad()
    def positions(self, table: Table, rows: Sequence[int], size: int) -> Tensor:
        """See `Tracks`: of FLAME's whole mesh, the face at rest with its mouth slightly open (reference 2.10)."""
        with torch.cuda.stream(self._stream):
            camera, vertices = self._heads(table, rows)
            faces = self._field.flame["faces"]
            pixels, forward = project(vertices, camera.to(vertices.device), size)
            none = vertices.new_zeros(len(faces))
            visible = torch.ones(len(rows), len(faces), dtype=torch.bool, device=vertices.device)
            seen = rasterize(
                pixels, forward, faces, visible, none > 0, none, size, lambda member, face, weights: none[face]
            )
            flat = vertices.new_zeros(len(rows) * size * size, 3)
            flat[seen.pixel] = seen.gather(self._rest, faces)
            return flat.unflatten(0, (len(rows), size, size)).permute(0, 3, 1, 2).contiguous().cpu()

    def _heads(self, table: Table, rows: Sequence[int]) -> tuple[Camera, Tensor]:
        """N cameras on the CPU, and vertices [N, U, 3] in the world."""
        neck, jaw, eyes = self._pose(table, rows)
        shape, expression = (self._own(table, name, rows) for name in ("shape", "expression"))
        vertices, joints = self._field.flame(torch.cat([shape, expression], -1), neck, jaw, eyes)
        return beside_neck(camera_from_label(_of(table, "camera", rows)), neck.cpu(), joints[:, 1].cpu()), vertices

    def neck(self, table: Table, source: int, driving: int) -> NeckGrid:
        """See `Tracks`: the shape is the source's."""
        with torch.cuda.stream(self._stream):
            shape, expression = self._own(table, "shape", [source]), self._own(table, "expression", [driving])
            grid: NeckGrid = self._field(shape, expression, *self._pose(table, [driving]))
            return grid.to("cpu")

    def parameters(self, table: Table, rows: Sequence[int]) -> Tensor:
        """See `Tracks`: expression 100, jaw 3, eyes 6."""
        return torch.cat([_of(table, "expression", rows), _of(table, "pose", rows)[:, 3:], _of(table, "eyes", rows)], 1)

    def features(self, table: Table, rows: Sequence[int]) -> Tensor | None:
        """See `Tracks`."""
        return _of(table, "motion", rows)

    @torch.no_grad()
    def _at_rest(self) -> Tensor:
        """[U, 3] what positions say: the canonical face, its eyeballs pushed back so that none is taken for a lid."""
        flame, none = self._field.flame, torch.zeros(1, 6, device=self._device)
        betas = none.new_zeros(1, flame["shape_directions"].shape[-1])
        rest, _ = flame(betas, none[:, :3], none.new_tensor([CANONICAL_JAW]), none)
        if "eye_idxs" in self._field.mesh:
            check_indices("eye_idxs", self._field.mesh["eye_idxs"], rest.shape[1])
            rest[0, self._field.mesh["eye_idxs"], 2] -= EYEBALLS_BACK
        return rest[0] / POSITIONS_SPAN

    def _pose(self, table: Table, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        neck = torch.from_numpy(rectified_necks(table["pose"][:, :3])[list(rows)]).float()
        return neck.to(self._device), self._own(table, "pose", rows)[:, 3:], self._own(table, "eyes", rows)

    def _own(self, table: Table, name: str, rows: Sequence[int]) -> Tensor:
        return _of(table, name, rows).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self._field.flame["template"].device


def rectified_necks(vectors: np.ndarray) -> np.ndarray:
    """The neck rotations of a clip, freed of where its camera stands (reference 5.6).

    With R = Rz(c) Ry(b) Rx(a) of each frame (extrinsic x, y, z angles) and the means of b and c over all frames, each
    becomes (Rz(mean c) Ry(mean b))⁻¹ R: a head that looks to one side all the time has turned nothing but its camera.
    The nod a is kept.

    Args:
        vectors: [T, 3] rotation vectors, radians, shorter than π.

    Returns:
        float64 [T, 3] rotation vectors.
    """
    turns = rotation_matrices(torch.from_numpy(np.asarray(vectors, np.float64))).numpy()  # [T, 3, 3]
    b = np.arcsin(np.clip(-turns[:, 2, 0], -1, 1)).mean()
    c = np.arctan2(turns[:, 1, 0], turns[:, 0, 0]).mean()
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return _vectors((about_z @ about_y).T @ turns)


def _vectors(turns: np.ndarray) -> np.ndarray:
    """Rotation vectors [T, 3] of matrices [T, 3, 3] by less than π."""
    axis = np.stack(
        [turns[:, 2, 1] - turns[:, 1, 2], turns[:, 0, 2] - turns[:, 2, 0], turns[:, 1, 0] - turns[:, 0, 1]], -1
    )
    length = np.linalg.norm(axis, axis=-1, keepdims=True)  # twice the angle's sine
    angle = np.arctan2(length, np.trace(turns, axis1=1, axis2=2)[:, None] - 1)
    return axis * np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 0.5)


def beside_neck(camera: Camera, neck: Tensor, joint: Tensor) -> Camera:
    """The cameras that see heads with turned necks as `camera` sees the same heads with straight ones (reference 2.11).

    Args:
        camera: N cameras, the head's full pose in them.
        neck: [N, 3] rotation vectors. joint: [N, 3] where the necks turn, world.
    """
    turn = rotation_matrices(neck)  # world about the joint
    pose = camera.world_from_camera
    beside = pose.clone()
    beside[:, :3, :3] = turn @ pose[:, :3, :3]
    beside[:, :3, 3] = (turn @ (pose[:, :3, 3] - joint)[..., None])[..., 0] + joint
    return Camera(beside, camera.intrinsics)


def _side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """On a GPU a stream of its own: what a thread reads ahead would else wait for all that the step has queued."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def _of(table: Table, name: str, rows: Sequence[int]) -> Tensor:
    return torch.from_numpy(table[name][list(rows)])
