"""A made-up head mesh in FLAME's tables: no FLAME data is in this project, its shapes and its mathematics are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NECK, JAW = 1, 2


def sphere(rings: int, segments: int) -> tuple[Tensor, Tensor]:
    """Vertices [U, 3] of a closed egg around (0, 0.25, 0.05) in scene units, and its faces [F, 3]."""
    vertices = [(0.0, 1.0, 0.0)]
    for i in range(1, rings):
        polar = math.pi * i / rings
        for j in range(segments):
            turn = 2 * math.pi * j / segments
            vertices.append((math.sin(polar) * math.sin(turn), math.cos(polar), math.sin(polar) * math.cos(turn)))
    vertices.append((0.0, -1.0, 0.0))
    faces, last = [], len(vertices) - 1
    for j in range(segments):
        after = (j + 1) % segments
        faces.append((0, 1 + j, 1 + after))
        for i in range(rings - 2):
            a, b = 1 + i * segments, 1 + (i + 1) * segments
            faces += [(a + j, b + j, b + after), (a + j, b + after, a + after)]
        faces.append((last, 1 + (rings - 2) * segments + after, 1 + (rings - 2) * segments + j))
    shape = torch.tensor([0.22, 0.35, 0.27])
    return torch.tensor(vertices) * shape + torch.tensor([0.0, 0.25, 0.05]), torch.tensor(faces)


def flame_tables(rings: int = 12, segments: int = 16, directions: int = 400) -> dict[str, Tensor]:
    """FLAME tables of the egg: what lies above the neck joint at the origin turns with it, what lies below stays."""
    vertices, faces = sphere(rings, segments)
    U = len(vertices)
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros(U, 5)
    bend = ((vertices[:, 1] + 0.05) / 0.1).clamp(0, 1)
    weights[:, NECK], weights[:, 0] = bend, 1 - bend
    mouth = torch.exp(-((vertices - torch.tensor([0.0, 0.05, 0.25])) ** 2).sum(-1) / 0.01)
    weights[:, JAW], weights[:, NECK] = mouth * weights[:, NECK], (1 - mouth) * weights[:, NECK]
    # rows of barycentric-like sums that put the joints where they belong
    places = torch.tensor([[0.0, -0.05, 0], [0, 0, 0], [0, 0.1, 0.1], [-0.06, 0.3, 0.25], [0.06, 0.3, 0.25]])
    system = torch.cat([vertices, torch.ones(U, 1)], 1)
    regressor = torch.cat([places, torch.ones(5, 1)], 1) @ torch.linalg.pinv(system)
    return {
        "template": vertices,
        "shape_directions": torch.randn(U, 3, directions, generator=generator) * 0.002,
        "pose_directions": torch.randn(36, 3 * U, generator=generator) * 0.001,
        "joint_regressor": regressor,
        "parents": torch.tensor([-1, 0, 1, 1, 1]),
        "skinning_weights": weights,
        "faces": faces,
    }


def mesh_tables(flame: dict[str, Tensor]) -> dict[str, Tensor]:
    """Coarse tables that are the mesh itself."""
    U = len(flame["template"])
    barycentrics = torch.tensor([1.0, 0, 0]).expand(U, 3).contiguous()
    return {
        "coarse_vertices": torch.arange(U)[:, None].expand(-1, 3).contiguous(),
        "coarse_barycentrics": barycentrics,
        "coarse_faces": flame["faces"],
    }
