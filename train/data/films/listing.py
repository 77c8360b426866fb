"""Lists the films of a folder, and says whose each is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from triportrait.core.errors import InputError
from triportrait.train.data.films.people import check_people, read_people
from triportrait.train.data.split import video_of

Who = Literal["folder", "film"]
FILM_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".m2ts", ".mts", ".vob", ".wmv",
    ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mjpeg", ".mjpg", ".mxf", ".y4m", ".gif",
)  # fmt: skip
MOST_FILMS = 1_000_000


@dataclass(frozen=True)
class Films:
    """The films of a folder.

    Attributes:
        folder: where they lie.
        names: of the films, relative to it, with slashes, sorted.
        sizes: of the films, in bytes.
        others: names of the other files, sorted; landmarks beside a film and hidden files are not among them.
    """

    folder: Path
    names: Sequence[str]
    sizes: Sequence[int]
    others: Sequence[str]

    @property
    def fingerprint(self) -> str:
        """Tell one list of films from another by names and sizes."""
        return hashlib.sha256(json.dumps([list(self.names), list(self.sizes)]).encode()).hexdigest()[:16]


def list_films(folder: Path) -> Films:
    """List the films below a folder, in all its folders but those behind links; names decide which files are films.

    Raises: `InputError` for a folder that is missing or cannot be listed, or has no film in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of films, there is none; name another")
    films: list[tuple[str, int]] = []
    others: list[str] = []
    refused: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        stems = {Path(name).stem for name in files if _is_film(name)}
        folders[:] = [name for name in folders if not (name in stems and _has_landmarks(Path(place, name)))]
        for name in sorted(files):
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if name.startswith(".") or (path.suffix == ".npz" and path.stem in stems):
                continue
            if not _is_film(name):
                others.append(relative)
            else:
                films.append((relative, _size(path)))
    if refused:
        reason = (refused[0].strerror or type(refused[0]).__name__).lower()
        raise InputError(f"{refused[0].filename}: it could not be listed ({reason}); let it be read, or move it away")
    if not films:
        raise InputError(
            f"{folder}: expected films in it or below ({' '.join(FILM_ENDINGS)}), found none among {len(others)} "
            "files; name another folder"
        )
    if len(films) > MOST_FILMS:
        raise InputError(f"{folder}: expected up to {MOST_FILMS:,} films, found {len(films):,}; name a part of them")
    films.sort()
    return Films(folder, [name for name, _ in films], [size for _, size in films], sorted(others))


def identities_of(films: Films, who: Who = "folder", file: Path | None = None) -> dict[str, str]:
    """Say whose each film is.

    A name in VFHQ's form (`Clip+VIDEO+P0+C0+F1-200.mp4`) says whose it is: the video's. Else `folder` takes films of
    one folder below the given one for one person, and a film right in it for a person of its own; `film` takes each
    film for a person.

    Args:
        file: a text file with a line `FILM<tab>PERSON` for each film, FILM as in `Films.names`.

    Returns: name of the film -> identity.
    Raises: `InputError` for a file that cannot be read, or does not name every film.
    """
    if file is not None:
        named = read_people(file)
        check_people(named, films.names, file)
        return {name: named[name] for name in films.names}
    return {name: _identity(name, who) for name in films.names}


def _identity(name: str, who: Who) -> str:
    path = Path(name)
    video = video_of(path.name)
    if video is not None:
        return video
    parent = path.parent.as_posix()
    return parent if who == "folder" and parent != "." else path.with_suffix("").as_posix()


def _is_film(name: str) -> bool:
    return name.lower().endswith(FILM_ENDINGS)


def _has_landmarks(folder: Path) -> bool:
    return (folder / "landmarks").is_dir()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nothing; reading it will say so
        return -1
