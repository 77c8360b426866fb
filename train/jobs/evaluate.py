"""`triportrait evaluate WEIGHTS`: trained weights measured where the truth is known, as a table and sheets."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from triportrait.core.checksum import sha256
from triportrait.core.sentences import say
from triportrait.train.data.folders import whole_folder
from triportrait.train.evaluation.measure import GroupResult, measure, parts
from triportrait.train.evaluation.methods import COPY, KEPT, STATIC, WeightsAndBaselines
from triportrait.train.evaluation.protocol import Plan, groups
from triportrait.train.evaluation.sheets import write_axes_sheet, write_pictures_sheet
from triportrait.train.evaluation.table import Gate, gates, markdown
from triportrait.train.runs.weights import Trained, open_trained

KIND = "triportrait evaluation"
NOTES = (
    f"`{COPY}`: the source picture, whatever drives. `{KEPT}`: the same network with the motion of the source, so "
    "that only the neck follows.",
    "Driven by a picture of itself (self) or of another head (cross, new views), all from near the front. Motion is "
    "read by the motion encoder with the picture's true landmarks; neck pose and truth come from the generator. PSNR "
    "in dB on [0, 1], per picture, then the mean; the face is skin, eyes, brows and mouth of the truth. Sharpness: the "
    "mean slope of the brightness over that of the truth. Depth error: thousandths of a scene unit, where the truth is "
    "opaque; the box of a head has 1,300 a side. Agreement: PSNR inside the face between the results themselves, which "
    "should not depend on who drives.",
)
STATIC_NOTE = f"`{STATIC}`: the network of stage 1, which knows no motion; only the neck follows."


@dataclass(frozen=True)
class Evaluate:
    """Measure trained weights on heads that they know and on heads that they never saw; the truth is known."""

    weights: tyro.conf.Positional[str]
    """`demo`, or a weights folder that `triportrait train` made."""
    out: Path = Path("evaluation")
    """The folder to make: table.md, metrics.json, sheet.png, axes.png."""
    static: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights of the static synthesizer (RUN/static of a training), for a row of their own."""
    heads: int = 24
    """How many heads of the cast, and how many others."""
    axes_heads: int = 8
    """Of these, how many answer to each axis (jaw, smile, blink, ...)."""
    seed: int = 0
    """Which expressions, poses and cameras."""
    cast_seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """The seed of the heads that the weights were trained on, where their card does not say."""
    cast_count: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many heads these are."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the folder if it holds an evaluation."""

    def run(self) -> None:
        """Check everything, measure, write, print."""
        plan = Plan(self.heads, self.axes_heads, self.seed)
        trained = open_trained(self.weights, self.cast_seed, self.cast_count)
        candidates = WeightsAndBaselines(trained.folder, self.static)
        candidates.methods()  # whether they load, before any work
        settings = {
            "weights": self.weights,
            "static": str(self.static or ""),
            "seed": self.seed,
            "heads": self.heads,
            "axes_heads": self.axes_heads,
        }
        with whole_folder(self.out, self.overwrite, KIND, settings) as folder:
            results = _measured(trained, candidates, plan)
            passed = gates(results[0])
            table = markdown(results, NOTES if self.static is None else (NOTES[0], STATIC_NOTE, NOTES[1]))
            (folder / "table.md").write_text(table, encoding="utf-8")
            numbers = _numbers(trained, plan, results, passed)
            (folder / "metrics.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
            write_pictures_sheet(folder / "sheet.png", results)
            write_axes_sheet(folder / "axes.png", results)
        print(table)
        for gate in passed:
            print(gate.line())
        say(f"{self.out}: table.md, metrics.json, sheet.png, axes.png")


def _measured(trained: Trained, candidates: WeightsAndBaselines, plan: Plan) -> list[GroupResult]:
    from tqdm import tqdm

    work = parts(groups(trained.cast, plan), candidates, plan, trained.model)
    with tqdm(total=len(work), unit="part", desc="evaluate", file=sys.stderr, disable=None) as bar:
        return measure(work, bar.update)


def _numbers(trained: Trained, plan: Plan, results: Sequence[GroupResult], passed: Sequence[Gate]) -> dict[str, Any]:
    return {
        "provenance": trained.provenance,
        "sha256": {path.name: sha256(path) for path in sorted(trained.folder.glob("*.safetensors"))},
        "cast": dataclasses.asdict(trained.cast),
        "protocol": dataclasses.asdict(plan),
        "groups": [result.numbers() for result in results],
        "gates": [gate.to_dict() for gate in passed],
    }
