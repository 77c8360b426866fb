"""The whole measurement: photograph, let every method answer, compare, and collect the numbers."""

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
from triportrait.train.evaluation.methods import Method, Shown
from triportrait.train.evaluation.metrics import agreement, depth_error, opacity_iou, psnr, sharpness, ssim
from triportrait.train.evaluation.protocol import CROSS, Group, Plan, ProbeOf, Scene, SceneOf
from triportrait.train.evaluation.response import Probe, face_mask, products, response

SAME_HEAD, ANOTHER_HEAD = "same head", "another head"
SHEET_HEADS = 4  # of each group, on the sheet of pictures
AXES_SHEET_HEADS = 2  # of each group, on the sheet of axes
_DIGITS = 4


@dataclass(frozen=True)
class SheetRow:
    """Pictures [1, 3, S, S] of one head: what another head's picture makes of it, and what it should."""

    source: Tensor
    driving: Tensor
    results: tuple[Tensor, ...]  # from the driving picture's camera, then from each of VIEW_YAWS_DEG
    truths: tuple[Tensor, ...]


@dataclass(frozen=True)
class AxesRow:
    """Pictures [1, 3, S, S] of one head, driven along its axes by another; the key "" is the face at rest."""

    source: Tensor
    driving: dict[str, Tensor]
    results: dict[str, Tensor]
    truths: dict[str, Tensor]


class Candidates(Protocol):
    """What is measured; it travels between processes, and equal ones answer alike."""

    def methods(self) -> dict[str, Method]:
        """Methods by name; the first is the one that is shown and whose answer to each axis is measured."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """A piece of the work: one head of a group."""

    of: SceneOf | ProbeOf
    candidates: Candidates
    shown: bool  # whether its pictures are wanted for a sheet


@dataclass(frozen=True)
class Answer:
    """What a part gives.

    Attributes:
        values: method, case, metric -> one number per view.
        agreement: method -> one number.
        products: who drives, axis -> `response.products`.
        row, axes: pictures, where they are wanted.
    """

    values: dict[tuple[str, str, str], list[float]]
    products: dict[tuple[str, str], Tensor]
    agreement: dict[str, float] = field(default_factory=dict)
    row: SheetRow | None = None
    axes: AxesRow | None = None


@dataclass
class GroupResult:
    """What was found out about a group.

    Attributes:
        pictures: method -> case -> metric -> the mean over heads and views; None where it is not defined.
        agreement: method -> dB, between results that other heads drive with the same face.
        response: who drives -> axis -> correlation and gain.
        rows, axes: for the sheets.
    """

    group: Group
    pictures: dict[str, dict[str, dict[str, float | None]]]
    agreement: dict[str, float | None]
    response: dict[str, dict[str, dict[str, float]]]
    rows: list[SheetRow]
    axes: list[AxesRow]

    def numbers(self) -> dict[str, Any]:
        """All but pictures, as plain JSON values."""
        kept = {"pictures": self.pictures, "agreement": self.agreement, "response": self.response}
        return {"group": dataclasses.asdict(self.group), **kept}


def parts(found_groups: tuple[Group, ...], candidates: Candidates, plan: Plan, model: ModelConfig) -> list[Part]:
    """All the work; what takes longest comes first."""
    probes = [
        Part(ProbeOf(group, head, plan.seed, model, plan.axes), candidates, head < AXES_SHEET_HEADS)
        for group in found_groups
        for head in range(min(plan.axes_heads, group.count))
    ]
    scenes = [
        Part(SceneOf(group, head, plan.seed, model), candidates, head < SHEET_HEADS)
        for group in found_groups
        for head in range(group.count)
    ]
    return [*probes, *scenes]


def measure(work: Sequence[Part], tell: Callable[[], None] = lambda: None) -> list[GroupResult]:
    """Do the work and put it together, group by group.

    Args:
        work: from `parts`.
        tell: is called after each part.
    """
    answers: dict[Group, list[Answer]] = {}
    for part, answered in zip(work, in_order(answer, work), strict=True):
        answers.setdefault(part.of.group, []).append(answered)
        tell()
    return [_together(group, found) for group, found in answers.items()]


def answer(part: Part) -> Answer:
    """Photograph a head, let the methods answer, compare."""
    methods = _methods(part.candidates)
    if isinstance(part.of, SceneOf):
        return answer_scene(part.of.take(), methods, part.shown)
    return answer_probe(part.of.take(), next(iter(methods.values())), part.shown)


@lru_cache(maxsize=1)
def _methods(candidates: Candidates) -> dict[str, Method]:
    return candidates.methods()


def answer_scene(scene: Scene, methods: Mapping[str, Method], shown: bool = False) -> Answer:
    """Every method answers to a scene."""
    values: dict[tuple[str, str, str], list[float]] = {}
    agreed: dict[str, float] = {}
    row: SheetRow | None = None
    for name, method in methods.items():
        images: list[Tensor] = []
        for shot in scene.shots:
            asked = [(case, truth) for case, truths in shot.truths.items() for truth in truths]
            answers = method(scene.source, shot.driving, [truth.camera for _, truth in asked])
            for (case, truth), answered in zip(asked, answers, strict=True):
                for metric, value in compare(answered, truth).items():
                    values.setdefault((name, case, metric), []).append(value)
            images = [answered.image for answered in answers]
        if scene.crowd:
            (truth,) = scene.shots[-1].truths[CROSS]
            made = [method(scene.source, driving, [truth.camera])[0].image for driving in scene.crowd]
            agreed[name] = agreement(made, face_mask(truth)).item()
        if shown and row is None:
            truths = tuple(truth.image for case in shot.truths.values() for truth in case)
            row = SheetRow(scene.source.image, shot.driving.image, tuple(images), truths)
    return Answer(values, {}, agreed, row)


def answer_probe(probe: Probe, method: Method, shown: bool = False) -> Answer:
    """A method answers to each axis, driven by the same head and, where the probe has one, by another."""
    images: dict[int, Tensor] = {}

    def reenact(source: Pictures, driving: Pictures) -> Tensor:
        images[id(driving)] = method(source, driving, [driving.camera])[0].image
        return images[id(driving)]

    found = {(SAME_HEAD, axis): p for axis, p in products(dataclasses.replace(probe, driving=None), reenact).items()}
    if probe.driving is not None:
        found |= {(ANOTHER_HEAD, axis): product for axis, product in products(probe, reenact).items()}
    return Answer({}, found, axes=_axes_row(probe, images) if shown else None)


def _together(group: Group, answers: Sequence[Answer]) -> GroupResult:
    values: dict[tuple[str, str, str], list[float]] = {}
    sums: dict[tuple[str, str], Tensor] = {}
    for answered in answers:
        for key, found in answered.values.items():
            values.setdefault(key, []).extend(found)
        for who, product in answered.products.items():
            sums[who] = sums[who] + product if who in sums else product
    pictures: dict[str, dict[str, dict[str, float | None]]] = {}
    for (name, case, metric), found in values.items():
        pictures.setdefault(name, {}).setdefault(case, {})[metric] = _mean(found)
    agreed = {name: _mean([a.agreement[name] for a in answers if name in a.agreement]) for name in pictures}
    answers_by_axis: dict[str, dict[str, dict[str, float]]] = {}
    for (drives, axis), product in sums.items():
        both = {key: _rounded(value) for key, value in dataclasses.asdict(response(product)).items()}
        answers_by_axis.setdefault(drives, {})[axis] = both
    rows = [answered.row for answered in answers if answered.row is not None]
    axes = [answered.axes for answered in answers if answered.axes is not None]
    return GroupResult(group, pictures, agreed, answers_by_axis, rows, axes)


def compare(shown: Shown, truth: Pictures) -> dict[str, float]:
    """Every metric of one picture; NaN where it is not defined."""
    mask = face_mask(truth)
    found = {
        "psnr": psnr(shown.image, truth.image),
        "psnr face": psnr(shown.image, truth.image, mask),
        "ssim": ssim(shown.image, truth.image),
        "ssim face": ssim(shown.image, truth.image, mask),
        "sharpness face": sharpness(shown.image, truth.image, mask),
    }
    iou = math.nan if shown.opacity is None else opacity_iou(shown.opacity, truth.opacity).item()
    off = (
        math.nan
        if shown.depth is None or truth.depth is None
        else depth_error(shown.depth, truth.depth, truth.opacity).item()
    )
    return {name: value.item() for name, value in found.items()} | {"iou": iou, "depth error": off}


def _axes_row(probe: Probe, shown: dict[int, Tensor]) -> AxesRow:
    """Faces at rest stand under the key "": the picture before the first axis that starts there."""
    driving, results, truths = {}, {}, {}
    for axis, (before, after) in probe.ends.items():
        first, then = probe.drives(axis)
        for key, truth, drives in (("", before, first), (axis, after, then)):
            if key not in truths:
                driving[key], results[key], truths[key] = drives.image, shown[id(drives)], truth.image
    return AxesRow(probe.source.image, driving, results, truths)


def _mean(values: list[float]) -> float | None:
    kept = [value for value in values if not math.isnan(value)]
    return _rounded(sum(kept) / len(kept)) if kept else None


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
