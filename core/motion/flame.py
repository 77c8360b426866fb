"""FLAME, the statistical head mesh: parameters become vertices by linear blend skinning (Li et al. 2017).

Shape, expression, neck, jaw and eyes; eyelids where a model has directions for them, which FLAME's own files have not.

Scene units are FLAME's metres times 3, and the origin is the neck joint of the canonical face. Published checkpoints
carry their tables in these units already; `rescale_flame` brings a FLAME file to them.
Letters: B batch, U vertices, F faces, J joints (root, neck, jaw, two eyes), K shape and expression directions,
L landmarks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.safe_text import shown

SCENE_UNITS_PER_METRE = 3.0
CANONICAL_JAW = (0.3, 0.0, 0.0)  # radians; the canonical face has its mouth slightly open
NUM_JOINTS = 5
REQUIRED = (
    "template",
    "shape_directions",
    "pose_directions",
    "joint_regressor",
    "parents",
    "skinning_weights",
    "faces",
)


# Tables that a model may have beside those, scene units: two directions of lids that close, the left eye's first.
EYELIDS = "eyelid_directions"  # [U, 3, 2]
LENGTHS = ("template", "shape_directions", "pose_directions", EYELIDS)  # what metres are scaled in
CONTOUR_TURN = 39  # degrees to each side for which the table of the contour has rows: 0 to 39, then -1 to -39


class Tables(nn.Module):
    """Named constant tensors, saved with the weights; floats in float32."""

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, table in tables.items():
            if not name.isidentifier() or hasattr(self, name):
                raise InputError(f"{shown(name)}: expected the name of a table, got another; convert the weights again")
            self.register_buffer(name, table.float() if table.is_floating_point() else table)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def __contains__(self, name: str) -> bool:
        return name in self._buffers


class Flame(Tables):
    """The mesh model as a function of its parameters.

    Args:
        tables: template [U, 3], shape_directions [U, 3, K], pose_directions [36, 3U], joint_regressor [J, U],
            parents [J] int64 (the root's is -1), skinning_weights [U, J], faces [F, 3] int64; eyelid_directions
            [U, 3, 2] where lids can close by themselves; others are kept.

    Raises:
        InputError: a table is missing or has another shape.
    """

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        _check_names(tables)
        U, J = (tables["template"].shape or (0,))[0], NUM_JOINTS
        K = (tables["shape_directions"].shape or (0,))[-1]
        expected = {
            "template": (U, 3), "shape_directions": (U, 3, K), "pose_directions": (9 * (J - 1), 3 * U),
            "joint_regressor": (J, U), "parents": (J,), "skinning_weights": (U, J),
        }  # fmt: skip
        if EYELIDS in tables:
            expected[EYELIDS] = (U, 3, 2)
        for name, shape in expected.items():
            if tuple(tables[name].shape) != shape:
                raise InputError(f"FLAME {name}: expected {list(shape)}, got {list(tables[name].shape)}")
            if tables[name].is_floating_point() == (name == "parents"):
                kind = "whole" if name == "parents" else "real"
                raise InputError(f"FLAME {name}: expected {kind} numbers, got {kind_of(tables[name])}")
        super().__init__(tables)
        chain = self["parents"].tolist()
        if chain[0] != -1 or not all(0 <= parent < joint for joint, parent in enumerate(chain[1:], start=1)):
            raise InputError(f"FLAME parents: expected -1, then an earlier joint for each, got {chain}")
        check_indices("FLAME faces", self["faces"], U, 3)
        self._chain_of_joints: tuple[int, ...] = tuple(chain)  # kept on the host: it is walked joint by joint

    @property
    def num_eyelids(self) -> int:
        """Return how many lids close by themselves: 2, or 0 where the model has no directions for them."""
        return 2 if EYELIDS in self else 0

    def forward(
        self, betas: Tensor, neck: Tensor, jaw: Tensor, eyes: Tensor, eyelids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute vertices and posed joints; the head as a whole is not rotated.

        Args:
            betas: [B, K], shape then expression coefficients.
            neck, jaw: [B, 3] rotation vectors, radians.
            eyes: [B, 6], left then right rotation vector.
            eyelids: [B, 2], how far the left and the right lids are shut, from 0 to 1; they move no joint.

        Returns:
            vertices [B, U, 3] and joints [B, J, 3], scene units.

        Raises:
            InputError: eyelids for a model that has none.
        """
        vectors = torch.cat([torch.zeros_like(neck), neck, jaw, eyes], dim=-1).unflatten(-1, (NUM_JOINTS, 3))
        rotations = rotation_matrices(vectors)  # [B, J, 3, 3]
        shaped = self["template"] + torch.einsum("uck,bk->buc", self["shape_directions"], betas)
        joints = torch.einsum("ju,buc->bjc", self["joint_regressor"], shaped)
        bend = (rotations[:, 1:] - torch.eye(3, device=rotations.device, dtype=rotations.dtype)).flatten(1)  # [B, 36]
        posed = shaped + (bend @ self["pose_directions"]).unflatten(-1, (-1, 3))
        if eyelids is not None:
            if EYELIDS not in self:
                raise InputError("eyelids: expected a head model that has them, got one without; bring l_eyelid.npy "
                                 "and r_eyelid.npy by `triportrait convert --assets`, or leave them out")  # fmt: skip
            posed = posed + torch.einsum("uck,bk->buc", self[EYELIDS], eyelids)
        turns, places = self._chain(rotations, joints)
        moved = (
            torch.einsum("bjac,buc->bjua", turns, posed)
            + (places - torch.einsum("bjac,bjc->bja", turns, joints))[:, :, None]
        )
        return torch.einsum("uj,bjua->bua", self["skinning_weights"], moved), places

    def _chain(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Return world rotations [B, J, 3, 3] and world positions [B, J, 3] of the joints."""
        turns, places = [rotations[:, 0]], [joints[:, 0]]
        for j, parent in enumerate(self._chain_of_joints[1:], start=1):
            turns.append(turns[parent] @ rotations[:, j])
            arm = (joints[:, j] - joints[:, parent])[..., None]
            places.append(places[parent] + (turns[parent] @ arm)[..., 0])
        return torch.stack(turns, 1), torch.stack(places, 1)

    def landmarks(self, vertices: Tensor) -> Tensor:
        """Place 68 landmarks and two eye centres [B, 70, 3] on vertices [B, U, 3] by the published table."""
        return self._on_faces(vertices, self["landmark70_faces"], self["landmark70_barycentrics"])

    def landmarks_with_contour(self, vertices: Tensor, turn: Tensor) -> Tensor:
        """Place the 70 landmarks with the jaw line where a picture shows it: on the contour of a turned head.

        Args:
            vertices: [B, U, 3] of `forward`.
            turn: [B, 3, 3], how the head is turned before the camera: the neck's rotation, or the whole pose where the
                neck is straight. Its angle about y, to the nearest degree and at most 39, chooses the row of the table.

        Returns:
            [B, 70, 3]: 17 points of the contour, 51 of brows, nose, eyes and mouth, two eye centres.

        Raises:
            InputError: the model has no table of the contour.
        """
        if "contour_faces" not in self or "landmark53_faces" not in self:
            raise InputError(
                "contour: expected a head model with the table of the contour, as landmark_embedding.npy and published "
                "checkpoints have it, got one without; convert again with --assets, or use the 70 fixed landmarks"
            )
        row = contour_rows(turn)
        contour = self._on_faces(vertices, self["contour_faces"][row], self["contour_barycentrics"][row])
        inner = self._on_faces(vertices, self["landmark53_faces"][None], self["landmark53_barycentrics"][None])
        return torch.cat([contour, inner], 1)

    def _on_faces(self, vertices: Tensor, faces: Tensor, barycentrics: Tensor) -> Tensor:
        """Place points [B, L, 3] on faces [B or 1, L], barycentrics [B or 1, L, 3]."""
        corners = self["faces"][faces].expand(len(vertices), -1, -1)  # [B, L, 3 corners]
        places = vertices.gather(1, corners.flatten(1)[..., None].expand(-1, -1, 3)).unflatten(1, (-1, 3))
        return (places * barycentrics[..., None]).sum(2)


def contour_rows(turn: Tensor) -> Tensor:
    """Return the rows [B] int64 of the contour's table for heads turned by [B, 3, 3].

    The rows are for whole degrees: 0 to 39 for heads that turn to their right, then 1 to 39 for the left. The angle is
    b of R = Rz(c) Ry(b) Rx(a).
    """
    angle = torch.atan2(turn[:, 2, 0], (turn[:, 0, 0].square() + turn[:, 1, 0].square()).sqrt())
    degrees = angle.rad2deg().round().long().clamp(-CONTOUR_TURN, CONTOUR_TURN)  # positive to the head's right
    return torch.where(degrees < 0, CONTOUR_TURN - degrees, degrees)


def check_landmark_tables(tables: Mapping[str, Tensor]) -> None:
    """Check the tables of landmarks that are there: places on faces of the mesh, with three shares each.

    Raises: `InputError` for one that is misshapen, not finite or points elsewhere.
    """
    F = len(tables["faces"])
    shapes = {"landmark70": (1, 70), "landmark53": (53,), "contour": (2 * CONTOUR_TURN + 1, 17)}
    for name, shape in shapes.items():
        faces, shares = tables.get(f"{name}_faces"), tables.get(f"{name}_barycentrics")
        if faces is None and shares is None:
            continue
        if faces is None or shares is None or tuple(faces.shape) != shape or tuple(shares.shape) != (*shape, 3):
            got = [None if table is None else list(table.shape) for table in (faces, shares)]
            raise InputError(
                f"{name}: expected faces {list(shape)} and barycentrics {[*shape, 3]}, got {got[0]} and {got[1]}; "
                "bring the landmarks of this mesh"
            )
        check_indices(f"{name}_faces", faces, F)
        if not shares.is_floating_point() or not bool(shares.isfinite().all()):
            raise InputError(f"{name}_barycentrics: expected finite real numbers, got others; bring them again")


def _check_names(tables: Mapping[str, Tensor]) -> None:
    missing = [name for name in REQUIRED if name not in tables]
    if missing:
        raise InputError(f"FLAME: expected the tables {', '.join(REQUIRED)}, missing {', '.join(missing)}")


def kind_of(table: Tensor) -> str:
    """Name the dtype of a table for sentences: float32, int64."""
    return str(table.dtype).removeprefix("torch.")


def check_indices(name: str, indices: Tensor, below: int, columns: int = 0) -> None:
    """Refuse a table that points outside of another.

    Args:
        columns: columns of the table [N, columns]; 0 takes any shape.

    Raises:
        InputError: it has another shape or is empty, or a value is no whole number from 0 to below - 1.
    """
    if indices.dtype == torch.bool or (columns and (indices.ndim != 2 or indices.shape[1] != columns)):
        shape = f" [N, {columns}]" if columns else ""
        got = f"{list(indices.shape)} of {kind_of(indices)}"
        raise InputError(f"{name}: expected whole numbers{shape}, got {got}; convert the weights again")
    if indices.numel() == 0 or indices.is_floating_point():
        got = "real numbers" if indices.numel() else "an empty table"
    elif (least := int(indices.min())) < 0 or (most := int(indices.max())) >= below:
        got = f"{least}" if least < 0 else f"{most}"
    else:
        return
    raise InputError(f"{name}: expected whole numbers from 0 to {below - 1}, got {got}; convert the weights again")


def rotation_matrices(vectors: Tensor) -> Tensor:
    """Turn rotation vectors [..., 3] in radians into matrices [..., 3, 3] (Rodrigues)."""
    angle = (vectors + 1e-8).norm(dim=-1, keepdim=True).clamp(min=1e-12)[..., None]  # [..., 1, 1]
    x, y, z = (vectors / angle[..., 0]).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    identity = torch.eye(3, device=vectors.device, dtype=vectors.dtype)
    return identity + angle.sin() * cross + (1 - angle.cos()) * cross @ cross


def rotation_vectors(rotations: Tensor) -> Tensor:
    """Turn rotations [..., 3, 3] by less than half a turn into vectors [..., 3] in radians."""
    skew = (rotations - rotations.mT) / 2
    sine_axis = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), -1)
    sine = sine_axis.norm(dim=-1, keepdim=True)
    cosine = (rotations.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
    return sine_axis * torch.where(sine > 1e-8, torch.atan2(sine, cosine) / sine.clamp(min=1e-8), 1.0)


def rescale_flame(tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the tables of a FLAME file (metres) to scene units, with the canonical neck joint at the origin.

    Not for the tables of a published checkpoint: those are in scene units already.

    Raises:
        InputError: like `Flame`.
    """
    _check_names(tables)
    scaled = dict(tables)
    for name in LENGTHS:
        if name in tables:
            scaled[name] = tables[name] * SCENE_UNITS_PER_METRE
    flame = Flame(scaled)
    K = scaled["shape_directions"].shape[-1]
    zeros = scaled["template"].new_zeros(1, 6)
    jaw = zeros.new_tensor([CANONICAL_JAW])
    _, joints = flame(zeros.new_zeros(1, K), zeros[:, :3], jaw, zeros)
    scaled["template"] = scaled["template"] - joints[0, 1]
    return scaled


def padded_directions(directions: Tensor, num_shape: int, shape: int, expression: int) -> Tensor:
    """Pad directions [U, 3, K] with zeros to `shape` + `expression`, in which the first of each kind keep their places.

    Raises: `InputError` where there are more of one kind than that.
    """
    kinds = directions[..., :num_shape], directions[..., num_shape:]
    if kinds[0].shape[-1] > shape or kinds[1].shape[-1] > expression:
        raise InputError(
            f"shape_directions: expected at most {shape} of shape and {expression} of expression, got "
            f"{kinds[0].shape[-1]} and {kinds[1].shape[-1]}; give a head model with fewer"
        )
    pad = torch.nn.functional.pad
    widths = shape - kinds[0].shape[-1], expression - kinds[1].shape[-1]
    return torch.cat([pad(kind, (0, width)) for kind, width in zip(kinds, widths, strict=True)], -1)
