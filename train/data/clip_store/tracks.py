"""Tracks turn the table of a clip into cameras, landmarks in the world, the neck's grids, positions and motion.

There are two kinds of tables: those of procedural heads hold all this, and those of tracked faces hold the published
parameters, from which FLAME makes it. Letters: T frames of a clip, N of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from triportrait.core.config import ModelConfig
from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.render.face_maps import FaceMaps
from triportrait.core.types import Camera, NeckGrid
from triportrait.train.data.heads.mesh import head_neck_grid
from triportrait.train.data.heads.population import Expression, Identity
from triportrait.train.data.multiview import from_positions

Table = Mapping[str, np.ndarray]
LANDMARKS = 68
FLAME_PARAMETERS = 109  # of an expression: 100, jaw 3, eyes 6


class Tracks(Protocol):
    """A reader of one kind of table.

    Attributes:
        columns: the columns that are read, and their widths where these are fixed.
        position_columns: further columns that `positions` reads.
        neck_of_source: whether the neck's grids depend on the source's frame, too.
        parameter_width: how many numbers an expression has.
    """

    columns: dict[str, int | None]
    position_columns: tuple[str, ...]
    neck_of_source: bool
    parameter_width: int

    def cameras_and_landmarks(self, table: Table, rows: Sequence[int]) -> tuple[Camera, Tensor]:
        """Return N cameras, and landmarks [N, 68, 3] in the world with the neck turned."""
        ...

    def neck(self, table: Table, source: int, driving: int) -> NeckGrid:
        """Return the neck's grids for one driving frame, on the CPU."""
        ...

    def positions(self, table: Table, rows: Sequence[int], size: int) -> Tensor:
        """Return where each visible point lies on the head at rest (uv): [N, 3, size, size] in about [-1, 1]."""
        ...

    def parameters(self, table: Table, rows: Sequence[int]) -> Tensor:
        """Return the parameters of the expression, [N, `parameter_width`]."""
        ...

    def features(self, table: Table, rows: Sequence[int]) -> Tensor | None:
        """Return the motion that an encoder read off the frames [N, M], where the table holds it."""
        ...


class HeadTracks:
    """A reader of the tables of procedural heads.

    Args:
        device: where the neck's grids are made.
    """

    neck_of_source, parameter_width = False, 9
    position_columns: tuple[str, ...] = ("positions",)

    def __init__(self, model: ModelConfig, device: torch.device) -> None:
        self._model, self._device, self._stream = model, device, _side_stream(device)
        identity = {f"identity.{f.name}": None for f in dataclasses.fields(Identity)}
        self.columns: dict[str, int | None] = {
            "camera": 25,
            "points": LANDMARKS,
            "expression": 9,
            "neck": 3,
            **identity,
        }

    def cameras_and_landmarks(self, table: Table, rows: Sequence[int]) -> tuple[Camera, Tensor]:
        """See `Tracks`."""
        return camera_from_label(_rows(table, "camera", rows)), _rows(table, "points", rows)

    def neck(self, table: Table, source: int, driving: int) -> NeckGrid:
        """See `Tracks`."""
        identity = Identity(
            **{f.name: _rows(table, f"identity.{f.name}", [driving]) for f in dataclasses.fields(Identity)}
        )
        face = Expression.from_vector(_rows(table, "expression", [driving]), _rows(table, "neck", [driving]))
        config = self._model
        with torch.cuda.stream(self._stream):
            grid = head_neck_grid(identity.to(self._device), face.to(self._device), config.neck, config.render.box_side)
            return grid.to("cpu")

    def positions(self, table: Table, rows: Sequence[int], size: int) -> Tensor:
        """See `Tracks`; the stored positions are repeated to the size."""
        stored = _rows(table, "positions", rows)
        factor = size // stored.shape[1]
        return from_positions(stored).repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    def parameters(self, table: Table, rows: Sequence[int]) -> Tensor:
        """See `Tracks`."""
        return _rows(table, "expression", rows)

    def features(self, table: Table, rows: Sequence[int]) -> Tensor | None:
        """See `Tracks`; there is none, as the motion encoder reads every picture."""
        return None


class FlameTracks:
    """A reader of the tables of tracked faces, which FLAME turns into heads with rectified necks and cameras.

    Args:
        field: FLAME and its coarse mesh, with the published table of landmarks.
        motion_width: M of the motion in the tables; None where it is not read.
    """

    neck_of_source, parameter_width = True, FLAME_PARAMETERS
    position_columns: tuple[str, ...] = ()

    def __init__(self, field: NeckField, motion_width: int | None) -> None:
        self._field = field.eval().requires_grad_(False)
        self._maps = FaceMaps(self._field)
        self._stream = _side_stream(self._device)
        self.columns: dict[str, int | None] = {"camera": 25, "shape": 300, "expression": 100, "pose": 6, "eyes": 6}
        if motion_width is not None:
            self.columns["motion"] = motion_width

    @torch.no_grad()
    def cameras_and_landmarks(self, table: Table, rows: Sequence[int]) -> tuple[Camera, Tensor]:
        """See `Tracks`."""
        with torch.cuda.stream(self._stream):
            camera, vertices = self._heads(table, rows)
            return camera, self._field.flame.landmarks(vertices)[:, :LANDMARKS].cpu()

    @torch.no_grad()
    def positions(self, table: Table, rows: Sequence[int], size: int) -> Tensor:
        """See `Tracks`; the head at rest is FLAME's mesh with its mouth slightly open, as in the published code."""
        with torch.cuda.stream(self._stream):
            camera, vertices = self._heads(table, rows)
            return self._maps.positions(vertices, camera.to(vertices.device), size).cpu()

    def _heads(self, table: Table, rows: Sequence[int]) -> tuple[Camera, Tensor]:
        """Return N cameras on the CPU, and vertices [N, U, 3] in the world."""
        neck, jaw, eyes = self._pose(table, rows)
        shape, expression = (self._column(table, name, rows) for name in ("shape", "expression"))
        vertices, joints = self._field.flame(torch.cat([shape, expression], -1), neck, jaw, eyes)
        return rectified_camera(
            camera_from_label(_rows(table, "camera", rows)), neck.cpu(), joints[:, 1].cpu()
        ), vertices

    def neck(self, table: Table, source: int, driving: int) -> NeckGrid:
        """See `Tracks`; the shape is the source's."""
        with torch.cuda.stream(self._stream):
            shape, expression = self._column(table, "shape", [source]), self._column(table, "expression", [driving])
            grid: NeckGrid = self._field(shape, expression, *self._pose(table, [driving]))
            return grid.to("cpu")

    def parameters(self, table: Table, rows: Sequence[int]) -> Tensor:
        """See `Tracks`; expression 100, jaw 3, eyes 6."""
        return torch.cat(
            [
                _rows(table, "expression", rows),
                _rows(table, "pose", rows)[:, 3:],
                _rows(table, "eyes", rows),
            ],
            1,
        )

    def features(self, table: Table, rows: Sequence[int]) -> Tensor | None:
        """See `Tracks`; None where the motion in the tables is not read."""
        return _rows(table, "motion", rows) if "motion" in self.columns else None

    def _pose(self, table: Table, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        neck = torch.from_numpy(rectified_necks(table["pose"][:, :3])[list(rows)]).float()
        return neck.to(self._device), self._column(table, "pose", rows)[:, 3:], self._column(table, "eyes", rows)

    def _column(self, table: Table, name: str, rows: Sequence[int]) -> Tensor:
        return _rows(table, name, rows).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self._field.flame["template"].device


def rectified_necks(vectors: np.ndarray) -> np.ndarray:
    """Remove the camera's direction from the neck rotations of a clip, as the published code does.

    With R = Rz(c) Ry(b) Rx(a) of each frame (extrinsic x, y, z angles) and the means of b and c over all frames, each
    R becomes (Rz(mean c) Ry(mean b))⁻¹ R: a head that looks to one side all the time has a camera that stands there,
    not a turned neck. The nod a stays.

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
    """Convert rotation matrices [T, 3, 3] by less than π to rotation vectors [T, 3]."""
    axis = np.stack(
        [turns[:, 2, 1] - turns[:, 1, 2], turns[:, 0, 2] - turns[:, 2, 0], turns[:, 1, 0] - turns[:, 0, 1]], -1
    )
    length = np.linalg.norm(axis, axis=-1, keepdims=True)  # twice the angle's sine
    angle = np.arctan2(length, np.trace(turns, axis1=1, axis2=2)[:, None] - 1)
    return axis * np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 0.5)


def rectified_camera(camera: Camera, neck: Tensor, joint: Tensor) -> Camera:
    """Return the cameras that see heads with turned necks as `camera` sees the same heads with straight necks.

    Args:
        camera: N cameras that hold the head's full pose.
        neck: [N, 3] rotation vectors. joint: [N, 3] where the necks turn, world.
    """
    turn = rotation_matrices(neck)  # world about the joint
    pose = camera.world_from_camera
    turned = pose.clone()
    turned[:, :3, :3] = turn @ pose[:, :3, :3]
    turned[:, :3, 3] = (turn @ (pose[:, :3, 3] - joint)[..., None])[..., 0] + joint
    return Camera(turned, camera.intrinsics)


def _side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Make a stream on a GPU, so that a thread that reads ahead does not wait for what the step has queued."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def _rows(table: Table, name: str, rows: Sequence[int]) -> Tensor:
    return torch.from_numpy(table[name][list(rows)])
