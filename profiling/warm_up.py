"""Compile what is going to be measured, beside each other: Triton keeps programs in its cache on the disk, by process.

Measuring compiles one program after the other; on a GPU with sixteen cores most of a first run would be waiting for it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from triportrait.profiling.measurement import cpu_seconds

MOST_PROCESSES = 16  # each has a CUDA context of its own, some hundred MB, and the tensors of one operator


def compile_beforehand(work: Sequence[tuple[str, str]], device: str) -> dict[str, Any]:
    """Run operators once in processes of their own, at the sizes that are measured and tested.

    Args:
        work: (operator, dtype), each once.
        device: cuda; a CPU has nothing to compile, it interprets.

    Returns:
        How many operators, processes, seconds and CPU seconds it took, and how many runs failed; CPU seconds by sixteen
        are what it takes there. Where a process dies, what it had left is compiled when it is measured.
    """
    began, processes = time.perf_counter(), max(1, min(MOST_PROCESSES, os.cpu_count() or 1, len(work)))
    spawned = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    cpu_s, failed = 0.0, 0
    with ProcessPoolExecutor(processes, spawned) as pool:
        for future in [pool.submit(_run_once, each, device) for each in work]:
            try:
                seconds, errors = future.result()
            except BrokenProcessPool:
                seconds, errors = 0.0, 1
            cpu_s, failed = cpu_s + seconds, failed + errors
    return {
        "operators": len(work), "processes": processes, "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(cpu_s, 1), "seconds on 16 cores": round(cpu_s / 16, 1),
        "failed": failed,
    }  # fmt: skip


def _run_once(work: tuple[str, str], device: str) -> tuple[float, int]:
    """Run an operator forward and backward at all of its sizes; return CPU seconds, and how many sizes failed."""
    from triportrait.profiling.kernels import run_once

    before = cpu_seconds()
    failed = run_once(*work, device)
    return cpu_seconds() - before, failed
