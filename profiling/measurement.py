"""How time and memory are measured, and what stands beside a figure: machine, versions, commit and command."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from triportrait.core.atomic import write_text
from triportrait.core.source_commit import source_commit
from triportrait.kernels.dispatch import Backend, use_backend
from triportrait.kernels.language import HAVE_TRITON

NO_PERFORMANCE = "times of a CPU and of an interpreter: they show that the bench runs, they are no performance"


@dataclass(frozen=True)
class Times:
    """Milliseconds, percentiles of the repetitions."""

    p20: float
    p50: float
    p80: float
    p90: float
    p99: float
    repetitions: int


def device_here() -> str:
    """Name the device that is measured: cuda, or cpu where PyTorch sees no GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def describe(command: str) -> dict[str, Any]:
    """Return what stands beside every figure: command, commit, date, versions, machine."""
    where: dict[str, Any] = {
        "command": command, "commit": source_commit(), "date": _today(), "torch": torch.__version__,
        "triton": _triton(), "python": platform.python_version(),
    }  # fmt: skip
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        where |= {
            "machine": properties.name, "chip": f"sm_{properties.major}{properties.minor}", "driver": _driver(),
            "multiprocessors": properties.multi_processor_count, "memory_GB": round(properties.total_memory / 1e9, 1),
        }  # fmt: skip
    else:
        where |= {"machine": f"{platform.machine()} CPU", "chip": "", "driver": "", "note": NO_PERFORMANCE}
    return where


def made_by(command: str) -> str:
    """Write the line above a table that depends on no machine: the command, the versions, the commit, the day."""
    triton = f"Triton {_triton()}, " if HAVE_TRITON else ""
    return f"`{command}`: {triton}torch {torch.__version__}, commit {source_commit()}, {_today()}"


@contextmanager
def numerics(backend: Backend, tf32: bool) -> Iterator[None]:
    """Run operators on this backend, and PyTorch's own float32 products in TF32 or exactly, inside a `with` block."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        with use_backend(backend):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def measure(
    functions: Sequence[Callable[[], object]], device: str, least_s: float = 0.3, warm_up: int = 3, least: int = 100,
    most_s: float = 3.0,
) -> Times:  # fmt: skip
    """Time one call, the functions in turn: give several with inputs of their own, so that no cache flatters.

    On a GPU time is taken by events in its stream; it includes what the host needs to launch where that takes longer,
    which a CUDA graph does not. On a CPU time is taken by the clock.

    Args:
        functions: all do the same work.
        device: cuda or cpu.
        least_s: measure for at least so many seconds.
        warm_up: rounds that are not measured.
        least: measure at least so many calls,
        most_s: but begin no round after so many seconds: a definition may take one of them a call.
    """
    for _ in range(warm_up):
        for function in functions:
            function()
    gpu = device == "cuda"
    if gpu:
        torch.cuda.synchronize()
    milliseconds: list[float] = []
    started = time.perf_counter()
    while not milliseconds or (
        (passed := time.perf_counter() - started) < most_s and (len(milliseconds) < least or passed < least_s)
    ):
        if gpu:
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(functions) + 1)]
            marks[0].record()
            for function, mark in zip(functions, marks[1:], strict=True):
                function()
                mark.record()
            torch.cuda.synchronize()
            milliseconds += [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
        else:
            for function in functions:
                start = time.perf_counter()
                function()
                milliseconds.append((time.perf_counter() - start) * 1e3)
    return percentiles(milliseconds)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it has ended: Triton runs ptxas in one."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def percentiles(milliseconds: Sequence[float]) -> Times:
    """Summarise the times of single calls."""
    values = torch.tensor(milliseconds, dtype=torch.float64)
    at = torch.quantile(values, torch.tensor([0.2, 0.5, 0.8, 0.9, 0.99], dtype=torch.float64)).tolist()
    p20, p50, p80, p90, p99 = (round(value, 5) for value in at)
    return Times(p20, p50, p80, p90, p99, len(milliseconds))


def peak_MB(function: Callable[[], object], device: str) -> float | None:
    """Measure the most memory, in MB, that a call holds beyond what was held before it; None without a GPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    del result
    return round(peak, 3)


def timed(
    functions: Sequence[Callable[[], object]], device: str, least_s: float = 0.3, warm_up: int = 3, least: int = 100
) -> dict[str, Any]:
    """Return what `measure` takes, as JSON values, beside the peak of the memory of the first function."""
    times = measure(functions, device, least_s, warm_up, least)
    return dataclasses.asdict(times) | {"peak_MB": peak_MB(functions[0], device)}


def write_figures(figures: dict[str, Any], out: Path) -> None:
    """Write figures as JSON; the file appears whole."""
    write_text(out, json.dumps(figures, indent=1) + "\n")


def failure(error: Exception) -> str:
    """Word an error for the place of a figure: its kind and the first line of its message."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def _triton() -> str:
    if not HAVE_TRITON:
        return ""
    import triton

    return str(triton.__version__)
