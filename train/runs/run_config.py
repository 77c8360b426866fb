"""The config of a run: stored when it begins, compared when it goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.sentences import literal, say, shown

CONFIG = "config.json"
MOTION_ENCODER = "motion_encoder"  # folder of the weights that a run asked, so that it can be exported anywhere
FLAME = "flame"  # folder of the tables of tracked faces, for the same reason
DATA = "data.json"  # what the run's data are, file by file, so that others can be told from them
STARTED = (MOTION_ENCODER, FLAME, DATA)  # what a start writes beside the config
MAY_STAND = {"cast", "strangers", "cast.necks", "strangers.necks", *STARTED}  # in the folder of a new run
CADENCE = {"save_each", "sample_each"}  # changes no weight, and may be another when a run goes on
_NAMED = 3  # files in a sentence
_OPTIONS = {  # where a number of a stage can be given as it was
    "micros", "images", "batch", "seed", "precision", "perceptual", "adversary_from", "renderer_frozen_until",
    "front_sources", "decoder",
}  # fmt: skip


def check_folder(run: Path) -> None:
    """Before anything is written into a folder: it is empty, or a run, or holds its data.

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
        changes_allowed: differences are printed, and the run goes on with the new numbers; None: there is no such way,
            and a new run's config is stored at once.
        data: what the run's data are: its name, and a sign of each file.

    Returns:
        What stores the new numbers, to be called when the run has really begun or gone on with them.

    Raises:
        InputError: the run was made with other numbers; the first that differs is named, and of data what differs. How
            often a run saves and samples may change.
    """
    path, text = run / CONFIG, json.dumps(config, indent=1) + "\n"

    def store() -> None:
        if data is not None:
            _write(run / DATA, json.dumps(data) + "\n")
        _write(path, text)

    if not path.exists():
        if changes_allowed is not None:
            return store
        store()
        return lambda: None
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(found)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: it is no config of a run; name another folder for the run") from error
    _check_stage(run, found, config)
    differing = _differences(found, json.loads(text), "")
    changed = [one for one in differing if one[0] not in CADENCE]
    if changed and not changes_allowed:
        way = "" if changes_allowed is None else " or say --allow-change"
        other = next((one for one in changed if one[0] == "run.data"), None)
        if other is not None and data is not None:
            rest = [one for one in changed if not one[0].startswith(("run.data", "cast."))]
            more = f" ({len(rest)} numbers differ, too)" if rest else ""
            raise InputError(
                f"{run}: this run was begun on other data: {other_data(run, data)}; name the data that it was begun "
                f"on, another folder for the run{way}{more}"
            )
        name, was, wanted = changed[0]
        more = f" ({len(changed) - 1} more differ)" if len(changed) > 1 else ""
        own = name.rpartition(".")[2]
        back = ""
        if changes_allowed is not None and own in _OPTIONS and isinstance(was, int | float | str):
            back = f"; --{own.replace('_', '-')} {was} goes on as it was begun"
        raise InputError(
            f"{run}: this run was begun with {shown(name)} {literal(was)}, now it is {literal(wanted)}; name "
            f"another folder{way}{back}{more}"
        )
    if not differing:
        return lambda: None
    for name, was, wanted in changed:
        say(f"{run}: {shown(name)} was {literal(was)}, now it is {literal(wanted)}")
    if changes_allowed is None:
        store()
        return lambda: None
    return store


def _check_stage(run: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises: `InputError` where the folder is of another kind of run."""
    was, now = (told.get("stage") if isinstance(told := one.get("run"), dict) else None for one in (found, wanted))
    if was == now:
        return
    kinds = {"stage1": "a stage-1 run", "stage2": "a stage-2 run", None: "a run of both stages"}
    raise InputError(
        f"{run}: expected {kinds.get(now, now)}, this is {kinds.get(was, was)}; name another folder for the run"
    )


def data_told(name: str, files: dict[str, Any]) -> dict[str, Any]:
    """What `check_config` keeps of a run's data.

    Args:
        name: of its folder. files: what its index says of each file or clip.
    """
    signs = {
        one: hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12] for one, told in files.items()
    }
    return {"name": name, "files": signs}


def other_data(run: Path, now: dict[str, Any]) -> str:
    """How data differ from those that a run was begun on, in words."""
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


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


def _differences(found: Any, wanted: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        parts = (_differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key) for key in keys)
        return [difference for part in parts for difference in part]
    return [] if found == wanted else [(name, found, wanted)]
