"""Applies a person's file on the device: the person's own networks and residual, and who of a batch shares them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.person import REFINED, Person, load_person
from triportrait.core.portrait import Portrait4D
from triportrait.core.types import Source
from triportrait.serve.network_on_device import NetworkOnDevice

PersonOrPath = Person | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Refined:
    """Holds what makes planes for one person, in the place of the networks for everybody.

    Attributes:
        portrait: the person's own networks; but for the parts that are refined they are those of everybody.
        residual: [1, 3, H, W, C], added to the planes of every frame, in their precision.
        sha256: of the person's file.
    """

    portrait: Portrait4D
    residual: Tensor
    sha256: str

    def cache(self, source: Source) -> Source:
        """Compute what `Portrait4D.cache` does, by the person's networks."""
        return self.portrait.cache(source)

    def planes(
        self, tokens: Tensor, grid: tuple[int, int], motion: Tensor | None, detail: Tensor | None,
        detail_partial: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Compute planes [B, 3, H, W, C] as `Portrait4D.planes` does, by the person's networks, and add the residual.

        Args:
            tokens, grid, motion, detail, detail_partial: of B driving frames of this person.
        """
        planes = self.portrait.planes(tokens, grid, motion, detail, detail_partial)
        return planes + self.residual.to(planes.dtype)


def sha256_of(refined: Refined | None) -> str | None:
    """Return the SHA-256 of the person's file that was applied, if one was."""
    return None if refined is None else refined.sha256


@dataclass(frozen=True, eq=False)
class GivenPerson:
    """Holds a person whom a user gave, and what sentences call this person.

    Attributes:
        person: what was learned.
        name: the file, or "person" where a program gave it.
    """

    person: Person
    name: Path | str

    @classmethod
    def read(cls, person: PersonOrPath, network: NetworkOnDevice, weights: str) -> GivenPerson:
        """Read a person's file, or take the person that a program has, and check whom the weights were refined for.

        Args:
            person: the file, or what was read or made already.
            network: the networks. weights: what sentences call them.

        Raises:
            InputError: it is missing, damaged, or was made for other weights.
        """
        if isinstance(person, str | os.PathLike):
            given = cls(load_person(Path(person), network.portrait), Path(person))
        elif isinstance(person, Person):
            given = cls(person, "person")
        else:
            raise InputError(
                f"person: expected a path or a Person, got {type(person).__name__}; see Pipeline.personalize"
            )
        given.person.check_weights(network.weights_hash, given.name, weights)
        return given

    def check_source(self, crop: np.ndarray, source: object) -> None:
        """Check that an aligned source picture, uint8 [S, S, 3], is the one that was refined; `source` is its name.

        Raises: `InputError` where it is another one.
        """
        self.person.check_source(torch.tensor(crop), self.name, source)


@torch.inference_mode()
def refined_by(network: NetworkOnDevice, person: Person, crop: np.ndarray) -> Refined:
    """Make a person's own networks, in the precision of the others and beside them on their device.

    All sources of one `Person` share them.

    Args:
        network: the networks that were refined.
        person: what was learned.
        crop: uint8 [S, S, 3], the aligned source picture.

    Raises:
        InputError: the person was refined for other weights, or from another picture.
    """
    person.check_weights(network.weights_hash, "person", "these")
    person.check_source(torch.tensor(crop), "person", "this one")
    if (shared := network.refined.get(person)) is not None:
        return shared
    portrait = person.refined(network.as_loaded())
    for name in REFINED:
        part = portrait.get_submodule(name)
        if network.is_rounded:
            network.round(part)
        part.to(network.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    residual = person.planes.to(network.device, network.dtype or torch.float32)
    refined = network.refined[person] = Refined(portrait, residual, person.sha256())
    return refined


def joined_planes(
    refined: Sequence[Refined | None], compute: Callable[[list[int], Refined | None], Tensor]
) -> Tensor:  # fmt: skip
    """Compute the planes of a batch, those of everybody's networks together and those of each person's together.

    Args:
        refined: for each place of the batch who makes its planes; None is everybody's networks.
        compute: gives the planes of some places, by one of these.
    """
    groups = places_by(refined)
    made = [compute(places, each) for each, places in groups.items()]
    if len(made) == 1:
        return made[0]
    order = [place for places in groups.values() for place in places]
    return torch.cat(made)[sorted(range(len(order)), key=order.__getitem__)]


def places_by(refined: Sequence[Refined | None]) -> dict[Refined | None, list[int]]:
    """Return the places of a batch by who makes their planes, in the order of their first places."""
    groups: dict[Refined | None, list[int]] = {}
    for place, each in enumerate(refined):
        groups.setdefault(each, []).append(place)
    return groups
