"""Time every operator at the size of a frame: its definition in PyTorch, that compiled, its rivals, and the kernel.

A kernel that does not agree with its definition, at the sizes of the tests and at the size timed, gets no figure.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from triportrait.kernels.dispatch import INTERPRETED, Backend, use_backend
from triportrait.kernels.tolerance import assert_agrees
from triportrait.profiling.cases import CASES, DTYPES, Case, Inputs, make_inputs, moved
from triportrait.profiling.markdown import markdown_table
from triportrait.profiling.measurement import failure, timed

GRAPHED = {"march"}  # operators of several launches: timed as a CUDA graph, too
ROTATED_BYTES = 256 << 20  # what sets of inputs, used in turn, hold together: more than the L2 cache
MAX_SETS = 64  # of inputs
MIN_DB = 40.0  # against the definition in the same dtype, at the size timed: both are rounded

logger = logging.getLogger(__name__)


def bench(operators: Iterable[str], dtypes: Iterable[str], device: str) -> list[dict[str, Any]]:
    """Time operators: a row for each operator, dtype and pass.

    Args:
        operators: names of cases.
        dtypes: names of dtypes.
        device: cuda, at the size of a frame; cpu, at the size of a test, to show that the bench runs.
    """
    rows = []
    for name in operators:
        for dtype in dtypes:
            if dtype != "fp32" and CASES[name].wide_only:
                continue
            sets = _sets(name, dtype, device)
            red = disagreement(name, dtype, device) or _disagreement_at_size(CASES[name], sets[0], device)
            for backward in (False, True) if CASES[name].differentiable else (False,):
                label = "forward + backward" if backward else "forward"
                logger.info("kernels: %s, %s, %s", name, dtype, label)
                sizes = CASES[name].paper if device == "cuda" else CASES[name].odd[0]
                row = {"operator": name, "dtype": dtype, "pass": label, "sizes": sizes}
                rows.append(row | ({"red": red} if red else _ways(name, sets, device, backward)))
            del sets
            gc.collect()
    return rows


def run_once(name: str, dtype: str, device: str) -> int:
    """Run a kernel forward and backward at the size that is timed, and at those at which it is compared.

    Returns:
        How many sizes failed; the comparison, which comes later, says why.
    """
    case, failed = CASES[name], 0
    for sizes in (case.paper, *case.odd) if device == "cuda" else case.odd[:1]:
        try:
            _call(case.op, moved(make_inputs(name, sizes, DTYPES[dtype]), device), case.differentiable, "triton")()
        except Exception:
            failed += 1
        if device == "cuda":
            torch.cuda.empty_cache()  # other processes want it
    return failed


def compile_once(name: str, dtype: str, device: str) -> int:
    """Let PyTorch compile a definition forward and backward, at the size that is timed; its cache keeps what it makes.

    Returns:
        How many passes failed; a row that lacks a time says why. Without a GPU nothing is compiled.
    """
    if device != "cuda":
        return 0
    case, failed = CASES[name], 0
    for backward in (False, True) if case.differentiable else (False,):
        try:
            inputs = moved(make_inputs(name, case.paper, DTYPES[dtype]), device)
            _call(torch.compile(case.op, dynamic=False), inputs, backward, "reference")()
        except Exception:
            failed += 1
        torch.cuda.empty_cache()
    return failed


def disagreement(name: str, dtype: str, device: str) -> str:
    """Say why a kernel's time would mean nothing; empty if it agrees with its definition on this device."""
    if device == "cpu" and not INTERPRETED:
        return ""
    case = CASES[name]
    floor = case.floor_in(DTYPES[dtype])
    for sizes in case.odd if device == "cuda" else case.odd[:1]:
        try:
            assert_agrees(case.op, moved(make_inputs(name, sizes, DTYPES[dtype]), device), floor=floor)
        except Exception as error:  # of the comparison, of the compiler, of the launch
            return f"{sizes}: {failure(error)}"
    return ""


def _disagreement_at_size(case: Case, inputs: Inputs, device: str) -> str:
    """Say why its time at these inputs would mean nothing; a GPU checks the forward pass, a CPU nothing."""
    if device == "cpu":
        return ""
    try:
        with torch.no_grad():
            with use_backend("triton"):
                outputs = case.op(*inputs)
            with use_backend("reference"):
                definitions = case.op(*inputs)
    except Exception as error:
        return failure(error)
    pairs = zip(*((x,) if isinstance(x, Tensor) else x for x in (outputs, definitions)), strict=True)
    for i, (output, definition) in enumerate(pairs):
        if not definition.is_floating_point():
            continue  # ties are decided by rounding
        finite = definition.isfinite() & output.isfinite()
        if (output.isfinite() != definition.isfinite()).float().mean() > 1e-3:
            return f"output {i}: not finite elsewhere than it should be"
        power, noise = (x[finite].double().square().mean() for x in (definition, output.double() - definition))
        decibel = (10 * (power / noise.clamp(min=1e-30)).log10()).item()
        if not decibel > MIN_DB:
            return f"output {i}: {decibel:.1f} dB against the definition, {MIN_DB:g} are wanted"
    return ""


def _ways(name: str, sets: list[Inputs], device: str, backward: bool) -> dict[str, Any]:
    case = CASES[name]
    ways: list[tuple[str, Callable[..., Any], Backend]] = [("eager", case.op, "reference")]
    if device == "cuda":
        ways += [("compiled", torch.compile(case.op, dynamic=False), "reference")]
        ways += [(rival, op, "reference") for rival, op in case.rivals.items()]
    if device == "cuda" or INTERPRETED:
        ways.append(("ours", case.op, "triton"))
    if device == "cuda" and name in GRAPHED and not backward:
        ways.append(("ours, graph", case.op, "triton"))
    figures: dict[str, Any] = {}
    for way, op, backend in ways:
        try:
            calls = [_call(op, inputs, backward, backend) for inputs in sets]
            if way == "ours, graph":
                calls = [_graph(call) for call in calls]
            figures[way] = timed(calls, device) if device == "cuda" else timed(calls, device, 0.0, 0, 1)
        except Exception as error:  # of a rival or of memory: the others still count
            figures[way] = {"error": failure(error)}
    return figures


def _sets(name: str, dtype: str, device: str) -> list[Inputs]:
    """Make the sets of inputs that are used in turn."""
    if device == "cpu":
        return [make_inputs(name, CASES[name].odd[0], DTYPES[dtype])]
    first = moved(make_inputs(name, CASES[name].paper, DTYPES[dtype]), device)
    size = sum(x.numel() * x.element_size() for x in first if x is not None)
    count = max(1, min(MAX_SETS, ROTATED_BYTES // max(1, size)))
    return [first, *(tuple(x if x is None or x.dim() == 0 else x.clone() for x in first) for _ in range(count - 1))]


def _call(op: Callable[..., Any], tensors: Inputs, backward: bool, backend: Backend) -> Callable[[], object]:
    leaves = [x.detach().requires_grad_(backward and x.is_floating_point()) if x is not None else None for x in tensors]

    def forward() -> object:
        with use_backend(backend), torch.no_grad():
            return op(*leaves)

    def both() -> object:
        with use_backend(backend):
            out = op(*leaves)
        outputs = [y for y in ((out,) if isinstance(out, Tensor) else out) if y.requires_grad]
        inputs = [x for x in leaves if x is not None and x.requires_grad]
        return torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs], allow_unused=True)

    return both if backward else forward


def _graph(call: Callable[[], object]) -> Callable[[], object]:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def table(rows: list[dict[str, Any]]) -> str:
    """Tabulate the rows: milliseconds, and ours against the fastest of the others."""
    columns = (
        "operator", "dtype", "pass", "eager ms", "compiled ms", "rivals ms", "ours ms", "times eager", "times the best",
        "MB eager", "MB ours",
    )  # fmt: skip
    return markdown_table(columns, map(_cells, rows))


def _cells(row: dict[str, Any]) -> list[str]:
    name = [row["operator"], row["dtype"], row["pass"]]
    if "red" in row:
        return [*name, f"no figure: {row['red']}"]
    eager, compiled = row["eager"], row.get("compiled", {})
    named = {"operator", "dtype", "pass", "sizes", "eager", "compiled"}
    rivals = {way: figures for way, figures in row.items() if way not in named and not way.startswith("ours")}
    timed = [row[way] for way in row if way.startswith("ours") and "p50" in row[way]]
    ours: dict[str, Any] = min(timed, key=lambda figures: figures["p50"], default={})
    best = min((way["p50"] for way in (eager, compiled, *rivals.values()) if "p50" in way), default=0)
    rival_cell = ", ".join(f"{way} {_ms(figures)}" for way, figures in rivals.items()) or "-"
    ratios = [f"{other / ours['p50']:.1f}" if ours and other else "-" for other in (eager.get("p50"), best)]
    peaks = [way.get("peak_MB") for way in (eager, row.get("ours", {}))]  # a graph replayed allocates nothing
    memory = ["-" if peak is None else str(peak) for peak in peaks]
    return [*name, _ms(eager), _ms(compiled), rival_cell, _ms(ours or row.get("ours", {})), *ratios, *memory]


def _ms(way: dict[str, Any]) -> str:
    return f"{way['p50']:.3f}" if "p50" in way else way.get("error", "-")
