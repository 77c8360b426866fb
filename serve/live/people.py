"""The people of a server: files of `personalize` that it was given, and which of them a portrait is refined by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.core.person import Person, check_person_file, is_same_source, source_difference
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.refined import GivenPerson

# at the published sizes one of rank 8 takes 32 MB of memory; its networks are shared while a session shows them
MOST_PEOPLE = 64


def check_paths(paths: Sequence[Path]) -> None:
    """Check what `--person` names before anything is loaded.

    Raises:
        InputError: they are too many, or one is no person's file.
    """
    if len(paths) > MOST_PEOPLE:
        raise InputError(f"--person: expected at most {MOST_PEOPLE} files, got {len(paths)}; leave some out")
    for path in paths:
        check_person_file(path)


def load_people(paths: Sequence[Path], reenactor: Reenactor, weights: str) -> list[Person]:
    """Read the files of people, and check that they were made for these weights.

    Args:
        paths: the files.
        reenactor: the networks.
        weights: the name of their folder, for sentences.

    Raises:
        InputError: one is damaged, or was made for other weights.
    """
    return [GivenPerson.read(path, reenactor, weights).person for path in paths]


def nearest_of(people: Iterable[Person], crop: np.ndarray) -> Person | None:
    """Return whose aligned source picture uint8 [S, S, 3] this is, the nearest of several; None if it is nobody's."""
    picture = torch.tensor(crop)
    nearest = min(people, default=None, key=lambda person: source_difference(person.thumbnail, picture))
    return nearest if nearest is not None and is_same_source(nearest.thumbnail, picture) else None
