"""Every operator at the size of a frame: its definition in PyTorch, that compiled, rivals, and the kernel, in one run.

No time is taken of a kernel that does not agree with its definition, at the sizes of the tests and at the size timed.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from triportrait.kernels.dispatch import INTERPRETED, Backend, use_backend
from triportrait.kernels.testing import assert_agrees
from triportrait.profiling.cases import CASES, Case, Inputs, make_inputs
from triportrait.profiling.machine import measure, peak_MB

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
GRAPHED = {"march"}  # operators of several launches: timed as a CUDA graph, too
ROTATED_BYTES = 256 << 20  # inputs in turn hold this much together, or MOST_SETS: more than the second cache
MOST_SETS = 64
LEAST_DB = 40.0  # against the definition in the same dtype, at the size timed: both are rounded


def bench(
    operators: Iterable[str], dtypes: Iterable[str], device: str, tell: Callable[[str], None] = lambda name: None
) -> list[dict[str, Any]]:
    """A row for each operator, dtype and pass.

    Args:
        device: cuda, at the size of a frame; cpu, at the size of a test, to show that the bench runs.
    """
    rows = []
    for name in operators:
        for dtype in dtypes:
            if dtype != "fp32" and CASES[name].wide_only:
                continue
            sets = _sets(name, dtype, device)
            why = disagreement(name, dtype, device) or _disagreement_there(CASES[name], sets[0], device)
            for backward in (False, True) if CASES[name].differentiable else (False,):
                tell(f"{name} {dtype} {'forward + backward' if backward else 'forward'}")
                row = {"operator": name, "dtype": dtype, "pass": "forward + backward" if backward else "forward"}
                sizes = CASES[name].paper if device == "cuda" else CASES[name].odd[0]
                rows.append(row | {"sizes": sizes} | ({"red": why} if why else _ways(name, sets, device, backward)))
            del sets
            gc.collect()
    return rows


def disagreement(name: str, dtype: str, device: str) -> str:
    """Why a kernel's time would mean nothing; empty if it agrees with its definition on this device."""
    if device == "cpu" and not INTERPRETED:
        return ""
    case = CASES[name]
    floor = case.floor_in(DTYPES[dtype])
    for sizes in case.odd if device == "cuda" else case.odd[:1]:
        try:
            assert_agrees(case.op, _on(device, make_inputs(name, sizes, DTYPES[dtype])), floor=floor)
        except Exception as error:  # of the comparison, of the compiler, of the launch
            return f"{sizes}: {_said(error)}"
    return ""


def _disagreement_there(case: Case, inputs: Inputs, device: str) -> str:
    """The same at the size that is timed, forward, on a GPU."""
    if device == "cpu":
        return ""
    try:
        with torch.no_grad():
            with use_backend("triton"):
                found = case.op(*inputs)
            with use_backend("reference"):
                wanted = case.op(*inputs)
    except Exception as error:
        return _said(error)
    pairs = zip(*((x,) if isinstance(x, Tensor) else x for x in (found, wanted)), strict=True)
    for i, (own, true) in enumerate(pairs):
        if not true.is_floating_point():
            continue  # ties are decided by rounding
        finite = true.isfinite() & own.isfinite()
        if (own.isfinite() != true.isfinite()).float().mean() > 1e-3:
            return f"output {i}: not finite elsewhere than it should be"
        power, noise = (x[finite].double().square().mean() for x in (true, own.double() - true))
        decibel = (10 * (power / noise.clamp(min=1e-30)).log10()).item()
        if not decibel > LEAST_DB:
            return f"output {i}: {decibel:.1f} dB against the definition, {LEAST_DB:g} are wanted"
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
    found: dict[str, Any] = {}
    for way, op, backend in ways:
        try:
            calls = [_call(op, inputs, backward, backend) for inputs in sets]
            if way == "ours, graph":
                calls = [_graph(call) for call in calls]
            few = {"least_s": 0.0, "warm_up": 0, "least": 1} if device == "cpu" else {}
            times = measure(calls, device, **few)  # type: ignore[arg-type]
            found[way] = dataclasses.asdict(times) | {"peak_MB": peak_MB(calls[0], device)}
        except Exception as error:  # of a rival or of memory: the others still count
            found[way] = {"error": _said(error)}
    return found


def _sets(name: str, dtype: str, device: str) -> list[Inputs]:
    """Inputs in turn."""
    if device == "cpu":
        return [make_inputs(name, CASES[name].odd[0], DTYPES[dtype])]
    first = _on(device, make_inputs(name, CASES[name].paper, DTYPES[dtype]))
    held = sum(x.numel() * x.element_size() for x in first if x is not None)
    count = max(1, min(MOST_SETS, ROTATED_BYTES // max(1, held)))
    return [first, *(tuple(x if x is None or x.dim() == 0 else x.clone() for x in first) for _ in range(count - 1))]


def _call(op: Callable[..., Any], inputs: Inputs, backward: bool, backend: Backend) -> Callable[[], object]:
    leaves = [x.detach().requires_grad_(backward and x.is_floating_point()) if x is not None else None for x in inputs]

    def forward() -> object:
        with use_backend(backend), torch.no_grad():
            return op(*leaves)

    def both() -> object:
        with use_backend(backend):
            out = op(*leaves)
        outputs = [y for y in ((out,) if isinstance(out, Tensor) else out) if y.requires_grad]
        own = [x for x in leaves if x is not None and x.requires_grad]
        return torch.autograd.grad(outputs, own, [torch.ones_like(y) for y in outputs], allow_unused=True)

    return both if backward else forward


def _graph(call: Callable[[], object]) -> Callable[[], object]:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _on(device: str, inputs: Inputs) -> Inputs:
    return tuple(x if x is None or x.dim() == 0 else x.to(device) for x in inputs)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: milliseconds, and ours against the fastest of the others."""
    head = "| operator | dtype | pass | eager ms | compiled ms | rivals ms | ours ms | times eager | times the best |"
    lines = [f"{head} MB eager | MB ours |", "|" + " --- |" * 11]
    for row in rows:
        name = [row["operator"], row["dtype"], row["pass"]]
        if "red" in row:
            lines.append("| " + " | ".join([*name, f"no figure: {row['red']}"]) + " |" + " |" * 7)
            continue
        known = {"operator", "dtype", "pass", "sizes", "eager", "compiled", "ours"}
        others = {way: row[way] for way in row if way not in known and not way.startswith("ours")}
        ours: dict[str, Any] = min(
            (row[w] for w in row if w.startswith("ours") and "p50" in row[w]), key=lambda w: w["p50"], default={}
        )
        best = min(
            (w["p50"] for w in (row["eager"], row.get("compiled", {}), *others.values()) if "p50" in w), default=0
        )
        rivals = ", ".join(f"{way} {_ms(found)}" for way, found in others.items()) or "-"
        ratio = [f"{of / ours['p50']:.1f}" if ours and of else "-" for of in (row["eager"].get("p50"), best)]
        memory = [
            str(way.get("peak_MB") if way.get("peak_MB") is not None else "-")
            for way in (row["eager"], row.get("ours", {}))
        ]  # a graph replayed allocates nothing
        cells = [*name, _ms(row["eager"]), _ms(row.get("compiled", {})), rivals, _ms(ours or row.get("ours", {}))]
        lines.append("| " + " | ".join([*cells, *ratio, *memory]) + " |")
    return "\n".join(lines) + "\n"


def _ms(way: dict[str, Any]) -> str:
    return f"{way['p50']:.3f}" if "p50" in way else way.get("error", "-")
