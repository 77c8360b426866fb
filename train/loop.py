"""The order of a training, for every stage the same: draw, losses, backward, step; log, sample, save.

A run is a folder: config.json, log.jsonl, samples/, the state of the stage that runs, and the weights of those that are
done. It can be stopped at any time and goes on from its last saved state; batches depend on seed and step alone, so a
run that was stopped ends as one that was not.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.train.engine import PlainEngine

_SHOWN_EACH = 10  # steps between two lines of the log
CONFIG, LOG = "config.json", "log.jsonl"
MAY_STAND = {"cast", "strangers", "cast.necks", "strangers.necks"}  # in the folder of a new run: data


@dataclass(frozen=True)
class Stage:
    """A stage, as the loop sees it.

    Attributes:
        name: of its files.
        number: of its streams of random numbers.
        engine: what moves the weights.
        images: how many it sees in all.
        batch: images of a step.
        losses: random numbers of a step -> the weighted terms whose sum is the loss.
        sample: writes a grid of pictures into a file and returns numbers for the log; with averaged weights in place.
    """

    name: str
    number: int
    engine: PlainEngine
    images: int
    batch: int
    losses: Callable[[np.random.Generator, torch.Generator], dict[str, Tensor]]
    sample: Callable[[Path], dict[str, float]]


def run_stage(stage: Stage, run: Path, seed: int, save_each: int, sample_each: int) -> None:
    """Run a stage to its end, from its last saved state if there is one.

    Raises:
        InputError: the saved state is damaged or of another network.
        FloatingPointError: a loss is not finite; the last saved state stays.
    """
    from tqdm import tqdm

    engine, state = stage.engine, run / f"{stage.name}.state"
    sums: dict[str, float] = load_state(state, engine) if state.exists() else {}
    _forget(run / LOG, stage)
    (run / "samples").mkdir(exist_ok=True)
    bar = tqdm(
        total=stage.images, initial=engine.images_seen, unit="img", desc=stage.name, file=sys.stderr, mininterval=1.0,
        dynamic_ncols=True,
    )  # fmt: skip
    with bar, (run / LOG).open("a") as log:
        timed, since = 0, time.perf_counter()
        while engine.images_seen < stage.images:
            streams = np.random.default_rng([seed, stage.number, engine.steps])
            rng = torch.Generator().manual_seed(int(streams.integers(2**62)))
            terms = stage.losses(streams, rng)
            engine.backward(torch.stack(list(terms.values())).sum())
            before = engine.images_seen
            rate = engine.step(stage.batch)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            timed += 1
            bar.update(stage.batch)
            if engine.steps % _SHOWN_EACH == 0:
                means = {name: round(value / _SHOWN_EACH, 5) for name, value in sums.items()}
                speed = timed * stage.batch / (time.perf_counter() - since)
                bar.set_postfix_str(" ".join(f"{name} {value:.3f}" for name, value in means.items()))
                _note(log, stage, means | {"rate": round(rate, 7), "images_per_s": round(speed, 2)})
                sums, timed, since = {}, 0, time.perf_counter()
            last = engine.images_seen >= stage.images
            if last or before // sample_each != engine.images_seen // sample_each:
                paused = time.perf_counter()
                _sample(stage, run, log)
                since += time.perf_counter() - paused
            if last or before // save_each != engine.images_seen // save_each:
                save_state(state, engine, sums)


def _forget(log: Path, stage: Stage) -> None:
    """Take the lines of steps that were lost, as nobody saved them, out of a log."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines(keepends=True):
        try:
            told = json.loads(line)
            lost = told["stage"] == stage.name and told["step"] > stage.engine.steps
        except (ValueError, KeyError, TypeError):
            lost = True  # cut off
        if not lost:
            kept.append(line)
    part = log.with_name(f".{log.name}.part")
    part.write_text("".join(kept))
    os.replace(part, log)


def _sample(stage: Stage, run: Path, log: Any) -> None:
    engine = stage.engine
    own = {name: value.clone() for name, value in engine.module.state_dict().items()}
    engine.module.load_state_dict(engine.averaged())
    try:
        with torch.no_grad():
            numbers = stage.sample(run / "samples" / f"{stage.name}_{engine.images_seen:07d}.png")
    finally:
        engine.module.load_state_dict(own)
    _note(log, stage, {name: round(value, 4) for name, value in numbers.items()})


def _note(log: Any, stage: Stage, values: dict[str, float]) -> None:
    line = {"stage": stage.name, "images_seen": stage.engine.images_seen, "step": stage.engine.steps, **values}
    log.write(json.dumps(line) + "\n")
    log.flush()


def save_state(path: Path, engine: PlainEngine, sums: dict[str, float] | None = None) -> None:
    """Write an engine's state, and the sums of what the next line of the log will say; the file appears whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        torch.save({**engine.save(), "sums": sums or {}}, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: the state could not be written ({error}); free some space and go on") from error
    finally:
        part.unlink(missing_ok=True)


def check_states(run: Path, stages: Iterable[str]) -> None:
    """Before any work: the saved states of a run can be read.

    Raises:
        InputError: one is damaged.
        OSError: one cannot be read.
    """
    for stage in stages:
        path = run / f"{stage}.state"
        if path.exists():
            _read_state(path, mmap=True)


def load_state(path: Path, engine: PlainEngine) -> dict[str, float]:
    """Put a saved state into an engine; returns the sums that were saved with it.

    Raises:
        InputError: the file is damaged or of another network.
        OSError: the file cannot be read.
    """
    state = _read_state(path, mmap=False)
    try:
        engine.load(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _no_state(path) from error
    return dict(state["sums"])


def _read_state(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        state = torch.load(path, weights_only=True, mmap=mmap)
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL is a seek that a cut file asks for
            raise  # the disk failed, the file may be whole
        raise _no_state(path) from error
    except Exception as error:  # a damaged file raises what it likes
        raise _no_state(path) from error
    if not isinstance(state, dict) or not isinstance(state.get("sums"), dict):
        raise _no_state(path)
    return state


def _no_state(path: Path) -> InputError:
    return InputError(
        f"{path}: it is no state of this training (damaged, or of another preset); remove it to start the stage again, "
        "or name another folder"
    )


def check_config(run: Path, config: dict[str, Any]) -> None:
    """Store the config of a new run, or compare it with that of a run that goes on.

    Raises:
        InputError: the run was made with other numbers; the first that differs is named.
    """
    path, text = run / CONFIG, json.dumps(config, indent=1) + "\n"
    if not path.exists():
        others = sorted(p.name for p in run.iterdir() if p.name not in MAY_STAND and not p.name.startswith("."))
        if others:
            raise InputError(f"{run}: expected an empty folder or a run, it holds {others[0]}; name another folder")
        part = path.with_name(f".{CONFIG}.part")
        part.write_text(text)
        os.replace(part, path)
        return
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError(found)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: it is no config of a run; name another folder for the run") from error
    name, was, wanted = _first_difference(found, json.loads(text), "")
    if name:
        raise InputError(f"{run}: this run was begun with {name} {was!r}, now it is {wanted!r}; name another folder")


def _first_difference(found: Any, wanted: Any, name: str) -> tuple[str, Any, Any]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            difference = _first_difference(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
            if difference[0]:
                return difference
        return "", None, None
    return ("", None, None) if found == wanted else (name, found, wanted)
