"""`triportrait evaluate WEIGHTS` measures trained weights where the truth is known, and writes tables and sheets."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.gpus import chosen_device
from triportrait.core.optional_packages import fault, install
from triportrait.train.data.folders import whole_folder
from triportrait.train.evaluation.contact_sheets import write_axes_sheet, write_pictures_sheet
from triportrait.train.evaluation.geometry_sheet import write_geometry_sheet
from triportrait.train.evaluation.measure import GroupResult, measure, tasks
from triportrait.train.evaluation.methods import COPY, GRID_NODES, SOURCE_EXPRESSION, STATIC, WeightsAndBaselines
from triportrait.train.evaluation.protocol import Plan, groups
from triportrait.train.evaluation.table import Gate, gates, markdown
from triportrait.train.runs.weights import Trained, open_trained

logger = logging.getLogger(__name__)

KIND = "triportrait evaluation"
SURFACE_PACKAGES = ("scipy", "skimage", "trimesh")
NOTES = (
    f"`{COPY}`: the source picture, whatever drives. `{SOURCE_EXPRESSION}`: the same network with the motion of the "
    "source, so that only the neck follows.",
    "Driven by a picture of itself (self) or of another head (cross, new views), all from near the front. Motion is "
    "read by the motion encoder with the picture's true landmarks; neck pose and truth come from the generator. PSNR "
    "in dB on [0, 1], per picture, then the mean; the face is skin, eyes, brows and mouth of the truth. Sharpness: the "
    "mean slope of the brightness over that of the truth. Depth error: thousandths of a scene unit, where the truth is "
    "opaque; the box of a head has 1,300 a side. Agreement: PSNR inside the face between the results themselves, which "
    "should not depend on who drives.",
)
GEOMETRY_NOTE = (
    "Geometry: driven by another head's picture, the neck straight; cameras are known, and nothing is aligned unless "
    f"the column says so. A network's surface is that of marching cubes on {GRID_NODES} nodes along the box, at the "
    "density where rays have lost a fifth of their light, its largest component; the true one is the generator's "
    "triangles. They are compared where one of eight views within 45° sees them, inside the box and above the torso. "
    "Views that are compared with each other are 30° apart. `the truth`: its own surface, drawn from other points, and "
    "its own pictures and depths, which is the best that can be had. The flat pictures show what each column cannot "
    "see: one that stands still agrees with itself and has no relief."
)
STATIC_NOTE = f"`{STATIC}`: the network of stage 1, which knows no motion; only the neck follows."


@dataclass(frozen=True)
class Evaluate:
    """Measure trained weights on heads that they know and on heads that they never saw; the truth is known."""

    weights: tyro.conf.Positional[str]
    """`demo`, or a weights folder that `triportrait train` made."""
    out: Path = Path("evaluation")
    """The folder to make: table.md, metrics.json, sheet.png, axes.png, geometry.png."""
    static: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights of the static synthesizer (RUN/static of a training), which is measured as a baseline."""
    heads: int = 24
    """How many heads of the cast are measured, and how many that no training saw."""
    axes_heads: int = 8
    """How many of them have their response to each axis measured (jaw, smile, blink, ...)."""
    geometry_heads: int = 4
    """How many of them have their surface measured, 10 s each on one core; 0 leaves geometry out."""
    seed: int = 0
    """Decides expressions, poses and cameras."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU where there is one. Heads are drawn and compared on the CPU."""
    cast_seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """The seed of the heads that the weights were trained on, where their card does not hold it."""
    cast_count: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many heads the weights were trained on."""
    overwrite: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Replace the folder if it holds an evaluation."""

    def run(self) -> None:
        """Check everything, measure, write, print."""
        plan = Plan(self.heads, self.axes_heads, self.geometry_heads, self.seed)
        if plan.geometry_heads:
            _check_packages()
        device = chosen_device(self.device)
        trained = open_trained(self.weights, self.cast_seed, self.cast_count)
        candidates = WeightsAndBaselines(trained.folder, self.static, device.type)
        dataclasses.replace(candidates, device="cpu").methods()  # whether they load, before any work
        settings = {
            "weights": self.weights,
            "static": str(self.static or ""),
            "seed": self.seed,
            "heads": self.heads,
            "axes_heads": self.axes_heads,
            "geometry_heads": self.geometry_heads,
        }
        with whole_folder(self.out, self.overwrite, KIND, settings) as folder:
            results = _measured(trained, candidates, plan)
            found_gates = gates(*results)
            notes = NOTES if self.static is None else (NOTES[0], STATIC_NOTE, NOTES[1])
            table = markdown(results, (*notes, GEOMETRY_NOTE) if plan.geometry_heads else notes)
            (folder / "table.md").write_text(table, encoding="utf-8")
            numbers = _numbers(trained, candidates, plan, results, found_gates)
            (folder / "metrics.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
            write_pictures_sheet(folder / "sheet.png", results)
            write_axes_sheet(folder / "axes.png", results)
            if any(result.surfaces for result in results):
                write_geometry_sheet(folder / "geometry.png", results)
        print(table)
        for gate in found_gates:
            print(gate.line())
        made = ", ".join(sorted(path.name for path in self.out.iterdir() if path.name != "index.json"))
        logger.info("%s: %s", self.out, made)


def _check_packages() -> None:
    """Check that what measures surfaces is installed. Raises: `InputError` says what to do."""
    for name in SURFACE_PACKAGES:
        if (why := fault(name)) is not None:
            raise InputError(
                f"evaluate: surfaces need the package {name}, it {why}; `{install('mesh')}`, or leave them out by "
                "--geometry-heads 0"
            )


def _measured(trained: Trained, candidates: WeightsAndBaselines, plan: Plan) -> list[GroupResult]:
    from tqdm import tqdm

    work = tasks(groups(trained.cast, plan), candidates, plan, trained.model)
    hidden = None if logger.isEnabledFor(logging.INFO) else True  # None hides it where stderr is no terminal
    with tqdm(total=len(work), unit="part", desc="evaluate", file=sys.stderr, disable=hidden) as bar:
        return measure(work, bar.update, gpu=candidates.device == "cuda")


def _numbers(
    trained: Trained,
    candidates: WeightsAndBaselines,
    plan: Plan,
    results: Sequence[GroupResult],
    found_gates: Sequence[Gate],
) -> dict[str, Any]:
    return {
        "provenance": trained.provenance,
        "sha256": {path.name: sha256(path) for path in sorted(trained.folder.glob("[!.]*.safetensors"))},
        "cast": dataclasses.asdict(trained.cast),
        "protocol": dataclasses.asdict(plan),
        "device": candidates.device,
        "groups": [result.numbers() for result in results],
        "gates": [gate.to_dict() for gate in found_gates],
    }
