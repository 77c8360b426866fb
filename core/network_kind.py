"""Two kinds of networks have the same tensors; the card of a weights folder alone tells which one it holds.

A static synthesizer has layers that read motion, too, but they were never trained (section 4.2): taken for a
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
_NAMES = {STATIC: "a static synthesizer (stage 1)", REENACTMENT: "a reenactment network (stage 2)"}
_MOVED_BY = {
    "pictures": "one whose motion is read off pictures",
    "parameters": "one whose motion is the parameters of tracked faces (3DMM, row F)",
}
_PUBLISHED = "portrait4d"  # how the published files' names begin


def network_of(card: dict[str, Any]) -> Network | None:
    """Return the network that a portrait's card names, or that the name of its published file tells.

    None means that nobody noted it.
    """
    provenance = card.get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    for network in (STATIC, REENACTMENT):
        if provenance.get("network") == network:
            return network
    file = str(provenance.get("file", "")).lower()
    if "static" in file:
        return STATIC
    return REENACTMENT if file.startswith(_PUBLISHED) else None


def motion_of_card(card: dict[str, Any]) -> Motion | None:
    """Return what moves the reenactment network of a portrait's card; None where it is none, or nobody noted its kind.

    Pictures move every network whose card does not say otherwise. Motion of pictures and of parameters means different
    numbers, but may have equally many.
    """
    if network_of(card) != REENACTMENT:
        return None
    return "parameters" if card["provenance"].get("motion") == "parameters" else "pictures"


def check_network(name: str | Path, expected: Network, option: str, advice: str, motion: Motion = "pictures") -> None:
    """Check that a folder does not hold the other network. A card that names none is taken at the user's word.

    Args:
        name: a weights folder, or demo.
        expected: the network that is needed.
        option: the option that named the folder, for the sentence.
        advice: what to do instead, the end of the sentence.
        motion: what shall move it, where a reenactment network is needed.

    Raises:
        InputError: the card says that it is the other network or that something else moves it, or there is no card.
    """
    card = read_card(weights_folder(name), "portrait")
    network, moved_by = network_of(card), motion_of_card(card)
    if network not in (None, expected):
        raise InputError(f"{option} {name}: expected {_NAMES[expected]}, got {_NAMES[network]}; {advice}")
    if expected == REENACTMENT and moved_by not in (None, motion):
        raise InputError(
            f"{option} {name}: expected {_MOVED_BY[motion]}, got {_MOVED_BY[moved_by]}; name another folder"
        )
