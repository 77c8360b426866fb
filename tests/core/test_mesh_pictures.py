"""Pictures of meshes: where a camera sees them, how they are lit, how their edges blend, and what shows through."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.core.synthetic import sphere
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.mesh_pictures import mesh_picture, overlay_mesh, picture_points, vertex_normals
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import PUBLISHED_FOCAL, Camera

RADIUS, SIZE = 0.3, 48


def ball(rings: int = 24) -> tuple[Tensor, Tensor]:
    """A ball around the world's origin: vertices [1, U, 3] and faces."""
    vertices, faces = sphere(rings, 2 * rings)
    vertices = (vertices - torch.tensor([0.0, 0.25, 0.05])) / torch.tensor([0.22, 0.35, 0.27])
    return RADIUS * vertices[None], faces


def test_points_of_rays_are_seen_at_their_pixels():
    camera = turned(fixed_camera(), 0.5, 0.2)
    intrinsics = torch.tensor([[[4.0, 0.1, 0.45], [0.0, 5.0, 0.6], [0.0, 0.0, 1.0]]])  # uneven, with skew
    camera = Camera(camera.world_from_camera, intrinsics)
    origins, directions = camera_rays(camera, 8)
    pixels = picture_points(origins + 3 * directions, camera, 8)[0].view(8, 8, 3)
    at = torch.arange(8) + 0.5
    torch.testing.assert_close(pixels[..., 0], at.expand(8, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels[..., 1], at[:, None].expand(8, 8), atol=1e-4, rtol=0)
    forward = -camera.world_from_camera[0, :3, 2]
    torch.testing.assert_close(pixels[..., 2].flatten(), 3 * directions[0] @ forward)


def test_normals_of_a_ball_point_outwards():
    vertices, faces = ball()
    normals = vertex_normals(vertices, faces)
    assert (normals * vertices / RADIUS).sum(-1).min() > 0.999


def test_a_vertex_without_a_face_has_no_normal():
    vertices = torch.rand(1, 4, 3)
    assert vertex_normals(vertices, torch.tensor([[0, 1, 2]]))[0, 3].eq(0).all()


def test_edges_blend_by_what_they_cover():
    """White on black: how much of the picture is bright is the ball's area to the third of a pixel."""
    vertices, faces = ball(48)
    camera = fixed_camera()
    black = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    white = torch.full_like(black, 255)
    through = [(overlay_mesh(p, vertices, faces, camera, 1.0)[0].double() / 255) ** 2.2 for p in (black, white)]
    coverage = 1 - (through[1] - through[0]).mean(-1)  # the mesh hides what is behind it
    distance = camera.world_from_camera[0, 2, 3].item()
    radius = SIZE * PUBLISHED_FOCAL * math.tan(math.asin(RADIUS / distance))
    assert coverage.sum().item() == pytest.approx(math.pi * radius**2, rel=0.01)
    assert ((coverage > 0.1) & (coverage < 0.9)).sum() > 2 * radius, "a rim of pixels in between"


def test_it_is_lit_from_the_upper_left_of_the_camera_wherever_that_stands():
    vertices, faces = ball()
    for yaw in (0.0, 1.0, 3.0):
        picture = mesh_picture(vertices, faces, turned(fixed_camera(), yaw, 0.0), SIZE)[0].float().mean(-1)
        middle = SIZE // 2
        assert picture[middle - 8, middle - 8] > picture[middle + 8, middle + 8] + 20
        assert picture[0, 0] == 255


def test_both_sides_are_drawn_alike():
    triangle = torch.tensor([[[-0.3, -0.3, 0.0], [0.3, -0.3, 0.1], [0.0, 0.3, 0.0]]])
    front, back = (
        mesh_picture(triangle, torch.tensor([order]), fixed_camera(), 32) for order in ([0, 1, 2], [0, 2, 1])
    )
    assert torch.equal(front, back)
    assert (front < 255).any()


def test_colours_and_background_are_those_that_were_asked_for():
    vertices, faces = ball()
    red = torch.tensor([1.0, 0.0, 0.0]).expand(vertices.shape[1], 3)
    picture = mesh_picture(vertices, faces, fixed_camera(), SIZE, red, background=(10, 200, 30))[0]
    assert picture.dtype == torch.uint8
    assert picture[0, 0].tolist() == [10, 200, 30]
    assert picture[SIZE // 2, SIZE // 2, 0] > 150
    assert picture[SIZE // 2, SIZE // 2, 1:].eq(0).all()


def test_an_overlay_leaves_the_picture_beside_the_mesh_and_without_opacity():
    vertices, faces = ball()
    pictures = torch.randint(0, 256, (2, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    both = vertices.expand(2, -1, -1)
    assert torch.equal(overlay_mesh(pictures, both, faces, fixed_camera(), 0.0), pictures)
    laid = overlay_mesh(pictures, both, faces, fixed_camera(), 0.6)
    changed = (laid != pictures).any(-1)
    assert torch.equal(laid[:, :4], pictures[:, :4])
    assert changed[:, SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4].float().mean() > 0.9
    alone = mesh_picture(vertices, faces, fixed_camera(), SIZE)[0]
    hidden = overlay_mesh(pictures, both, faces, fixed_camera(), 1.0)[0]
    assert torch.equal(hidden[SIZE // 2, SIZE // 2], alone[SIZE // 2, SIZE // 2])


def test_a_batch_is_its_members():
    vertices, faces = ball(8)
    two = torch.cat([vertices, 0.5 * vertices])
    cameras = Camera.cat([fixed_camera(), turned(fixed_camera(), 0.5, 0.1)])
    both = mesh_picture(two, faces, cameras, 24)
    assert torch.equal(both[1:], mesh_picture(two[1:], faces, cameras.take([1]), 24))


def test_refuses_what_is_wrong():
    vertices, faces = ball(8)
    pictures = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"opacity: expected 0 to 1, got 1.5; choose a number between them"):
        overlay_mesh(pictures, vertices, faces, fixed_camera(), 1.5)
    with pytest.raises(
        InputError, match=r"pictures: expected \[B, H, H, 3\], got \[1, 8, 7, 3\]; crop them to squares"
    ):
        overlay_mesh(pictures[:, :, :7], vertices, faces, fixed_camera())
