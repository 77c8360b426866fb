"""Views that are compared with each other: a painted ball agrees with itself, and what is no solid body does not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import PUBLISHED_FOCAL
from triportrait.train.evaluation.metrics.measures import MM
from triportrait.train.evaluation.metrics.reprojection import MEASURES, View, compare_views

RADIUS = 0.3  # scene units: 100 mm
SIDE, RAYS = 128, 64
YAWS_DEG = (0.0, 30.0)
PAIRS = ((0, 1), (1, 0))


def ball(yaw_deg: float, radius: float = RADIUS, phase: float = 0.0) -> View:
    """A ball about the origin that is painted by where its points are."""
    camera = turned(fixed_camera(), math.radians(yaw_deg), 0.0)
    (depth, opacity, _), (_, _, points) = (_hit(camera, size, radius) for size in (RAYS, SIDE))
    waves = torch.stack([torch.sin(12 * points[:, axis] + axis + phase) for axis in range(3)])
    return View(0.8 * waves.reshape(3, SIDE, SIDE), depth, opacity, camera)


def _hit(camera, size, radius):
    origins, directions = camera_rays(camera, size)
    origin, direction = origins[0, 0], directions[0]
    middle = -(direction @ origin)
    under = middle**2 - (origin @ origin - radius**2)
    depth = (middle - under.clamp(min=0).sqrt()).reshape(size, size)
    return depth, (under > 0).float().reshape(size, size), origin + depth.reshape(-1, 1) * direction


def both(**changes) -> dict[str, float]:
    return compare_views([replace(ball(yaw), **changes) for yaw in YAWS_DEG], PAIRS)


def test_a_ball_agrees_with_itself():
    found = both()
    assert set(found) == {measure.name for measure in MEASURES}
    assert found["reprojection_psnr"] > 40
    assert found["depth_disagreement_mm"] < 0.2
    assert found["reprojection_contradicted"] < 0.001
    visible = (1 + math.cos(math.radians(30))) / 2  # of the disc that A sees, from far away
    assert visible - 0.1 < found["reprojection_seen"] < visible, "less a rim of a ray or two"
    inner = 1 - 1 / (RADIUS / 4.2 * PUBLISHED_FOCAL * RAYS)  # of the disc: pixels between four rays of the ball
    mean = 2 / 3 * (1 - (1 - inner**2) ** 1.5) / inner**2
    spread = math.sqrt(1 - inner**2 / 2 - mean**2)  # of sqrt(1 - r²) over a disc of that radius
    assert found["relief_mm"] == pytest.approx(MM * RADIUS * spread, rel=0.03)


def test_a_view_that_sees_less_far_hides_and_one_that_sees_farther_contradicts():
    near, far = ball(0), ball(30)
    one_way = ((0, 1),)
    for shift_mm in (4, -4):
        off = compare_views([near, replace(far, depth=far.depth + shift_mm / MM)], one_way)
        assert off["depth_disagreement_mm"] == pytest.approx(4, abs=0.1)
        assert off["reprojection_contradicted"] < 0.001
        assert off["reprojection_seen"] > 0.8
    hiding = compare_views([near, replace(far, depth=far.depth - 20 / MM)], one_way)
    assert hiding["reprojection_seen"] == 0
    assert hiding["reprojection_contradicted"] < 0.001
    assert math.isnan(hiding["reprojection_psnr"]) and math.isnan(hiding["depth_disagreement_mm"])
    through = compare_views([near, replace(far, depth=far.depth + 20 / MM)], one_way)
    assert through["reprojection_seen"] < 0.01, "at the rim the surface turns away"
    assert through["reprojection_contradicted"] > 0.8
    assert through["depth_disagreement_mm"] == pytest.approx(20, abs=0.5)
    gone = compare_views([near, replace(far, opacity=far.opacity * 0)], one_way)
    assert gone["reprojection_contradicted"] == 1, "there is nothing at all"


def test_each_view_with_a_paint_of_its_own_does_not_agree():
    found = compare_views([ball(0), ball(30, phase=1.5)], PAIRS)
    assert found["reprojection_psnr"] < 15
    assert found["depth_disagreement_mm"] < 0.2


def test_a_wrong_camera_does_not_agree():
    views = [ball(yaw) for yaw in YAWS_DEG]
    mirrored = turned(fixed_camera(), math.radians(-30), 0.0)
    assert compare_views([views[0], replace(views[1], camera=mirrored)], PAIRS)["reprojection_psnr"] < 15


def test_pairs_are_weighed_by_their_pixels():
    views = [ball(yaw) for yaw in (0, 30, 10)]
    first, second, together = (compare_views(views, pairs) for pairs in (((0, 1),), ((0, 2),), ((0, 1), (0, 2))))
    assert first["reprojection_seen"] < second["reprojection_seen"]
    mean = (first["reprojection_seen"] + second["reprojection_seen"]) / 2  # both count the pixels of view 0
    assert together["reprojection_seen"] == pytest.approx(mean)


def test_nothing_to_compare_has_no_figures():
    found = compare_views([replace(ball(yaw), opacity=torch.zeros(RAYS, RAYS)) for yaw in YAWS_DEG], PAIRS)
    assert all(math.isnan(value) for value in found.values())
