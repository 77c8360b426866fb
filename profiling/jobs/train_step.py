"""`triportrait profile step|scaling|data`: what a training costs."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.train.stage_run import StageName

OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
StagePreset = Literal["tiny", "paper", "published"]


@dataclass(frozen=True)
class Step:
    """A training step beside the same step as the published code arranges it: work; on a GPU time and memory, too."""

    stage: Literal["stage1", "stage2", "both"] = "both"
    """Which stage."""
    preset: tuple[StagePreset, ...] = ("tiny",)
    """Tiny is counted with numbers, paper and published by shapes, at the published sizes."""
    perceptual: Annotated[
        Literal["gradients", "random_features", "lpips"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """The perceptual distance: lpips, with random weights, or a stand-in; the preset's by default."""
    batch: OptionalInt = None
    """Images of the step: 10 where work is counted, 4 where time is taken."""
    out: OptionalFile = None
    """Write the tables into this file, too."""
    json: OptionalFile = None
    """Write the figures into this file."""

    def run(self) -> None:
        """Count; with a GPU take times, too."""
        import torch

        from triportrait.profiling.machine import describe
        from triportrait.profiling.training import step, timed
        from triportrait.profiling.training.inputs import stage_config

        stages: list[StageName] = ["stage1", "stage2"] if self.stage == "both" else [self.stage]
        check_files(self.out, self.json)
        if self.batch is not None and self.batch < 1:
            raise InputError(f"batch: expected at least 1, got {self.batch}; choose another")
        command = words("step", stage=self.stage, preset=self.preset, perceptual=self.perceptual, batch=self.batch)
        changes: dict[str, Any] = {} if self.perceptual is None else {"perceptual": self.perceptual}
        configs = {name: dataclasses.replace(stage_config(name), **changes) for name in self.preset}
        chosen = [(name, config, stage) for name, config in configs.items() for stage in stages]
        rows = []
        for name, config, stage in chosen:
            tell(f"work of {name}, {stage}")
            rows.append(step.counted(name, config, stage, self.batch or step.COUNTED))
        text, figures = step.document(rows, made(command)), {"work": rows}
        if torch.cuda.is_available():
            for name, config, stage in chosen:
                tell(f"time of {name}, {stage}")
                found = timed.bench(config, stage, self.batch or step.TIMED, torch.device("cuda"))
                figures.setdefault("time", []).extend(found)
                machine = ", ".join(f"{key} {value}" for key, value in describe(command).items() if value)
                text += f"\n## {name}, {stage}: time\n\n{machine}\n\n{timed.table(found)}"
        give(text, self.out, figures, self.json, command)


@dataclass(frozen=True)
class Scaling:
    """What ranks send in a step, and the efficiency on many GPUs that this predicts."""

    stage: Literal["stage1", "stage2", "both"] = "both"
    """Which stage."""
    preset: StagePreset = "paper"
    """Of the training."""
    gpus: tuple[int, ...] = (8, 64)
    """On how many GPUs, eight to a machine."""
    zero: tuple[int, ...] = (0, 1, 2, 3)
    """DeepSpeed's ZeRO stages."""
    batch: int = 4
    """Images of a GPU and step."""
    micros: int = 1
    """Micro-batches of a GPU and step."""
    step_ms: OptionalFloat = None
    """Time of a step on one GPU, where it was measured."""
    ranks: tuple[int, ...] = ()
    """Count on so many gloo ranks of this machine, too, as 1 2 4: minutes."""
    out: OptionalFile = None
    """Write the tables into this file, too."""
    json: OptionalFile = None
    """Write the figures into this file."""

    def run(self) -> None:
        """Compute; where it is asked for, train a little and count."""
        from triportrait.profiling.training import counted, scaling
        from triportrait.profiling.training.inputs import stage_config

        check_files(self.out, self.json)
        for name, value in (("batch", self.batch), ("step-ms", self.step_ms), *(("ranks", n) for n in self.ranks)):
            if value is not None and not value > 0:
                raise InputError(f"{name}: expected more than 0, got {value}; choose another")
        config = stage_config(self.preset)
        command = words(
            "scaling", stage=self.stage, preset=self.preset, gpus=self.gpus, zero=self.zero, batch=self.batch,
            micros=self.micros, step_ms=self.step_ms, ranks=self.ranks,
        )  # fmt: skip
        stages: list[StageName] = ["stage1", "stage2"] if self.stage == "both" else [self.stage]
        text, figures, step_s = made(command) + "\n", dict[str, Any](), None
        if self.step_ms is not None:
            step_s = self.step_ms / 1e3
        for stage in stages:
            found = scaling.networks(config, stage)
            predictions = scaling.predict(found, self.zero, self.gpus, self.micros)
            figures[stage] = scaling.figures(predictions)
            text += f"\n## {self.preset}, {stage}: predicted\n\n"
            text += scaling.table(found, predictions, self.batch, step_s, self.micros)
        if self.ranks:
            rows: list[dict[str, Any]] = []
            for count in self.ranks:
                tell(f"{count} ranks")
                rows += counted.launch(count, self.zero)
            figures["counted"] = rows
            text += f"\n## counted\n\n{counted.table(rows)}"
        give(text, self.out, figures, self.json, command)


@dataclass(frozen=True)
class Data:
    """Frames a second that data give on this machine, beside what one GPU eats."""

    data: tyro.conf.Positional[Path]
    """A multi-view set or a clip store."""
    seconds: float = 3.0
    """For each way of reading."""
    json: OptionalFile = None
    """Write the figures into this file."""

    def run(self) -> None:
        """Read at random, and say where."""
        from triportrait.profiling.machine import describe
        from triportrait.profiling.training import loader

        check_files(self.json)
        rows = loader.measure(self.data, self.seconds)
        command = shlex.join(["triportrait", "profile", "data", self.data.name])
        where = describe(command)
        lines = [f"{name}: {where[name]}" for name in ("command", "commit", "machine") if where[name]]
        give("\n".join([*lines, "", loader.table(rows)]), None, {"data": rows}, self.json, command)


def words(name: str, **options: Any) -> str:
    """The command line that makes the same."""
    given = [x for key, value in options.items() if value not in (None, False, ()) for x in _option(key, value)]
    return shlex.join(["triportrait", "profile", name, *given])


def _option(key: str, value: Any) -> list[str]:
    name = f"--{key.replace('_', '-')}"
    return [name] if value is True else [name, *map(str, value if isinstance(value, tuple) else (value,))]


def made(command: str) -> str:
    """What made a table that no GPU is needed for."""
    import torch

    from triportrait.core.commit import commit

    return f"`{command}`: torch {torch.__version__}, commit {commit()}, {datetime.datetime.now(datetime.UTC).date()}"


def check_files(*files: Path | None) -> None:
    """Raises: `InputError` for a file in a folder that is not there."""
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise InputError(f"out: expected a file in a folder that exists, got {file}; make the folder")


def give(text: str, out: Path | None, figures: dict[str, Any], into: Path | None, command: str) -> None:
    """Print, and write what was asked for."""
    from triportrait.profiling.everything import write
    from triportrait.profiling.machine import describe

    print(text, end="")
    if out is not None:
        out.write_text(text)
    if into is not None:
        write({"machine": describe(command), **figures}, into)


def tell(name: str) -> None:
    """What is done next."""
    print(name, file=sys.stderr)
