"""Render scenes, let every method answer to them, compare, and collect the numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from torch import Tensor

from triportrait.core.config import ModelConfig
from triportrait.train.data.parallel import in_order
from triportrait.train.data.pictures import Pictures
from triportrait.train.evaluation.geometry_measure import GeometryResult, GeometryRow, measure_geometry
from triportrait.train.evaluation.geometry_scene import GeometrySpec
from triportrait.train.evaluation.image_metrics import agreement, depth_error, opacity_iou, psnr, sharpness, ssim
from triportrait.train.evaluation.methods import Method, Prediction
from triportrait.train.evaluation.motion_response import Probe, face_mask, products, response
from triportrait.train.evaluation.protocol import CROSS, Group, Plan, ProbeSpec, Scene, SceneSpec

SAME_HEAD, ANOTHER_HEAD = "same head", "another head"
SHEET_HEADS = 4  # of each group, on the sheet of pictures
AXES_SHEET_HEADS = 2  # of each group, on the sheet of axes
GEOMETRY_SHEET_HEADS = 3  # of each group, on the sheet of geometry
_DIGITS = 4


@dataclass(frozen=True)
class SheetRow:
    """Pictures [1, 3, S, S] of one head that another head's picture drives, and the truth."""

    source: Tensor
    driving: Tensor
    results: tuple[Tensor, ...]  # from the driving picture's camera, then from each of VIEW_YAWS_DEG
    truths: tuple[Tensor, ...]


@dataclass(frozen=True)
class AxesRow:
    """Pictures [1, 3, S, S] of one head that another drives along its axes; the key "" is the face at rest."""

    source: Tensor
    driving: dict[str, Tensor]
    results: dict[str, Tensor]
    truths: dict[str, Tensor]


class Candidates(Protocol):
    """The methods that are measured, in a form that travels between processes."""

    def methods(self) -> dict[str, Method]:
        """Load the methods by name; the first is shown on sheets and has its response to each axis measured."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Task:
    """A part of the measurement: one scene, probe or surface of a head."""

    spec: SceneSpec | ProbeSpec | GeometrySpec
    candidates: Candidates
    on_sheet: bool  # whether its pictures are returned for a sheet


@dataclass(frozen=True)
class TaskResult:
    """The outcome of a task.

    Attributes:
        values: method, case, metric -> one number per view.
        agreement: method -> one number.
        products: who drives, axis -> `response.products`.
        row, axes: pictures for a sheet.
        geometry: what is known of its surface.
    """

    values: dict[tuple[str, str, str], list[float]]
    products: dict[tuple[str, str], Tensor]
    agreement: dict[str, float] = field(default_factory=dict)
    row: SheetRow | None = None
    axes: AxesRow | None = None
    geometry: GeometryResult | None = None


@dataclass
class GroupResult:
    """The numbers and pictures of a group.

    Attributes:
        pictures: method -> case -> metric -> the mean over heads and views; None where it is not defined.
        agreement: method -> dB, between results that different heads drive with the same expression.
        response: who drives -> axis -> correlation and gain.
        rows, axes: pictures for the sheets.
        geometry: method or rival -> measure -> the mean over heads; None where it is not defined.
        geometry_heads: how many heads that mean is over.
        surfaces: for the sheet of geometry.
    """

    group: Group
    pictures: dict[str, dict[str, dict[str, float | None]]]
    agreement: dict[str, float | None]
    response: dict[str, dict[str, dict[str, float]]]
    rows: list[SheetRow]
    axes: list[AxesRow]
    geometry: dict[str, dict[str, float | None]] = field(default_factory=dict)
    geometry_heads: int = 0
    surfaces: list[GeometryRow] = field(default_factory=list)

    def numbers(self) -> dict[str, Any]:
        """Return all but pictures as JSON values."""
        numbers = {"pictures": self.pictures, "agreement": self.agreement, "response": self.response}
        return {"group": dataclasses.asdict(self.group), **numbers, "geometry": self.geometry}


def tasks(groups: tuple[Group, ...], candidates: Candidates, plan: Plan, model: ModelConfig) -> list[Task]:
    """List the tasks of a plan, the longest first."""
    probes = [
        Task(ProbeSpec(group, head, plan.seed, model, plan.axes), candidates, head < AXES_SHEET_HEADS)
        for group in groups
        for head in range(min(plan.axes_heads, group.count))
    ]
    scenes = [
        Task(SceneSpec(group, head, plan.seed, model), candidates, head < SHEET_HEADS)
        for group in groups
        for head in range(group.count)
    ]
    surfaces = [
        Task(GeometrySpec(group, head, plan.seed, model), candidates, head < GEOMETRY_SHEET_HEADS)
        for group in groups
        for head in range(min(plan.geometry_heads, group.count))
    ]
    return [*surfaces, *probes, *scenes]


def measure(work: Sequence[Task], progress: Callable[[], None] = lambda: None, gpu: bool = False) -> list[GroupResult]:
    """Run the tasks and collect their results group by group.

    Args:
        work: the tasks that `tasks` lists.
        progress: is called after each task.
        gpu: the methods run on a GPU.
    """
    by_group: dict[Group, list[TaskResult]] = {}
    for task, result in zip(work, in_order(run_task, work, gpu=gpu), strict=True):
        by_group.setdefault(task.spec.group, []).append(result)
        progress()
    return [_collect(group, results) for group, results in by_group.items()]


def run_task(task: Task) -> TaskResult:
    """Render a head, let the methods answer, and compare."""
    methods = _methods(task.candidates)
    if isinstance(task.spec, SceneSpec):
        return measure_scene(task.spec.render(), methods, task.on_sheet)
    if isinstance(task.spec, GeometrySpec):
        return TaskResult({}, {}, geometry=measure_geometry(task.spec.render(), methods, task.on_sheet))
    return measure_probe(task.spec.render(), next(iter(methods.values())), task.on_sheet)


@lru_cache(maxsize=1)
def _methods(candidates: Candidates) -> dict[str, Method]:
    return candidates.methods()


def measure_scene(scene: Scene, methods: Mapping[str, Method], on_sheet: bool = False) -> TaskResult:
    """Let every method answer to a scene, and compare with the truth."""
    values: dict[tuple[str, str, str], list[float]] = {}
    agreements: dict[str, float] = {}
    row: SheetRow | None = None
    for name, method in methods.items():
        images: list[Tensor] = []
        for shot in scene.shots:
            truths = [(case, truth) for case, views in shot.truths.items() for truth in views]
            predictions = method(scene.source, shot.driving, [truth.camera for _, truth in truths])
            for (case, truth), prediction in zip(truths, predictions, strict=True):
                for metric, value in compare(prediction, truth).items():
                    values.setdefault((name, case, metric), []).append(value)
            images = [prediction.image for prediction in predictions]
        if scene.crowd:
            (truth,) = scene.shots[-1].truths[CROSS]
            results = [method(scene.source, driving, [truth.camera])[0].image for driving in scene.crowd]
            agreements[name] = agreement(results, face_mask(truth)).item()
        if on_sheet and row is None:
            true_images = tuple(truth.image for _, truth in truths)
            row = SheetRow(scene.source.image, shot.driving.image, tuple(images), true_images)
    return TaskResult(values, {}, agreements, row)


def measure_probe(probe: Probe, method: Method, on_sheet: bool = False) -> TaskResult:
    """Measure the response to each axis, driven by the same head and, where the probe has one, by another."""
    images: dict[int, Tensor] = {}

    def reenact(source: Pictures, driving: Pictures) -> Tensor:
        images[id(driving)] = method(source, driving, [driving.camera])[0].image
        return images[id(driving)]

    by_itself = products(dataclasses.replace(probe, driving=None), reenact)
    by_driver = {(SAME_HEAD, axis): product for axis, product in by_itself.items()}
    if probe.driving is not None:
        by_driver |= {(ANOTHER_HEAD, axis): product for axis, product in products(probe, reenact).items()}
    return TaskResult({}, by_driver, axes=_axes_row(probe, images) if on_sheet else None)


def _collect(group: Group, results: Sequence[TaskResult]) -> GroupResult:
    values: dict[tuple[str, str, str], list[float]] = {}
    sums: dict[tuple[str, str], Tensor] = {}
    for result in results:
        for key, numbers in result.values.items():
            values.setdefault(key, []).extend(numbers)
        for driver_and_axis, product in result.products.items():
            sums[driver_and_axis] = sums[driver_and_axis] + product if driver_and_axis in sums else product
    pictures: dict[str, dict[str, dict[str, float | None]]] = {}
    for (name, case, metric), numbers in values.items():
        pictures.setdefault(name, {}).setdefault(case, {})[metric] = _mean(numbers)
    agreements = {name: _mean([r.agreement[name] for r in results if name in r.agreement]) for name in pictures}
    response_of: dict[str, dict[str, dict[str, float]]] = {}
    for (driver, axis), product in sums.items():
        numbers_of_axis = {key: _rounded(value) for key, value in dataclasses.asdict(response(product)).items()}
        response_of.setdefault(driver, {})[axis] = numbers_of_axis
    rows = [result.row for result in results if result.row is not None]
    axes = [result.axes for result in results if result.axes is not None]
    shapes = [result.geometry for result in results if result.geometry is not None]
    surfaces = [shape.row for shape in shapes if shape.row is not None]
    return GroupResult(group, pictures, agreements, response_of, rows, axes, _means(shapes), len(shapes), surfaces)


def _means(shapes: Sequence[GeometryResult]) -> dict[str, dict[str, float | None]]:
    """Return the mean over heads: method or rival -> measure -> its value."""
    of_name: dict[str, dict[str, list[float]]] = {}
    for shape in shapes:
        for name, measures in shape.values.items():
            for measure, value in measures.items():
                of_name.setdefault(name, {}).setdefault(measure, []).append(value)
    return {name: {m: _mean(found) for m, found in measures.items()} for name, measures in of_name.items()}


def compare(prediction: Prediction, truth: Pictures) -> dict[str, float]:
    """Return every metric of one picture; NaN where it is not defined."""
    mask = face_mask(truth)
    image_metrics = {
        "psnr": psnr(prediction.image, truth.image),
        "psnr face": psnr(prediction.image, truth.image, mask),
        "ssim": ssim(prediction.image, truth.image),
        "ssim face": ssim(prediction.image, truth.image, mask),
        "sharpness face": sharpness(prediction.image, truth.image, mask),
    }
    iou = math.nan if prediction.opacity is None else opacity_iou(prediction.opacity, truth.opacity).item()
    off = math.nan
    if prediction.depth is not None and truth.depth is not None:
        off = depth_error(prediction.depth, truth.depth, truth.opacity).item()
    return {name: value.item() for name, value in image_metrics.items()} | {"iou": iou, "depth error": off}


def _axes_row(probe: Probe, images: dict[int, Tensor]) -> AxesRow:
    """Put together a row of a sheet; the key "" holds the picture before the first axis that starts at rest."""
    driving, results, truths = {}, {}, {}
    for axis, (before, after) in probe.ends.items():
        first, then = probe.driving_pair(axis)
        for key, truth, driver in (("", before, first), (axis, after, then)):
            if key not in truths:
                driving[key], results[key], truths[key] = driver.image, images[id(driver)], truth.image
    return AxesRow(probe.source.image, driving, results, truths)


def _mean(values: list[float]) -> float | None:
    defined = [value for value in values if not math.isnan(value)]
    return _rounded(sum(defined) / len(defined)) if defined else None


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
