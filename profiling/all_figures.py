"""All figures of a machine in one file: roofline, operators, frame.

`python -m triportrait.profiling OUT.json` does the same where only torch, Triton, numpy and safetensors are installed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triportrait.core.atomic import write_text
from triportrait.core.config import PRESETS, ModelConfig
from triportrait.core.errors import InputError
from triportrait.profiling import frame, kernels, roofline
from triportrait.profiling.cases import CASES
from triportrait.profiling.measurement import describe, device_here

DTYPES = ("fp32", "fp16")
DTYPES_OF = {"attention": ("fp16", "bf16")}  # operators that are wanted fast in other dtypes

logger = logging.getLogger(__name__)


def model_here(device: str) -> ModelConfig:
    """The published network on a GPU; elsewhere a network small enough for an interpreter: 64 px from 8 x 8 rays."""
    if device == "cuda":
        return PRESETS["portrait4d_v2"]()
    tiny = PRESETS["tiny"]()
    small = dataclasses.replace(tiny.render, plane_size=32, neural_size=8, superres_widths=(16, 16, 16))
    neck = dataclasses.replace(tiny.neck, fine_size=4, coarse_size=3)
    return dataclasses.replace(tiny, preset="bench", image_size=64, render=small, neck=neck)


def chosen(operators: Sequence[str]) -> list[str]:
    """Check the names of operators; no names mean all of them.

    Raises:
        InputError: there is no such operator.
    """
    for name in operators:
        if name not in CASES:
            raise InputError(f"op: expected some of {', '.join(CASES)}, got {name!r}; choose among them")
    return list(operators) or list(CASES)


def profile(command: str, out: Path, operators: Sequence[str] = (), dtypes: Sequence[str] = ()) -> None:
    """Measure everything here into a file; on a CPU at small sizes, to show that it runs.

    Args:
        command: the command that measures.
        out: a JSON file; it is written again after each part, so that an interrupted run leaves what it has.
        operators: names of cases; all by default.
        dtypes: names of dtypes; by default fp32 and fp16, or what an operator is wanted fast in.
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
    write(figures, out)
    figures["frame"] = frame.bench(model_here(device), device)
    for name in chosen(operators):
        write(figures, out)
        figures["kernels"] += kernels.bench([name], dtypes or DTYPES_OF.get(name, DTYPES), device)
    write(figures, out)


def write(figures: dict[str, Any], out: Path) -> None:
    """Write figures as JSON; the file appears whole."""
    write_text(out, json.dumps(figures, indent=1) + "\n")
