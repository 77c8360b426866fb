"""Measure the geometry of one head: surfaces, depths, silhouettes against the truth, and views against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.geometry.surface import Surface
from triportrait.train.data.pictures import Pictures
from triportrait.train.evaluation.geometry_scene import PAIRS, TRUTH, GeometryScene, as_predicted
from triportrait.train.evaluation.image_metrics import OPAQUE, depth_error, opacity_iou
from triportrait.train.evaluation.methods import Method, Prediction, Reconstruction
from triportrait.train.evaluation.metrics import geometry, reprojection
from triportrait.train.evaluation.metrics.geometry import DEPTH_MEASURES, SurfaceSamples, compare_surfaces
from triportrait.train.evaluation.metrics.measures import MM
from triportrait.train.evaluation.metrics.reprojection import View, compare_views
from triportrait.train.evaluation.seen_surfaces import samples, seen, seen_from

TRUTH_MEASURES = (*geometry.MEASURES, *DEPTH_MEASURES)
VIEW_MEASURES = reprojection.MEASURES
RESULT_SEED, TRUTH_SEED = 0, 1  # of the points on the surfaces


@dataclass(frozen=True)
class GeometryRow:
    """What a sheet shows of one head.

    Attributes:
        source, driving: pictures [1, 3, S, S].
        results, truths: pictures [1, 3, S, S] from each of VIEWS_DEG.
        surface: all of the reconstructed surface; true_surface: what views see of the true one.
    """

    source: Tensor
    driving: Tensor
    results: tuple[Tensor, ...]
    truths: tuple[Tensor, ...]
    surface: Surface
    true_surface: Surface


@dataclass(frozen=True)
class GeometryResult:
    """The geometry of one head.

    Attributes:
        values: method or rival -> measure -> its value; NaN where it is not defined.
        row: for a sheet; None where it is not wanted or the first method has no surface.
    """

    values: dict[str, dict[str, float]]
    row: GeometryRow | None = None


def measure_geometry(scene: GeometryScene, methods: Mapping[str, Method], on_sheet: bool = False) -> GeometryResult:
    """Let every method that knows where its head is answer to a scene, and compare with the truth and the rivals."""
    truth = samples(scene.surface, scene.box_side, TRUTH_SEED)
    values: dict[str, dict[str, float]] = {}
    row: GeometryRow | None = None
    for name, method in methods.items():
        if not isinstance(method, Reconstruction):
            continue
        views = method(scene.source, scene.driving, scene.cameras)
        surface = _surface(method, scene)
        shown = None if surface is None else seen(surface, seen_from())
        values[name] = _against_truth(views, shown, scene, truth) | _agreement(views, scene)
        if on_sheet and row is None and surface is not None:
            images, true_images = (tuple(one.image for one in pictures) for pictures in (views, scene.truths))
            row = GeometryRow(
                scene.source.image, scene.driving.image, images, true_images, surface, scene.surface
            )  # fmt: skip
    for name, rival in scene.rivals.items():
        values[name] = _against_truth(rival.views, rival.surface, scene, truth)
        if rival.coloured:
            values[name] |= _agreement(rival.views, scene)
    views = [as_predicted(picture) for picture in scene.truths]
    values[TRUTH] = _against_truth(views, scene.surface, scene, truth) | _agreement(views, scene)
    return GeometryResult(values, row)


def _surface(method: Reconstruction, scene: GeometryScene) -> Surface | None:
    """Return the surface that a method makes; None where it makes none."""
    try:
        return method.surface(scene.source, scene.driving)
    except InputError:  # the network is transparent
        return None


def _against_truth(
    views: Sequence[Prediction], surface: Surface | None, scene: GeometryScene, truth: SurfaceSamples
) -> dict[str, float]:
    values = {measure.name: math.nan for measure in geometry.MEASURES}
    if surface is not None and len(surface.faces):
        drawn = samples(surface, scene.box_side, RESULT_SEED)
        if drawn.counted.any():
            values |= compare_surfaces(drawn, truth)
    by_view = [_depth(view, true) for view, true in zip(views, scene.truths, strict=True)]
    return values | {each.name: _mean([found[each.name] for found in by_view]) for each in DEPTH_MEASURES}


def _depth(view: Prediction, truth: Pictures) -> dict[str, float]:
    """Return every measure of DEPTH_MEASURES of one view."""
    assert view.depth is not None and view.opacity is not None and truth.depth is not None
    both = truth.opacity * (view.opacity >= 0.5)
    behind = (view.depth - truth.depth)[both > OPAQUE]
    return {
        "depth_error_mm": MM * depth_error(view.depth, truth.depth, both).item(),
        "depth_bias_mm": MM * behind.mean().item(),
        "silhouette_iou": opacity_iou(view.opacity, truth.opacity).item(),
    }


def _agreement(views: Sequence[Prediction], scene: GeometryScene) -> dict[str, float]:
    shown = []
    for view, camera in zip(views, scene.cameras, strict=True):
        assert view.depth is not None and view.opacity is not None
        shown.append(View(view.image[0], view.depth[0, 0], view.opacity[0, 0], camera))
    return compare_views(shown, PAIRS)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
