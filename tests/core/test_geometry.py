"""Density grids, the level that is seen, closed surfaces, colours and textures, on fields whose surface is known."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.core.config import RenderConfig
from triportrait.core.errors import InputError
from triportrait.core.geometry import density
from triportrait.core.geometry.colour import point_colours, view_cameras, view_of
from triportrait.core.geometry.density import DensityGrid, density_grid, field_at, visible_level
from triportrait.core.geometry.simplify import decimated, smoothed
from triportrait.core.geometry.surface import Surface, enclosed_volumes, extract, separated
from triportrait.core.geometry.texture import baked, outward_normals, unwrapped
from triportrait.core.render.volume import VolumeRenderer
from triportrait.core.types import Head, NeckGrid

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SIZES = RenderConfig(plane_size=32, plane_width=4, field_hidden=8, num_coarse=8, num_fine=8, neural_size=32)


def grid_of(function, nodes: int = 40, half: float = 0.65) -> DensityGrid:
    axis = torch.linspace(-half, half, nodes)
    return DensityGrid(function(*torch.meshgrid(axis, axis, axis, indexing="ij")), -half, 2 * half / (nodes - 1))


def ball(radius: float, x: float = 0.0, y: float = 0.0, z: float = 0.0):
    return lambda a, b, c: 100 * (radius - ((a - x) ** 2 + (b - y) ** 2 + (c - z) ** 2).sqrt())


def edge_counts(surface: Surface) -> set[int]:
    edges = torch.cat([surface.faces[:, [0, 1]], surface.faces[:, [1, 2]], surface.faces[:, [2, 0]]]).sort(1).values
    return set(torch.unique(edges, dim=0, return_counts=True)[1].tolist())


def volume_of(surface: Surface) -> float:
    return float(enclosed_volumes(surface).sum())


@pytest.fixture(scope="module")
def rough() -> tuple[VolumeRenderer, Head]:
    """A field of random planes with a neck that moves points."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    volume = VolumeRenderer(SIZES)
    for parameter in volume.parameters():
        parameter.data = draw(*parameter.shape)
    neck = NeckGrid(draw(1, 4, 4, 4, 4).abs() * 0.02, draw(1, 3, 3, 3, 3) * 0.05, 1.3, 3e-3)
    return volume, Head(draw(1, 3, 32, 32, 4), torch.zeros(1, 4, 32, 32), neck)


def ball_head() -> tuple[VolumeRenderer, Head]:
    """A soft ball of radius 0.4: the planes hold squares of coordinates, the field weighs them."""
    volume = VolumeRenderer(SIZES)
    centres = ((torch.arange(32) + 0.5) / 32 - 0.5) * 1.3
    planes = torch.zeros(1, 3, 32, 32, 4)
    planes[..., 0] = 3 * (centres[:, None] ** 2 + centres**2) / 2  # each coordinate stands on two planes, of three
    with torch.no_grad():
        for parameter in volume.parameters():
            parameter.zero_()
        volume.field.hidden.weight[0, 0] = 2 * 400.0  # stored times the root of its four inputs
        volume.field.hidden.bias[0] = 400.0  # the softplus is in its straight part
        volume.field.density.weight[0, 0] = -math.sqrt(8)
        volume.field.density.bias[0] = 400 + 400 * 0.16
        volume.field.feature.bias[:3] = torch.tensor([2.0, 0.0, -2.0])
    return volume, Head(planes, torch.zeros(1, 4, 32, 32))


def test_a_grid_holds_the_field_where_the_nodes_are(rough, monkeypatch):
    monkeypatch.setattr(density, "CHUNK", 100)
    volume, head = rough
    seen = []
    grid = density_grid(volume, head, 7, progress=lambda done, total: seen.append((done, total)))
    for i, j, k in ((0, 0, 0), (6, 1, 3), (2, 5, 6)):
        node = torch.tensor([[i, j, k]]) * grid.spacing + grid.origin
        assert grid.values[i, j, k].item() == pytest.approx(field_at(volume, head, node)[0].item(), abs=1e-4)
    assert seen == [(100, 343), (200, 343), (300, 343), (343, 343)]


def test_the_neck_moves_the_field(rough):
    volume, head = rough
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    still = Head(head.planes, head.background)
    assert not torch.allclose(field_at(volume, head, points)[0], field_at(volume, still, points)[0])


def test_the_published_grid_divides_without_rounding(rough):
    """Row, column and slice come from the node's number by real division, so y and x hold what is left."""
    volume, head = rough
    N = 6
    grid = density_grid(volume, head, N, published_grid=True)
    for n in (0, 41, 100, 215):
        place = torch.tensor([[(n / N / N) % N, (n / N) % N, float(n % N)]]) * grid.spacing + grid.origin
        expected = field_at(volume, head, place)[0].item()
        assert grid.values.flatten()[n].item() == pytest.approx(expected, abs=1e-3)


def test_a_ball_comes_out_round_closed_and_outwards():
    surface = extract(grid_of(ball(0.4)), 0.0)
    assert (surface.vertices.norm(dim=1) - 0.4).abs().max() < 2e-3
    assert edge_counts(surface) == {2}
    assert volume_of(surface) == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.01)
    assert (surface.vertices.mean(0).abs() < 1e-3).all()


def test_cavities_and_crumbs_stay_behind_and_the_box_closes():
    def field(x, y, z):
        solid = torch.maximum(ball(0.4, y=-0.5)(x, y, z), ball(0.1, y=0.4)(x, y, z))
        return torch.minimum(solid, -ball(0.2, y=-0.35)(x, y, z))

    surface = extract(grid_of(field), 0.0)
    assert edge_counts(surface) == {2}
    assert surface.vertices[:, 1].max() < 0.0, "the crumb is gone"
    assert surface.vertices[:, 1].min() == pytest.approx(-0.65 - 0.65 / 39, abs=1e-5), "the lid"
    assert (surface.vertices - torch.tensor([0, -0.35, 0])).norm(dim=1).min() > 0.1
    assert volume_of(surface) > 0.15, "the cavity is filled"


@pytest.mark.parametrize("level", [-500.0, 500.0, math.nan])
def test_a_level_that_nothing_passes_is_refused(level):
    with pytest.raises(InputError, match="level: expected a raw density between"):
        extract(grid_of(ball(0.4)), level)


def test_the_level_that_is_seen_lies_where_a_fifth_of_the_light_is_lost():
    volume, head = ball_head()
    level = visible_level(volume, head)
    # along a ray to the middle the raw density grows by about 2 * 400 * 0.4 each scene unit: raw² / 2 slope = -ln 0.8
    slope = 2 * 400 * 0.4
    expected = 1 + math.sqrt(2 * slope * -math.log(0.8))
    assert level == pytest.approx(expected, rel=0.25)
    surface = extract(density_grid(volume, head, 48), level)
    assert surface.vertices.norm(dim=1).mean() == pytest.approx(math.sqrt(0.16 - level / 400), abs=5e-3)
    volume.field.density.bias.data -= 500.0
    with pytest.raises(InputError, match="level: expected a head that stops light, 0 rays"):
        visible_level(volume, head)


def test_decimation_keeps_a_surface_closed_and_smoothing_its_size():
    noise = torch.randn(40, 40, 40, generator=torch.Generator().manual_seed(3))
    surface = extract(grid_of(lambda x, y, z: ball(0.4)(x, y, z) + noise), 0.0)
    lighter = decimated(surface, 800)
    assert len(lighter.faces) <= 800 and edge_counts(lighter) == {2}
    assert volume_of(lighter) == pytest.approx(volume_of(surface), rel=0.03)
    assert decimated(lighter, 800) is lighter and smoothed(lighter, 0) is lighter
    smooth = smoothed(surface, 10)
    assert volume_of(smooth) == pytest.approx(volume_of(surface), rel=0.03)
    rough, calm = ((s.vertices.norm(dim=1) - 0.4).abs().mean() for s in (surface, smooth))
    assert calm < 0.8 * rough


def test_sheets_that_touch_along_an_edge_are_separated():
    tetrahedron = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    other = torch.tensor([0, 1, 4, 5])[tetrahedron]  # has the edge of 0 and 1, too
    places = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0], [0, 0, -1.0]])
    touching = Surface(places, torch.cat([tetrahedron, other]))
    assert edge_counts(touching) == {2, 4}
    apart = separated(touching)
    assert edge_counts(apart) == {2} and len(apart.vertices) == 8
    assert torch.equal(apart.vertices[apart.faces], touching.vertices[touching.faces])


def test_colours_come_from_the_view_that_sees_a_point():
    surface = extract(grid_of(ball(0.4)), 0.0)
    views = []
    for number, (camera, trust) in enumerate(view_cameras()):
        image = torch.full((3, 64, 64), 0.2)
        image[number % 3] = 0.9
        views.append(view_of(surface, image, camera, trust))
    colour = point_colours(views, lambda points, normals: torch.zeros(len(points), 3))
    at = lambda *place: colour(torch.tensor([place]) * 0.4, torch.tensor([place]))[0]  # noqa: E731
    assert torch.allclose(at(0.0, 0.0, 1.0), torch.tensor([0.9, 0.2, 0.2]), atol=0.15), "the front"
    assert at(0.0, 0.0, -1.0).argmax() == 11 % 3, "the back, which the front view must not reach"
    below = at(0.0, -1.0, 0.0)
    assert torch.allclose(below, torch.zeros(3), atol=0.1), "nobody looks from below: the field's own colour"


def test_a_texture_holds_the_colour_of_each_place():
    surface = decimated(extract(grid_of(ball(0.4)), 0.0), 600)
    cut = unwrapped(surface, 256)
    assert torch.equal(cut.surface.vertices, surface.vertices[cut.places])
    assert cut.uv.min() >= 0 and cut.uv.max() <= 1
    normals = outward_normals(surface)[cut.places]
    texture = baked(cut, normals, lambda points, n: (points + 0.5).clamp(0, 1), 256)
    corners = cut.surface.faces
    middle, uv = cut.surface.vertices[corners].mean(1), cut.uv[corners].mean(1)
    texels = (uv * 256).long().clamp(0, 255)
    found = texture[texels[:, 1], texels[:, 0]].float() / 255
    assert (found - (middle + 0.5)).abs().max() < 0.06
    assert (texture.flatten(0, 1).sum(1) > 0).all(), "no black gaps between the charts"
