"""Expressions are measured by the geometry of the mesh, whatever a face's size, place and turn in the picture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.core.faces.networks import face_graph
from tests.serve.raw import seen
from triportrait.core.faces.expressions import (
    BROWS,
    EYE_CORNERS,
    LIDS,
    LIPS,
    MEASURES,
    MIDDLE_OF_LIPS,
    MOUTH_CORNERS,
    geometric_measures,
)  # fmt: skip
from triportrait.core.faces.mesh import POINTS, FaceMesh
from triportrait.core.faces.regions import Regions, regions_of_points
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.types import Camera
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.scene_sampling import expressions, population, take_pictures, to_uint8

TRUTHS = {  # measure -> what the generator moved, the least correlation over the expressions of each head
    "mouth_opening": ("jaw", 0.9), "mouth_width": ("smile", 0.4), "mouth_corners": ("smile", 0.85),
    "lid_left": ("blink_left", -0.85), "lid_right": ("blink_right", -0.85), "brow_left": ("brow_left", 0.4),
    "brow_right": ("brow_right", 0.4),
}  # fmt: skip


def made_up_face() -> Tensor:
    """Points [1, 478, 2] in known places: the eyes are 100 px apart."""
    points = torch.rand(1, POINTS, 2, generator=torch.Generator().manual_seed(1)) * 100
    for side, x in (("right", 50.0), ("left", 150.0)):
        for corner, off in zip(EYE_CORNERS[side], (-12.0, 12.0), strict=True):
            points[0, corner] = torch.tensor([x + off, 100.0])
        for place, y in ((LIDS[side][0], 90.0), (LIDS[side][1], 110.0), (BROWS[side], 60.0)):
            for k, point in enumerate(place):
                points[0, point] = torch.tensor([x + k, y])
    for k, (upper, lower) in enumerate(zip(*LIPS, strict=True)):
        points[0, upper], points[0, lower] = torch.tensor([95.0 + 5 * k, 200.0]), torch.tensor([95.0 + 5 * k, 230.0])
    for corner, x in zip(MOUTH_CORNERS, (140.0, 60.0), strict=True):
        points[0, corner] = torch.tensor([x, 210.0])
    return points


def test_the_measures_are_parts_of_the_distance_between_the_eyes():
    expected = {
        "mouth_opening": 0.3, "mouth_width": 0.8, "mouth_corners": 0.05, "lid_left": 0.2, "lid_right": 0.2,
        "brow_left": 0.4, "brow_right": 0.4,
    }  # fmt: skip
    found = dict(zip(MEASURES, geometric_measures(made_up_face())[0].tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "some"),
    [("mouth_opening", LIPS[1]), ("lid_left", LIDS["left"][1]), ("lid_right", LIDS["right"][1]),
     ("brow_left", BROWS["left"]), ("brow_right", BROWS["right"]), ("mouth_corners", MOUTH_CORNERS)],
)  # fmt: skip
def test_what_moves_changes_its_own_measure(name, some):
    points = made_up_face()
    moved = points.clone()
    moved[0, list(some), 1] += 10.0
    change = (geometric_measures(moved) - geometric_measures(points))[0]
    place = MEASURES.index(name)
    assert change[place].item() == pytest.approx(0.1 if name in ("mouth_opening", "lid_left", "lid_right") else -0.1)
    others = [k for k, other in enumerate(MEASURES) if k != place and not {name, other} <= set(MEASURES[:3])]
    assert change[others].abs().max() < 1e-6


def test_size_place_and_turn_in_the_picture_change_nothing():
    points = made_up_face()
    expected = geometric_measures(points)
    for scale, degrees, x, y in ((0.1, 0, 0, 0), (7.0, 25, -300, 40), (1.0, 180, 1000, 2000), (0.5, -90, 3, 5)):
        c, s = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
        moved = points @ torch.tensor([[c, s], [-s, c]]) + torch.tensor([float(x), float(y)])
        assert (geometric_measures(moved) - expected).abs().max() < 1e-4, degrees


def test_a_mirrored_face_has_left_and_right_exchanged():
    points = made_up_face()
    points[0, LIDS["left"][1], 1] += 7.0
    points[0, BROWS["right"], 1] -= 9.0
    mirrored = points.clone()
    pairs = [(a, b) for part in (EYE_CORNERS, BROWS) for a, b in zip(part["left"], part["right"], strict=True)]
    pairs += [(a, b) for row in (0, 1) for a, b in zip(LIDS["left"][row], LIDS["right"][row][::-1], strict=True)]
    pairs.append(MOUTH_CORNERS)
    for left, right in pairs:
        mirrored[0, [left, right]] = points[0, [right, left]]
    mirrored[..., 0] = -mirrored[..., 0]
    found, expected = geometric_measures(mirrored)[0], geometric_measures(points)[0]
    order = list(range(len(MEASURES)))
    for name, other in (("lid_left", "lid_right"), ("brow_left", "brow_right")):
        order[MEASURES.index(name)], order[MEASURES.index(other)] = MEASURES.index(other), MEASURES.index(name)
    assert torch.allclose(found, expected[order], atol=1e-5)
    assert abs(expected[MEASURES.index("lid_left")] - expected[MEASURES.index("lid_right")]) > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_depths_and_several_faces(dtype):
    points = made_up_face()
    deep = torch.cat([points, torch.full((1, POINTS, 1), 50.0)], 2)
    both = geometric_measures(torch.cat([deep, deep * 2]).to(dtype))
    assert both.dtype == torch.float32
    assert torch.allclose(both, geometric_measures(points).expand(2, -1), atol=2e-3)
    assert geometric_measures(points[:0]).shape == (0, len(MEASURES))


def test_points_at_one_place_give_finite_numbers():
    assert torch.isfinite(geometric_measures(torch.full((1, POINTS, 3), 5.0))).all()


def test_the_middle_of_the_lips_lies_on_them():
    assert (LIPS[0][1], LIPS[1][1]) == MIDDLE_OF_LIPS


def test_procedural_heads_are_followed():
    """Each head's expressions are compared with each other: at rest heads differ."""
    mesh, heads, each, size = FaceMesh(face_graph("mesh")), 8, 6, 160
    who, light = population(17, heads)
    rows, does = torch.arange(heads).repeat_interleave(each), expressions(17, heads, each)
    count, camera = len(rows), fixed_camera()
    cameras = Camera(camera.world_from_camera.expand(count, 4, 4), camera.intrinsics.expand(count, 3, 3))
    view = take_pictures(HeadRenderer(), who.take(rows), does, light.take(rows), cameras, size, antialias=1)
    pictures, numbers = to_uint8(view.image).permute(0, 3, 1, 2), torch.arange(count)
    regions = Regions.of([(size * 0.5, size * 0.55, size * 0.8, 0.0)] * count)
    rough = mesh(pictures, regions, numbers)
    found = geometric_measures(mesh(pictures, regions_of_points(rough.points), numbers).points)
    for name, (axis, least) in TRUTHS.items():
        both = torch.stack([found[:, MEASURES.index(name)], does.vector[:, EXPRESSION_AXES.index(axis)]])
        around = both.view(2, heads, each) - both.view(2, heads, each).mean(2, keepdim=True)
        correlation = torch.corrcoef(around.flatten(1))[0, 1].item()
        assert correlation * math.copysign(1, least) > abs(least), (name, correlation)


def test_a_photograph_that_is_turned_and_enlarged_keeps_its_measures():
    mesh, found = FaceMesh(face_graph("mesh")), []
    for scale, degrees in ((1.0, 0.0), (1.5, 0.0), (1.2, 25.0), (1.0, -40.0)):
        image = torch.from_numpy(seen((320.0, 180.0), scale, degrees).copy()).permute(2, 0, 1)[None]
        regions = Regions.of([(320.0, 185.0, 220.0 * scale, math.radians(-degrees))])
        for _ in range(2):
            points = mesh(image, regions).points
            regions = regions_of_points(points)
        found.append(geometric_measures(points)[0])
    spread = torch.stack(found).amax(0) - torch.stack(found).amin(0)
    assert spread.max() < 0.05, dict(zip(MEASURES, spread.tolist(), strict=True))
    assert found[0][MEASURES.index("mouth_width")] > 0.8, "she smiles"
