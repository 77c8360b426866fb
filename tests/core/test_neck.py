"""FLAME and the neck field, on a made-up head."""

from __future__ import annotations

import math

import pytest
import torch

from tests.core.synthetic import flame_tables, mesh_tables
from triportrait.core.config import NeckConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame, rescale_flame, rotation_matrices
from triportrait.core.motion.neck import NeckField, cluster_mesh, grid_points, neck_grid, surface_offsets, warp_of
from triportrait.kernels.march import warped

_CELLS = [(i, j, k) for i in range(3) for j in range(3) for k in range(3)]


def pose(neck=(0.0, 0, 0), jaw=(0.0, 0, 0)):
    return torch.tensor([neck]), torch.tensor([jaw]), torch.zeros(1, 6)


@pytest.fixture(scope="module")
def tables():
    return flame_tables()


@pytest.fixture(scope="module")
def field(tables):
    return NeckField(NeckConfig(), 1.3, tables, mesh_tables(tables))


class TestFlame:
    def test_rotation_vectors_are_exponentials(self):
        vectors = torch.randn(20, 3, dtype=torch.float64)
        x, y, z = vectors.unbind(-1)
        zero = torch.zeros_like(x)
        cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
        torch.testing.assert_close(rotation_matrices(vectors), torch.linalg.matrix_exp(cross), atol=1e-7, rtol=0)

    def test_no_parameters_give_the_template(self, tables):
        vertices, joints = Flame(tables)(torch.zeros(1, 400), *pose())
        torch.testing.assert_close(vertices[0], tables["template"], atol=1e-6, rtol=0)
        torch.testing.assert_close(joints[0, 1], torch.zeros(3), atol=1e-5, rtol=0)

    def test_betas_add_their_directions(self, tables):
        betas = torch.zeros(1, 400)
        betas[0, 7], betas[0, 301] = 2.0, -1.0  # a shape and an expression
        vertices, _ = Flame(tables)(betas, *pose())
        expected = tables["template"] + 2 * tables["shape_directions"][..., 7] - tables["shape_directions"][..., 301]
        torch.testing.assert_close(vertices[0], expected, atol=1e-5, rtol=0)

    def test_a_vertex_of_the_neck_joint_turns_around_it(self, tables):
        turn = (0.0, 0.4, 0.0)
        tables = {**tables, "pose_directions": torch.zeros_like(tables["pose_directions"])}
        vertices, joints = Flame(tables)(torch.zeros(1, 400), *pose(turn))
        rigid = tables["skinning_weights"][:, 1] > 0.9999
        assert rigid.sum() > 20
        rotation, pivot = rotation_matrices(torch.tensor(turn)), joints[0, 1]
        expected = (tables["template"] - pivot) @ rotation.T + pivot
        torch.testing.assert_close(vertices[0][rigid], expected[rigid], atol=1e-4, rtol=0)
        still = tables["skinning_weights"][:, 0] == 1
        torch.testing.assert_close(vertices[0][still], tables["template"][still], atol=1e-5, rtol=0)

    def test_the_jaw_hangs_on_the_neck(self, tables):
        flame = Flame(tables)
        _, joints = flame(torch.zeros(1, 400), *pose((0.0, 0.5, 0.0)))
        _, straight = flame(torch.zeros(1, 400), *pose())
        rotation = rotation_matrices(torch.tensor((0.0, 0.5, 0.0)))
        expected = rotation @ (straight[0, 2] - straight[0, 1]) + straight[0, 1]
        torch.testing.assert_close(joints[0, 2], expected, atol=1e-5, rtol=0)

    def test_what_turns_with_the_jaw_turns_with_the_neck_first(self, tables):
        tables = {**tables, "pose_directions": torch.zeros_like(tables["pose_directions"])}
        weights = torch.zeros_like(tables["skinning_weights"])
        weights[:, 2] = 1.0
        neck, jaw = (0.0, 0.5, 0.0), (0.3, 0.0, 0.0)
        vertices, _ = Flame({**tables, "skinning_weights": weights})(torch.zeros(1, 400), *pose(neck, jaw))
        turn_neck, turn_jaw = rotation_matrices(torch.tensor(neck)), rotation_matrices(torch.tensor(jaw))
        joints = tables["joint_regressor"] @ tables["template"]
        local = (tables["template"] - joints[2]) @ turn_jaw.T + joints[2]
        torch.testing.assert_close(vertices[0], (local - joints[1]) @ turn_neck.T + joints[1], atol=1e-5, rtol=0)

    def test_pose_directions_take_the_rotations_row_by_row(self, tables):
        directions = torch.zeros_like(tables["pose_directions"])
        directions[9 + 1, 0] = 1.0  # second joint (jaw), entry (0, 1) of its matrix, x of the first vertex
        flame = Flame({**tables, "pose_directions": directions})
        jaw = (0.0, 0.0, 0.3)
        moved, _ = flame(torch.zeros(1, 400), *pose(jaw=jaw))
        plain, _ = Flame({**tables, "pose_directions": 0 * directions})(torch.zeros(1, 400), *pose(jaw=jaw))
        assert (moved - plain)[0, 0, 0].item() == pytest.approx(-math.sin(0.3), rel=1e-4)

    def test_a_file_in_metres_is_brought_to_scene_units(self, tables):
        shift = torch.tensor([0.1, -0.2, 0.3])
        metres = {**tables, "template": tables["template"] / 3 + shift}
        metres["joint_regressor"] = tables["joint_regressor"]
        scaled = rescale_flame(metres)
        _, joints = Flame(scaled)(torch.zeros(1, 400), *pose(jaw=(0.3, 0, 0)))
        torch.testing.assert_close(joints[0, 1], torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(scaled["template"], tables["template"], atol=1e-4, rtol=0)
        torch.testing.assert_close(scaled["shape_directions"], 3 * tables["shape_directions"])

    def test_landmarks_are_barycentric(self, tables):
        faces = torch.zeros(1, 70, dtype=torch.long)
        bary = torch.tensor([0.2, 0.3, 0.5]).expand(1, 70, 3)
        flame = Flame({**tables, "landmark70_faces": faces, "landmark70_barycentrics": bary})
        a, b, c = tables["template"][tables["faces"][0]]
        landmarks = flame.landmarks(tables["template"][None])
        torch.testing.assert_close(landmarks[0, 69], 0.2 * a + 0.3 * b + 0.5 * c)

    @pytest.mark.parametrize("name", ["template", "parents"])
    def test_refuses_missing_tables_by_name(self, tables, name):
        with pytest.raises(InputError, match=f"missing {name}"):
            Flame({k: v for k, v in tables.items() if k != name})

    def test_refuses_a_table_of_another_shape(self, tables):
        with pytest.raises(InputError, match=r"skinning_weights: expected \[\d+, 5\], got \[\d+, 4\]"):
            Flame({**tables, "skinning_weights": tables["skinning_weights"][:, :4]})


class TestNeckField:
    def test_a_straight_neck_moves_nothing(self, field):
        grid = field(torch.randn(1, 300), torch.randn(1, 100), *pose(jaw=(0.2, 0, 0)))
        assert grid.fine[..., :3].abs().max() < 5e-5
        points = torch.rand(1, 200, 3) * 1.2 - 0.6
        torch.testing.assert_close(warped(points, warp_of(grid)), points, atol=1e-5, rtol=0)

    def test_a_turned_head_is_turned_back(self, tables, field):
        turn = (0.0, 0.35, 0.0)
        field.flame["pose_directions"].zero_()
        grid = field(torch.zeros(1, 300), torch.zeros(1, 100), *pose(turn))
        target, _ = field.flame(torch.zeros(1, 400), *pose(turn))
        rigid = (tables["skinning_weights"][:, 1] > 0.9999) & (tables["template"][:, 1] > 0.3)
        assert rigid.sum() > 20
        back = warped(target, warp_of(grid))[0]
        before, after = (target[0] - tables["template"])[rigid], (back - tables["template"])[rigid]
        assert after.norm(dim=-1).max() < 0.12 * before.norm(dim=-1).max()  # what the grid's interpolation leaves

    def test_the_coarse_grid_is_blurred_twice(self, field):
        arguments = (torch.zeros(1, 400), *pose((0.0, 0.35, 0.0)))
        target = field.coarse_mesh(*arguments)
        reference = field.coarse_mesh(torch.zeros(1, 400), *pose())
        offset, _ = surface_offsets(grid_points(8, 1.3), target, reference, field.mesh["coarse_faces"], 5e-3)
        volume = offset[0].view(8, 8, 8, 3)
        for _ in range(2):
            index = torch.arange(-1, 9).clamp(0, 7)  # the border repeats
            padded = volume[index][:, index][:, :, index]
            volume = torch.stack([padded.roll((-i, -j, -k), (0, 1, 2))[:8, :8, :8] for i, j, k in _CELLS]).mean(0)
        grid = neck_grid(target, reference, field.mesh["coarse_faces"], NeckConfig(), 1.3)
        torch.testing.assert_close(grid.coarse[0], volume, atol=1e-6, rtol=0)

    def test_the_torso_stays(self, field):
        grid = field(torch.zeros(1, 300), torch.zeros(1, 100), *pose((0.0, 0.35, 0.0)))
        points = torch.tensor([[[0.0, -0.4, 0.0], [0.1, -0.5, 0.1]]])
        torch.testing.assert_close(warped(points, warp_of(grid)), points, atol=0.03, rtol=0)

    def test_a_batch_is_its_members(self, field):
        shape, expression = torch.randn(2, 300), torch.randn(2, 100)
        neck, jaw, eyes = torch.randn(2, 3) * 0.2, torch.randn(2, 3) * 0.1, torch.zeros(2, 6)
        both = field(shape, expression, neck, jaw, eyes)
        second = field(shape[1:], expression[1:], neck[1:], jaw[1:], eyes[1:])
        torch.testing.assert_close(both.fine[1:], second.fine, atol=1e-5, rtol=0)
        torch.testing.assert_close(both.coarse[1:], second.coarse, atol=1e-5, rtol=0)

    def test_no_neck_is_the_identity(self):
        points = torch.rand(1, 5, 3)
        assert warped(points, warp_of(None)) is points

    def test_a_mesh_without_coarse_tables_is_clustered(self):
        tables = flame_tables(rings=40, segments=60)
        coarse = cluster_mesh(tables["template"], tables["faces"], 0.09)
        U, F = len(coarse["coarse_vertices"]), len(coarse["coarse_faces"])
        assert 50 < U < 400
        assert U < F < 3 * U
        corners = coarse["coarse_faces"]
        assert (corners[:, 0] != corners[:, 1]).all()
        assert corners.max() == U - 1
        # a closed surface: every edge belongs to two faces
        edges = torch.stack([corners, corners.roll(-1, 1)], -1).sort(-1).values.view(-1, 2)
        counts = edges.unique(dim=0, return_counts=True)[1]
        assert (counts == 2).float().mean() > 0.9
        whole = NeckField(NeckConfig(), 1.3, tables, mesh_tables(tables))
        clustered = NeckField(NeckConfig(), 1.3, tables, {})
        arguments = (torch.zeros(1, 300), torch.zeros(1, 100), *pose((0.0, 0.3, 0.0)))
        near = whole(*arguments).fine[..., 3] < 0.01
        difference = (whole(*arguments).fine[..., :3] - clustered(*arguments).fine[..., :3]).norm(dim=-1)
        assert difference[near].mean() < 0.02
