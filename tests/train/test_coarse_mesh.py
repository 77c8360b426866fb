"""The coarse twin: small, close to the fine surface, and good enough to undo the neck."""

from __future__ import annotations

import torch

from triportrait.core.checkpoint import demo_weights, load_portrait
from triportrait.core.config import NeckConfig
from triportrait.core.motion.neck import warp_of
from triportrait.kernels.march import warped
from triportrait.kernels.nearest_face import nearest_face
from triportrait.train.data.heads.anatomy import Kind, mean_identity
from triportrait.train.data.heads.mesh import LARGEST_FACES, coarse_pose, head_neck_grid
from triportrait.train.data.heads.population import Expression, cast, sample_expression, stream

BOX_SIDE = 1.3
NECKS = torch.tensor([[0.2, 0.35, 0.1], [-0.2, 0.0, 0.15], [0.0, -0.35, 0.0]])


def rows_of(mesh, kind: Kind) -> torch.Tensor:
    return mesh.faces[mesh.kind == kind].unique()


def test_it_is_small_and_close_to_the_fine_surface(studio):
    who, face = studio.identity.take([0, 1, 2]), sample_expression(3, stream(9, 1)).replace(neck=NECKS)
    coarse = coarse_pose(who, face)
    assert len(coarse.faces) <= LARGEST_FACES
    assert coarse.target.shape == coarse.reference.shape
    mesh = studio.renderer.mesh
    fine = mesh.pose(who, face)
    for kind, bound in ((Kind.SKIN, 0.015), (Kind.NECK, 0.015), (Kind.TORSO, 0.03)):
        rows = rows_of(mesh, kind)[::29]
        for points, vertices in ((fine.straight, coarse.reference), (fine.vertices, coarse.target)):
            squared, _ = nearest_face(points[:, rows], vertices, coarse.faces, 0.0)
            assert squared.max().sqrt() < bound, kind


def test_its_faces_turn_outwards_and_have_area(studio):
    coarse = coarse_pose(studio.identity.take([2]), sample_expression(1, stream(9, 1)).replace(neck=NECKS[:1] * 0))
    a, b, c = coarse.reference[0][coarse.faces].unbind(1)
    normal, middle = torch.linalg.cross(b - a, c - a), (a + b + c) / 3
    assert normal.norm(dim=-1).min() > 1e-7
    axis = torch.where(middle[:, 1:2] < -0.3, torch.tensor([0.0, -0.56, -0.03]), torch.tensor([0.0, 0.0, -0.03]))
    outwards = (normal * (middle - axis)).sum(-1) > 0
    assert outwards.float().mean() > 0.95


def test_the_neck_field_undoes_the_rotation_on_the_surface(studio):
    """On what is drawn: 95 of 100 points come back to within 0.02 scene units (7 mm), the mean to within 2 mm."""
    who, face = studio.identity.take([0, 1]), sample_expression(2, stream(9, 1)).replace(neck=NECKS[:2])
    grid = head_neck_grid(who, face, NeckConfig(), BOX_SIDE)
    mesh = studio.renderer.mesh
    pose = mesh.pose(who, face)
    for kind in (Kind.SKIN, Kind.HAIR_SHELL, Kind.EYE, Kind.NECK, Kind.TORSO):
        rows = rows_of(mesh, kind)[::7]
        inside = pose.vertices[:, rows].abs().amax(-1) < BOX_SIDE / 2
        back = warped(pose.vertices[:, rows], warp_of(grid))
        error = (back - pose.straight[:, rows]).norm(dim=-1)[inside]
        assert error.mean() < 0.006, (kind.name, error.mean(), error.quantile(0.95))
        assert error.quantile(0.95) < 0.02, (kind.name, error.mean(), error.quantile(0.95))
    skin = rows_of(mesh, Kind.SKIN)
    assert (pose.vertices - pose.straight)[:, skin].norm(dim=-1).mean() > 0.05, "the test would be empty"


def test_a_straight_neck_moves_nothing(studio):
    face = sample_expression(1, stream(9, 1)).replace(neck=torch.zeros(1, 3))
    coarse = coarse_pose(studio.identity.take([0]), face)
    torch.testing.assert_close(coarse.target, coarse.reference, atol=1e-6, rtol=0)
    grid = head_neck_grid(studio.identity.take([0]), face, NeckConfig(), BOX_SIDE)
    assert grid.fine[..., :3].abs().max() < 1e-5


def test_the_package_s_neck_is_the_mean_head_s_and_close_to_that_of_others():
    neck = load_portrait(demo_weights()).neck
    assert neck is not None
    for rotation in NECKS[:, None]:
        fitted = neck(*[torch.zeros(1, 1)] * 2, rotation, *[torch.zeros(1, 1)] * 2)
        errors = []
        for who in (mean_identity(), *(cast(0, 6).take([row]) for row in range(6))):
            own = head_neck_grid(who, Expression.neutral(1).replace(neck=rotation), neck.config, BOX_SIDE)
            near = own.fine[..., 3] < 2 * own.near_squared_distance
            errors.append((fitted.fine - own.fine)[..., :3].norm(dim=-1)[near].square().mean().sqrt())
        assert errors[0] < 0.003, rotation
        assert max(errors) < 0.012, rotation
        assert fitted.fine[..., :3].norm(dim=-1)[near].mean() > 0.02, "it turns"
