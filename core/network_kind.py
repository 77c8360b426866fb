"""Which of the two networks a weights folder holds: both have the same tensors, and only the card can tell them apart.

A static synthesizer has layers that read motion, too, but they were never trained (reference 0.11): taken for a
reenactment network it moves at random, and nothing else would say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from triportrait.core.checkpoint import read_card, weights_folder
from triportrait.core.errors import InputError

Network = Literal["static synthesizer", "reenactment"]
STATIC: Network = "static synthesizer"
REENACTMENT: Network = "reenactment"
_CALLED = {STATIC: "a static synthesizer (stage 1)", REENACTMENT: "a reenactment network (stage 2)"}
_PUBLISHED = "portrait4d"  # how the published files' names begin


def network_of(card: dict[str, Any]) -> Network | None:
    """The network that a portrait's card names: trained here by its own word, published by the name of its file.

    Returns None where nobody noted it.
    """
    noted = card.get("provenance")
    noted = noted if isinstance(noted, dict) else {}
    for known in (STATIC, REENACTMENT):
        if noted.get("network") == known:
            return known
    file = str(noted.get("file", "")).lower()
    if "static" in file:
        return STATIC
    return REENACTMENT if file.startswith(_PUBLISHED) else None


def check_network(name: str | Path, wanted: Network, option: str, advice: str) -> None:
    """Check that a folder does not hold the other network. A card that names none is taken at the user's word.

    Args:
        name: a weights folder, or demo.
        wanted: the network that is needed.
        option: what the user named the folder by, for the sentence.
        advice: what to do instead, the end of the sentence.

    Raises:
        InputError: the card says that it is the other network, or there is no card.
    """
    found = network_of(read_card(weights_folder(name), "portrait"))
    if found not in (None, wanted):
        raise InputError(f"{option} {name}: expected {_CALLED[wanted]}, got {_CALLED[found]}; {advice}")
