"""The geometry of procedural heads: which surface is true, what known shapes get, what is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from tests.train import little
from triportrait.core.errors import InputError
from triportrait.core.geometry.surface import Surface
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.render.rays import camera_rays
from triportrait.core.types import Camera
from triportrait.train.data.heads.population import Expression
from triportrait.train.data.pictures import Pictures
from triportrait.train.evaluation.geometry_measure import (
    TRUTH_MEASURES,
    VIEW_MEASURES,
    GeometryResult,
    measure_geometry,
)
from triportrait.train.evaluation.geometry_scene import (
    DRIVING_HEAD,
    ELLIPSOID,
    FACING,
    FRONT,
    MEAN_HEAD,
    STANDING,
    TRUTH,
    GeometryScene,
    GeometrySpec,
    as_predicted,
    standing_picture,
)
from triportrait.train.evaluation.measure import Task, measure
from triportrait.train.evaluation.methods import Method, Prediction, copy_source
from triportrait.train.evaluation.metrics.measures import MM
from triportrait.train.evaluation.protocol import Group, Sitter, faces_of_scene, renderer
from triportrait.train.evaluation.seen_surfaces import LOWEST, pixels_of, samples, seen, seen_from, seen_head

GROUP = Group("cast", 3, 2)
SIDE = 96


@pytest.fixture(scope="module")
def scene() -> GeometryScene:
    return GeometrySpec(GROUP, 1, 0, little.model()).render()


class Known:
    """A method that knows the truth, moved by some scene units along z, the source's depth with it."""

    def __init__(self, scene: GeometryScene, shift: float = 0.0) -> None:
        self.scene, self.shift = scene, torch.tensor([0.0, 0.0, shift])

    def __call__(self, source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
        return [as_predicted(truth) for truth in self.scene.truths]

    def surface(self, source: Pictures, driving: Pictures) -> Surface:
        return Surface(self.scene.surface.vertices + self.shift, self.scene.surface.faces)


class Transparent(Known):
    """A method that shows nothing."""

    def __call__(self, source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
        return [Prediction(truth.image, torch.zeros_like(truth.opacity), truth.depth) for truth in self.scene.truths]

    def surface(self, source: Pictures, driving: Pictures) -> Surface:
        raise InputError("level: expected a head that stops the light")


# which surface is true


@pytest.mark.parametrize("jaw", [0.0, 0.9])
def test_the_true_surface_lies_where_the_renderer_sees_it(jaw):
    sitter = Sitter.of(GROUP.seed, 1)
    face = Expression.neutral(1).replace(jaw=jaw)
    view = renderer().render(sitter.identity, face, sitter.light, fixed_camera(), SIDE, antialias=1)
    surface = seen_head(renderer(), sitter.identity, face, seen_from())
    raster = pixels_of(surface, fixed_camera(), SIDE)
    along_axis = -(camera_rays(fixed_camera(), SIDE)[1][0] @ fixed_camera().world_from_camera[0, :3, 2])
    distance = raster.depth[0] / along_axis.view(SIDE, SIDE)
    shown = view.opacity[0, 0] > 0
    assert (shown == (raster.face[0] >= 0)).float().mean() > 0.99
    off_mm = MM * (distance - view.depth[0, 0]).abs()[shown & (raster.face[0] >= 0)]
    assert off_mm.median() < 0.01
    assert (off_mm < 1).float().mean() > 0.97, "but for whole triangles at the rims of slits and of hair"


def test_an_open_mouth_is_open():
    sitter = Sitter.of(GROUP.seed, 1)
    depth = {}
    for jaw in (0.0, 0.9):
        surface = seen_head(renderer(), sitter.identity, Expression.neutral(1).replace(jaw=jaw), seen_from())
        depth[jaw] = pixels_of(surface, fixed_camera(), SIDE).depth[0]
    deeper_mm = MM * (depth[0.9] - depth[0.0])[SIDE // 2 : 4 * SIDE // 5, SIDE // 2 - 3 : SIDE // 2 + 3]
    assert (deeper_mm > 10).sum() > 10


def test_the_neck_does_not_move_the_true_surface():
    sitter, (face, _) = Sitter.of(GROUP.seed, 1), faces_of_scene(GROUP, 1, 0)[2]
    turned = face.replace(neck=torch.tensor([[0.1, 0.3, 0.0]]))
    one, other = (seen_head(renderer(), sitter.identity, look, seen_from()) for look in (face, turned))
    assert torch.equal(one.vertices, other.vertices)


def test_the_back_and_the_torso_do_not_count(scene):
    assert scene.surface.vertices[:, 2].min() > -0.3, "of a head 0.55 deep, of which the views see the front"
    drawn = samples(scene.surface, 1.3, seed=0)
    assert drawn.counted.any() and not drawn.counted.all()
    heights = drawn.points[:, 1]
    assert heights[drawn.counted].min() > LOWEST * MM > heights.min()


def test_what_lies_behind_is_not_seen():
    front = torch.tensor([[-0.2, -0.2, 0.1], [0.2, -0.2, 0.1], [0.0, 0.2, 0.1]])
    behind = front * torch.tensor([0.2, 0.2, -1.0])
    both = Surface(torch.cat([front, behind]), torch.tensor([[0, 1, 2], [3, 4, 5]]))
    kept = seen(both, fixed_camera())
    assert len(kept.faces) == 1
    assert torch.equal(kept.vertices, front)
    assert len(seen(Surface(front, torch.tensor([[0, 2, 1]])), fixed_camera()).faces) == 0, "it turns its back"


# what known shapes get


def test_the_truth_gets_full_marks_and_others_do_not(scene):
    values = measure_geometry(scene, {"known": Known(scene)}).values
    assert list(values) == ["known", MEAN_HEAD, ELLIPSOID, DRIVING_HEAD, FACING, STANDING, TRUTH]
    for name in ("known", TRUTH):
        best = {"f_score": 1, "silhouette_iou": 1}
        for each in TRUTH_MEASURES:
            loose = 0.5 if each.unit == "°" else 0.1
            assert values[name][each.name] == pytest.approx(best.get(each.name, 0), abs=loose), (name, each.name)
    for name in (MEAN_HEAD, ELLIPSOID, DRIVING_HEAD):
        assert values[name]["chamfer_mm"] > 2, name
        assert 2 < values[name]["depth_error_mm"] < 60, name
        assert not any(each.name in values[name] for each in VIEW_MEASURES), "its pictures say nothing"
    assert all(math.isnan(values[FACING][each.name]) for each in TRUTH_MEASURES[:6])
    assert values[FACING]["depth_bias_mm"] == pytest.approx(values[FACING]["depth_error_mm"], rel=0.05), "all behind"


def test_views_tell_a_head_from_flat_pictures_and_from_pictures_that_do_not_belong_together(scene):
    strangers = GeometrySpec(GROUP, 0, 0, little.model()).render().truths

    class Mixed(Known):
        def __call__(self, source: Pictures, driving: Pictures, cameras: Sequence[Camera]) -> list[Prediction]:
            return [as_predicted(t) for t in (strangers[0], scene.truths[FRONT], strangers[2])]

    values = measure_geometry(scene, {"mixed": Mixed(scene)}).values
    truth, mixed, facing, standing = (values[name] for name in (TRUTH, "mixed", FACING, STANDING))
    assert truth["reprojection_psnr"] > mixed["reprojection_psnr"] + 5
    assert 1.5 * truth["depth_disagreement_mm"] < mixed["depth_disagreement_mm"], "though heads are much alike"
    assert facing["reprojection_seen"] < truth["reprojection_seen"] - 0.2
    assert facing["reprojection_contradicted"] > 0.2 > 0.05 > truth["reprojection_contradicted"]
    assert standing["relief_mm"] < 0.5 < 10 < truth["relief_mm"]


def test_a_shift_is_measured_and_aligned_away(scene):
    values = measure_geometry(scene, {"off": Known(scene, shift=6 / MM)}).values["off"]
    assert 2 < values["chamfer_mm"] < 6, "6 mm along z, less where the surface turns away"
    assert values["chamfer_aligned_mm"] < 1
    assert values["normal_error_deg"] < 10


def test_methods_without_a_surface_are_left_out(scene):
    methods: dict[str, Method] = {"nothing": Transparent(scene), "copy": copy_source}
    result = measure_geometry(scene, methods, on_sheet=True)
    assert "copy" not in result.values
    nothing = result.values["nothing"]
    assert nothing.pop("silhouette_iou") == 0
    assert all(math.isnan(value) for value in nothing.values())
    assert result.row is None


def test_a_flat_picture_that_stands_still_is_the_source_from_the_front(scene):
    shown = standing_picture(scene.source, fixed_camera())
    torch.testing.assert_close(shown.image, scene.source.image, atol=1e-3, rtol=0)
    torch.testing.assert_close(shown.opacity, scene.source.opacity, atol=1e-3, rtol=0)


def test_the_scene_is_the_one_of_another_head_that_drives(scene):
    (source_face, _), _, (face, _) = faces_of_scene(GROUP, 1, 0)
    assert torch.equal(scene.source.motion, source_face.vector)
    assert torch.equal(scene.driving.motion, face.vector)
    assert all(torch.equal(truth.motion, face.vector) and truth.neck is None for truth in scene.truths)
    straight = face.replace(neck=torch.zeros(1, 3))
    sitter = Sitter.of(GROUP.seed, 1)
    again = sitter.photograph(straight, scene.cameras[0], little.model(), necks=False)
    assert torch.equal(scene.truths[0].image, again.image)


def test_means_are_over_the_heads_where_a_figure_is_defined(monkeypatch):
    found = iter([{"chamfer_mm": 1.0, "f_score": math.nan}, {"chamfer_mm": 2.0, "f_score": math.nan}])
    monkeypatch.setattr(GeometrySpec, "render", lambda spec: None)
    monkeypatch.setattr(
        "triportrait.train.evaluation.measure.measure_geometry",
        lambda scene, methods, on_sheet: GeometryResult({MEAN_HEAD: next(found)}),
    )
    (result,) = measure([Task(GeometrySpec(GROUP, head, 0, little.model()), Nobody(), False) for head in range(2)])
    assert result.geometry_heads == 2
    assert result.geometry == {MEAN_HEAD: {"chamfer_mm": 1.5, "f_score": None}}
    assert result.numbers()["geometry"] == result.geometry


class Nobody:
    """Candidates among whom nobody is."""

    def methods(self) -> dict[str, Method]:
        return {}
