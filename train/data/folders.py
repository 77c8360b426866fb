"""Write folders of data whole or not at all, with an index that tells whether they are still whole.

`index.json` holds what the folder is, the numbers it was made from and, for each file, its size and SHA-256.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from triportrait.core.atomic import put_folder, replacing
from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_json
from triportrait.core.safe_text import literal

INDEX = "index.json"
_NEW_FOLDER = "name a new one"


def check_target(path: Path, overwrite: bool, kind: str) -> None:
    """Check before any work that `path` can become a folder of this kind; the folders above it may be missing.

    Raises: `InputError`: no folder can be made there, it exists without `overwrite`, or with it but is nothing that
        this program made.
    """
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise InputError(f"{path}: {above} is a file, and no folder can be made in it; {_NEW_FOLDER}")
    _try(path, above)
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise InputError(f"{path}: a folder is wanted, this is a file; {_NEW_FOLDER}")
    if not overwrite:
        raise InputError(f"{path}: it exists already; pass --overwrite to replace it")
    if any(path.iterdir()):
        found = _read_index(path).get("kind")
        if found != kind:
            raise InputError(f"{path}: it holds {literal(found)}, not {kind!r}, and is not replaced; {_NEW_FOLDER}")


def check_file(path: Path, overwrite: bool, ending: str) -> None:
    """Check before any work that `path` can become a file. Raises: `InputError` as `check_target` does."""
    if path.suffix.lower() != ending:
        raise InputError(f"{path}: the ending {ending} is wanted, {path.suffix or 'none'} came; rename the output")
    parent = path.absolute().parent
    if not parent.is_dir():
        what = "is a file" if parent.exists() else "does not exist"
        raise InputError(f"{path}: its folder {parent} {what}; make the folder or choose another")
    _try(path, parent)
    if path.is_dir():
        raise InputError(f"{path}: a file is wanted, this is a folder; name a file in it")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path}: it exists already; pass --overwrite to replace it")


def _try(path: Path, parent: Path) -> None:
    """Raises: `InputError` where `parent` takes no files."""
    with _disk(path):
        trial = parent / f".{path.name[:64]}.{secrets.token_hex(6)}"
        trial.mkdir()
        trial.rmdir()


@contextmanager
def made_above(path: Path) -> Iterator[None]:
    """Make the folders above `path`; when the block fails, those that were made and are empty vanish again."""
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:  # the deepest comes first
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `InputError` about `path`."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(
            f"{path}: it could not be written ({reason}); choose another folder or free some space"
        ) from error


@contextmanager
def whole_folder(path: Path, overwrite: bool, kind: str, settings: dict[str, Any]) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, with its index, when the block succeeds and vanishes when it fails.

    Args:
        kind: what the folder holds, for its index.
        settings: the numbers it is made from, for its index.

    Raises: `InputError` as `check_target`, and when the disk refuses.
    """
    check_target(path, overwrite, kind)
    path = path.absolute()
    work = path.with_name(f".{path.name[:64]}.{secrets.token_hex(6)}")
    with _disk(path), made_above(path):
        work.mkdir()
        try:
            yield work
            files = {p.name: fingerprint(p) for p in sorted(work.iterdir())}
            index = {"kind": kind, "version": 1, **settings, "files": files}
            (work / INDEX).write_text(json.dumps(index, indent=1) + "\n")
            if os.path.lexists(path):
                check_target(path, overwrite, kind)
            put_folder(work, path, work.with_name(work.name + ".old"))
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def whole_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary file beside `path` that becomes `path` when the block succeeds and vanishes when it fails."""
    check_file(path, overwrite, path.suffix.lower())
    with _disk(path), replacing(path.absolute(), overwrite) as work:
        yield work


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = read_json(path / INDEX, MOST_INDEX)
    except FileNotFoundError as error:
        raise InputError(f"{path}: it has no {INDEX}, so it is no folder of heads; {_NEW_FOLDER}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path / INDEX}: it cannot be read as JSON; make the folder again") from error
    if not isinstance(index, dict) or not isinstance(index.get("files"), dict):
        raise InputError(f"{path / INDEX}: it lists no files; make the folder again")
    return index


def open_folder(path: Path, kind: str, contents: bool = False) -> dict[str, Any]:
    """Return the index of a folder whose files are all there at their sizes (with `contents`: bit by bit).

    Raises: `InputError` that names what is missing or damaged.
    """
    if not path.is_dir():
        raise InputError(f"{path}: a folder of heads is wanted, {'a file' if path.exists() else 'nothing'} is there")
    index = _read_index(path)
    if index.get("kind") != kind:
        raise InputError(f"{path}: {kind!r} is wanted, it holds {literal(index.get('kind'))}; name another folder")
    for name, wanted in index["files"].items():
        file = path / name
        if Path(name).name != name or not isinstance(wanted, dict):
            raise InputError(
                f"{path / INDEX}: it names {literal(name)}, which is no file of its folder; make the folder again"
            )
        if not file.is_file():
            raise InputError(f"{file}: the index lists it but it is missing; make the folder again")
        found = fingerprint(file) if contents else {"bytes": file.stat().st_size}
        if any(wanted.get(key) != value for key, value in found.items()):
            raise InputError(f"{file}: it is not what the index says (damaged or changed); make the folder again")
    return index
