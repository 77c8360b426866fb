"""Store the config of a run when it begins, and compare it when it goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triportrait.core.atomic import write_text
from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.safe_text import literal, shown
from triportrait.train.runs.old_keys import with_new_keys

CONFIG = "config.json"
MOTION_ENCODER = "motion_encoder"  # folder of the weights that a run asked, so that it can be exported anywhere
FLAME = "flame"  # folder of the tables of tracked faces, for the same reason
DATA = "data.json"  # what the run's data are, file by file, so that others can be told from them
STARTED = (MOTION_ENCODER, FLAME, DATA)  # what a start writes beside the config
MAY_STAND = {"cast", "strangers", "cast.necks", "strangers.necks", *STARTED}  # in the folder of a new run
CADENCE = {"save_every", "sample_every", "evaluate_every"}  # changes no weight, and may be another when a run goes on
_NAMED = 3  # files in a sentence
logger = logging.getLogger(__name__)
_OPTIONS = {  # where a number of a stage can be given as it was
    "micro_batches", "images", "batch", "seed", "precision", "perceptual", "adversarial_from", "renderer_frozen_until",
    "front_sources", "decoder",
}  # fmt: skip


def check_folder(run: Path) -> None:
    """Check before anything is written that a folder is empty, or a run, or holds its data.

    Raises:
        InputError: it holds something else.
    """
    if (run / CONFIG).exists():
        return
    others = sorted(p.name for p in run.iterdir() if p.name not in MAY_STAND and not p.name.startswith("."))
    if others:
        raise InputError(f"{run}: expected an empty folder or a run, it holds {others[0]}; name another folder")


def check_config(
    run: Path, config: dict[str, Any], changes_allowed: bool | None = None, data: dict[str, Any] | None = None
) -> Callable[[], None]:
    """Store the config of a new run, or compare it with that of a run that goes on.

    Args:
        changes_allowed: differences are logged, and the run goes on with the new numbers; None: there is no such way,
            and a new run's config is stored at once.
        data: the run's data: its name, and a short checksum of each file.

    Returns:
        What stores the new numbers, to be called when the run has really begun or gone on with them.

    Raises:
        InputError: the run was made with other numbers; the first that differs is named, and of data what differs. How
            often a run saves and samples may change.
    """
    path, text = run / CONFIG, json.dumps(config, indent=1) + "\n"

    def store() -> None:
        if data is not None:
            write_text(run / DATA, json.dumps(data) + "\n")
        write_text(path, text)

    if not path.exists():
        if changes_allowed is not None:
            return store
        store()
        return lambda: None
    try:
        stored = read_config(run)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: it is no config of a run; name another folder for the run") from error
    _check_stage(run, stored, config)
    differing = _differences(stored, json.loads(text), "")
    changed = [difference for difference in differing if difference[0] not in CADENCE]
    if changed and not changes_allowed:
        way = "" if changes_allowed is None else " or say --allow-change"
        names = [name for name, _, _ in changed]
        if "run.data" in names and data is not None:
            rest = [name for name in names if not name.startswith(("run.data", "cast."))]
            more = f" ({len(rest)} numbers differ, too)" if rest else ""
            raise InputError(
                f"{run}: this run was begun on other data: {data_difference(run, data)}; name the data that it was "
                f"begun on, another folder for the run{way}{more}"
            )
        name, was, now = changed[0]
        more = f" ({len(changed) - 1} more differ)" if len(changed) > 1 else ""
        option = name.rpartition(".")[2]
        back = ""
        if changes_allowed is not None and option in _OPTIONS and isinstance(was, int | float | str):
            back = f"; --{option.replace('_', '-')} {was} goes on as it was begun"
        raise InputError(
            f"{run}: this run was begun with {shown(name)} {literal(was)}, now it is {literal(now)}; name "
            f"another folder{way}{back}{more}"
        )
    if not differing:
        return lambda: None
    for name, was, now in changed:
        logger.info("%s: %s was %s, now it is %s", run, shown(name), literal(was), literal(now))
    if changes_allowed is None:
        store()
        return lambda: None
    return store


def read_config(run: Path) -> dict[str, Any]:
    """Return the stored config of a run under the keys of today.

    Raises: `OSError`, `ValueError` or `RecursionError` where it cannot be read.
    """
    stored = read_json(run / CONFIG)
    if not isinstance(stored, dict):
        raise ValueError("it is no JSON object")
    return with_new_keys(stored)


def _check_stage(run: Path, stored: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises: `InputError` where the folder is of another kind of run."""
    was, now = (card.get("stage") if isinstance(card := c.get("run"), dict) else None for c in (stored, config))
    if was == now:
        return
    kinds = {
        "stage1": "a stage-1 run",
        "stage2": "a stage-2 run",
        "motion": "a run of a motion encoder",
        "portrait4d": "a Portrait4D run",
        "genhead": "a run of GenHead",
        None: "a run of both stages",
    }
    raise InputError(
        f"{run}: expected {kinds.get(now, now)}, this is {kinds.get(was, was)}; name another folder for the run"
    )


def data_fingerprints(name: str, files: dict[str, Any]) -> dict[str, Any]:
    """Return what `check_config` keeps of a run's data: a short checksum of each file.

    Args:
        name: of its folder. files: what its index says of each file or clip.
    """
    checksums = {
        file: hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:12]
        for file, entry in files.items()
    }
    return {"name": name, "files": checksums}


def data_difference(run: Path, now: dict[str, Any]) -> str:
    """Return how data differ from those that a run was begun on, in words."""
    try:
        was = read_json(run / DATA)
        before, name = dict(was["files"]), str(was["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"its checksums are not those of {now['name']}"
    files = now["files"]
    parts = []
    for names, verb in (
        ([n for n in files if n in before and before[n] != files[n]], "differ"),
        ([n for n in files if n not in before], "new"),
        ([n for n in before if n not in files], "gone"),
    ):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            is_ = "" if verb == "differ" else "is " if len(names) == 1 else "are "
            parts.append(
                f"{', '.join(names[:_NAMED])}{more} {is_}{'differs' if (verb, len(names)) == ('differ', 1) else verb}"
            )
    return f"{name} with {len(before)} then, {now['name']} with {len(files)} now, of which {'; '.join(parts)}"


def _differences(stored: Any, config: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(stored, dict) and isinstance(config, dict):
        keys = sorted(stored.keys() | config.keys())
        parts = (_differences(stored.get(key), config.get(key), f"{name}.{key}" if name else key) for key in keys)
        return [difference for part in parts for difference in part]
    return [] if stored == config else [(name, stored, config)]
