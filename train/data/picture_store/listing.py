"""List the pictures of a folder and of those in it, in an order that does not depend on the disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.core.safe_text import listed
from triportrait.serve.media.pictures.file_type import kind_of
from triportrait.serve.media.pictures.picture_folder import PICTURE_ENDINGS, as_people_count

ALIGNED = "align_images"  # where a folder of the published layout has its pictures; others in it show masks and meshes


def listed_pictures(root: Path, leave_out: Path | None = None) -> tuple[list[Path], list[Path]]:
    """List the files of a folder, and of all folders in it, that are pictures or seem meant as such, and the others.

    Folders' names and files' are in the order people number them. Hidden files and folders are left out, links to
    folders are not followed. Of a folder of the published layout only its aligned pictures are taken.

    Args:
        leave_out: a folder in it that is not entered, such as the one that is being written.

    Raises: `InputError` where the folder cannot be read or holds no picture.
    """
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise InputError(f"{root}: expected a folder of pictures, {what} is there; name another")
    unwanted = None if leave_out is None else leave_out.resolve()
    pictures: list[Path] = []
    others: list[Path] = []

    def stop(error: OSError) -> None:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{error.filename}: a folder of pictures cannot be read ({reason}); check its rights")

    for folder, names, files in os.walk(root, onerror=stop):
        here = Path(folder)
        wanted = [ALIGNED] if ALIGNED in names else [name for name in names if not name.startswith(".")]
        inside = sorted((here / name for name in wanted), key=as_people_count)
        names[:] = [path.name for path in inside if unwanted is None or path.resolve() != unwanted]
        for path in sorted((here / name for name in files if not name.startswith(".")), key=as_people_count):
            if ALIGNED in wanted:
                continue
            promised = path.suffix.lower() in PICTURE_ENDINGS
            (pictures if promised or (path.is_file() and kind_of(path) is not None) else others).append(path)
    if not pictures:
        instead = f", only {len(others)} other files ({listed(p.name for p in others[:3])})" if others else ""
        raise InputError(f"{root}: expected pictures in this folder or in those in it, got none{instead}; name another")
    return pictures, others


def listing_digest(root: Path, pictures: list[Path]) -> str:
    """Compute what tells lists of pictures apart: a hash of every name below `root` and of its size in bytes."""
    digest = hashlib.sha256()
    for path in pictures:
        try:
            size = path.stat().st_size
        except OSError:
            size = -1  # a link that leads nowhere, which is told when it is read
        digest.update(f"{os.fsencode(path.relative_to(root)).hex()} {size}\n".encode())
    return digest.hexdigest()[:32]
