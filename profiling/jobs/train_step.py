"""`triportrait profile step|scaling|data`: what a training costs."""

from __future__ import annotations

import datetime
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.train.stage_run import StageName

Verbose = Annotated[bool, tyro.conf.arg(aliases=["-v"])]
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
    batch: OptionalInt = None
    """Images of the step: 10 where work is counted, 4 where time is taken."""
    out: OptionalFile = None
    """Write the tables into this file, too."""
    json: OptionalFile = None
    """Write the figures into this file."""
    verbose: Verbose = False
    """Show where an error came from."""

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
        command = words("step", stage=self.stage, preset=self.preset, batch=self.batch)
        chosen = [(name, stage_config(name), stage) for name in self.preset for stage in stages]
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

    from triportrait.train.training import commit

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
