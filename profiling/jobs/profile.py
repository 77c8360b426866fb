"""`triportrait profile`: what a frame costs, what it must cost, and where; a training's costs are in `train_step`."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.profiling.jobs.live import Live
from triportrait.profiling.jobs.train_step import Data, Scaling, Step

Operators = Annotated[tuple[str, ...], tyro.conf.arg(name="op", metavar="NAME")]


@dataclass(frozen=True)
class Compile:
    """Compile every kernel for GPUs that need not be here, and tell registers, spills, memory, instructions."""

    op: Operators = ()
    """Operators; all by default."""
    dtype: Literal["all", "fp16", "bf16", "fp32"] = "all"
    """Of the planes, pictures or tokens."""
    out: Path | None = None
    """Write the table into this file, too."""

    def run(self) -> None:
        """Compile at the sizes of a frame; a fault ends it with a sentence."""
        from triportrait.kernels.dispatch import INTERPRETED
        from triportrait.kernels.language import HAVE_TRITON

        if not HAVE_TRITON:
            raise InputError("profile compile: expected Triton, it is not installed; `pip install triton`")
        if INTERPRETED:
            raise InputError("profile compile: expected a process that compiles, got TRITON_INTERPRET=1; unset it")
        from triportrait.profiling.everything import chosen
        from triportrait.profiling.programs import DTYPES, compile_all, table

        _check_out(self.out)
        rows = compile_all(chosen(self.op), DTYPES if self.dtype == "all" else [self.dtype], tell=_tell)
        _print(f"{_made()}\n\n{table(rows)}", self.out)
        faults = [fault for row in rows for fault in row.faults()]
        if faults:
            raise InputError(f"{faults[0]} ({len(faults)} faults in all)")


@dataclass(frozen=True)
class Roofline:
    """Count operations and bytes of each part of a frame, and the time that no GPU can beat."""

    preset: Literal["portrait4d_v2", "tiny"] = "portrait4d_v2"
    """Of the network."""

    def run(self) -> None:
        """Count; with a GPU its own ceilings and the parts of a frame are measured, too."""
        import torch

        from triportrait.core.config import PRESETS
        from triportrait.profiling.frame import times_of_parts
        from triportrait.profiling.roofline import CEILINGS, count, measured_ceiling, table

        ceilings, taken = list(CEILINGS), {}
        if torch.cuda.is_available():
            ceilings.append(measured_ceiling())
            taken = times_of_parts(PRESETS[self.preset](), "ours bf16")
        print(table(count(PRESETS[self.preset]()), ceilings, taken), end="")


@dataclass(frozen=True)
class Kernels:
    """Time every kernel against its definition in PyTorch and that compiled; without a GPU, show that it runs."""

    op: Operators = ()
    """Operators; all by default."""
    dtype: Literal["all", "fp16", "bf16", "fp32"] = "all"
    """Of the planes, pictures or tokens."""

    def run(self) -> None:
        """Check that they agree, then take times."""
        _interpret_without_gpu()
        from triportrait.profiling.everything import chosen, device_here
        from triportrait.profiling.kernels import DTYPES, bench, table

        rows = bench(chosen(self.op), DTYPES if self.dtype == "all" else [self.dtype], device_here(), _tell)
        _say_where("kernels", *(["--op", *self.op] if self.op else []), "--dtype", self.dtype)
        print(table(rows), end="")
        _no_red(rows)


@dataclass(frozen=True)
class Frame:
    """Time a reenacted frame, whole and in parts; without a GPU, of a smaller network, to show that it runs."""

    preset: Literal["portrait4d_v2", "tiny"] | None = None
    """Sizes of the network; the published ones on a GPU, and much smaller ones elsewhere, if none is named."""

    def run(self) -> None:
        """Check that all ways show the same picture, then take times."""
        _interpret_without_gpu()
        from triportrait.core.config import PRESETS
        from triportrait.profiling.everything import device_here, model_here
        from triportrait.profiling.frame import bench, table

        config = model_here(device_here()) if self.preset is None else PRESETS[self.preset]()
        rows = bench(config, device_here(), _tell)
        _say_where("frame")
        print(table(rows), end="")
        _no_red(rows)


@dataclass(frozen=True)
class All:
    """All figures of this machine into one file."""

    out: tyro.conf.Positional[Path]
    """The file to write, .json."""

    def run(self) -> None:
        """Within ten minutes on one GPU."""
        _interpret_without_gpu()
        from triportrait.profiling.everything import profile, write

        if self.out.suffix != ".json":
            raise InputError(f"out: expected a .json file, got {self.out}; name one")
        _check_out(self.out)
        command = shlex.join(["triportrait", "profile", "all", self.out.name])
        write(profile(command, tell=_tell, keep=lambda found: write(found, self.out)), self.out)
        print(self.out)


@dataclass(frozen=True)
class Report:
    """Put the figures of a file of `profile all` into the README's tables, and draw them."""

    figures: tyro.conf.Positional[Path]
    """What `profile all` wrote on a GPU."""
    readme: Path = Path("README.md")
    """Where the tables stand, between two markers."""
    chart: Path = Path("docs/figures.png")
    """The picture to write: each part against its floor."""

    def run(self) -> None:
        """Check the file and both places, then write."""
        from triportrait.profiling.report import report

        report(self.figures, self.readme, self.chart)
        print(self.readme)


Profile = Compile | Roofline | Kernels | Frame | All | Report | Step | Scaling | Data | Live


def _interpret_without_gpu() -> None:
    """Let Triton's interpreter run the kernels where no GPU does: before anything imports them."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def _say_where(*words: str) -> None:
    from triportrait.profiling.machine import describe

    for name, value in describe(shlex.join(["triportrait", "profile", *words])).items():
        if value:
            print(f"{name}: {value}")
    print()


def _no_red(rows: list[dict[str, object]]) -> None:
    red = [row for row in rows if "red" in row]
    if red:
        raise InputError(f"{red[0]['red']} ({len(red)} rows have no figure)")


def _check_out(out: Path | None) -> None:
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError(f"out: expected a file in a folder that exists, got {out}; make the folder")


def _made() -> str:
    """What made a table that no GPU is needed for."""
    import torch
    import triton

    from triportrait.core.commit import commit

    versions = f"Triton {triton.__version__}, torch {torch.__version__}"
    return f"`triportrait profile compile`: {versions}, commit {commit()}, {datetime.datetime.now(datetime.UTC).date()}"


def _print(text: str, out: Path | None) -> None:
    print(text, end="")
    if out is not None:
        out.write_text(text)


def _tell(name: str) -> None:
    print(name, file=sys.stderr)
