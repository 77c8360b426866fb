"""Measure roofline, frame and operators of a machine into one file.

`python -m triportrait.profiling OUT.json` does the same where only torch, Triton, numpy and safetensors are installed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from triportrait.core.config import PRESETS
from triportrait.profiling import frame, kernels, roofline
from triportrait.profiling.cases import CASES
from triportrait.profiling.measurement import describe, device_here, write_figures

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
