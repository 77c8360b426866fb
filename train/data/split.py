"""Hold identities out of a set: what is measured while a training runs shows nobody that it learns from.

An identity is held out where the hash of its name and the split's seed lies below the share. Nothing else decides, so
that all its clips are on one side, and heads or clips that come later move nobody from one side to the other. Head k
of a seed is the same identity in a multi-view set and in a clip store: no stage trains on whom the other holds out.

    split.json    in the folder of the set: share, seed, whose each head or clip is, and the identities held out
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from triportrait.core.atomic import write_text
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_bytes, read_json
from triportrait.core.safe_text import literal
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.store import ClipStore, is_clip_store
from triportrait.train.data.films.people import check_people, read_people
from triportrait.train.data.generated.store.layout import KIND as GENERATED
from triportrait.train.data.generated.store.layout import is_head_store
from triportrait.train.data.generated.store.reading import HeadStore
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.picture_store.layout import KIND as PICTURES
from triportrait.train.data.picture_store.layout import is_picture_store
from triportrait.train.data.picture_store.store import PictureStore

SPLIT, KIND = "split.json", "triportrait split"
# How identities are known: by `films` a film's name or folder tells, by `clips` and `pictures` each counts as a person;
# of `generated heads` each is one.
KnownBy = Literal["heads", "file", "clips", "films", "pictures", "generated heads"]
FILMS = "films"  # source of stores that `prepare videos` makes
LARGEST_SEED = 2**31 - 1
_VFHQ = re.compile(r"Clip\+([A-Za-z0-9_-]+)\+P\d+\+C\d+\+F\d+-\d+")  # video, person in it, clip, frames


@dataclass(frozen=True)
class Split:
    """Who is held out of a set.

    Attributes:
        share: of the identities that are held out, as it was asked for; the hash makes it more or less.
        seed: chooses them.
        known_by: how the identities are known.
        identities: name of a head's file or of a clip -> its identity, in the set's order.
    """

    share: float
    seed: int
    known_by: KnownBy
    identities: Mapping[str, str]

    @property
    def held_out(self) -> list[str]:
        """The identities that are held out, sorted."""
        return sorted(name for name in set(self.identities.values()) if place(name, self.seed) < self.share)

    def sides(self) -> tuple[list[int], list[int]]:
        """Return the numbers of the heads or clips that are trained on, and of those that are held out."""
        out = set(self.held_out)
        numbered = list(enumerate(self.identities.values()))
        return [i for i, who in numbered if who not in out], [i for i, who in numbered if who in out]

    def sentence(self) -> str:
        """Return who is held out, in words."""
        alone = self.known_by in ("clips", "pictures")
        people = f"{self.known_by}, each of which counts as a person" if alone else "identities"
        return f"{len(self.held_out)} of {len(set(self.identities.values()))} {people} held out"

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values."""
        numbers = {"share": self.share, "seed": self.seed, "known_by": self.known_by}
        return {"kind": KIND, "version": 1, **numbers, "held_out": self.held_out, "identities": dict(self.identities)}


def place(identity: str, seed: int) -> float:
    """Return where a hash puts an identity, in [0, 1); it is held out where that is below the share."""
    text = f"{seed} {identity}"  # a file's name, which need not be UTF-8, may be in it
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:6]) / 2**48


def check_share(share: float, seed: int, identities: Collection[str], what: str) -> None:
    """Check that a split leaves somebody on either side, before any work.

    Args:
        what: the set, for the sentence.

    Raises: `InputError` with a share that does.
    """
    if not 0 < share < 1:
        raise InputError(f"split: expected a share between 0 and 1, got {share:g}; say 0.1 to hold a tenth out")
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed: expected 0 to {LARGEST_SEED}, got {seed}; choose another")
    places = sorted(place(who, seed) for who in set(identities))
    if len(places) < 2:
        raise InputError(f"{what}: expected two identities or more to split, got {len(places)}; make a larger set")
    if share <= places[0]:
        least = math.floor(places[0] * 1000 + 1) / 1000
        raise InputError(
            f"split: a share of {share:g} holds out none of the {len(places)} identities of {what}, as their hashes "
            f"decide; {least:g} is the least that holds one out"
        )
    if share > places[-1]:
        raise InputError(
            f"split: a share of {share:g} leaves none of the {len(places)} identities of {what} to train on; say less "
            f"than {math.floor(places[-1] * 1000) / 1000:g}"
        )


def head_identity(seed: int, head: int) -> str:
    """Return the identity of a procedural head: the seed and its number among those of the seed."""
    return f"seed {seed} head {head}"


def read_identities(path: Path) -> list[str]:
    """Read the identities of an LMDB's records off a text file with a line for each, in the records' order.

    A line is any name of a person or a video. Of a clip's name in VFHQ (`Clip+VIDEO+P0+C0+F1-200`, the last part of a
    path with an ending or without) the video is taken, as one person is seen in several clips of it.

    Raises: `InputError` for a file that cannot be read, or an empty line.
    """
    try:
        lines = read_bytes(path, MOST_INDEX).decode().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a text file with a line for each record; name another") from error
    names = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(f"{path}: line {number} is empty, expected whose that record is; fill it in")
        names.append(video_of(line.strip().rpartition("/")[2]) or line.strip())
    return names


def video_of(name: str) -> str | None:
    """Return the video that a clip's name in VFHQ (`Clip+VIDEO+P0+C0+F1-200`) names; None for another name."""
    clip = _VFHQ.match(name)
    return clip[1] if clip else None


def check_identities(identities: Sequence[str], records: int, path: Path) -> None:
    """Check that a file names each record. Raises: `InputError` for another number of lines."""
    if len(identities) != records:
        raise InputError(f"{path}: expected {records:,} lines, one for each record, got {len(identities):,}; mend it")


def split_data(folder: Path, share: float, seed: int = 0, identities: Path | None = None) -> tuple[Split, bool]:
    """Hold identities out of a finished multi-view set or store; nothing but `split.json` is written.

    Args:
        identities: a file for `read_identities`, for clips of an LMDB, which holds no names, and for pictures: a line
            for each that was listed.

    Returns:
        The split, and whether it was there already.

    Raises:
        InputError: there is another split already, nobody would be left on one side, or the set or the file is damaged.
    """
    names, index = _contents(folder)
    known_by, found = _identities(folder, names, index, identities)
    before = read_split(folder)
    if before is not None and identities is None and before.known_by == "file":
        known_by, found = before.known_by, dict(before.identities)
    split = Split(share, seed, known_by, found)
    if before is not None:
        if before.plain() == split.plain():
            return before, True
        raise InputError(f"{folder}: {_difference(before, split)}; say the same, or remove {folder / SPLIT} first")
    check_share(share, seed, found.values(), str(folder))
    try:
        write_text(folder / SPLIT, json.dumps(split.plain(), indent=1) + "\n")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{folder / SPLIT}: it could not be written ({reason}); free some space") from error
    return split, False


def read_split(folder: Path) -> Split | None:
    """Read who is held out of a set; None where it is not split.

    Raises: `InputError` for a file that is damaged, or does not fit the set.
    """
    path = folder / SPLIT
    if not path.exists():
        return None
    names, index = _contents(folder)
    try:
        stored = read_json(path, MOST_INDEX)
        share, seed, identities = stored["share"], stored["seed"], stored["identities"]
        split = Split(float(share), int(seed), stored["known_by"], dict(identities))
        texts = (*split.identities, *split.identities.values())
        valid = 0 < split.share < 1 and type(seed) is int and all(isinstance(text, str) for text in texts)
        if not valid or split.plain() != stored:
            raise ValueError("other values")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: expected who is held out, it is damaged or was changed; remove it and split again by "
            "`triportrait prepare split`"
        ) from error
    known = split.known_by == "file" or split.identities == _identities(folder, names, index, None)[1]
    if list(split.identities) != names or not known:
        raise InputError(
            f"{path}: expected the split of the {len(names)} heads or clips of this set, it is of others; remove it "
            "and split again by `triportrait prepare split`"
        )
    return split


def _contents(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the heads, clips or pictures of a set in order, and its index."""
    if is_picture_store(folder):
        pictures = PictureStore(folder)
        return list(pictures.names()), pictures.index
    if is_head_store(folder):
        generated = HeadStore(folder)
        return [generated_name(number) for number in range(len(generated))], generated.index
    if is_clip_store(folder):
        store = ClipStore(folder, whole=False)
        return store.clips, store.index
    heads = MultiviewSet(folder)
    return heads.names, heads.index


def _identities(
    folder: Path, names: list[str], index: Mapping[str, Any], path: Path | None
) -> tuple[KnownBy, dict[str, str]]:
    generated = index.get("kind") == GENERATED
    if generated or index.get("source", HEADS) == HEADS:
        if path is not None:
            kind = "generated" if generated else "procedural"
            raise InputError(f"{path}: expected no file for {kind} heads, who is who is known; leave it out")
        if generated:
            return "generated heads", {name: f"{index['generator']} {index['seed']} {name}" for name in names}
        return "heads", {name: head_identity(index["seed"], _number(folder, name)) for name in names}
    if index.get("source") == FILMS:
        return _identities_of_films(folder, index, path)
    pictures = index["kind"] == PICTURES
    if path is None:
        return "pictures" if pictures else "clips", {name: name for name in names}
    lines = read_identities(path)
    check_identities(lines, int(index.get("listed" if pictures else "records", len(names))), path)
    return "file", {name: lines[_number(folder, name)] for name in names}


def _identities_of_films(folder: Path, index: Mapping[str, Any], path: Path | None) -> tuple[KnownBy, dict[str, str]]:
    """Return whose the clips of films are: as the index has it, or a file says now."""
    try:
        whose = {str(clip["name"]): str(clip["identity"]) for clip in index["clips"]}
        film_of = {str(clip["name"]): str(clip["film"]) for clip in index["clips"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}: expected of each clip its film and whose it is; make the store again") from error
    if path is None:
        return "films", whose
    named = read_people(path)
    check_people(named, sorted(set(film_of.values())), path)
    return "file", {name: named[film] for name, film in film_of.items()}


def generated_name(number: int) -> str:
    """Return the name of a head of a store of generated heads."""
    return f"generated_{number:08d}"


def _number(folder: Path, name: str) -> int:
    """Return the number in the name of a head's file or of a clip."""
    digits = re.fullmatch(r"(?:head|clip|picture)_(\d+)(?:\.npz)?", name)
    if digits is None:
        raise InputError(f"{folder}: expected a name with a number, got {literal(name)}; make the set again")
    return int(digits[1])


def _difference(before: Split, now: Split) -> str:
    for name in ("share", "seed"):
        was, is_ = getattr(before, name), getattr(now, name)
        if was != is_:
            return f"it is split already with {name} {was:g}, now it is {is_:g}"
    return f"it is split already by identities known by {before.known_by}, now they are others, by {now.known_by}"
