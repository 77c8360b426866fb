"""Compile every launch and tabulate registers, spills, memory, occupancy and instructions.

Run it in a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from triportrait.kernels.language import MAX_GRID_YZ
from triportrait.profiling.cases import CASES, DTYPES, LAUNCHED
from triportrait.profiling.cubin import CHIPS, Program, compile_launch
from triportrait.profiling.launches import Launch, launches_of
from triportrait.profiling.markdown import markdown_table

PRODUCTS = {  # launches whose products belong on tensor cores, in half precision
    "march_forward.propose", "march_forward.march", "march_backward.probe", "march_backward.mlp", "field.decode",
    "field.mlp_backward", "attention.probability", "attention.value", "attention.score_gradient",
    "attention.product",
}  # fmt: skip
_PROBABILITY = (
    "two numbers of the epilogue pass through memory in each of 8 steps, beside 128 tensor instructions a step"
)
_MLP = "7 numbers, put away before the loop and fetched after it, never in it"
_NEWEST = "under Triton 3.9 alone, none under 3.7"
_EXACT = f"{_NEWEST}: there exact float32 products fill all 255 registers; training multiplies in bfloat16"
SPILLS = {  # launch, dtype, chip -> why it may spill
    ("march_backward.mlp", "fp32", 80): _EXACT,
    ("march_backward.mlp", "fp32", 90): _EXACT,
    ("march_backward.mlp", "fp16", 80): _MLP,
    ("march_backward.mlp", "bf16", 80): _MLP,
    ("attention.probability", "fp16", 80): _PROBABILITY,
    ("attention.probability", "bf16", 80): _PROBABILITY,
}
LOOP_TRIPS: dict[str, Callable[[dict[str, int]], int]] = {  # launch -> how many trips a program makes around its loop
    "march_forward.propose": lambda n: -(-n["S"] // n["SEGMENTS"]),
    "march_forward.march": lambda n: -(-(n["L"] - 1) // n["SEGMENTS"]) + 1,
    "march_backward.probe": lambda n: n["SAMPLES"],
    "march_backward.mlp": lambda n: n["SAMPLES"],
    "attention.probability": lambda n: -(-n["D"] // n["BLOCK_D"]),
    "attention.score_gradient": lambda n: -(-n["D"] // n["BLOCK_D"]),
    "attention.value": lambda n: -(-n["K"] // n["STEP_K"]),
    "attention.product": lambda n: -(-n["K"] // n["STEP_K"]),
}
COLUMNS = (
    "operator", "launch", "dtype", "chip", "programs", "warps", "registers", "spills", "shared KB", "per SM",
    "mma / wgmma", "loads of 16 B", "instructions: loop, rest", "tensor GFLOP", "GB asked for",
)  # fmt: skip
LEGEND = (
    "Programs: of the launch. Registers, spills (loads and stores of local memory in the code): of a thread. Per SM: "
    "programs that fit on a multiprocessor at once. mma / wgmma, loads, instructions: as they stand in the code. "
    "Tensor GFLOP, and GB asked of the caches: of the launch, from the code and the trips of its loop, for all lanes; "
    "- where the trips are not known."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A launch of an operator, and its program for one chip."""

    operator: str
    dtype: str
    launch: Launch
    program: Program

    def faults(self) -> list[str]:
        """Say what is wrong with the program, a sentence a fault."""
        p, name = self.program, f"{self.launch.name} {self.dtype} sm_{self.program.chip}"
        faults = []
        if p.spills and (self.launch.name, self.dtype, p.chip) not in SPILLS:
            faults.append(f"{name}: {p.spills} spills, and no reason is given for them")
        if not p.fits:
            faults.append(f"{name}: {p.shared} bytes of shared memory are more than the chip has")
        if max((0, *self.launch.grid[1:])) > MAX_GRID_YZ:
            faults.append(f"{name}: {self.launch.grid} programs; an axis but the first ends at {MAX_GRID_YZ}")
        if not p.programs:
            faults.append(f"{name}: not one program fits on a multiprocessor")
        if self.dtype != "fp32" and self.launch.name in PRODUCTS and not (p.counts.get("mma") or p.counts.get("wgmma")):
            faults.append(f"{name}: its products are not on tensor cores")
        return faults

    def work(self) -> tuple[float | None, float | None]:
        """Count a launch's tensor-core FLOP and the bytes it asks of the caches; None where a loop's trips are unknown.

        They are counted from the code for all lanes: what is done twice counts twice, and masked lanes count, too.
        """
        p = self.program
        if p.loop is not None and self.launch.name not in LOOP_TRIPS:
            return None, None
        trips = LOOP_TRIPS[self.launch.name](self.launch.integers) if p.loop else 0
        pieces = [p.rest] + ([p.loop] * trips if p.loop else [])
        programs = math.prod(self.launch.grid)
        return programs * sum(w.flop for w in pieces), programs * sum(w.bytes for w in pieces)

    def cells(self) -> list[object]:
        """Return the cells of the row in the table."""
        p, c = self.program, self.program.counts
        flop, size = self.work()
        return [
            self.operator, self.launch.name, self.dtype, f"sm_{p.chip}",
            f"{math.prod(self.launch.grid):,}", p.warps, p.registers, p.spills,
            f"{p.shared / 1024:.1f}", p.programs, f"{c.get('mma', 0)} / {c.get('wgmma', 0)}",
            f"{c.get('load 16', 0)} of {c.get('load', 0)}",
            f"{p.loop.instructions if p.loop else 0}, {p.rest.instructions}",
            "-" if flop is None else f"{flop / 1e9:.2f}", "-" if size is None else f"{size / 1e9:.3f}",
        ]  # fmt: skip


def launches(operators: Iterable[str], dtypes: Iterable[str]) -> Iterator[tuple[str, str, Launch]]:
    """Yield every launch of some operators, forward and backward, at the sizes of a frame and of a training's step.

    Args:
        operators: names of `CASES` and `LAUNCHED`.
        dtypes: names of dtypes; those that an operator is not launched in are left out.

    Yields:
        operator, dtype and launch, each program of an operator and dtype once.
    """
    for operator in operators:
        case = (CASES | LAUNCHED)[operator]
        for dtype in dtypes:
            if dtype not in case.dtypes or (dtype != "fp32" and case.wide_only):
                continue
            found: dict[Any, Launch] = {}
            for sizes in (case.paper, *case.also):
                for launch in launches_of(operator, sizes, DTYPES[dtype], True):
                    found.setdefault(launch.binary(), launch)
            yield from ((operator, dtype, launch) for launch in found.values())


def compile_all(operators: Iterable[str], dtypes: Iterable[str]) -> list[Row]:
    """Compile every launch of some operators for every chip."""
    rows = []
    for operator, dtype, launch in launches(operators, dtypes):
        for chip in CHIPS:
            logger.info("compile: %s, %s, sm_%d", launch.name, dtype, chip)
            rows.append(Row(operator, dtype, launch, compile_launch(launch, chip)))
    return rows


def table(rows: list[Row]) -> str:
    """Tabulate the rows, with the reasons of spills below."""
    spilled = dict.fromkeys((r.launch.name, r.dtype, r.program.chip) for r in rows if r.program.spills)
    reasons = [f"- {x[0]}, {x[1]}, sm_{x[2]}: {SPILLS[x]}" for x in spilled if x in SPILLS]
    notes = [LEGEND, *(["", "Spills and their reasons:", *reasons] if reasons else [])]
    return "\n".join([markdown_table(COLUMNS, (row.cells() for row in rows)), *notes]) + "\n"
