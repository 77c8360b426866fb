"""Measure roofline, frame and operators of a machine into one file, and put such figures into the README.

`python -m triportrait.profiling OUT.json` measures the same where torch, Triton, numpy and safetensors alone are there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triportrait.core.config import PRESETS
from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.profiling import frame, kernels, roofline
from triportrait.profiling.cases import CASES
from triportrait.profiling.chart import draw
from triportrait.profiling.measurement import describe, device_here, write_figures
from triportrait.profiling.warm_up import Way, Work, compile_beforehand

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"  # of the README's tables
DTYPES = ("fp32", "fp16")
DTYPES_OF = {"attention": ("fp16", "bf16")}  # operators that are wanted fast in other dtypes

logger = logging.getLogger(__name__)


def profile(command: str, out: Path, parts: Sequence[str] = (), resume: bool = False) -> None:
    """Measure what this machine takes into a file; on a CPU at small sizes, to show that it runs.

    Args:
        command: the command that measures.
        out: a JSON file; it is written again after each part, so that an interrupted run leaves what it has.
        parts: some of `part_names()`; all by default. What a part does not measure is left as the file has it.
        resume: keep what the file has, and measure the rest.

    Raises:
        InputError: there is no such part, or the file cannot be gone on with: it is of another machine or commit.
    """
    for part in parts:
        if part not in part_names():
            raise InputError(f"part: expected some of {', '.join(part_names())}, got {part!r}; choose among them")
    figures = _begun(command, out, resume or bool(parts))
    device = device_here()
    done = {row["operator"] for row in figures["kernels"]} | ({"frame"} if figures["frame"] else set())
    wanted = [part for part in parts or part_names() if part in parts or not (resume and part in done)]
    operators = [name for name in wanted if name != "frame"]
    if device == "cuda":
        work: list[Work] = [("frame", "", "compiled")] if "frame" in wanted else []  # it takes longest
        ways: tuple[Way, ...] = ("compiled", "kernel")
        work += [(name, dtype, way) for way in ways for name in operators for dtype in _dtypes_of(name)]
        logger.info("compile: %d pieces of work", len(work))
        figures.setdefault("compiled beforehand", []).append(compile_beforehand(work, device))
        write_figures(figures, out)
    if "frame" in wanted:
        figures["frame"] = frame.bench(frame.config_for(device), device)
        write_figures(figures, out)
    for name in operators:
        figures["kernels"] = [row for row in figures["kernels"] if row["operator"] != name]
        figures["kernels"] += kernels.bench([name], _dtypes_of(name), device)
        figures["kernels"].sort(key=lambda row: list(CASES).index(row["operator"]))
        write_figures(figures, out)


def part_names() -> tuple[str, ...]:
    """Name what can be measured by itself: the frame, and each operator."""
    return ("frame", *CASES)


def _dtypes_of(name: str) -> list[str]:
    dtypes = DTYPES_OF.get(name, DTYPES)
    return [dtype for dtype in dtypes if dtype == "fp32" or not CASES[name].wide_only]


def _begun(command: str, out: Path, goes_on: bool) -> dict[str, Any]:
    """Begin the figures, with what a GPU can do at most and what a frame costs; or read those that were begun."""
    machine = describe(command)
    if goes_on and out.exists():
        begun = _read(out)
        for name in ("machine", "commit", "torch", "triton"):
            if begun["machine"].get(name) != machine[name]:
                raise InputError(
                    f"{out}: expected figures of {name} {machine[name]}, these are of {begun['machine'].get(name)}; "
                    "name another file"
                )
        return begun
    figures: dict[str, Any] = {"machine": machine}
    ceiling = None
    if device_here() == "cuda":
        logger.info("ceilings")
        ceiling = roofline.measured_ceiling()
        figures["ceiling"] = {"flops": ceiling.flops, "bandwidth": ceiling.bandwidth, "source": ceiling.source}
    parts = roofline.count(PRESETS["portrait4d_v2"]())
    figures["work"] = {
        name: {"once per": work.when, "GFLOP": work.flop / 1e9, "weights_MB": work.weight_bytes / 1e6}
        | ({"floor_ms": 1e3 * work.floor_s(ceiling)} if ceiling else {})
        for name, work in parts.items()
    }
    figures |= {"frame": [], "kernels": []}
    write_figures(figures, out)
    return figures


def report(figures: Path, readme: Path, chart: Path) -> None:
    """Put the figures of a file into tables between the two markers of the README, and draw its chart.

    Raises:
        InputError: the file is none of `profile all`, was made without a GPU, or has a row without a figure; or the
            README lacks the markers. Nothing is written then.
    """
    measured = _read_complete(figures)
    try:
        text = readme.read_text()
    except OSError as error:
        raise InputError(f"{readme}: expected a file to write tables into ({error.strerror}); name it") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"{readme}: expected {BEGIN} and then {END}, each once; write them where the tables belong")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    draw(measured, chart)
    readme.write_text(f"{before}\n{tables(measured)}{after}")


def tables(figures: dict[str, Any]) -> str:
    """Tabulate the frame and the operators under a line that says where they are from."""
    where = ", ".join(f"{name} {value}" for name, value in figures["machine"].items() if value)
    return f"{where}\n\n{frame.table(figures['frame'])}\n{kernels.table(figures['kernels'])}"


def _read(path: Path) -> dict[str, Any]:
    try:
        figures = read_json(path)
        for row in (*figures["frame"], *figures["kernels"]):
            assert isinstance(row, dict)
        figures["machine"].get("chip")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(f"{path}: expected what `triportrait profile all` writes; make it again") from error
    return figures  # type: ignore[no-any-return]


def _read_complete(path: Path) -> dict[str, Any]:
    figures = _read(path)
    machine, red = figures["machine"], [row for row in (*figures["frame"], *figures["kernels"]) if "red" in row]
    if not machine.get("chip"):
        raise InputError(f"{path}: expected figures of a GPU, these are of a CPU and no performance; run it on a GPU")
    measured = {row["operator"] for row in figures["kernels"]} | ({"frame"} if figures["frame"] else set())
    missing = [part for part in part_names() if part not in measured]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} not measured yet; go on by `triportrait profile all --resume`")
    if red:
        raise InputError(f"{path}: {len(red)} rows have no figure, the first: {red[0]['red']}; mend that first")
    return figures
