"""`triportrait profile`: what a frame costs and must cost; what a training costs is in `step`, a live server in `live`.

Nothing here imports the kernels before it is known whether Triton's interpreter shall run them.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from triportrait.core.errors import InputError
from triportrait.profiling.jobs.live import Live
from triportrait.profiling.jobs.step import Communication, Data, Step


@dataclass(frozen=True)
class _Operators:
    op: Annotated[tuple[str, ...], tyro.conf.arg(name="op", metavar="NAME")] = ()
    """Operators; all by default."""
    dtype: Literal["all", "fp16", "bf16", "fp32"] = "all"
    """The dtype of planes, pictures or tokens."""

    def _dtypes(self) -> list[str]:
        return ["fp16", "bf16", "fp32"] if self.dtype == "all" else [self.dtype]


@dataclass(frozen=True)
class Compile(_Operators):
    """Compile every kernel for GPUs that need not be here, and tell registers, spills, memory, instructions."""

    def run(self) -> None:
        """Compile at the sizes of a frame; a fault ends the command with a sentence."""
        from triportrait.kernels.dispatch import INTERPRETED
        from triportrait.kernels.language import HAVE_TRITON

        if not HAVE_TRITON:
            raise InputError("profile compile: expected Triton, it is not installed; `pip install triton`")
        if INTERPRETED:
            raise InputError("profile compile: expected a process that compiles, got TRITON_INTERPRET=1; unset it")
        from triportrait.profiling.cases import CASES, LAUNCHED, chosen
        from triportrait.profiling.compile_table import compile_all, table
        from triportrait.profiling.measurement import made_by

        rows = compile_all(chosen(self.op, CASES | LAUNCHED), self._dtypes())
        print(f"{made_by('triportrait profile compile')}\n\n{table(rows)}", end="")
        faults = [fault for row in rows for fault in row.faults()]
        if faults:
            raise InputError(f"{faults[0]} ({len(faults)} faults in all)")


@dataclass(frozen=True)
class Roofline:
    """Count operations and bytes of each part of a frame, and the time that no GPU can beat."""

    preset: Literal["portrait4d_v2", "tiny"] = "portrait4d_v2"
    """Sizes of the network."""
    pipeline: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Time what a CPU core of this machine does for a frame, too, and name what sets the pace beside a GPU."""

    def run(self) -> None:
        """Count; on a GPU its own ceilings and the parts of a frame are measured, too."""
        import torch

        from triportrait.core.config import PRESETS
        from triportrait.profiling.frame import times_of_parts
        from triportrait.profiling.roofline import CEILINGS, count, measured_ceiling, table

        ceilings, measured_ms = list(CEILINGS), {}
        if torch.cuda.is_available():
            ceilings.append(measured_ceiling())
            measured_ms = times_of_parts(PRESETS[self.preset](), "ours bf16")
        config = PRESETS[self.preset]()
        work = count(config)
        print(table(work, ceilings, measured_ms), end="")
        if self.pipeline:
            from triportrait.profiling import host

            print(f"\n{host.table(host.host_parts(config.image_size), work, config.image_size)}", end="")


@dataclass(frozen=True)
class Kernels(_Operators):
    """Time every kernel against its definition in PyTorch and that compiled; without a GPU, show that it runs."""

    def run(self) -> None:
        """Check that kernels and definitions agree, then take times."""
        _interpret_without_gpu()
        from triportrait.profiling.cases import chosen
        from triportrait.profiling.kernels import bench, table
        from triportrait.profiling.measurement import device_here

        rows = bench(chosen(self.op), self._dtypes(), device_here())
        _print_where("kernels", *(["--op", *self.op] if self.op else []), "--dtype", self.dtype)
        print(table(rows), end="")
        _refuse_red(rows)


@dataclass(frozen=True)
class Frame:
    """Time a reenacted frame, whole and in parts; without a GPU, of a smaller network, to show that it runs."""

    preset: Literal["portrait4d_v2", "tiny"] | None = None
    """Sizes of the network; by default the published ones on a GPU, and much smaller ones elsewhere."""

    def run(self) -> None:
        """Check that all ways show the same picture, then take times."""
        _interpret_without_gpu()
        from triportrait.core.config import PRESETS
        from triportrait.profiling.frame import bench, config_for, table
        from triportrait.profiling.measurement import device_here

        config = config_for(device_here()) if self.preset is None else PRESETS[self.preset]()
        rows = bench(config, device_here())
        _print_where("frame")
        print(table(rows), end="")
        _refuse_red(rows)


@dataclass(frozen=True)
class All:
    """Measure the roofline, a frame and every kernel on this machine, and write all figures into one file."""

    out: tyro.conf.Positional[Path]
    """The file to write, .json."""
    part: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Measure these parts only, `frame` or operators, and leave the rest of the file as it is; all by default."""
    resume: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Keep what the file has, and measure the rest."""

    def run(self) -> None:
        """Compile, then measure part by part; one GPU takes about ten minutes."""
        _interpret_without_gpu()
        from triportrait.profiling.figures import profile

        if self.out.suffix != ".json":
            raise InputError(f"out: expected a .json file, got {self.out}; name one")
        if not self.out.absolute().parent.is_dir():
            raise InputError(f"out: expected a file in a folder that exists, got {self.out}; make the folder")
        words = [self.out.name, *(["--part", *self.part] if self.part else [])]
        profile(shlex.join(["triportrait", "profile", "all", *words]), self.out, self.part, self.resume)
        print(self.out)


@dataclass(frozen=True)
class Report:
    """Put the figures of a file of `profile all` into the README's tables, and draw them."""

    figures: tyro.conf.Positional[Path]
    """The file that `profile all` wrote on a GPU."""
    readme: Path = Path("README.md")
    """The file where the tables stand, between two markers."""
    chart: Path = Path("docs/figures.png")
    """The picture to write: each part beside its floor."""

    def run(self) -> None:
        """Check the file and the markers, then write."""
        from triportrait.profiling.figures import report

        report(self.figures, self.readme, self.chart)
        print(self.readme)


Profile = Compile | Roofline | Kernels | Frame | All | Report | Step | Communication | Data | Live


def _interpret_without_gpu() -> None:
    """Let Triton's interpreter run the kernels where no GPU does; it must be called before anything imports them."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def _print_where(*words: str) -> None:
    from triportrait.profiling.measurement import describe

    for name, value in describe(shlex.join(["triportrait", "profile", *words])).items():
        if value:
            print(f"{name}: {value}")
    print()


def _refuse_red(rows: list[dict[str, Any]]) -> None:
    red = [row for row in rows if "red" in row]
    if red:
        raise InputError(f"{red[0]['red']} ({len(red)} rows have no figure)")
