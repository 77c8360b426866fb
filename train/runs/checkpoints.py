"""Checkpoints: folders that appear whole, carry their checksums, and are thinned out.

run/checkpoints/stage1_000120000/     STAGE_IMAGES
    NAME.safetensors                  one per network: module, exp_avg, exp_avg_sq, ema, each by the weight's name
    checkpoint.json                   numbers of the engines and of the loop, and the checksum of every file

Batches depend on the seed and the step alone, so the step is the position in the data and the state of every stream of
random numbers. A checkpoint is the same whatever engine and however many ranks wrote it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from triportrait.core.atomic import put_folder, sync
from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, check_tensor_file, read_json
from triportrait.core.safe_text import shown
from triportrait.train.engines.ranks import RaisedElsewhere, Ranks
from triportrait.train.engines.training_engine import Engine, State
from triportrait.train.runs.old_keys import TENSOR_KINDS

FOLDER, CARD = "checkpoints", "checkpoint.json"
KEPT = 3
_TENSORS = ("module", "exp_avg", "exp_avg_sq", "ema")
_NUMBERS = ("images_seen", "steps", "updates")
_NAME = re.compile(r"(?P<stage>\w+)_(?P<images>\d{9,})")


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint says beside the states of the engines.

    Attributes:
        folder: where it lies.
        loop: what the loop kept with it.
        damaged: newer ones that could not be used, with the reason.
    """

    folder: Path
    loop: dict[str, Any]
    damaged: list[str]


def save_checkpoint(
    run: Path, stage: str, engines: Mapping[str, Engine], loop: Mapping[str, Any], ranks: Ranks, keep: int = KEPT
) -> Path:
    """Write a checkpoint and forget the oldest beyond `keep`; every rank calls it, the first writes.

    Args:
        loop: plain JSON values that the loop wants back.

    Raises:
        InputError: the disk refuses; older checkpoints stay as they are.
    """
    images = max(engine.images_seen for engine in engines.values())
    folder = run / FOLDER / f"{stage}_{images:09d}"
    part = folder.with_name(f".{folder.name}.part")
    failed = ""
    if ranks.first:
        shutil.rmtree(part, ignore_errors=True)
    card: dict[str, Any] = {"stage": stage, "loop": dict(loop), "engines": {}, "files": {}}
    for name, engine in engines.items():
        state = engine.save()
        if ranks.first and not failed:
            try:
                part.mkdir(parents=True, exist_ok=True)
                card["files"][f"{name}.safetensors"] = _write(part / f"{name}.safetensors", state)
                card["engines"][name] = {key: state[key] for key in _NUMBERS}
            except (OSError, SafetensorError) as error:
                failed = str(error) or type(error).__name__
    if ranks.first and not failed:
        try:
            (part / CARD).write_text(json.dumps(card, indent=1) + "\n")
            sync(part / CARD)
            # The same moment again: the first stays whole until the second is there.
            put_folder(part, folder, folder.with_name(f".{folder.name}.old"), synced=True)
        except OSError as error:
            failed = str(error)
    if ranks.first and failed:
        shutil.rmtree(part, ignore_errors=True)
    if ranks.any(bool(failed)):
        refusal = InputError if ranks.first else RaisedElsewhere
        raise refusal(
            f"{folder}: the checkpoint could not be written ({failed or 'on the first rank'}); free some space, and "
            "the same command goes on from the last one"
        )
    if ranks.first:
        others = checkpoints_of(run, stage)
        at = others.index(folder)  # what is newer was damaged, or this run would not be here
        for other in others[: max(0, at + 1 - keep)] + others[at + 1 :]:
            shutil.rmtree(other, ignore_errors=True)
    ranks.barrier()
    return folder


def checkpoints_of(run: Path, stage: str) -> list[Path]:
    """Return the checkpoints of a stage, the newest last; whole or not."""
    folders = run / FOLDER
    if not folders.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folders.iterdir() if path.is_dir())
    return sorted(
        (path for match, path in matches if match and match["stage"] == stage), key=lambda p: int(p.name.split("_")[-1])
    )


def load_newest(run: Path, stage: str, engines: Mapping[str, Engine], ranks: Ranks) -> Loaded | None:
    """Put the newest whole checkpoint of a stage into its engines; None if there is none at all.

    Raises:
        InputError: there are some and none is whole, or the newest whole one is of another network.
    """
    folder, damaged = ranks.broadcast(_newest_whole(run, stage) if ranks.first else (None, []))
    if folder is None:
        _refuse_if_none(run, stage, damaged)
        return None
    with ranks.raise_on_all_ranks():
        card, reason = _whole(folder)
        if reason:
            raise InputError(
                f"{folder}: the first rank can read it, another one cannot ({reason}); let all see one disk"
            )
        if card["engines"].keys() != engines.keys():
            raise _foreign(folder, f"networks {shown(', '.join(card['engines']))}, wanted {', '.join(engines)}")
        states = {}
        for name, engine in engines.items():
            states[name] = _read(folder / f"{name}.safetensors", card["engines"][name])
            if names := set(states[name]["module"]) ^ set(engine.module.state_dict()):
                raise _foreign(folder, f"only one has {shown(sorted(names)[0])} of the {name}")
    for name, engine in engines.items():
        try:
            engine.load(states.pop(name))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _foreign(folder, shown(str(error))) from error
    return Loaded(folder, dict(card["loop"]), damaged)


def _newest_whole(run: Path, stage: str) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint, and what is wrong with newer ones."""
    damaged: list[str] = []
    for folder in reversed(checkpoints_of(run, stage)):
        _, reason = _whole(folder)
        if not reason:
            return folder, damaged
        damaged.append(f"{folder}: {reason}")
    return None, damaged


def check_checkpoints(run: Path, stages: Iterable[str]) -> None:
    """Check before any work that each stage that has checkpoints has a whole one.

    Raises:
        InputError: one has none.
    """
    for stage in stages:
        folder, damaged = _newest_whole(run, stage)
        if folder is None:
            _refuse_if_none(run, stage, damaged)


def _refuse_if_none(run: Path, stage: str, damaged: list[str]) -> None:
    if damaged:
        raise InputError(
            f"{run / FOLDER}: no checkpoint of {stage} is whole ({damaged[0]}); remove them to start the stage again, "
            "or name another folder"
        )


def ema_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the EMA of the weights of one network of a checkpoint, and its buffers; nothing else is read.

    Raises:
        InputError: it is damaged or has no such network.
    """
    return _weights(folder, name, ema=True)


def module_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the weights of one network of a checkpoint as the last step left them, its buffers too.

    Raises:
        InputError: it is damaged or has no such network.
    """
    return _weights(folder, name, ema=False)


def _weights(folder: Path, name: str, ema: bool) -> dict[str, Tensor]:
    card, reason = _whole(folder, only=f"{name}.safetensors")
    if reason or name not in card["engines"]:
        raise InputError(f"{folder}: expected a whole checkpoint of {name}, {reason or 'it has none'}; name another")
    check_tensor_file(folder / f"{name}.safetensors")
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        keys = {_current(key): key for key in file.keys()}  # noqa: SIM118
        weights = {}
        for current, key in keys.items():
            kind, _, weight = current.partition("/")
            selected = "ema" if ema and f"ema/{weight}" in keys else "module"
            if kind == selected:
                weights[weight] = file.get_tensor(key)
    return weights


def _current(key: str) -> str:
    """Return a tensor's key as it is written today."""
    kind, slash, weight = key.partition("/")
    return TENSOR_KINDS.get(kind, kind) + slash + weight


def _write(path: Path, state: State) -> dict[str, Any]:
    """One engine's tensors in one file, on the disk when this returns; its size and checksum."""
    tensors = {
        f"{kind}/{name}": value.detach().cpu().contiguous() for kind in _TENSORS for name, value in state[kind].items()
    }
    shared = {value.data_ptr() for value in tensors.values()}
    if len(shared) < len(tensors):  # the file format refuses tensors that share memory
        tensors = {name: value.clone() for name, value in tensors.items()}
    save_file(tensors, path)
    sync(path)
    return fingerprint(path)


def _read(path: Path, numbers: Mapping[str, int]) -> State:
    state: State = {kind: {} for kind in _TENSORS} | {key: numbers[key] for key in _NUMBERS}
    check_tensor_file(path)
    for key, value in load_file(path).items():
        kind, _, name = _current(key).partition("/")
        state[kind][name] = value
    return state


def _whole(folder: Path, only: str | None = None) -> tuple[dict[str, Any], str]:
    """Return the card of a checkpoint, and what is wrong with it: nothing, if its files are what the card says."""
    try:
        card = read_json(folder / CARD, MOST_INDEX, finite=False)
        for name, checksum in card["files"].items():
            if only is not None and name != only:
                continue
            path = folder / name
            if not path.is_file():
                return {}, f"{name} is missing"
            if path.stat().st_size != checksum["bytes"] or fingerprint(path) != checksum:
                return {}, f"{name} is not what its card says (cut or changed)"
        for numbers in card["engines"].values():
            for key in _NUMBERS:
                if type(numbers[key]) is not int:
                    raise ValueError(key)
        if not isinstance(card["loop"], dict):
            raise ValueError("loop")
    except OSError as error:
        return {}, f"it cannot be read ({(error.strerror or type(error).__name__).lower()})"
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return {}, f"{CARD} is damaged"
    return card, ""


def _foreign(folder: Path, reason: str) -> InputError:
    return InputError(f"{folder}: it is of another network ({reason}); name another folder for the run")
