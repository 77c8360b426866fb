"""The config of a run: stored when it begins, compared when it goes on."""

from __future__ import annotations

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
MAY_STAND = {"cast", "strangers", "cast.necks", "strangers.necks", MOTION_ENCODER}  # in the folder of a new run


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


def check_config(run: Path, config: dict[str, Any], changes_allowed: bool | None = None) -> Callable[[], None]:
    """Store the config of a new run, or compare it with that of a run that goes on.

    Args:
        changes_allowed: differences are printed, and the run goes on with the new numbers; None: there is no such way,
            and a new run's config is stored at once.

    Returns:
        What stores the new numbers, to be called when the run has really begun or gone on with them.

    Raises:
        InputError: the run was made with other numbers; the first that differs is named.
    """
    path, text = run / CONFIG, json.dumps(config, indent=1) + "\n"
    if not path.exists():
        if changes_allowed is not None:
            return lambda: _write(path, text)
        _write(path, text)
        return lambda: None
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(found)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: it is no config of a run; name another folder for the run") from error
    changed = _differences(found, json.loads(text), "")
    if changed and not changes_allowed:
        name, was, wanted = changed[0]
        way = "" if changes_allowed is None else " or say --allow-change"
        more = f" ({len(changed) - 1} more differ)" if len(changed) > 1 else ""
        raise InputError(
            f"{run}: this run was begun with {shown(name)} {literal(was)}, now it is {literal(wanted)}; name another "
            f"folder{way}{more}"
        )
    if changed:
        for name, was, wanted in changed:
            say(f"{run}: {shown(name)} was {literal(was)}, now it is {literal(wanted)}")
        return lambda: _write(path, text)
    return lambda: None


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{CONFIG}.part")
    part.write_text(text)
    os.replace(part, path)


def _differences(found: Any, wanted: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        parts = (_differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key) for key in keys)
        return [difference for part in parts for difference in part]
    return [] if found == wanted else [(name, found, wanted)]
