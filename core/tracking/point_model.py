"""The few points of a head model that a picture shows, as a function of its parameters and with their derivatives.

A landmark is a weighted mean of the corners of a face, and a posed vertex is a sum over the joints; both are folded
into one table per joint, so that 70 points cost what 70 vertices cost, and not the whole mesh.
Letters: B frames, P points, J joints, K directions (shape, then expression).
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.core.motion.flame import Flame, rotation_matrices

POINTS = 70  # 68 landmarks and two eye centres
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
        identity = torch.eye(3, dtype=turns.dtype, device=turns.device)
        bend = torch.einsum("bf,fpjc->bpjc", (turns[:, 1:] - identity).flatten(1), self._bend)
        shaped = self._template + torch.einsum("pjck,bk->bpjc", self._directions, betas) + bend
        joints = self._joints + torch.einsum("jck,bk->bjc", self._joint_directions, betas)
        return self._posed(turns, shaped[..., None], joints[..., None])[..., 0]

    def beta_part(self, angles: Tensor) -> Tensor:
        """Return the derivative of `points` by the betas, [B, 70, 3, K]: it depends on the angles alone."""
        return self._posed(self._turns(angles), self._directions[None], self._joint_directions[None])

    def angle_part(self, betas: Tensor, angles: Tensor) -> Tensor:
        """Return the derivative of `points` by the angles, [B, 70, 3, 9]."""

        def of_one(betas: Tensor, angles: Tensor) -> Tensor:
            return self.points(betas[None], angles[None])[0]

        return torch.func.vmap(torch.func.jacfwd(of_one, argnums=1))(betas, angles)

    def _turns(self, angles: Tensor) -> Tensor:
        """Return how each joint turns against its parent, [B, J, 3, 3]; root and neck do not."""
        straight = torch.zeros_like(angles[:, :6])
        return rotation_matrices(torch.cat([straight, angles], -1).unflatten(-1, (-1, 3)))

    def _posed(self, turns: Tensor, points: Tensor, joints: Tensor) -> Tensor:
        """Blend points [B, P, J, 3, N] over joints [B, J, 3, N]: [B, P, 3, N]."""
        world, places = [turns[:, 0]], [joints[:, 0]]
        for joint, parent in enumerate(self._parents[1:], start=1):
            world.append(world[parent] @ turns[:, joint])
            places.append(places[parent] + world[parent] @ (joints[:, joint] - joints[:, parent]))
        rotations = torch.stack(world, 1)  # [B, J, 3, 3]
        offsets = torch.stack(
            [place - turn @ joints[:, j] for j, (turn, place) in enumerate(zip(world, places, strict=True))], 1
        )
        return torch.einsum("bjac,bpjcn->bpan", rotations, points.expand(len(turns), *points.shape[1:])) + torch.einsum(
            "pj,bjan->bpan", self._share, offsets
        )
