"""Launches of Triton kernels on fake tensors are refused as Triton refuses, recorded, and compiled afterwards."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from typing import Any
from unittest import mock

from torch import Tensor

from tests.fake_gpu.device import FakeGpu
from triportrait.profiling.cubin import CHIPS, compile_launch
from triportrait.profiling.launches import Launch, recorded

MOST_ALONG = (2**31 - 1, 65535, 65535)  # programs along the axes of a grid


@dataclass
class Program:
    """A program stands for all launches that Triton would compile once.

    Attributes:
        launch: the one with the most programs in its grid.
        tensors: its arguments, name -> shape, strides, dtype.
        count: how many launches there were.
        runs: names of the runs in which it was launched.
    """

    launch: Launch
    tensors: dict[str, tuple[list[int], list[int], str]]
    count: int = 0
    runs: set[str] = field(default_factory=set)

    def row(self) -> dict[str, Any]:
        """Return the program as plain data."""
        launch = self.launch
        return {
            "launch": launch.name, "grid": launch.grid, "tensors": self.tensors,
            "constants": {name: str(value) for name, value in launch.constants.items()},
            "divisible by 16": launch.divisible, "options": launch.options, "count": self.count,
            "runs": sorted(self.runs),
        }  # fmt: skip


Programs = dict[tuple[Any, ...], Program]


@contextlib.contextmanager
def programs_recorded(gpu: FakeGpu, programs: Programs, run: str) -> Iterator[None]:
    """Count launches on the GPU, and add their programs to the others."""
    from triton.runtime.jit import JITFunction

    with recorded() as launches:
        record = JITFunction.run

        def launch(kernel: Any, *arguments: Any, **options: Any) -> None:
            record(kernel, *arguments, **options)
            made = launches.pop()
            names = kernel.arg_names
            values = dict(zip(names, arguments, strict=False)) | {k: v for k, v in options.items() if k in names}
            tensors = {name: x for name, x in values.items() if isinstance(x, Tensor)}
            _check(made, tensors)
            if math.prod(made.grid):
                gpu.launched(made.name)
                shapes = {k: (list(x.shape), list(x.stride()), str(x.dtype)) for k, x in tensors.items()}
                program = programs.setdefault(made.binary(), Program(made, shapes))
                if math.prod(made.grid) > math.prod(program.launch.grid):
                    program.launch, program.tensors = made, shapes
                program.count += 1
                program.runs.add(run)

        with mock.patch.object(JITFunction, "run", launch):
            yield


def _check(launch: Launch, tensors: dict[str, Tensor]) -> None:
    """Raises: `ValueError` as a launch does."""
    for name, tensor in tensors.items():
        if tensor.device.type != "cuda":
            raise ValueError(f"{launch.name}: pointer argument {name} cannot be accessed from Triton (cpu tensor?)")
    for programs, most in zip(launch.grid, MOST_ALONG, strict=False):
        if programs > most:
            raise ValueError(f"{launch.name}: a grid of {launch.grid}, at most {MOST_ALONG}")


def compile_programs(programs: Sequence[Program], chips: Sequence[int] = CHIPS) -> list[dict[str, Any]]:
    """Compile programs for chips, in as many processes as there are cores: a row for each, with what is wrong or None.

    Run it in a process without TRITON_INTERPRET.
    """
    work = [(_portable(program.launch), chip) for program in programs for chip in chips]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(_compile, work))


def _portable(launch: Launch) -> dict[str, Any]:
    """Return a launch without its kernel, which another process finds by name."""
    function = launch.kernel.fn
    return vars(launch) | {"kernel": (function.__module__, function.__name__)}


def _compile(work: tuple[dict[str, Any], int]) -> dict[str, Any]:
    fields, chip = work
    module, name = fields["kernel"]
    launch = Launch(**fields | {"kernel": getattr(import_module(module), name)})
    row: dict[str, Any] = {"launch": launch.name, "chip": chip, "fault": None}
    try:
        program = compile_launch(launch, chip)
    except Exception as error:
        return row | {"fault": f"{type(error).__name__}: {str(error)[:300]}"}
    fault = None if program.fits and program.programs else f"{program.shared} bytes of shared memory do not fit"
    return row | {
        "fault": fault, "registers": program.registers, "spills": program.spills, "shared": program.shared,
        "cpu_seconds": round(program.cpu_seconds, 2),
    }  # fmt: skip
