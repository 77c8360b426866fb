"""The numbers of a measurement become Markdown tables, and gates say what weights should reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from triportrait.train.evaluation.geometry_measure import TRUTH_MEASURES, VIEW_MEASURES
from triportrait.train.evaluation.measure import ANOTHER_HEAD, SAME_HEAD, GroupResult
from triportrait.train.evaluation.methods import STATIC
from triportrait.train.evaluation.metrics.measures import Measure
from triportrait.train.evaluation.protocol import CASES, CROSS, CROWD, SELF

LEAST_SELF_DB = 24.0
LEAST_HELD_OUT_DB, LEAST_HELD_OUT_FACE_DB = 21.0, 18.0
LEAST_MARGIN_DB = 3.0
LEAST_CORRELATION, LEAST_GAIN = 0.6, 0.5
GATED_AXES = ("jaw", "blink")
HEADINGS = {
    "psnr": "PSNR", "psnr face": "PSNR face", "ssim": "SSIM", "ssim face": "SSIM face",
    "sharpness face": "sharpness face", "iou": "opacity IoU",
    "depth error": "depth error",
}  # fmt: skip
_CASE_NAMES = {SELF: "self", CROSS: "cross", "new views": "new views ±30°"}
_NOTHING = "–"
_WIDTH = 110


@dataclass(frozen=True)
class Gate:
    """A threshold that weights should reach; `value` is None where it could not be measured."""

    name: str
    threshold: float
    value: float | None
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value is not None and self.value >= self.threshold

    def line(self) -> str:
        """Say in words whether the gate was met."""
        value = "not measured" if self.value is None else f"{_two_digits(self.value)}{self.unit}"
        return f"{'met' if self.met else 'missed'}: {self.name} {value}, wanted {self.threshold:g}{self.unit} or more"

    def to_dict(self) -> dict[str, Any]:
        """Return the gate as JSON values."""
        return {"name": self.name, "wanted": self.threshold, "found": self.value, "unit": self.unit, "met": self.met}


def gates(cast: GroupResult, held_out: GroupResult) -> list[Gate]:
    """Return the gates of the cast and of heads that no training saw; ours come first, then baselines."""
    ours = next(iter(cast.pictures.values()))
    result = [Gate("PSNR of the cast, driven by the same head", LEAST_SELF_DB, ours[SELF]["psnr"], " dB")]
    baselines = dict(list(cast.pictures.items())[1:])
    ours_db = ours[CROSS]["psnr face"]
    for name in dict.fromkeys([*baselines, STATIC]):  # a baseline that is missing is a gate that is not met
        baseline_db = baselines[name][CROSS]["psnr face"] if name in baselines else None
        margin = None if ours_db is None or baseline_db is None else round(ours_db - baseline_db, 4)
        result.append(
            Gate(f"PSNR inside the face, driven by another head, over {name!r}", LEAST_MARGIN_DB, margin, " dB")
        )
    result += _answer_gates(cast, "")
    strangers = next(iter(held_out.pictures.values()))[SELF]
    driven = "of held-out heads, driven by the same head"
    result += [
        Gate(f"PSNR {driven}", LEAST_HELD_OUT_DB, strangers["psnr"], " dB"),
        Gate(f"PSNR inside the face {driven}", LEAST_HELD_OUT_FACE_DB, strangers["psnr face"], " dB"),
    ]
    return result + _answer_gates(held_out, " of held-out heads")


def _answer_gates(group: GroupResult, whose: str) -> list[Gate]:
    return [
        Gate(f"{key} of {axis}{whose}, driven by {who_drives(who)}", least, group.response[who].get(axis, {}).get(key))
        for axis in GATED_AXES
        for who in (SAME_HEAD, ANOTHER_HEAD)
        for key, least in (("correlation", LEAST_CORRELATION), ("gain", LEAST_GAIN))
    ]


def who_drives(who: str) -> str:
    """Return who drives, with its article."""
    return f"the {who}" if who == SAME_HEAD else who


def markdown(results: Sequence[GroupResult], notes: Sequence[str]) -> str:
    """Write all tables and notes as Markdown."""
    parts = [_pictures(result) for result in results] + [_responses(results)]
    parts += [_geometry(result) for result in results if result.geometry]
    parts += [fill(note, _WIDTH) for note in notes]
    return "\n\n".join(parts) + "\n"


def _pictures(result: GroupResult) -> str:
    group = result.group
    head = ["", "", *HEADINGS.values()]
    rows = []
    for case in CASES:
        for number, (name, cases) in enumerate(result.pictures.items()):
            cells = [_cell(metric, cases[case][metric]) for metric in HEADINGS]
            rows.append([_CASE_NAMES[case] if number == 0 else "", name, *cells])
    heads = f"{group.count} head{'s' * (group.count != 1)}"
    agreement_db = next(iter(result.agreement.values()))
    agreement = "not measured" if agreement_db is None else f"{agreement_db:.2f} dB"
    return (
        f"**{group.name}**, {heads} of seed {group.seed}\n\n{_grid(head, rows, 2)}\n\n"
        f"Agreement, driven by {CROWD} heads that make the same face: {agreement}"
    )


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return _NOTHING
    if metric == "depth error":
        return f"{1000 * value:.1f}"
    return f"{value:.2f}" if metric.startswith("psnr") else f"{value:.3f}"


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def _responses(results: Sequence[GroupResult]) -> str:
    keys = [(result, who) for result in results for who in (SAME_HEAD, ANOTHER_HEAD)]
    head = ["axis", *(f"{result.group.name}, {who}" for result, who in keys)]
    rows = []
    for axis in results[0].response[SAME_HEAD]:
        answers = [result.response[who][axis] for result, who in keys]
        rows.append([axis, *(f"{_two_digits(a['correlation'])} / {_two_digits(a['gain'])}" for a in answers)])
    title = "**Answer to each axis**, correlation / gain inside the face, by who drives"
    return f"{title}\n\n{_grid(head, rows, 1)}"


def _geometry(result: GroupResult) -> str:
    group = f"**{result.group.name}**, {result.geometry_heads} head{'s' * (result.geometry_heads != 1)}"
    parts = {"the surface against the truth": TRUTH_MEASURES, "views against each other": VIEW_MEASURES}
    return "\n\n".join(f"{group}: {title}\n\n{_measures(result, measures)}" for title, measures in parts.items())


def _measures(result: GroupResult, measures: Sequence[Measure]) -> str:
    head = ["", *(f"{each.title}, {each.unit}" if each.unit else each.title for each in measures)]
    rows = [
        [name, *(_measured(values.get(each.name), each) for each in measures)]
        for name, values in result.geometry.items()
        if any(each.name in values for each in measures)
    ]
    return _grid(head, rows, 1)


def _measured(value: float | None, measure: Measure) -> str:
    return _NOTHING if value is None else f"{value:.{2 if measure.unit == 'mm' else 1 if measure.unit else 3}f}"


def _grid(head: list[str], rows: list[list[str]], words: int) -> str:
    """Write a Markdown table whose columns line up; the first `words` columns are text, the others numbers."""
    widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    padded = [
        [cell.ljust(widths[i]) if i < words else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        for row in [head, *rows]
    ]
    lines = ["| " + " | ".join(cells) + " |" for cells in padded]
    rule = "| " + " | ".join("-" * w if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
