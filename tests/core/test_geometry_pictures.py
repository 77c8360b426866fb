"""Pictures of depth and normals, of a ball whose depth and normals are known at every pixel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.config import tiny
from triportrait.core.motion.flame import SCENE_UNITS_PER_METRE
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.geometry_pictures import (
    BACKGROUND,
    FAR_M,
    NEAR_M,
    GeometryPictures,
    depth_colours,
)
from triportrait.core.render.rays import camera_rays
from triportrait.core.render.volume import VolumeRenderer, as_images
from triportrait.core.types import Camera, Head

RADIUS = 0.3  # scene units
SIDE = 256


def ball() -> tuple[VolumeRenderer, Head]:
    """A renderer whose field is dense within a ball around the origin: each plane holds two of the three squares."""
    config = replace(tiny().render, num_coarse=48, num_fine=48)
    volume = VolumeRenderer(config)
    at = (torch.arange(config.plane_size) + 0.5) / config.plane_size * 2 - 1
    planes = torch.zeros(1, 3, config.plane_size, config.plane_size, config.plane_width)
    planes[..., 0] = 1 - 0.5 * (at[:, None] ** 2 + at[None] ** 2)  # the mean of the planes is 1 - |x|² / 3
    field, rim = volume.field, 1 - (RADIUS / (config.box_side / 2)) ** 2 / 3
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
        field.hidden.weight[0, 0] = 100 * config.plane_width**0.5
        field.density.weight[0, 0] = 4000 * config.field_hidden**0.5
        field.density.bias.fill_(-4000 * 100 * rim)
    return volume, Head(planes, torch.zeros(1, config.plane_width, config.neural_size, config.neural_size))


def ball_seen(camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Where the rays of SIDE x SIDE pixels meet the ball: whether, metres before the origin, normals in camera axes."""
    origins, directions = camera_rays(camera, SIDE)
    along = -(origins * directions).sum(-1)
    missing = (origins + along[..., None] * directions).square().sum(-1)
    half = (RADIUS**2 - missing).clamp(min=0).sqrt()
    points = origins + (along - half)[..., None] * directions
    axes = camera.world_from_camera[:, :3, :3]
    before_m = (points @ axes)[..., 2] / SCENE_UNITS_PER_METRE
    images = (x.unflatten(1, (SIDE, SIDE)) for x in (missing < RADIUS**2, before_m, points @ axes / RADIUS))
    return tuple(images)  # type: ignore[return-value]


@pytest.fixture(params=[(0.0, 0.0), (0.7, -0.3)], ids=["front", "aside"])
def seen(request) -> tuple[Camera, Tensor, Tensor]:
    """A camera, and pictures [SIDE, SIDE, 3] of depth and normals of the ball."""
    camera, (volume, head), geometry = turned(fixed_camera(), *request.param), ball(), GeometryPictures()
    with torch.inference_mode():
        _, depth, opacity, _ = as_images(volume(head.planes, camera), head.background)
        pictures = geometry.depth(depth, opacity, camera, SIDE), geometry.normals(
            depth, opacity, volume, head, camera, SIDE
        )  # fmt: skip
    return camera, *(picture[0].permute(1, 2, 0) for picture in pictures)  # type: ignore[return-value]


def inner(inside: Tensor, px: int) -> Tensor:
    """The pixels that are at least so far from the edge."""
    return -F.max_pool2d(-inside[None].float(), 2 * px + 1, 1, px)[0] > 0


def test_a_colour_of_depth_is_a_distance_whatever_the_camera(seen):
    camera, depth, _ = seen
    inside, before_m, _ = ball_seen(camera)
    surface = inner(inside[0], 6)
    colours = depth_colours()
    level = torch.cdist(depth[surface], colours).argmin(1)
    wanted = (before_m[0][surface] + FAR_M) / (NEAR_M + FAR_M) * (len(colours) - 1)
    off = (level - wanted).abs() * 1000 * (NEAR_M + FAR_M) / (len(colours) - 1)
    assert off.median() < 1.5, "mm"
    assert off.quantile(0.95) < 5


def test_normals_are_those_of_the_ball_in_camera_axes(seen):
    camera, _, normals = seen
    inside, _, wanted = ball_seen(camera)
    surface = inner(inside[0], 6)
    cosine = F.cosine_similarity(normals[surface], wanted[0][surface], dim=-1)
    assert torch.rad2deg(cosine.clamp(-1, 1).acos()).median() < 2
    assert torch.rad2deg(cosine.clamp(-1, 1).acos()).quantile(0.95) < 8
    top, right = normals[SIDE // 2 - 72, SIDE // 2], normals[SIDE // 2, SIDE // 2 + 72]
    assert top[1] > 0.5 and abs(top[0]) < 0.2, "up is green"
    assert right[0] > 0.5 and abs(right[1]) < 0.2, "right is red"
    assert normals[SIDE // 2, SIDE // 2, 2] > 0.95, "towards the camera is blue"


def test_edges_have_no_halo(seen):
    """Beside the ball there is the background and nothing of it; the edge is a pixel wide, not a cell of the grid."""
    camera, *pictures = seen
    outside = inner(~ball_seen(camera)[0][0], 4)
    for picture in pictures:
        assert (picture[outside] - BACKGROUND).abs().max() < 1e-6
        # on each side half a cell, and the edge itself
        row = (picture[SIDE // 2] - BACKGROUND).abs().amax(-1) > 1e-6
        assert int(row.sum()) == pytest.approx(int(ball_seen(camera)[0][0, SIDE // 2].sum()), abs=6), (
            "on each side half a cell, and the edge itself"
        )


def test_an_edge_is_as_wide_as_a_pixel_and_not_as_a_cell_of_the_grid():
    """A wall that fills the left half of the rays and is nearer there than the depth that rays beside it report."""
    left = torch.arange(64).expand(1, 1, 64, 64) < 32
    depth, opacity = torch.where(left, 4.0, 4.9), left.float()
    row = GeometryPictures().depth(depth, opacity, fixed_camera(), SIDE)[0, :, SIDE // 2].T
    wall = (row[:, None] - depth_colours()).abs().amax(2).amin(1) < 1e-6
    background = (row - BACKGROUND).abs().amax(1) < 1e-6
    assert wall[: SIDE // 2 - 1].all() and background[SIDE // 2 + 1 :].all()
    assert torch.cdist(row[wall], row[:1]).max() < 0.2, "nothing of the depth beside it gets in"


def test_colours_of_depth_rise_evenly_in_lightness_and_are_all_on_a_screen():
    colours = (depth_colours().double() + 1) / 2
    assert colours.min() > 0 and colours.max() < 1
    linear = torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    cones = linear @ torch.tensor(
        [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
         [0.0883024619, 0.2817188376, 0.6299787005]], dtype=torch.float64
    ).T  # fmt: skip
    lightness = cones ** (1 / 3) @ torch.tensor([0.2104542553, 0.7936177850, -0.0040720468], dtype=torch.float64)
    steps = lightness.diff()
    assert steps.min() > 0.99 * steps.mean() and steps.max() < 1.01 * steps.mean()
