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
Motion = Literal["pictures", "parameters"]
STATIC: Network = "static synthesizer"
REENACTMENT: Network = "reenactment"
_CALLED = {STATIC: "a static synthesizer (stage 1)", REENACTMENT: "a reenactment network (stage 2)"}
_MOVED_BY = {
    "pictures": "one whose motion is read off pictures",
    "parameters": "one whose motion is the parameters of tracked faces (3DMM, row F)",
}
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


def motion_of_card(card: dict[str, Any]) -> Motion | None:
    """What moves the reenactment network of a portrait's card; None where it is none, or nobody noted its kind.

    Pictures move all that do not say otherwise: the two have numbers of their own, and may have equally many.
    """
    if network_of(card) != REENACTMENT:
        return None
    return "parameters" if card["provenance"].get("motion") == "parameters" else "pictures"


def check_network(name: str | Path, wanted: Network, option: str, advice: str, motion: Motion = "pictures") -> None:
    """Check that a folder does not hold the other network. A card that names none is taken at the user's word.

    Args:
        name: a weights folder, or demo.
        wanted: the network that is needed.
        option: what the user named the folder by, for the sentence.
        advice: what to do instead, the end of the sentence.
        motion: what shall move it, where a reenactment network is wanted.

    Raises:
        InputError: the card says that it is the other network or that something else moves it, or there is no card.
    """
    card = read_card(weights_folder(name), "portrait")
    found, moved = network_of(card), motion_of_card(card)
    if found not in (None, wanted):
        raise InputError(f"{option} {name}: expected {_CALLED[wanted]}, got {_CALLED[found]}; {advice}")
    if wanted == REENACTMENT and moved not in (None, motion):
        raise InputError(f"{option} {name}: expected {_MOVED_BY[motion]}, got {_MOVED_BY[moved]}; name another folder")
