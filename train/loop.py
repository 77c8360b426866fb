"""The order of a training, for every stage the same: draw; phase by phase terms, backward, step; log, sample, save.

A step's batch is made of micro-batches, numbered over all ranks, each with its own streams of random numbers: what is
learned depends on the seed and the step, never on how many ranks share the micro-batches. A run can be stopped at any
time and goes on from its last checkpoint; one that was stopped ends as one that was not.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from triportrait.core.sentences import say
from triportrait.train.engines.engine import Engine
from triportrait.train.engines.frozen import frozen
from triportrait.train.engines.prefetch import Prefetch
from triportrait.train.engines.ranks import Ranks
from triportrait.train.runs.checkpoints import load_newest, save_checkpoint
from triportrait.train.runs.diverged import DIVERGED, KeptMicro, keep_micro
from triportrait.train.runs.nonfinite import Tolerated, shown, suspects
from triportrait.train.runs.record import Record
from triportrait.train.runs.room import check_room
from triportrait.train.runs.stopping import Stopped, Stopper

SHOWN_EACH = 10  # steps between two lines of the log
LINE = "{desc} {percentage:.0f}% {n_fmt}/{total_fmt} {rate_fmt} {remaining} left{postfix}"  # of progress
BEFORE = 56  # characters of it before the postfix, at the longest


@dataclass
class Micro:
    """A micro-batch, and what the phases of a step make of it.

    Attributes:
        batch: as the stage draws it.
        rng: what is random in its losses.
        images_seen: before this step.
        made: what one phase leaves to the next.
        number: over all ranks.
    """

    batch: Any
    rng: torch.Generator
    images_seen: int
    made: dict[str, Any] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True)
class Phase:
    """One movement of one network.

    Attributes:
        name: of the phase. engine: of the network that moves.
        terms: a micro-batch -> the weighted terms whose sum is the loss.
        every: steps from one time to the next; the loss counts as often as much.
        since: images seen before the first time.
        counts: whether its step counts the images for its network; one phase of each does.
    """

    name: str
    engine: str
    terms: Callable[[Micro], Mapping[str, Tensor]]
    every: int = 1
    since: int = 0
    counts: bool = False

    def due(self, step: int, images_seen: int) -> bool:
        """Whether it is its turn."""
        return step % self.every == 0 and images_seen >= self.since


class Watched(Protocol):
    """Data that may be damaged in places.

    Attributes:
        left_out: what could not be used, by name, and why.
    """

    left_out: dict[str, str]

    def judge(self, left_out: Mapping[str, str]) -> None:
        """Raises: `InputError` where that is too much."""
        ...

    def told(self) -> dict[str, float]:
        """Numbers for the log; their names begin with data_."""
        ...


@dataclass(frozen=True)
class Stage:
    """A stage, as the loop sees it.

    Attributes:
        name: of its files.
        number: of its streams of random numbers.
        engines: what moves the weights, by the network's name; the first is the one that is wanted in the end.
        images: how many it sees in all. batch: images of a step, on all ranks. micros: micro-batches of a step, on all
            ranks.
        draw: random numbers and the number of its first image, over the whole run -> a micro-batch on the CPU; it knows
            nothing else, as a thread calls it ahead of the step.
        phases: what a step does, in order.
        sample: writes a grid of pictures into a file, where one is given, and returns numbers for the log; averaged
            weights are in place.
        to_device: a micro-batch -> the same where the networks are.
        watched: the data, where it may be damaged.
    """

    name: str
    number: int
    engines: Mapping[str, Engine]
    images: int
    batch: int
    micros: int
    draw: Callable[[np.random.Generator, int], Any]
    phases: Sequence[Phase]
    sample: Callable[[Path | None], dict[str, float]]
    to_device: Callable[[Any], Any] = lambda batch: batch
    watched: Watched | None = None

    @property
    def engine(self) -> Engine:
        """Of the network that is wanted in the end."""
        return next(iter(self.engines.values()))


def single_network(
    name: str,
    number: int,
    engine: Engine,
    images: int,
    batch: int,
    losses: Callable[[np.random.Generator, torch.Generator], Mapping[str, Tensor]],
    sample: Callable[[Path | None], dict[str, float]],
) -> Stage:
    """A stage of one network and one phase, whose losses draw their own batch."""
    phase = Phase("main", name, lambda micro: losses(micro.batch, micro.rng), counts=True)
    return Stage(name, number, {name: engine}, images, batch, 1, lambda streams, seen: streams, [phase], sample)


@dataclass
class _Sums:
    """What the next line of the log will say."""

    terms: dict[str, list[float]] = field(default_factory=dict)  # name -> sum, how many

    def add(self, name: str, value: float) -> None:
        total = self.terms.setdefault(name, [0.0, 0.0])
        total[0] += value
        total[1] += 1

    def means(self) -> dict[str, float]:
        return {name: round(total / count, 5) for name, (total, count) in self.terms.items()}


def run_stage(
    stage: Stage,
    run: Path,
    seed: int,
    save_each: int,
    sample_each: int,
    ranks: Ranks | None = None,
    stopper: Stopper | None = None,
    begun: Callable[[], None] = lambda: None,
    prefetch: int = 0,
) -> None:
    """Run a stage to its end, from its last whole checkpoint if there is one.

    Args:
        begun: is called when that has been read, before the first step.
        prefetch: steps whose micro-batches are made ahead, by a thread.

    Raises:
        InputError: no checkpoint is whole, or it is of another network; or too much of the data cannot be used.
        FloatingPointError: a term or a gradient is not finite, and gradients are not to be cleaned, or no step was
            finite for long; what the phase began from is saved in run/diverged, and the checkpoints stay.
        Stopped: somebody asked the run to stop; a checkpoint of this moment is saved.
    """
    from tqdm import tqdm

    ranks, stopper = ranks or Ranks(), stopper or Stopper()
    engine, sums = stage.engine, _Sums()
    loaded = load_newest(run, stage.name, stage.engines, ranks)
    if loaded is not None:
        sums.terms = {name: list(total) for name, total in loaded.loop["terms"].items()}
    if engine.images_seen >= stage.images:
        begun()
        return
    with ranks.together():
        if ranks.first:
            check_room(run, stage.name, stage.engines, say)
    begun()
    record = Record(run, stage.name, engine, ranks)
    left_out = _LeftOut(stage, record, dict(loaded.loop.get("left_out", {})) if loaded is not None else {})
    for line in loaded.damaged if loaded else []:
        record.say(f"{stage.name}: left out {line}")
    tolerated = Tolerated(stage.name, record)
    bar = tqdm(
        total=stage.images, initial=engine.images_seen, unit="img", desc=stage.name, file=sys.stderr, mininterval=1.0,
        disable=not ranks.first, bar_format=LINE,
    )  # fmt: skip

    def save(keep: int = 3) -> None:
        kept = {"terms": sums.terms, "seed": seed, "left_out": left_out.told}
        save_checkpoint(run, stage.name, stage.engines, kept, ranks, keep)

    first_step, first_seen = engine.steps, engine.images_seen

    def drawn(step: int) -> list[Micro]:
        seen = first_seen + (step - first_step) * stage.batch
        return [_micro(stage, seed, step, number, seen) for number in ranks.share(stage.micros)]

    steps = range(first_step, first_step + math.ceil((stage.images - first_seen) / stage.batch))
    with left_out, bar, record, Prefetch(drawn, steps, prefetch) as batches:
        timed, waited, ready, since = 0, 0.0, 0, time.perf_counter()
        saved = engine.images_seen if loaded is not None else -1
        while engine.images_seen < stage.images:
            if ranks.any(stopper.asked):
                if saved != engine.images_seen:
                    save()
                why = " as its launcher is gone" if ranks.any(stopper.orphaned) else ""
                raise Stopped(f"{run}: stopped{why} after {engine.images_seen} images; the same command goes on")
            before, step = engine.images_seen, engine.steps
            asked_at = time.perf_counter()
            ready += batches.ready
            with ranks.together():
                try:
                    micros = batches.take()
                finally:
                    left_out.tell()
            for micro in micros:
                micro.batch = stage.to_device(micro.batch)
            waited += time.perf_counter() - asked_at
            rates = {}
            for phase in stage.phases:
                if phase.due(step, before):
                    rates[phase.engine] = _move(stage, phase, micros, sums, run, seed, ranks, tolerated)
            tolerated.step(engine)
            timed += 1
            bar.update(stage.batch)
            lined = engine.steps % SHOWN_EACH == 0
            if lined or step == first_step:
                seconds = time.perf_counter() - since
                means = sums.means()
                memory = _memory(ranks)
                bar.set_postfix_str(_shown(means, rates, waited / max(seconds, 1e-9), memory))
            if lined:
                told = {f"rate {name}" if len(stage.engines) > 1 else "rate": round(r, 9) for name, r in rates.items()}
                told |= {f"rate {name}": round(r, 9) for e in stage.engines.values() for name, r in e.rates.items()}
                speed = {
                    "images_per_s": round(timed * stage.batch / seconds, 2),
                    "data_share": round(waited / seconds, 4),
                    "data_wait_s": round(waited / timed, 4),
                    "data_ready": round(ready / timed, 2),
                }
                left_out.tell(ranks)
                watched = {} if stage.watched is None else stage.watched.told()
                record.numbers(engine, means | told | speed | watched | memory)
                sums.terms, timed, waited, ready, since = {}, 0, 0.0, 0, time.perf_counter()
            last = engine.images_seen >= stage.images
            if last or before // sample_each != engine.images_seen // sample_each:
                paused = time.perf_counter()
                _sample(stage, record, ranks)
                since += time.perf_counter() - paused
            if last:
                left_out.tell(ranks)
            if last or before // save_each != engine.images_seen // save_each:
                paused = time.perf_counter()
                save(keep=1 if last else 3)
                saved = engine.images_seen
                since += time.perf_counter() - paused


class _LeftOut:
    """What a stage's data could not use: said and logged once, kept in checkpoints, summed up at the end."""

    def __init__(self, stage: Stage, record: Record, told: dict[str, str]) -> None:
        self.stage, self.record, self.told = stage, record, told

    def __enter__(self) -> _LeftOut:
        return self

    def __exit__(self, *_: object) -> None:
        if self.told:
            self.record.say(f"{self.stage.name}: {len(self.told)} left out in all: {', '.join(sorted(self.told))}")

    def tell(self, ranks: Ranks | None = None) -> None:
        """Say what is new: on this rank, or with `ranks` on all of them, which call it together.

        Raises: `InputError` where it is too much.
        """
        if self.stage.watched is None:
            return
        found = dict(self.stage.watched.left_out)  # the thread may add to it
        for others in [found] if ranks is None else ranks.gathered(found):
            for name in sorted(others.keys() - self.told.keys()):
                self.told[name] = others[name]
                self.record.left_out(self.stage.engine, name, others[name])
        self.stage.watched.judge(self.told)


def _micro(stage: Stage, seed: int, step: int, number: int, images_seen: int) -> Micro:
    streams = np.random.default_rng([seed, stage.number, step, number])
    rng = torch.Generator().manual_seed(int(streams.integers(2**62)))
    place = images_seen + number * (stage.batch // stage.micros)
    return Micro(stage.draw(streams, place), rng, images_seen, number=number)


def _move(
    stage: Stage,
    phase: Phase,
    micros: list[Micro],
    sums: _Sums,
    run: Path,
    seed: int,
    ranks: Ranks,
    tolerated: Tolerated,
) -> float:
    """One phase of a step: the terms of all its micro-batches, and the step; returns the rate."""
    engine = stage.engines[phase.engine]
    told: dict[str, list[tuple[float, float]]] = {}
    kept: list[KeptMicro] = []
    bad: list[str] = []
    others = [e.module for name, e in stage.engines.items() if name != phase.engine]
    with ExitStack() as stack:
        stack.enter_context(frozen(others))
        for network in stage.engines.values():
            stack.enter_context(network.working())
        for micro in micros:
            began = _began(stage, phase, micro)
            kept.append(began)
            terms = phase.terms(micro)
            names, values = list(terms), torch.stack([value.float() for value in terms.values()])
            finite = values.detach().isfinite()
            seen = ranks.mean(torch.cat([values.detach().where(finite, 0), finite.float()])).tolist()
            shares = seen[len(names) :]  # of the ranks, those where a term is finite
            if bad := [name for name, share in zip(names, shares, strict=True) if share < 1]:
                own = not bool(finite.all())
                found = _suspects(micro, own, ranks)
                if not (engine.config.clean and tolerated.patient):
                    kept = [began] if own else []
                    break
                tolerated.note(phase.name, bad, found)
                bad = []
            engine.backward(values.sum() * phase.every)
            for name, value, share in zip(names, seen[: len(names)], shares, strict=True):
                told.setdefault(name, []).append((value, share))
    if bad:  # saved here, as at ZeRO 3 no weight can be gathered one by one while all are
        saved, images = _keep(stage, phase, kept, run, seed, ranks), stage.engine.images_seen
        often = f" for {tolerated.in_a_row + 1} steps" if engine.config.clean else ""
        raise FloatingPointError(
            f"{', '.join(bad)} of {phase.name} is not finite{often} after {images} images, {saved}{shown(found)}"
        )
    try:
        rate = engine.step(stage.batch if phase.counts else 0)
    except FloatingPointError as error:
        who = [name for micro in micros for name in _suspects(micro, True, ranks)]
        raise FloatingPointError(f"{error}, {_keep(stage, phase, kept, run, seed, ranks)}{shown(who)}") from error
    wholes = {name: sum(share for _, share in values) for name, values in told.items()}
    means = {name: sum(v / wholes[name] for v, _ in values) for name, values in told.items() if wholes[name]}
    for name, value in means.items():
        sums.add(name, value)
    if phase.counts and engine is stage.engine and means:
        sums.add("loss", sum(means.values()))
    return rate


def _suspects(micro: Micro, own: bool, ranks: Ranks) -> list[str]:
    """Whose pictures are in the micro-batches that were not finite, over all ranks, which call it together."""
    return [name for names in ranks.gathered(suspects(micro.batch) if own else []) for name in names]


def _began(stage: Stage, phase: Phase, micro: Micro) -> KeptMicro:
    """What a phase finds; nothing is copied but the state of the random numbers."""
    state = micro.rng.get_state()
    return KeptMicro(micro.number, stage.name, phase.name, micro.images_seen, micro.batch, dict(micro.made), state)


def _keep(stage: Stage, phase: Phase, micros: list[KeptMicro], run: Path, seed: int, ranks: Ranks) -> str:
    """Save the networks, and this rank's micro-batches where they are more than streams of numbers; says where."""
    if ranks.first:
        shutil.rmtree(run / DIVERGED, ignore_errors=True)
    loop = {"terms": {}, "seed": seed, "phase": phase.name}
    save_checkpoint(run / DIVERGED, stage.name, stage.engines, loop, ranks, keep=1)
    with ranks.together():
        for micro in micros:
            if is_dataclass(micro.batch):
                keep_micro(run, micro)
    return f"what it began from is in {run / DIVERGED}"


def _sample(stage: Stage, record: Record, ranks: Ranks) -> None:
    """All ranks look at the same pictures, as at ZeRO stage 3 none can look alone; the first keeps them."""
    engine = stage.engine
    with engine.averaged_in_place(), torch.no_grad():
        path = record.grid(engine)
        numbers = stage.sample(path if ranks.first else None)
    record.numbers(engine, {name: round(value, 4) for name, value in numbers.items()}, grid=path)


def _shown(
    means: dict[str, float], rates: dict[str, float], data_share: float, memory: dict[str, float], room: int = 0
) -> str:
    """The end of the progress line: the loss, memory, share of the time spent waiting for data, rates of all networks,
    and of the terms as many as there is room for.

    Args:
        room: characters; 0: what a terminal's line, or 80, has left.
    """
    room = room or max(shutil.get_terminal_size((80, 24)).columns - BEFORE, 0)
    first = {"loss": means["loss"]} if "loss" in means else {}
    words = [f"{name} {value:.3f}" for name, value in first.items()]
    words += [f"GPU {value:.1f} GB" for value in memory.values()] + [f"data {data_share:.0%}"]
    words.append(f"rate {'/'.join(f'{rate:.2g}' for rate in rates.values())}")
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
