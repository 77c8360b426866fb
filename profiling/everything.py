"""All figures of a machine in one file: roofline, operators, frame.

`python -m triportrait.profiling OUT.json` does the same where only torch, Triton, numpy and safetensors are installed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from triportrait.core.config import PRESETS, ModelConfig
from triportrait.core.errors import InputError
from triportrait.profiling import frame, kernels, roofline
from triportrait.profiling.cases import CASES
from triportrait.profiling.machine import describe

DTYPES = ("fp32", "fp16")
OWN_DTYPES = {"attention": ("fp16", "bf16")}  # its target is a share of the peak of bf16


def device_here() -> str:
    """cuda or cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def model_here(device: str) -> ModelConfig:
    """The published network on a GPU; elsewhere one that an interpreter gets through: 64 px from 8 x 8 rays."""
    if device == "cuda":
        return PRESETS["portrait4d_v2"]()
    tiny = PRESETS["tiny"]()
    small = dataclasses.replace(tiny.render, plane_size=32, neural_size=8, superres_widths=(16, 16, 16))
    neck = dataclasses.replace(tiny.neck, fine_size=4, coarse_size=3)
    return dataclasses.replace(tiny, preset="bench", image_size=64, render=small, neck=neck)


def chosen(operators: Sequence[str]) -> list[str]:
    """Names of operators; none are all.

    Raises: `InputError` for an unknown one.
    """
    for name in operators:
        if name not in CASES:
            raise InputError(f"op: expected some of {', '.join(CASES)}, got {name!r}; choose among them")
    return list(operators) or list(CASES)


def profile(
    command: str, operators: Sequence[str] = (), dtypes: Sequence[str] = DTYPES,
    tell: Callable[[str], None] = lambda name: None, keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure everything here; on a CPU at small sizes, to show that it runs.

    Args:
        tell: is called with the name of what is measured next. keep: with all that is known after each part.
    """
    device, names = device_here(), chosen(operators)
    found: dict[str, Any] = {"machine": describe(command)}
    ceiling = None
    if device == "cuda":
        tell("ceilings")
        ceiling = roofline.measured_ceiling()
        found["ceiling"] = {"flops": ceiling.flops, "bandwidth": ceiling.bandwidth, "source": ceiling.source}
    parts = roofline.count(PRESETS["portrait4d_v2"]())
    found["work"] = {
        name: {"once per": work.when, "GFLOP": work.flop / 1e9, "weights_MB": work.weight_bytes / 1e6}
        | ({"floor_ms": 1e3 * work.floor_s(ceiling)} if ceiling else {})
        for name, work in parts.items()
    }
    found |= {"frame": [], "kernels": []}
    keep(found)
    found["frame"] = frame.bench(model_here(device), device, lambda name: tell(f"frame {name}"))
    for name in names:
        keep(found)
        found["kernels"] += kernels.bench(
            [name], OWN_DTYPES.get(name, dtypes) if dtypes is DTYPES else dtypes, device, tell
        )
    return found


def write(found: dict[str, Any], out: Path) -> None:
    """The figures as JSON; the file appears whole."""
    part = out.with_name(f".{out.name}.part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(out)
