"""What weights know of people, as the page says it beside the picture before anybody's face is used."""

from __future__ import annotations

from dataclasses import dataclass

from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.weights import DEMO
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.weight_loading import RULE

_REMEDY = (
    "Real faces need weights trained on photographs. Bring the files published with Portrait4D-v2 and PD-FGC (they "
    "keep their owners' licences), convert them, and start again with them: see “Real weights” in the README."
)
_COMMANDS = (
    "triportrait convert portrait4d-v2-vfhq512.pkl weights/",
    "triportrait convert motion_model.pth weights/",
    "triportrait live --weights weights/",
)


@dataclass(frozen=True)
class Knowledge:
    """What weights that do not know people make of them.

    Attributes:
        title: the shortest way to say it.
        sentence: what becomes of a photo as portrait, and of a real face that drives.
        remedy: which weights would do better.
        commands: how to get and use them.
        neutral: whether a real driving face does better when one of its pictures counts as neutral.
    """

    title: str
    sentence: str
    remedy: str = _REMEDY
    commands: tuple[str, ...] = _COMMANDS
    neutral: bool = False


def knowledge(weights: str, reenactor: Reenactor) -> Knowledge | None:
    """What a page should say of weights; None for those whose motion encoder reads real faces.

    Args:
        weights: what the user calls them: a folder, `demo` or `rule`.
        reenactor: made of them.
    """
    if weights == RULE:
        return Knowledge(
            "Weights made from names", "They check the installation: the picture is noise, whoever drives it."
        )
    if not isinstance(reenactor.motion_encoder, SmallMotionEncoder):
        return None
    whose = "The demo weights have" if weights == DEMO else "These weights have"
    return Knowledge(
        "Drawn heads only",
        f"{whose} never seen a person. A photo as portrait becomes a drawn head without its likeness. A real face that "
        "drives is misread, with eyes that shut and smiles that are missed, until one relaxed second of it counts as "
        "neutral.",
        neutral=not reenactor.static,
    )
