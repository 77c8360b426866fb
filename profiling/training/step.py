"""A training step of a stage beside the same step as the published code arranges it: work anywhere, time on a GPU.

Work is counted while the step runs, at the tiny preset with numbers, at the published sizes on tensors without memory.
Time and peak memory are taken on a GPU alone. Both forms lose the same, or there is no figure.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.profiling.training.inputs import make_inputs
from triportrait.profiling.training.reference import our_phases, reference_phases
from triportrait.profiling.training.work import (
    BACKWARD,
    CRITIC,
    DATA,
    FORWARD,
    NETWORKS,
    TEACHER,
    Work,
    can_count_kernels,
    count,
    states_bytes,
)
from triportrait.train.config import StageName, TrainConfig
from triportrait.train.engines.recompute import recompute

COUNTED = 10  # images of a step whose work is counted: of them the paper's shares of 0.1 and 0.2 are whole
TIMED = 4  # of one that is timed: a GPU's part of the paper's 32 on 8
EXECUTED = "tiny"  # the preset that is counted with numbers
SAME = 1e-4  # largest relative difference of what both forms lose, float32


def counted(preset: str, config: TrainConfig, stage: StageName, batch: int = COUNTED) -> dict[str, Any]:
    """The work of a step in both forms, as plain JSON values.

    Raises:
        InputError: the forms do not lose the same, so that their work is not of the same step.
    """
    config = dataclasses.replace(config, precision="fp32")  # what tensors without memory have
    device = torch.device("cpu" if preset == EXECUTED else "meta")
    inputs = make_inputs(stage, config, batch, device)
    ours, reference = count(inputs, our_phases(inputs), False), count(inputs, reference_phases(inputs), True)
    if device.type != "meta":
        refuse_other_losses(ours.terms, reference.terms, SAME)
    how = "with numbers" if device.type == "cpu" else "by shapes"
    found: dict[str, Any] = {
        "preset": preset, "stage": stage, "batch": batch, "counted": how,
        "pictures": {n: [ours.pictures[n], reference.pictures[n]] for n in NETWORKS if reference.pictures[n]},
        "GFLOP": {p: [ours.flop[p] / 1e9, reference.flop[p] / 1e9] for p in (TEACHER, FORWARD, BACKWARD, CRITIC, DATA)},
        "kept_MB": {"published arrangement": _megabytes(reference), "ours": _megabytes(ours)},
        "states_MB": states_bytes(inputs) / 1e6,
    }  # fmt: skip
    recompute(inputs.models.portrait)
    found["kept_MB"]["ours, recompute"] = _megabytes(count(inputs, our_phases(inputs), False))
    if can_count_kernels():
        shapes = make_inputs(stage, config, batch, torch.device("meta"))
        for name in ("ours, kernels", "ours, kernels, recompute"):
            found["kept_MB"][name] = _megabytes(count(shapes, our_phases(shapes), False, kernels=True))
            recompute(shapes.models.portrait)
    return found


def _megabytes(work: Work) -> dict[str, float]:
    return {phase: kept / 1e6 for phase, kept in work.kept.items()}


def refuse_other_losses(
    ours: dict[str, dict[str, Tensor]], reference: dict[str, dict[str, Tensor]], allowed: float
) -> None:
    """Raises: `InputError` where what two forms of a step lose differs by more than a share of it."""
    for phase, terms in reference.items():
        for name, value in terms.items():
            one, other = float(ours[phase][name]), float(value)
            if abs(one - other) > allowed * max(abs(other), 1e-3):
                raise InputError(
                    f"{phase}, {name}: expected the same loss of both forms, got {one:.6g} and {other:.6g}; this is a "
                    "fault of the program"
                )


def table(found: dict[str, Any]) -> str:
    """The work as Markdown, for one image of the batch."""
    batch, lines = found["batch"], ["| for each image | published arrangement | ours | ratio |", "|" + " --- |" * 4]

    def row(name: str, pair: list[float], digits: int) -> str:
        ours, reference = (value / batch for value in pair)
        ratio = f"{reference / ours:.2f}" if ours else "-"
        return f"| {name} | {reference:,.{digits}f} | {ours:,.{digits}f} | {ratio} |"

    lines += [row(f"pictures through {name}", pair, 2) for name, pair in found["pictures"].items()]
    lines += [row(f"GFLOP, {part}", pair, 1) for part, pair in found["GFLOP"].items() if any(pair)]
    total = [sum(pair[i] for pair in found["GFLOP"].values()) for i in (0, 1)]
    lines += [row("**GFLOP**", total, 1), ""]
    phases = list(found["kept_MB"]["ours"])
    lines += [
        "| MB kept for the backward pass, for each image | " + " | ".join(phases) + " |",
        "|" + " --- |" * (len(phases) + 1),
    ]
    for name, kept in found["kept_MB"].items():
        lines.append(f"| {name} | " + " | ".join(f"{kept[phase] / batch:,.1f}" for phase in phases) + " |")
    return "\n".join(lines) + f"\n\n{_said(found)}\n"


def _said(found: dict[str, Any]) -> str:
    most = {name: TIMED * max(kept.values()) / found["batch"] for name, kept in found["kept_MB"].items()}
    sums = ", ".join(f"{name} {(found['states_MB'] + size) / 1e3:.1f} GB" for name, size in most.items())
    return (
        f"Batch {found['batch']}, counted {found['counted']}, float32, late in the schedule; phases count as often as "
        f"they come. Weights, gradients, moments and averages take {found['states_MB'] / 1e3:.2f} GB; with what the "
        f"largest phase keeps of {TIMED} images: {sums}. Beyond that a backward pass has gradients of its own, and a "
        "recomputed part its insides: a GPU says what the peak is."
    )


def document(rows: list[dict[str, Any]], made: str) -> str:
    """All tables of a command."""
    parts = [made, "", *LEGEND]
    for found in rows:
        parts += ["", f"## {found['preset']}, {found['stage']}", "", table(found).rstrip()]
    return "\n".join(parts) + "\n"


LEGEND = (
    "A training step of ours and the same step as the published code arranges it, on the same networks with the same "
    "random numbers and the same losses. The published arrangement asks the frozen static synthesizer (the teacher) in "
    "every phase, synthesises the discriminator's fakes again, and makes the neck's field in both passes of each "
    "render. Work is no time: no kernel's speed and no precision is in these ratios.",
    "",
    "- Pictures: of a forward pass; source is encoders and neutral blocks, planes is motion blocks and decoder.",
    "- GFLOP: products and convolutions of forward and backward passes, recomputation included where it happens.",
    "- Kept: each tensor once, without weights and inputs. *Kernels*: as a GPU's launches keep it, attention fused; in "
    "other rows of what is counted by shapes attention keeps its scores, as two products and a softmax do.",
)
