"""Cameras: the published conventions, in numbers."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.core.render.cameras import (
    LookAtRange,
    camera_from_label,
    fixed_camera,
    look_at,
    sample_look_at,
    turned,
)
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import Camera


def at(yaw=0.0, pitch=0.0, roll=0.0, radius=4.0, pivot=(0.0, 0, 0)):
    values = [torch.tensor([v]) for v in (yaw, pitch, roll, radius)]
    return look_at(*values, torch.tensor([pivot])).world_from_camera[0]


def test_yaw_and_pitch_of_the_sampler():
    assert at(yaw=0.5)[0, 3].item() == pytest.approx(-1.918, abs=1e-3)
    assert at(pitch=0.4)[1, 3].item() == pytest.approx(1.0186, abs=1e-4)
    assert math.degrees(math.asin(at(pitch=0.65, radius=1.0)[1, 3].item())) == pytest.approx(24.4, abs=0.1)


def test_roll_of_the_sampler():
    pose = at(roll=0.2)
    torch.testing.assert_close(pose[0, :3], torch.tensor([0.980, 0.199, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(pose[1, :3], torch.tensor([-0.199, 0.980, 0]), atol=1e-3, rtol=0)


def test_sampled_cameras_are_rotations_that_look_at_their_pivot_from_the_ranges():
    camera = sample_look_at(500, torch.Generator().manual_seed(3))
    rotation, position = camera.world_from_camera[:, :3, :3], camera.world_from_camera[:, :3, 3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(500, 3, 3), atol=1e-5, rtol=0)
    assert (rotation.det() > 0).all()
    ranges, radius = LookAtRange(), position.norm(dim=-1)
    assert radius.min() >= ranges.radius[0] - 1e-5
    assert radius.max() <= ranges.radius[1] + 1e-5
    yaw = torch.atan2(-position[:, 0], position[:, 2])
    assert -0.78 <= yaw.min() < -0.7
    assert 0.7 < yaw.max() <= 0.78
    elevation = position[:, 1] / position.norm(dim=-1) * math.pi / 2  # undoes asin(2 pitch / π)
    assert -0.25 - 1e-5 <= elevation.min() < -0.22
    assert 0.6 < elevation.max() <= 0.65 + 1e-5
    # somewhere at a z of 0.06 to 0.12 the optical axis is within the pivot's box
    towards = -rotation[:, :, 2]
    distances = []
    for z in torch.linspace(0.06, 0.12, 25):
        t = (z - position[:, 2]) / towards[:, 2]
        distances.append((position + t[:, None] * towards)[:, :2].abs().amax(-1))
    assert torch.stack(distances).amin(0).max() <= 0.03 + 2e-3


def test_the_same_generator_gives_the_same_cameras():
    a, b = (sample_look_at(4, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a.world_from_camera, b.world_from_camera)


def test_turning_by_nothing_is_the_fixed_view_and_the_origin_keeps_its_distance():
    torch.testing.assert_close(turned(fixed_camera(), 0.0, 0.0).world_from_camera, fixed_camera().world_from_camera)
    side = turned(fixed_camera(), 0.5, 0.0).world_from_camera[0, :3, 3]
    above = turned(fixed_camera(), 0.0, 0.3).world_from_camera[0, :3, 3]
    assert side[0].item() == pytest.approx(-4.2 * math.sin(0.5), abs=1e-4)
    assert above[1].item() == pytest.approx(4.2 * math.sin(0.3) + 0.01 * math.cos(0.3), abs=1e-4)


def test_axis_distance_is_the_depth_of_the_origin():
    camera = turned(fixed_camera(), 0.7, 0.2)
    assert camera.axis_distance.item() == pytest.approx(4.2, abs=1e-5)


def test_a_label_is_read_row_by_row():
    label = torch.arange(25.0)[None]
    camera = camera_from_label(label)
    assert camera.world_from_camera[0, 1].tolist() == [4, 5, 6, 7]
    assert camera.intrinsics[0, 0].tolist() == [16, 17, 18]


def test_rays_run_from_top_left_in_reading_order():
    origins, directions = camera_rays(fixed_camera(), 4)
    assert origins[0, 0].tolist() == pytest.approx([0, 0.01, 4.2])
    first, last = directions[0, 0], directions[0, -1]
    assert first[0] < 0 < first[1]
    assert last[0] > 0 > last[1]
    assert first[2] < 0
    assert directions[0, 1, 0] > directions[0, 0, 0]
    assert directions[0, 4, 1] < directions[0, 0, 1]
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1, 16))
    # the outermost rays are half a cell inside the field of view of 12 degrees
    assert math.degrees(math.atan(-(first[0] / first[2]).item())) == pytest.approx(
        math.degrees(math.atan(-0.375 / 4.757182)), abs=1e-4
    )


def test_skewed_and_shifted_intrinsics():
    K = torch.tensor([[[2.0, 0.3, 0.4], [0, 3.0, 0.6], [0, 0, 1]]])
    camera = Camera(torch.eye(4)[None], K)
    _, directions = camera_rays(camera, 5)
    d = directions[0] / -directions[0, :, 2:]  # on the plane z = -1; x right, y up
    # projecting back: u = fx x - skew y + cx, v = -fy y + cy in picture coordinates (y down)
    u = 2.0 * d[:, 0] + 0.3 * -d[:, 1] + 0.4
    v = 3.0 * -d[:, 1] + 0.6
    centres = (torch.arange(5) + 0.5) / 5
    torch.testing.assert_close(v.view(5, 5), centres[:, None].expand(5, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(u.view(5, 5), centres.expand(5, 5), atol=1e-5, rtol=0)
