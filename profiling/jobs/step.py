"""`triportrait profile step|communication|data`: what a training costs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.errors import InputError

OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
StagePreset = Literal["tiny", "paper", "published"]
StageName = Literal["stage1", "stage2"]
STAGES: tuple[StageName, ...] = ("stage1", "stage2")


@dataclass(frozen=True)
class Step:
    """Time a training step, part by part, against eager PyTorch; without a GPU, show that it runs."""

    stage: Literal["stage1", "stage2", "both"] = "both"
    """The stage to time."""
    preset: StagePreset | None = None
    """The training's numbers; by default the paper's on a GPU, and tiny elsewhere."""
    batch: int = 4
    """Images of the step; 4 are one GPU's part of the paper's 32 on 8."""
    json: OptionalFile = None
    """Write the figures into this file, too."""

    def run(self) -> None:
        """Check that all ways lose the same, then print their times."""
        import torch

        from triportrait.profiling.measurement import describe, device_here, write_figures
        from triportrait.profiling.step import timing
        from triportrait.profiling.step.inputs import with_batch
        from triportrait.train.presets import STAGE_PRESETS

        _check_file(self.json)
        if self.batch < 1:
            raise InputError(f"batch: expected at least 1, got {self.batch}; choose another")
        device = device_here()
        preset = self.preset or ("paper" if device == "cuda" else "tiny")
        if device == "cpu" and preset != "tiny":
            raise InputError(f"preset: expected tiny where there is no GPU, got {preset}; leave it out")
        stages = STAGES if self.stage == "both" else (self.stage,)
        configs = {stage: with_batch(STAGE_PRESETS[preset](), stage, self.batch) for stage in stages}
        words = ["step", "--stage", self.stage, "--preset", preset, "--batch", str(self.batch)]
        where = describe(shlex.join(["triportrait", "profile", *words]))
        print(", ".join(f"{name} {value}" for name, value in where.items() if value))
        rows = []
        for stage, config in configs.items():
            rows += (stage_rows := timing.bench(config, stage, torch.device(device)))
            print(f"\n## {preset}, {stage}, {self.batch} images\n\n{timing.table(stage_rows)}", end="")
        if self.json is not None:
            write_figures({"machine": where, "time": rows}, self.json)


@dataclass(frozen=True)
class Communication:
    """Compute what each rank of a training sends in a step at every ZeRO stage; nothing is measured."""

    stage: Literal["stage1", "stage2", "both"] = "both"
    """The stage to compute."""
    preset: StagePreset = "paper"
    """The training's numbers."""
    ranks: tuple[int, ...] = (8, 64)
    """Numbers of ranks, one a GPU."""
    micro_batches: int = 1
    """Micro-batches of a rank and step."""

    def run(self) -> None:
        """Count parameters and apply the formulas."""
        from triportrait.profiling.measurement import made_by
        from triportrait.profiling.step.communication import LEGEND, table, trained_networks
        from triportrait.train.presets import STAGE_PRESETS

        config, stages = STAGE_PRESETS[self.preset](), STAGES if self.stage == "both" else (self.stage,)
        ranks = [str(count) for count in self.ranks]
        words = ["communication", "--stage", self.stage, "--preset", self.preset, "--ranks", *ranks]
        command = shlex.join(["triportrait", "profile", *words, "--micro-batches", str(self.micro_batches)])
        tables = [
            f"## {self.preset}, {stage}\n\n{table(trained_networks(config, stage), self.ranks, self.micro_batches)}"
            for stage in stages
        ]
        print("\n".join([f"{made_by(command)}\n\n{LEGEND}\n", *tables]), end="")


@dataclass(frozen=True)
class Data:
    """Measure how many frames a second this machine reads of a set or a clip store, beside what one GPU wants."""

    data: tyro.conf.Positional[Path]
    """A multi-view set or a clip store."""
    seconds: float = 3.0
    """How long each way of reading is measured."""
    json: OptionalFile = None
    """Write the figures into this file, too."""

    def run(self) -> None:
        """Read at random, and say where."""
        from triportrait.profiling.measurement import describe, write_figures
        from triportrait.profiling.step import loader

        _check_file(self.json)
        rows = loader.measure(self.data, self.seconds)
        where = describe(shlex.join(["triportrait", "profile", "data", self.data.name]))
        lines = [f"{name}: {where[name]}" for name in ("command", "commit", "machine") if where[name]]
        print("\n".join([*lines, "", loader.table(rows)]), end="")
        if self.json is not None:
            write_figures({"machine": where, "data": rows}, self.json)


def _check_file(file: Path | None) -> None:
    if file is not None and not file.absolute().parent.is_dir():
        raise InputError(f"json: expected a file in a folder that exists, got {file}; make the folder")
