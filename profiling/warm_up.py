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
from typing import Any, Literal

from triportrait.profiling.measurement import cpu_seconds

Way = Literal["kernel", "compiled"]  # the kernel, or what PyTorch's compiler makes of the definition
Work = tuple[str, str, Way]  # operator or frame, dtype, what is compiled
MOST_PROCESSES = 16  # each has a CUDA context of its own, some hundred MB, and the tensors of one operator


def compile_beforehand(work: Sequence[Work], device: str) -> dict[str, Any]:
    """Compile in processes of their own what is going to be measured, at the sizes that are measured and tested.

    Args:
        work: each operator and dtype by its kernel, and by its definition compiled by PyTorch; the frame by the latter.
        device: cuda; a CPU has nothing to compile, it interprets.

    Returns:
        How many pieces of work, processes, seconds and CPU seconds it took, and how many runs failed; CPU seconds by
        sixteen are what it takes there. Where a process dies, what it had left is compiled when it is measured.
    """
    began, processes = time.perf_counter(), max(1, min(MOST_PROCESSES, os.cpu_count() or 1, len(work)))
    spawned = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    cpu_s, failed = 0.0, 0
    with ProcessPoolExecutor(processes, spawned, _compile_alone) as pool:
        for future in [pool.submit(_run_once, each, device) for each in work]:
            try:
                seconds, errors = future.result()
            except BrokenProcessPool:
                seconds, errors = 0.0, 1
            cpu_s, failed = cpu_s + seconds, failed + errors
    return {
        "pieces of work": len(work), "processes": processes, "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(cpu_s, 1), "seconds on 16 cores": round(cpu_s / 16, 1),
        "failed": failed,
    }  # fmt: skip


def _compile_alone() -> None:
    """Let PyTorch's compiler start no processes of its own: there are as many as cores. Its cache is the same."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


def _run_once(work: Work, device: str) -> tuple[float, int]:
    """Compile a piece of work; return CPU seconds, and how many of its sizes failed."""
    from triportrait.profiling import frame, kernels

    before, (name, dtype, way) = cpu_seconds(), work
    if name == "frame":
        failed = frame.compile_once(frame.config_for(device), device)
    elif way == "kernel":
        failed = kernels.run_once(name, dtype, device)
    else:
        failed = kernels.compile_once(name, dtype, device)
    return cpu_seconds() - before, failed
