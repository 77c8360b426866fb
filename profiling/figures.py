"""Measure roofline, frame and operators of a machine into one file, and put such figures into the README.

`python -m triportrait.profiling OUT.json` measures the same where torch, Triton, numpy and safetensors alone are there.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from triportrait.core.config import PRESETS
from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.profiling import frame, kernels, roofline
from triportrait.profiling.cases import CASES
from triportrait.profiling.chart import draw
from triportrait.profiling.measurement import describe, device_here, write_figures

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"  # of the README's tables
DTYPES = ("fp32", "fp16")
DTYPES_OF = {"attention": ("fp16", "bf16")}  # operators that are wanted fast in other dtypes

logger = logging.getLogger(__name__)


def profile(command: str, out: Path) -> None:
    """Measure everything here into a file; on a CPU at small sizes, to show that it runs.

    Args:
        command: the command that measures.
        out: a JSON file; it is written again after each part, so that an interrupted run leaves what it has.
    """
    device = device_here()
    figures: dict[str, Any] = {"machine": describe(command)}
    ceiling = None
    if device == "cuda":
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
    figures["frame"] = frame.bench(frame.config_for(device), device)
    for name in CASES:
        write_figures(figures, out)
        figures["kernels"] += kernels.bench([name], DTYPES_OF.get(name, DTYPES), device)
    write_figures(figures, out)


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


def _read_complete(path: Path) -> dict[str, Any]:
    try:
        figures = read_json(path)
        machine, red = figures["machine"], [row for row in (*figures["frame"], *figures["kernels"]) if "red" in row]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected what `triportrait profile all` writes; make it again") from error
    if not machine.get("chip"):
        raise InputError(f"{path}: expected figures of a GPU, these are of a CPU and no performance; run it on a GPU")
    if red:
        raise InputError(f"{path}: {len(red)} rows have no figure, the first: {red[0]['red']}; mend that first")
    return figures  # type: ignore[no-any-return]
