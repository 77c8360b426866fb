"""Numbers as Markdown, and the gates that weights should pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from triportrait.train.evaluation.measure import ANOTHER_HEAD, SAME_HEAD, GroupResult
from triportrait.train.evaluation.methods import STATIC
from triportrait.train.evaluation.protocol import CASES, CROSS, CROWD, SELF

LEAST_SELF_DB = 24.0
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
    """Something that weights should reach; `found` is None where it could not be measured."""

    name: str
    wanted: float
    found: float | None
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.found is not None and self.found >= self.wanted

    def line(self) -> str:
        """In words."""
        found = "not measured" if self.found is None else f"{_two(self.found)}{self.unit}"
        return f"{'met' if self.met else 'missed'}: {self.name} {found}, wanted {self.wanted:g}{self.unit} or more"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "wanted": self.wanted, "found": self.found, "unit": self.unit, "met": self.met}


def gates(cast: GroupResult) -> list[Gate]:
    """What the cast should reach; the first method is ours, the others are baselines."""
    ours = next(iter(cast.pictures.values()))
    found = [Gate("PSNR of the cast, driven by the same head", LEAST_SELF_DB, ours[SELF]["psnr"], " dB")]
    baselines = dict(list(cast.pictures.items())[1:])
    for name in dict.fromkeys([*baselines, STATIC]):  # one that is missing is a gate that is not passed
        theirs = baselines[name][CROSS]["psnr face"] if name in baselines else None
        mine = ours[CROSS]["psnr face"]
        margin = None if mine is None or theirs is None else round(mine - theirs, 4)
        found.append(
            Gate(f"PSNR inside the face, driven by another head, over {name!r}", LEAST_MARGIN_DB, margin, " dB")
        )
    for axis in GATED_AXES:
        for who in (SAME_HEAD, ANOTHER_HEAD):
            answer = cast.response[who].get(axis, {})
            for key, least in (("correlation", LEAST_CORRELATION), ("gain", LEAST_GAIN)):
                found.append(Gate(f"{key} of {axis}, driven by {who_drives(who)}", least, answer.get(key)))
    return found


def who_drives(who: str) -> str:
    """Who, with its article."""
    return f"the {who}" if who == SAME_HEAD else who


def markdown(results: Sequence[GroupResult], notes: Sequence[str]) -> str:
    """All tables."""
    parts = [_pictures(result) for result in results] + [_responses(results), *(fill(note, _WIDTH) for note in notes)]
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
    agreed = next(iter(result.agreement.values()))
    said = "not measured" if agreed is None else f"{agreed:.2f} dB"
    return (
        f"**{group.name}**, {heads} of seed {group.seed}\n\n{_grid(head, rows, 2)}\n\n"
        f"Agreement, driven by {CROWD} heads that make the same face: {said}"
    )


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return _NOTHING
    if metric == "depth error":
        return f"{1000 * value:.1f}"
    return f"{value:.2f}" if metric.startswith("psnr") else f"{value:.3f}"


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def _responses(results: Sequence[GroupResult]) -> str:
    keys = [(result, who) for result in results for who in (SAME_HEAD, ANOTHER_HEAD)]
    head = ["axis", *(f"{result.group.name}, {who}" for result, who in keys)]
    rows = []
    for axis in results[0].response[SAME_HEAD]:
        answers = [result.response[who][axis] for result, who in keys]
        rows.append([axis, *(f"{_two(a['correlation'])} / {_two(a['gain'])}" for a in answers)])
    title = "**Answer to each axis**, correlation / gain inside the face, by who drives"
    return f"{title}\n\n{_grid(head, rows, 1)}"


def _grid(head: list[str], rows: list[list[str]], words: int) -> str:
    """A Markdown table whose columns line up; the first `words` columns are text, the others numbers."""
    widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    lines = [
        "| " + " | ".join(_padded(cell, widths[i], i < words) for i, cell in enumerate(row)) + " |"
        for row in [head, *rows]
    ]
    rule = "| " + " | ".join("-" * w if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def _padded(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)
