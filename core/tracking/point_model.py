"""The few points of a head model that a picture shows, as a function of its parameters and with their derivatives.

A landmark is a weighted mean of the corners of a face, and a posed vertex is a sum over the joints; both are folded
into one table per joint, so that 70 points cost what 70 vertices cost, and not the whole mesh.
Letters: B frames, P points, J joints, K directions (shape, then expression).
"""

from __future__ import annotations

from copy import copy
from functools import cached_property

import torch
from torch import Tensor

from triportrait.core.motion.flame import Flame, rotation_matrices

POINTS = 70  # 68 landmarks and two eye centres
UNSEEN = 1e-4  # scene units, over all landmarks and joints together; a landmark's pixel is about 2e-3
JOINT_ANGLES = 9  # rotation vectors of jaw, left eye and right eye; the neck stays straight


class PointModel:
    """The landmarks of a head model, in float64.

    Args:
        flame: a model that has the tables `landmark70_faces` and `landmark70_barycentrics`.
        num_shape: how many of its directions are shape; the rest are expression.

    Attributes:
        num_shape, num_expression: the directions of each kind.
    """

    def __init__(self, flame: Flame, num_shape: int) -> None:
        corners = flame["faces"][flame["landmark70_faces"][0]]  # [P, 3]
        share = flame["landmark70_barycentrics"][0].double()[..., None] * flame["skinning_weights"].double()[corners]
        template, directions = flame["template"].double(), flame["shape_directions"].double()
        bend = flame["pose_directions"].double().unflatten(1, (-1, 3))  # [36, U, 3]
        regressor = flame["joint_regressor"].double()
        self.num_shape, self.num_expression = num_shape, directions.shape[-1] - num_shape
        self._share = share.sum(1)  # [P, J]
        self._template = torch.einsum("pkj,pkc->pjc", share, template[corners])
        self._directions = torch.einsum("pkj,pkcd->pjcd", share, directions[corners])  # [P, J, 3, K]
        self._bend = torch.einsum("pkj,bpkc->bpjc", share, bend[:, corners])  # [36, P, J, 3]
        self._joints = regressor @ template  # [J, 3]
        self._joint_directions = torch.einsum("ju,ucd->jcd", regressor, directions)  # [J, 3, K]
        self._parents: list[int] = flame["parents"].tolist()

    def points(self, betas: Tensor, angles: Tensor) -> Tensor:
        """Place the points of B faces.

        Args:
            betas: [B, K] float64.
            angles: [B, 9] rotation vectors of jaw, left eye and right eye, radians.

        Returns:
            [B, 70, 3], scene units, the neck straight.
        """
        turns = self._turns(angles)
        shaped, joints = self._shaped(betas, turns)
        return self._posed(turns, shaped[..., None], joints[..., None])[..., 0]

    def to(self, device: torch.device | str) -> PointModel:
        """Return the same on a device, itself where it is there; what was condensed once is not condensed again."""
        if self._template.to(device).device == self._template.device:
            return self
        moved = self._moved(device)
        smaller, *turns = self.condensed
        shape, expression = (turn.to(device) for turn in turns)
        vars(moved)["condensed"] = (moved if smaller is self else smaller._moved(device), shape, expression)
        return moved

    def _moved(self, device: torch.device | str) -> PointModel:
        moved = copy(self)
        vars(moved).pop("condensed", None)
        for name, value in vars(moved).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved

    def at_rest(self) -> Tensor:
        """Return the points of the mean face at rest, [1, 70, 3]."""
        zeros = self._template.new_zeros
        return self.points(zeros(1, self.num_shape + self.num_expression), zeros(1, JOINT_ANGLES))

    def beta_part(self, angles: Tensor) -> Tensor:
        """Return the derivative of `points` by the betas, [B, 70, 3, K]: it depends on the angles alone."""
        return self._posed(self._turns(angles), self._directions, self._joint_directions)

    @cached_property
    def condensed(self) -> tuple[PointModel, Tensor, Tensor]:
        """The same landmarks from fewer directions, where the model has some that landmarks do not see.

        The directions of each kind are turned among themselves, which a normal prior does not notice, so that those
        come first that move landmarks most; what moves all landmarks and joints together by less than `UNSEEN` falls
        away. FLAME has 400 directions, and 70 landmarks and five joints 225 coordinates.

        Returns:
            the model, and the turns [S, s] and [E, e]: betas are turn @ the model's betas. Of a model with nothing to
            leave out: itself and identities.
        """
        kinds = slice(0, self.num_shape), slice(self.num_shape, None)
        turns = [_seen_turn(self._directions[..., k], self._joint_directions[..., k]) for k in kinds]
        if all(turn.shape[0] == turn.shape[1] for turn in turns):
            shape, expression = (torch.eye(len(turn), dtype=turn.dtype, device=turn.device) for turn in turns)
            return self, shape, expression
        smaller = copy(self)
        whole = torch.block_diag(*turns)
        smaller.num_shape, smaller.num_expression = turns[0].shape[1], turns[1].shape[1]
        smaller._directions, smaller._joint_directions = self._directions @ whole, self._joint_directions @ whole
        return smaller, turns[0], turns[1]

    def angle_part(self, betas: Tensor, angles: Tensor) -> Tensor:
        """Return the derivative of `points` by the angles, [B, 70, 3, 9]."""
        turns, B = self._turns(angles), len(angles)
        slopes = turns.new_zeros(B, JOINT_ANGLES, turns.shape[1], 3, 3)
        each = torch.arange(JOINT_ANGLES, device=angles.device)
        slopes[:, each, 2 + each // 3] = rotation_slopes(angles.unflatten(-1, (3, 3))).flatten(1, 2)
        shaped, joints = self._shaped(betas, turns)
        bent = torch.einsum("bkf,fpjc->bkpjc", slopes[:, :, 1:].flatten(2), self._bend)
        world, d_world = [turns[:, 0]], [slopes[:, :, 0]]
        d_places = [turns.new_zeros(B, JOINT_ANGLES, 3)]
        for joint, parent in enumerate(self._parents[1:], start=1):
            arm = (joints[:, joint] - joints[:, parent])[:, None, :, None]
            d_places.append(d_places[parent] + (d_world[parent] @ arm)[..., 0])
            d_world.append(d_world[parent] @ turns[:, None, joint] + world[parent][:, None] @ slopes[:, :, joint])
            world.append(world[parent] @ turns[:, joint])
        rotations, d_rotations = torch.stack(world, 1), torch.stack(d_world, 2)  # [B, J, 3, 3], [B, 9, J, 3, 3]
        d_offsets = torch.stack(d_places, 2) - (d_rotations @ joints[:, None, :, :, None])[..., 0]
        return (
            torch.einsum("bkjac,bpjc->bpak", d_rotations, shaped)
            + torch.einsum("bjac,bkpjc->bpak", rotations, bent)
            + torch.einsum("pj,bkja->bpak", self._share, d_offsets)
        )

    def _shaped(self, betas: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points before they turn, a part for each joint, [B, P, J, 3], and the joints [B, J, 3]."""
        identity = torch.eye(3, dtype=turns.dtype, device=turns.device)
        bend = torch.einsum("bf,fpjc->bpjc", (turns[:, 1:] - identity).flatten(1), self._bend)
        shaped = self._template + torch.einsum("pjck,bk->bpjc", self._directions, betas) + bend
        return shaped, self._joints + torch.einsum("jck,bk->bjc", self._joint_directions, betas)

    def _turns(self, angles: Tensor) -> Tensor:
        """Return how each joint turns against its parent, [B, J, 3, 3]; root and neck do not."""
        straight = torch.zeros_like(angles[:, :6])
        return rotation_matrices(torch.cat([straight, angles], -1).unflatten(-1, (-1, 3)))

    def _posed(self, turns: Tensor, points: Tensor, joints: Tensor) -> Tensor:
        """Blend points [B, P, J, 3, N] over joints [B, J, 3, N]: [B, P, 3, N]; both may lack B where all are alike."""
        shared = points.ndim == 4
        joints = joints[None] if shared else joints
        world, places = [turns[:, 0]], [joints[:, 0]]
        for joint, parent in enumerate(self._parents[1:], start=1):
            world.append(world[parent] @ turns[:, joint])
            places.append(places[parent] + world[parent] @ (joints[:, joint] - joints[:, parent]))
        rotations = torch.stack(world, 1)  # [B, J, 3, 3]
        offsets = torch.stack(
            [place - turn @ joints[:, j] for j, (turn, place) in enumerate(zip(world, places, strict=True))], 1
        )
        turned = torch.einsum("bjac,pjcn->bpan" if shared else "bjac,bpjcn->bpan", rotations, points)
        return turned + torch.einsum("pj,bjan->bpan", self._share, offsets)


def _seen_turn(directions: Tensor, joint_directions: Tensor) -> Tensor:
    """Return the turn [K, k] that takes the most visible of directions [P, J, 3, K] and [J, 3, K] first."""
    moved = torch.cat([directions.flatten(0, 2), joint_directions.flatten(0, 1)])
    _, lengths, axes = torch.linalg.svd(moved, full_matrices=False)
    turn = axes[lengths > UNSEEN].mT
    return turn * turn.gather(0, turn.abs().argmax(0, keepdim=True)).sign()


def rotation_slopes(vectors: Tensor) -> Tensor:
    """Return the derivatives of rotation matrices by their vectors [..., 3], radians: [..., 3, 3, 3], vector first.

    With R = 1 + a K + b K², a = sin θ / θ and b = (1 - cos θ) / θ².
    """
    squared = vectors.square().sum(-1)[..., None, None, None]
    small = squared < 1e-6
    safe = torch.where(small, 1.0, squared)
    angle = safe.sqrt()
    a = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / safe)
    d_a = torch.where(small, -1 / 3 + squared / 30, (angle.cos() - a) / safe)  # times the vector
    d_b = torch.where(small, -1 / 12 + squared / 180, (a - 2 * b) / safe)
    axes = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    crosses = -torch.linalg.cross(axes[:, None].expand(3, 3, 3), axes.expand(3, 3, 3))  # of the axes: x -> axis × x
    cross = torch.einsum("...k,kac->...ac", vectors, crosses)[..., None, :, :]
    along = vectors[..., None, None]
    return along * (d_a * cross + d_b * cross @ cross) + a * crosses + b * (crosses @ cross + cross @ crosses)
