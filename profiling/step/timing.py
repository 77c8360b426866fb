"""Measure the time and the memory of a training step, part by part, in several ways.

Ways: `eager fp32`, plain PyTorch without TF32; `eager`, plain PyTorch in the training's precision with TF32; `ours`,
the same with the kernels, as a stage trains; `ours, recompute`, that with activation checkpointing. All ways must lose
the same, or there is no figure. Data are the copy of a batch to the device and its necks.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.profiling.markdown import markdown_table
from triportrait.profiling.measurement import numerics
from triportrait.profiling.step.inputs import StepInputs, make_inputs
from triportrait.train.config import StageName, TrainConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.frozen import frozen
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.recompute import recompute
from triportrait.train.engines.training_engine import Engine, Group
from triportrait.train.stages.initialize import reads_motion
from triportrait.train.stages.stage import Phase

EAGER_FP32, EAGER, OURS, RECOMPUTED = WAYS = ("eager fp32", "eager", "ours", "ours, recompute")
FORWARD, BACKWARD, TEACHER, CRITIC, DATA, OPTIMISER = PARTS = (
    "generator forward", "generator backward", "teacher", "discriminator", "data", "optimiser"
)  # fmt: skip
TEACHERS = {"static": ("prepare", "reenact", "render"), "motion_encoder": ("forward",)}  # networks of stage 2 -> calls
MAX_DIFFERENCE = 0.1  # of a loss from that of `eager fp32`, relative; most of it is bfloat16's
WARM_UP, REPETITIONS = 2, 10
WANTED, WANTED_IMAGES_PER_S = 3.0, 23.0  # times as fast as `eager fp32`; images a second and GPU

Losses = dict[str, dict[str, Tensor]]  # phase -> term -> value
logger = logging.getLogger(__name__)


def bench(config: TrainConfig, stage: StageName, device: torch.device) -> list[dict[str, Any]]:
    """Time a step of the stage's batch: a row for each way, or the reason why it has no figure.

    Args:
        device: a GPU; a CPU runs each way once, to show that the bench runs.
    """
    rows: list[dict[str, Any]] = []
    expected: Losses | None = None
    for way in WAYS:
        logger.info("step: %s, %s", stage, way)
        row: dict[str, Any] = {"way": way, "stage": stage, "batch": getattr(config, stage).batch}
        rows.append(row)
        try:
            with numerics("reference" if way in (EAGER_FP32, EAGER) else "auto", tf32=way != EAGER_FP32):
                figures, losses = _run(way, config, stage, device)
            expected = losses if expected is None else expected
            _check_losses(losses, expected)
            row |= figures
        except torch.OutOfMemoryError:
            row["red"] = "out of memory"
        except InputError as error:
            row["red"] = str(error)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def _run(way: str, config: TrainConfig, stage: StageName, device: torch.device) -> tuple[dict[str, Any], Losses]:
    if way == EAGER_FP32:
        config = dataclasses.replace(config, precision="fp32")
    inputs = make_inputs(stage, config, device)
    if way == RECOMPUTED:
        recompute(inputs.models.portrait)
    engines = _engines(inputs)
    warmup, repetitions = (WARM_UP, REPETITIONS) if device.type == "cuda" else (0, 1)
    steps: list[dict[str, float]] = []
    for repetition in range(warmup + repetitions):
        if repetition == warmup and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        clock = _Clock(device)
        losses = _step(inputs, engines, clock)
        if repetition >= warmup:
            steps.append(clock.milliseconds())
    parts = {part: torch.tensor([step[part] for step in steps]).median().item() for part in PARTS}
    total = sum(parts.values())
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    images_per_s = 1e3 * inputs.stage_config.batch / total
    return {"parts_ms": parts, "step_ms": total, "images_per_s": images_per_s, "peak_GB": peak}, losses


def _step(inputs: StepInputs, engines: Mapping[str, Engine], clock: _Clock) -> Losses:
    """One step in the order of the training's loop; a phase that comes in every k-th step counts a k-th."""
    losses: Losses = {}
    with _teachers_timed(inputs.models, clock):
        with clock.part(DATA):
            micro_batch = inputs.micro_batch()
        for phase in inputs.phases:
            clock.share = 1 / phase.every
            engine = engines[phase.engine]
            others = [other.module for name, other in engines.items() if name != phase.engine]
            with frozen(others):
                with clock.part(_part_of(phase, FORWARD)):
                    terms = dict(phase.terms(micro_batch))
                    loss = torch.stack([value.float() for value in terms.values()]).sum() * phase.every
                with clock.part(_part_of(phase, BACKWARD)):
                    engine.backward(loss)
            with clock.part(OPTIMISER):
                engine.step(inputs.stage_config.batch if phase.counts else 0)
            losses[phase.name] = {name: value.detach() for name, value in terms.items()}
    clock.stop()
    return losses


def _part_of(phase: Phase, generator_part: str) -> str:
    return CRITIC if phase.engine == "discriminator" else generator_part


def _engines(inputs: StepInputs) -> dict[str, Engine]:
    """Plain engines whose learning rates are so small that no weight moves: every step then loses the same."""
    config, models = inputs.stage_config, inputs.models
    engines = Engines(Ranks(device=inputs.device))

    def engine(network: nn.Module, optimizer: Any, without_motion: bool) -> Engine:
        motionless = dataclasses.replace(optimizer, lr=1e-30, warmup=0)
        named = network.named_parameters()
        trained = [p for name, p in named if p.dim() and not (without_motion and reads_motion(name))]
        return engines.make(network, [Group(trained)], motionless, config)

    by_name = {"generator": engine(models.portrait, config.optimizer, inputs.stage == "stage1")}
    if models.discriminator is not None:
        by_name["discriminator"] = engine(models.discriminator, config.discriminator, False)
    return by_name


def _check_losses(losses: Losses, expected: Losses) -> None:
    for phase, terms in expected.items():
        for name, value in terms.items():
            loss, eager_loss = float(losses[phase][name]), float(value)
            if abs(loss - eager_loss) > MAX_DIFFERENCE * max(abs(eager_loss), 1e-3):
                raise InputError(
                    f"{phase}, {name}: expected the loss of {EAGER_FP32}, {eager_loss:.6g}, got {loss:.6g}; this is a "
                    "fault of the program"
                )


@contextmanager
def _teachers_timed(models: Any, clock: _Clock) -> Iterator[None]:
    """Let what the frozen networks compute inside a `with` block count as the teacher's part."""

    def timed(network: nn.Module, call: str) -> Any:
        method = getattr(network, call)

        @functools.wraps(method)
        def run(*arguments: Any, **named: Any) -> Any:
            with clock.part(TEACHER):
                return method(*arguments, **named)

        return run

    with ExitStack() as stack:
        for owner, calls in TEACHERS.items():
            if (network := getattr(models, owner, None)) is not None:
                for call in calls:
                    setattr(network, call, timed(network, call))
                    stack.callback(delattr, network, call)
        yield


class _Clock:
    """How long each part of a step runs: by events of a GPU's stream, or by the host's clock.

    A part lasts until the next one begins; one inside another interrupts it.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu, self.share = device.type == "cuda", 1.0
        self._running: list[str] = []
        self._marks: list[tuple[str, float, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside a `with` block as this part's."""
        self._running.append(name)
        self._mark(name)
        try:
            yield
        finally:
            self._running.pop()
            if self._running:
                self._mark(self._running[-1])

    def stop(self) -> None:
        """End the last part."""
        self._mark("")

    def _mark(self, part: str) -> None:
        if self._gpu:
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((part, self.share, now))

    def milliseconds(self) -> dict[str, float]:
        """Return the time of each part, of a stopped clock."""
        if self._gpu:
            torch.cuda.synchronize()
        parts = dict.fromkeys(PARTS, 0.0)
        for (part, share, start), (_, _, end) in zip(self._marks, self._marks[1:], strict=False):
            parts[part] += share * (start.elapsed_time(end) if self._gpu else 1e3 * (end - start))
        return parts


def table(rows: list[dict[str, Any]]) -> str:
    """Tabulate the rows."""
    columns = ["way", *(f"{part} ms" for part in PARTS), "step ms", "images/s", "peak GB", f"times {EAGER_FP32}"]
    lines = []
    slowest = next((row["step_ms"] for row in rows if row["way"] == EAGER_FP32 and "red" not in row), None)
    for row in rows:
        if "red" in row:
            lines.append([row["way"], f"no figure: {row['red']}"])
            continue
        cells = [row["way"], *(f"{row['parts_ms'][part]:.1f}" for part in PARTS)]
        cells += [f"{row['step_ms']:.1f}", f"{row['images_per_s']:.1f}"]
        cells.append("-" if row["peak_GB"] is None else f"{row['peak_GB']:.1f}")
        cells.append("-" if slowest is None else f"{slowest / row['step_ms']:.2f}")
        lines.append(cells)
    aims = f"Wanted: {WANTED:.0f} times {EAGER_FP32}, {WANTED_IMAGES_PER_S:.0f} images/s."
    return f"{markdown_table(columns, lines)}\n{aims}\n"
