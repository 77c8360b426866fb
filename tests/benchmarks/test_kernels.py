"""The operators of the bench under pytest-benchmark; on a CPU at small sizes, to show that they run.

pytest tests/benchmarks --benchmark-only          (with a GPU: at the size of a frame)
"""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels.dispatch import use_backend
from triportrait.profiling.cases import CASES, make_inputs, moved
from triportrait.profiling.kernels import disagreement

GPU = torch.cuda.is_available()


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_forward(name, backend, benchmark):
    case, dtype = CASES[name], torch.float16 if GPU and not CASES[name].wide_only else torch.float32
    if GPU and (why := disagreement(name, str(dtype).replace("torch.float", "fp"), "cuda")):
        pytest.fail(f"no figure: {why}")
    inputs = moved(make_inputs(name, case.paper if GPU else case.odd[0], dtype), "cuda" if GPU else "cpu")
    benchmark.extra_info["note"] = "" if GPU else "times of a CPU, no performance"

    def run() -> object:
        with torch.no_grad(), use_backend(backend):
            out = case.op(*inputs)
        if GPU:
            torch.cuda.synchronize()
        return out

    if GPU:
        benchmark(run)
    else:
        benchmark.pedantic(run, rounds=1, iterations=1)
