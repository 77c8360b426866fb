"""The time and the memory of a training step, part by part, in several ways. Times of a CPU are never shown.

Ways: `published`, the published arrangement in eager PyTorch, float32 without TF32 (reference 11.9); `eager`, the same
in our precision with TF32; `ours`, the stage as it trains; `ours, recompute`, with activation checkpointing.
Data are the copy of a batch to the device and its necks.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.kernels.dispatch import use_backend
from triportrait.profiling.training.inputs import Inputs, make_inputs
from triportrait.profiling.training.reference import our_phases, read_motions, reference_phases
from triportrait.profiling.training.step import refuse_other_losses
from triportrait.profiling.training.work import DATA, OPTIMISER, PARTS, Watch, moves_alone, part_of, watched
from triportrait.train.config import StageName, TrainConfig
from triportrait.train.engines.engine import Group
from triportrait.train.engines.make import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.recompute import recompute
from triportrait.train.stages.initialize import reads_motion
from triportrait.train.stages.stage import Phase

PUBLISHED, EAGER, OURS, RECOMPUTED = WAYS = ("published", "eager", "ours", "ours, recompute")
ALLOWED = 0.1  # relative difference of what a way loses from what `published` does, most of it bfloat16's
WARM_UP, REPETITIONS = 2, 10
ASIDE = "aside"  # runs between parts and is not told
WANTED, AIM = 3.0, 23.0  # times as fast as eager PyTorch; images a second and GPU


def bench(
    config: TrainConfig, stage: StageName, batch: int, device: torch.device, repetitions: int = REPETITIONS
) -> list[dict[str, Any]]:
    """A row for each way: milliseconds of each part of a step, the phases as often as they come, and the peak.

    Args:
        device: a GPU; on a CPU it runs, too, for a test, and what it says is no performance.

    A way that loses something else than `published`, or runs out of memory, has no times, and its row says so.
    """
    rows: list[dict[str, Any]] = []
    truth: dict[str, dict[str, Tensor]] | None = None
    for way in WAYS:
        row: dict[str, Any] = {"way": way, "stage": stage, "batch": batch}
        rows.append(row)
        try:
            with _in_the_way(way):
                found = _run(way, config, stage, batch, device, repetitions)
            if truth is None:
                truth = found["terms"]
            refuse_other_losses(found["terms"], truth, ALLOWED)
            row |= {name: value for name, value in found.items() if name != "terms"}
        except torch.OutOfMemoryError:
            row["red"] = "out of memory"
        except InputError as error:
            row["red"] = str(error)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def _run(
    way: str, config: TrainConfig, stage: StageName, batch: int, device: torch.device, repetitions: int
) -> dict[str, Any]:
    precision = "fp32" if way == PUBLISHED else config.precision
    inputs = make_inputs(stage, dataclasses.replace(config, precision=precision), batch, device)
    if way == RECOMPUTED:
        recompute(inputs.models.portrait)
    host = inputs.drawn(0)  # drawn once: what a loader takes is `profile data`'s to say
    inputs = dataclasses.replace(inputs, drawn=lambda seed: host)
    again = way in (PUBLISHED, EAGER)
    phases = reference_phases(inputs) if again else our_phases(inputs)
    engines = _engines(inputs)
    taken: list[dict[str, float]] = []
    for repetition in range(WARM_UP + repetitions):
        if repetition == WARM_UP and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        clock = _Clock(device)
        terms = _step(inputs, phases, engines, again, clock)
        if repetition >= WARM_UP:
            taken.append(clock.milliseconds())
    found = {part: torch.tensor([x[part] for x in taken]).median().item() for part in PARTS}
    total = sum(found.values())
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {"parts_ms": found, "step_ms": total, "images_per_s": 1e3 * batch / total, "peak_GB": peak, "terms": terms}


def _step(
    inputs: Inputs, phases: list[Phase], engines: dict[str, Any], again: bool, clock: _Clock
) -> dict[str, dict[str, Tensor]]:
    watch = Watch(clock.mark, lambda network, pictures: None)
    told: dict[str, dict[str, Tensor]] = {}
    with watched(inputs, watch):
        with watch.part(DATA):
            micro = inputs.micro(again)
        with watch.part(ASIDE):
            if again:
                read_motions(inputs, micro)
        for phase in phases:
            clock.share = 1 / phase.every
            engine = engines[phase.engine]
            with moves_alone(inputs, phase):
                with watch.part(part_of(phase, False)):
                    terms = dict(phase.terms(micro))
                    loss = torch.stack([x.float() for x in terms.values()]).sum() * phase.every
                with watch.part(part_of(phase, True)):
                    engine.backward(loss)
            with watch.part(OPTIMISER):
                engine.step(inputs.own.batch if phase.counts else 0)
            told[phase.name] = {name: value.detach() for name, value in terms.items()}
    clock.mark(ASIDE)
    return told


def _engines(inputs: Inputs) -> dict[str, Any]:
    """Plain ones, whose rates are so small that no weight moves: every step then loses the same."""
    own, models = inputs.own, inputs.models
    made = Engines(Ranks(device=inputs.device))

    def engine(network: Any, config: Any, left_out: bool) -> Any:
        still = dataclasses.replace(config, lr=1e-30, warmup=0)
        trained = [p for n, p in network.named_parameters() if p.dim() and not (left_out and reads_motion(n))]
        return made.make(network, [Group(trained)], still, own)

    found = {"generator": engine(models.portrait, own.optimizer, inputs.stage == "stage1")}
    if models.discriminator is not None:
        found["discriminator"] = engine(models.discriminator, own.discriminator, False)
    return found


class _Clock:
    """Moments at which another part began: events of a GPU's stream, or seconds."""

    def __init__(self, device: torch.device) -> None:
        self._gpu, self.share = device.type == "cuda", 1.0
        self._marks: list[tuple[str, float, Any]] = []

    def mark(self, part: str) -> None:
        """This part runs from now on."""
        if self._gpu:
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((part, self.share, now))

    def milliseconds(self) -> dict[str, float]:
        """Of each part; what comes in every k-th step counts a k-th."""
        if self._gpu:
            torch.cuda.synchronize()
        found = dict.fromkeys((*PARTS, ASIDE), 0.0)
        for (part, share, start), (_, _, end) in zip(self._marks, self._marks[1:], strict=False):
            found[part] += share * (start.elapsed_time(end) if self._gpu else 1e3 * (end - start))
        return found


@contextmanager
def _in_the_way(way: str) -> Iterator[None]:
    tf32 = way != PUBLISHED
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        with use_backend("reference" if way in (PUBLISHED, EAGER) else "auto"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of a GPU as Markdown."""
    lines = [
        "| way | " + " | ".join(f"{part} ms" for part in PARTS) + " | step ms | images/s | peak GB | times published |",
        "|" + " --- |" * (len(PARTS) + 5),
    ]
    whole = next((row["step_ms"] for row in rows if "red" not in row), None)
    for row in rows:
        if "red" in row:
            lines.append(f"| {row['way']} | no figure: {row['red']} |" + " |" * (len(PARTS) + 3))
            continue
        cells = [f"{row['parts_ms'][part]:.1f}" for part in PARTS]
        cells += [f"{row['step_ms']:.1f}", f"{row['images_per_s']:.1f}"]
        cells += ["-" if row["peak_GB"] is None else f"{row['peak_GB']:.1f}", f"{whole / row['step_ms']:.2f}"]
        lines.append(f"| {row['way']} | " + " | ".join(cells) + " |")
    wanted = f"Wanted: {WANTED:.0f} times the first row that has figures, {AIM:.0f} images/s."
    return "\n".join([*lines, "", wanted]) + "\n"
