"""Says how results lie in a folder, whoever made them, and checks that they are those of a protocol.

A result is a folder of PNGs, `R/PAIR/000000.png` and on, or a video, `R/PAIR.mp4` (.mkv .mov .webm); of one frame a
picture, `R/PAIR.png`. `R/results.json` may say which method made them; `R/PAIR.json` how many seconds that took.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.safe_text import literal, shown
from triportrait.serve.media.pictures.picture_file import check_picture
from triportrait.serve.media.pictures.picture_folder import list_pictures
from triportrait.train.evaluation.protocols.records import Pair, Protocol

CARD, CARD_KIND, VERSION = "results.json", "triportrait results", 1
VIDEO_ENDINGS = (".mp4", ".mkv", ".mov", ".webm")
PICTURE_ENDINGS = (".png",)
_LONGEST_METHOD = 60


@dataclass(frozen=True)
class Results:
    """Holds what a folder of results says of itself.

    Attributes:
        method: its name in tables.
        card: `results.json`, or nothing.
        present: pair -> where its result lies.
    """

    folder: Path
    method: str
    card: dict[str, Any]
    present: dict[str, Path]


def open_results(folder: Path, protocol: Protocol, method: str | None = None) -> Results:
    """Look at a folder of results, without decoding anything.

    Args:
        method: its name in tables; None takes that of `results.json`, or the folder's.

    Raises:
        InputError: it is no folder, holds no pair's result or some of another count or size, or was made by another
            protocol.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder of results, {'a file' if folder.exists() else 'nothing'} is there"
        )
    card = read_card(folder)
    if card and card.get("protocol") != protocol.sha256:
        raise InputError(
            f"{folder / CARD}: expected results of the protocol {protocol.sha256[:12]}, got"
            f" {literal(card.get('protocol'))}; score them by their own protocol"
        )
    name = method or card.get("method") or folder.absolute().name
    if not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST_METHOD:
        raise InputError(
            f"method: expected a name of up to {_LONGEST_METHOD} printable characters, got {shown(name)}; pass --method"
        )
    places = _places(folder)
    present = {pair.name: path for pair in protocol.pairs if (path := _place(places, folder, pair)) is not None}
    if not present:
        raise InputError(
            f"{folder}: expected results named by the protocol's pairs, such as {protocol.pairs[0].name}/000000.png or"
            f" {protocol.pairs[0].name}.mp4, found none; name them so"
        )
    wrong = [sentence for pair in protocol.pairs if (sentence := _wrong(present.get(pair.name), pair, protocol))]
    if wrong:
        more = f"; so are {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{wrong[0]}; give every frame of a pair in the protocol's size, or leave the pair out{more}")
    return Results(folder, name, card, present)


def read_card(folder: Path) -> dict[str, Any]:
    """Return `results.json`, empty where there is none. Raises: `InputError` where it is something else."""
    try:
        card = read_json(folder / CARD)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / CARD}: it cannot be read ({error}); make the results again or remove it"
        ) from error
    if not isinstance(card, dict) or card.get("kind") != CARD_KIND or card.get("version") != VERSION:
        raise InputError(f"{folder / CARD}: expected the card of results of version {VERSION}; remove it")
    return card


def seconds_of(folder: Path, pair: Pair) -> float | None:
    """Return how many seconds the frames of a pair took, as `PAIR.json` says; None where it says nothing."""
    try:
        said = read_json(folder / f"{pair.name}.json")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / pair.name}.json: it cannot be read ({error}); remove it") from error
    seconds = said.get("seconds") if isinstance(said, dict) else None
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < 1e9:
        raise InputError(
            f"{folder / pair.name}.json: seconds: expected a number above 0, got {literal(seconds)}; remove it"
        )
    return float(seconds)


def _places(folder: Path) -> dict[str, list[Path]]:
    """Return name of a pair -> what lies in a folder of results under it, folders first."""
    places: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (not path.is_dir(), path.name)):
        if path.is_dir():
            places.setdefault(path.name, []).append(path)
        elif path.suffix.lower() in VIDEO_ENDINGS + PICTURE_ENDINGS and path.is_file():
            places.setdefault(path.stem, []).append(path)
    return places


def _place(places: Mapping[str, list[Path]], folder: Path, pair: Pair) -> Path | None:
    """Return where a pair's result lies. Raises: `InputError` where there are two."""
    endings = VIDEO_ENDINGS + (PICTURE_ENDINGS if pair.frames == 1 else ())
    found = [path for path in places.get(pair.name, []) if path.is_dir() or path.suffix.lower() in endings]
    if len(found) > 1:
        raise InputError(
            f"{folder}: expected one result of {pair.name}, got {' and '.join(path.name for path in found)}; take all"
            " but one away"
        )
    return found[0] if found else None


def _wrong(path: Path | None, pair: Pair, protocol: Protocol) -> str | None:
    """Say what is wrong with the pictures of a pair, as far as that is told without decoding."""
    if path is None or (path.is_file() and path.suffix.lower() in VIDEO_ENDINGS):
        return None
    files = list_pictures(path) if path.is_dir() else [path]
    if len(files) != pair.frames:
        return f"{path}: expected {pair.frames} frames, got {len(files)}"
    for before, file in pairwise(files):
        if _number(file) != _number(before) + 1:
            return f"{path}: expected frames numbered one after the other, got {file.name} after {before.name}"
    size = protocol.head.size_px
    for file in files:
        width, height = check_picture(file)
        if (width, height) != (size, size):
            return f"{file}: expected {size} x {size} px, got {width} x {height}"
    return None


def _number(file: Path) -> int:
    """Return the last number in a file's name without its ending; -2, which follows nothing, where there is none."""
    numbers = re.findall(r"[0-9]+", file.stem)
    return int(numbers[-1]) if numbers else -2
