"""Run any stage in one order: draw; phase by phase terms, backward, step; log, sample, save.

A step's batch is made of micro-batches, numbered over all ranks, each with its own streams of random numbers: what is
learned depends on the seed and the step, never on how many ranks share the micro-batches. A run can be stopped at any
time and goes on from its last checkpoint; one that was stopped ends as one that was not.
"""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Generic

import numpy as np
import torch

from triportrait.train.engines.frozen import frozen
from triportrait.train.engines.prefetch import Prefetch
from triportrait.train.engines.ranks import Ranks
from triportrait.train.runs.checkpoints import load_newest, save_checkpoint
from triportrait.train.runs.disk_space import check_room
from triportrait.train.runs.diverged import DIVERGED, KeptMicroBatch, keep_micro
from triportrait.train.runs.evaluating import Evaluating
from triportrait.train.runs.nonfinite import Tolerated, shown, suspects
from triportrait.train.runs.run_log import Record
from triportrait.train.runs.stopping import Stopped, Stopper
from triportrait.train.stages.stage import Batch, MicroBatch, Phase, Stage

LOG_EVERY = 10  # steps between two lines of the log
PROGRESS = "{desc} {percentage:.0f}% {n_fmt}/{total_fmt} {rate_fmt} {remaining} left{postfix}"
BEFORE_POSTFIX = 56  # characters of the progress line before its postfix, at the longest
logger = logging.getLogger(__name__)


@dataclass
class _Means:
    """What the next line of the log will say: sums of terms, and how many there are in each."""

    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        total = self.sums.setdefault(name, [0.0, 0.0])
        total[0] += value
        total[1] += 1

    def values(self) -> dict[str, float]:
        return {name: round(total / count, 5) for name, (total, count) in self.sums.items()}


class _Clock:
    """How fast steps are, and how long they wait for data, since the last line of the log."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._steps, self._waited, self._ready, self._since = 0, 0.0, 0, time.perf_counter()
        self._made = 0

    def step(self, waited: float, ready: int, made: int = 0) -> None:
        """Count a step that waited so long for its batch, while so many lay ready, and micro-batches of a generator."""
        self._steps, self._waited, self._ready = self._steps + 1, self._waited + waited, self._ready + ready
        self._made += made

    def pause(self, seconds: float) -> None:
        """Leave out time that was spent on samples and checkpoints."""
        self._since += seconds

    def data_share(self) -> float:
        return self._waited / max(time.perf_counter() - self._since, 1e-9)

    def numbers(self, batch: int, generator_s: float | None) -> dict[str, float]:
        """Return numbers for the log.

        Args:
            generator_s: how long a generator of data took for a micro-batch, where there is one.
        """
        seconds = time.perf_counter() - self._since
        numbers = {
            "images_per_s": round(self._steps * batch / seconds, 2),
            "data_share": round(self._waited / seconds, 4),
            "data_wait_s": round(self._waited / self._steps, 4),
            "data_ready": round(self._ready / self._steps, 2),
        }
        if generator_s is not None:  # its time over the trainer's own
            spent = generator_s * self._made
            numbers["generator_share"] = round(spent / max(seconds - self._waited - spent, 1e-9), 4)
        return numbers


def run_stage(
    stage: Stage[Batch],
    run: Path,
    seed: int,
    save_every: int,
    sample_every: int,
    ranks: Ranks | None = None,
    stopper: Stopper | None = None,
    begun: Callable[[], None] = lambda: None,
    prefetch: int = 0,
    draws_on: torch.device | None = None,
    evaluate_every: int = 0,
) -> None:
    """Run a stage to its end, from its last whole checkpoint if there is one.

    Args:
        begun: is called when that has been read, before the first step.
        prefetch: steps whose micro-batches are made ahead, by a thread.
        draws_on: where the random numbers of the losses are drawn; None: where the rank computes. A GPU's numbers are
            not a CPU's, so that a comparison of both draws on the CPU.
        evaluate_every: images between two measurements on held-out people, where the stage has such; 0: never.

    Raises:
        InputError: no checkpoint is whole, or it is of another network; or too much of the data cannot be used.
        FloatingPointError: a term or a gradient is not finite, and gradients are not to be cleaned, or no step was
            finite for long; what the phase began from is saved in run/diverged, and the checkpoints stay.
        Stopped: somebody asked the run to stop; a checkpoint of this moment is saved.
    """
    from tqdm import tqdm

    ranks, stopper = ranks or Ranks(), stopper or Stopper()
    engine, means, clock = stage.engine, _Means(), _Clock()
    draws_on = draws_on or ranks.device
    loaded = load_newest(run, stage.name, stage.engines, ranks)
    if loaded is not None:
        means.sums = {name: list(total) for name, total in loaded.loop["terms"].items()}
    if engine.images_seen >= stage.images:
        begun()
        return
    with ranks.raise_on_all_ranks():
        if ranks.first:
            check_room(run, stage.name, stage.engines)
    begun()
    record = Record(run, stage.name, engine, ranks)
    skipped = _Skipped(stage, record, dict(loaded.loop.get("left_out", {})) if loaded is not None else {})
    for line in loaded.damaged if loaded and ranks.first else []:
        logger.warning("%s: left out %s", stage.name, line)
    step_runner = _Steps(stage, run, seed, ranks, means, Tolerated(stage.name, record))

    def save(keep: int = 3) -> None:
        loop_state = {"terms": means.sums, "seed": seed, "left_out": skipped.known}
        save_checkpoint(run, stage.name, stage.engines, loop_state, ranks, keep)

    first_step, first_seen = engine.steps, engine.images_seen

    def drawn(step: int) -> list[MicroBatch[Batch]]:
        seen = first_seen + (step - first_step) * stage.batch
        return [_micro(stage, seed, step, number, seen, draws_on) for number in ranks.shard(stage.micro_batches)]

    steps = range(first_step, first_step + math.ceil((stage.images - first_seen) / stage.batch))
    bar = tqdm(
        total=stage.images, initial=engine.images_seen, unit="img", desc=stage.name, file=sys.stderr, mininterval=1.0,
        disable=not ranks.first or not logger.isEnabledFor(logging.INFO), bar_format=PROGRESS,
    )  # fmt: skip
    evaluation = Evaluating(stage, record, ranks, evaluate_every)
    with skipped, bar, record, Prefetch(drawn, steps, prefetch) as batches:
        if loaded is None:
            evaluation.run()
        clock.restart()
        saved = engine.images_seen if loaded is not None else -1
        while engine.images_seen < stage.images:
            if ranks.any(stopper.asked):
                if saved != engine.images_seen:
                    save()
                why = " as its launcher is gone" if ranks.any(stopper.orphaned) else ""
                raise Stopped(f"{run}: stopped{why} after {engine.images_seen} images; the same command goes on")
            before, step = engine.images_seen, engine.steps
            wait_began, ready = time.perf_counter(), batches.ready
            with ranks.raise_on_all_ranks():
                try:
                    micros = batches.take()
                finally:
                    skipped.tell()
                generator_began = time.perf_counter()
                for micro in micros if stage.generate is not None else ():
                    assert stage.generate is not None
                    micro.batch = stage.generate(micro.batch)
                generated = time.perf_counter() - generator_began
            for micro in micros if stage.generate is None else ():
                micro.batch = stage.to_device(micro.batch)
            waited = time.perf_counter() - wait_began - generated
            clock.step(waited, ready, 0 if stage.generate is None else len(micros))
            lrs = step_runner.run(micros, step, before)
            bar.update(stage.batch)
            is_logged = engine.steps % LOG_EVERY == 0
            if is_logged or step == first_step:
                bar.set_postfix_str(_progress_text(means.values(), lrs, clock.data_share(), _memory(ranks)))
            if is_logged:
                skipped.tell(ranks)
                told = stage.numbers()
                numbers = means.values() | _lr_numbers(stage, lrs)
                numbers |= clock.numbers(stage.batch, told.get("generator_s")) | told
                numbers |= {} if stage.data is None else stage.data.log_numbers()
                record.numbers(engine, numbers | _memory(ranks))
                means.sums = {}
                clock.restart()
            last = engine.images_seen >= stage.images
            pause_began = time.perf_counter()
            evaluation.after_step(before, last)
            if last or before // sample_every != engine.images_seen // sample_every:
                _sample(stage, record, ranks)
            if last:
                skipped.tell(ranks)
            if last or before // save_every != engine.images_seen // save_every:
                save(keep=1 if last else 3)
                saved = engine.images_seen
            clock.pause(time.perf_counter() - pause_began)


class _Skipped(Generic[Batch]):
    """What a stage's data could not use: logged once, kept in checkpoints, summed up at the end."""

    def __init__(self, stage: Stage[Batch], record: Record, known: dict[str, str]) -> None:
        self.stage, self.record, self.known = stage, record, known

    def __enter__(self) -> _Skipped[Batch]:
        return self

    def __exit__(self, *_: object) -> None:
        if self.known and self.record.writes:
            names = ", ".join(sorted(self.known))
            logger.warning("%s: %d left out in all: %s", self.stage.name, len(self.known), names)

    def tell(self, ranks: Ranks | None = None) -> None:
        """Log what is new: on this rank, or with `ranks` on all of them, which call it together.

        Raises: `InputError` where it is too much.
        """
        if self.stage.data is None:
            return
        skipped = dict(self.stage.data.skipped)  # the thread may add to it
        for reasons in [skipped] if ranks is None else ranks.all_gather(skipped):
            for name in sorted(reasons.keys() - self.known.keys()):
                self.known[name] = reasons[name]
                self.record.left_out(self.stage.engine, name, reasons[name])
        self.stage.data.check_skipped(self.known)


def _micro(
    stage: Stage[Batch], seed: int, step: int, number: int, images_seen: int, draws_on: torch.device
) -> MicroBatch[Batch]:
    streams = np.random.default_rng([seed, stage.number, step, number])
    rng = torch.Generator(draws_on).manual_seed(int(streams.integers(2**62)))
    place = images_seen + number * (stage.batch // stage.micro_batches)
    return MicroBatch(stage.draw(streams, place), rng, images_seen, number=number)


class _Steps(Generic[Batch]):
    """The steps of a stage: the phases in order, and what is kept where one is not finite."""

    def __init__(
        self, stage: Stage[Batch], run: Path, seed: int, ranks: Ranks, means: _Means, tolerated: Tolerated
    ) -> None:
        self.stage, self.run_folder, self.seed, self.ranks = stage, run, seed, ranks
        self.means, self.tolerated = means, tolerated

    def run(self, micros: list[MicroBatch[Batch]], step: int, images_seen: int) -> dict[str, float]:
        """Run the phases that are due; returns the learning rates of the networks that moved."""
        lrs = {}
        for phase in self.stage.phases:
            if phase.due(step, images_seen):
                lrs[phase.engine] = self._phase(phase, micros)
        self.tolerated.step(self.stage.engine)
        return lrs

    def _phase(self, phase: Phase[Batch], micros: list[MicroBatch[Batch]]) -> float:
        """Add the terms of all micro-batches up, and step; returns the learning rate."""
        stage, ranks = self.stage, self.ranks
        engine = stage.engines[phase.engine]
        values_of: dict[str, list[tuple[float, float]]] = {}
        starts: list[KeptMicroBatch] = []
        nonfinite: list[str] = []
        others = [e.module for name, e in stage.engines.items() if name != phase.engine]
        with ExitStack() as stack:
            stack.enter_context(frozen(others))
            for network in stage.engines.values():
                stack.enter_context(network.full_params())
            for micro in micros:
                start = _kept(stage, phase, micro)
                starts.append(start)
                terms = phase.terms(micro)
                names, values = list(terms), torch.stack([value.float() for value in terms.values()])
                finite = values.detach().isfinite()
                reduced = ranks.mean(torch.cat([values.detach().where(finite, 0), finite.float()])).tolist()
                shares = reduced[len(names) :]  # of the ranks, those where a term is finite
                if nonfinite := [name for name, share in zip(names, shares, strict=True) if share < 1]:
                    is_here = not bool(finite.all())
                    pictures = self._suspects(micro, is_here)
                    if not (engine.config.zero_nan_grads and self.tolerated.patient):
                        starts = [start] if is_here else []
                        break
                    self.tolerated.note(phase.name, nonfinite, pictures)
                    nonfinite = []
                engine.backward(values.sum() * phase.every)
                for name, value, share in zip(names, reduced[: len(names)], shares, strict=True):
                    values_of.setdefault(name, []).append((value, share))
        if nonfinite:  # saved here, as at ZeRO 3 no weight can be gathered one by one while all are
            saved, images = self._keep(phase, starts), stage.engine.images_seen
            often = f" for {self.tolerated.in_a_row + 1} steps" if engine.config.zero_nan_grads else ""
            raise FloatingPointError(
                f"{', '.join(nonfinite)} of {phase.name} is not finite{often} after {images} images, "
                f"{saved}{shown(pictures)}"
            )
        try:
            lr = engine.step(stage.batch if phase.counts else 0)
        except FloatingPointError as error:
            pictures = [name for micro in micros for name in self._suspects(micro, True)]
            raise FloatingPointError(f"{error}, {self._keep(phase, starts)}{shown(pictures)}") from error
        totals = {name: sum(share for _, share in values) for name, values in values_of.items()}
        means = {name: sum(v / totals[name] for v, _ in values) for name, values in values_of.items() if totals[name]}
        for name, value in means.items():
            self.means.add(name, value)
        if phase.counts and engine is stage.engine and means:
            self.means.add("loss", sum(means.values()))
        return lr

    def _suspects(self, micro: MicroBatch[Batch], is_here: bool) -> list[str]:
        """Return whose pictures are in the micro-batches that were not finite, on all ranks, which call it together."""
        return [name for names in self.ranks.all_gather(suspects(micro.batch) if is_here else []) for name in names]

    def _keep(self, phase: Phase[Batch], starts: list[KeptMicroBatch]) -> str:
        """Save the networks, and this rank's micro-batches where they are more than streams of numbers; says where."""
        folder = self.run_folder / DIVERGED
        if self.ranks.first:
            shutil.rmtree(folder, ignore_errors=True)
        loop_state = {"terms": {}, "seed": self.seed, "phase": phase.name}
        save_checkpoint(folder, self.stage.name, self.stage.engines, loop_state, self.ranks, keep=1)
        with self.ranks.raise_on_all_ranks():
            for start in starts:
                if is_dataclass(start.batch):
                    keep_micro(self.run_folder, start)
        return f"what it began from is in {folder}"


def _kept(stage: Stage[Batch], phase: Phase[Batch], micro: MicroBatch[Batch]) -> KeptMicroBatch:
    """Return what a phase begins from; nothing is copied but the state of the random numbers."""
    rng = micro.rng.get_state()
    handed_on = dict(micro.handed_on)
    drawn_on = micro.rng.device.type
    return KeptMicroBatch(
        micro.number, stage.name, phase.name, micro.images_seen, micro.batch, handed_on, rng, drawn_on
    )


def _sample(stage: Stage[Batch], record: Record, ranks: Ranks) -> None:
    """Show the EMA. All ranks look at the same pictures, as at ZeRO stage 3 none can look alone; the first writes."""
    engine = stage.engine
    with engine.ema_in_place(), torch.no_grad():
        path = record.grid(engine)
        numbers = stage.sample(path if ranks.first else None)
    record.numbers(engine, {name: round(value, 4) for name, value in numbers.items()}, grid=path)


def _lr_numbers(stage: Stage[Batch], lrs: dict[str, float]) -> dict[str, float]:
    """Learning rates for the log: of each network, and of the groups that have their own."""
    numbers = {f"lr {name}" if len(stage.engines) > 1 else "lr": round(lr, 9) for name, lr in lrs.items()}
    groups = [engine.group_lrs for engine in stage.engines.values()]
    return numbers | {f"lr {name}": round(lr, 9) for group_lrs in groups for name, lr in group_lrs.items()}


def _progress_text(
    means: dict[str, float], lrs: dict[str, float], data_share: float, memory: dict[str, float], room: int = 0
) -> str:
    """Return the end of the progress line: the loss, memory, share of the time spent waiting for data, learning rates
    of all networks, and of the terms as many as there is room for.

    Args:
        room: characters; 0: what a terminal's line, or 80, has left.
    """
    room = room or max(shutil.get_terminal_size((80, 24)).columns - BEFORE_POSTFIX, 0)
    first = {"loss": means["loss"]} if "loss" in means else {}
    words = [f"{name} {value:.3f}" for name, value in first.items()]
    words += [f"GPU {value:.1f} GB" for value in memory.values()] + [f"data {data_share:.0%}"]
    words.append(f"lr {'/'.join(f'{lr:.2g}' for lr in lrs.values())}")
    words += [f"{name} {value:.3f}" for name, value in means.items() if name not in first]
    line = words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) > room:
            break
        line += f" {word}"
    return line


def _memory(ranks: Ranks) -> dict[str, float]:
    if ranks.device.type != "cuda":
        return {}
    return {"gpu_gb": round(torch.cuda.max_memory_allocated(ranks.device) / 1e9, 2)}
