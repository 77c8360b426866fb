"""Where a figure is from: the machine, the versions, the commit, the command; and how time is taken there."""

from __future__ import annotations

import datetime
import itertools
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from triportrait.core.commit import commit
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


def describe(command: str) -> dict[str, Any]:
    """What stands beside every figure."""
    found: dict[str, Any] = {
        "command": command, "commit": commit(), "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__, "triton": _triton(), "python": platform.python_version(),
    }  # fmt: skip
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "machine": properties.name, "chip": f"sm_{properties.major}{properties.minor}", "driver": _driver(),
            "multiprocessors": properties.multi_processor_count, "memory_GB": round(properties.total_memory / 1e9, 1),
        }  # fmt: skip
    else:
        found |= {"machine": f"{platform.machine()} CPU", "chip": "", "driver": "", "note": NO_PERFORMANCE}
    return found


def measure(
    functions: Sequence[Callable[[], object]], device: str, least_s: float = 0.3, warm_up: int = 3, least: int = 100
) -> Times:
    """Time of one call, the functions in turn: give several with inputs of their own, so that no cache flatters.

    On a GPU by events in its stream, what the host needs to launch included where that is longer; a graph has none.
    On a CPU by the clock.
    """
    for _ in range(warm_up):
        for function in functions:
            function()
    gpu = device == "cuda"
    if gpu:
        torch.cuda.synchronize()
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < least or time.perf_counter() - began < least_s:
        if gpu:
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(functions) + 1)]
            marks[0].record()
            for function, mark in zip(functions, marks[1:], strict=True):
                function()
                mark.record()
            torch.cuda.synchronize()
            taken += [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
        else:
            for function in functions:
                start = time.perf_counter()
                function()
                taken.append((time.perf_counter() - start) * 1e3)
    return percentiles(taken)


def percentiles(taken: Sequence[float]) -> Times:
    """Of milliseconds."""
    values = torch.tensor(taken, dtype=torch.float64)
    at = torch.quantile(values, torch.tensor([0.2, 0.5, 0.8, 0.9, 0.99], dtype=torch.float64)).tolist()
    p20, p50, p80, p90, p99 = (round(value, 5) for value in at)
    return Times(p20, p50, p80, p90, p99, len(taken))


def peak_MB(function: Callable[[], object], device: str) -> float | None:
    """The most memory that a call holds beyond what was there before it, MB; None without a GPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    found = (torch.cuda.max_memory_allocated() - before) / 1e6
    del result
    return round(found, 3)


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
