"""The pictures of a folder, in the order people number them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.serve.media.output_file import reason_of
from triportrait.serve.media.pictures.file_type import kind_of

# Files of these endings are meant as pictures; what a file is, its content says.
PICTURE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".mpo", ".webp", ".bmp", ".tif", ".tiff", ".gif",
    ".avif",
)  # fmt: skip
# Made by systems, not by people: left out of a folder without a word, as hidden files are.
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_MOST_NAMED = 5


def list_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """List the pictures of a folder in the order people number them; what and what not, `sorted_folder` says."""
    return sorted_folder(folder)[0]


def sorted_folder(folder: str | os.PathLike[str]) -> tuple[list[Path], list[Path]]:
    """Sort the files of a folder into pictures and others, in the order people number them: frame2 before frame10.

    A picture is what has the content of one, or an ending that promises it. Hidden files and those of the system are
    neither, sub-folders are not entered.

    Raises: `InputError` when `folder` is no readable folder, holds no picture, or a link in it leads nowhere.
    """
    folder = Path(folder)
    try:
        found = [p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in _SYSTEM_FILES]
    except OSError as error:
        raise InputError(f"{folder}: a folder of pictures is wanted ({reason_of(error)}); check the path") from error
    pictures: list[Path] = []
    others: list[Path] = []
    for path in sorted(found, key=as_people_count):
        promised = path.suffix.lower() in PICTURE_ENDINGS
        if promised and path.is_symlink() and not path.exists():
            # Left out silently, it would shift every later frame.
            raise InputError(f"{path}: this link leads nowhere; bring back what it points to or remove it")
        if not path.is_dir():
            is_one = path.is_file() and (promised or kind_of(path) not in (None, "HEIC"))
            (pictures if is_one else others).append(path)
    if not pictures:
        instead = f", only {_names(others)}" if others else ""
        raise InputError(f"{folder}: no picture in this folder{instead}; put PNG, JPEG, WebP or TIFF files into it")
    return pictures, others


def left_out(folder: Path, others: Sequence[Path]) -> str:
    """The sentence that names the files of a folder that are no pictures."""
    one = len(others) == 1
    return f"{folder}: {_names(others)} {'is no picture' if one else 'are no pictures'} that can be read; left out"


def _names(files: Sequence[Path]) -> str:
    shown = ["".join(c if c.isprintable() else "?" for c in path.name) for path in files[:_MOST_NAMED]]
    names = ", ".join(shown)
    if len(files) <= _MOST_NAMED:
        return names if len(files) == 1 else f"{len(files)} files ({names})"
    return f"{len(files)} files ({names} …)"


def as_people_count(path: Path) -> tuple[list[str | int], str]:
    """The sorting key of names with numbers in them: 2 before 10."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name
