"""The notice that the page shows beside the picture for weights that were not trained on photographs of people."""

from __future__ import annotations

from dataclasses import dataclass

from triportrait.core.weights import DEMO
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.weight_loading import RULE

_REMEDY = (
    "Real faces need weights trained on photographs. Bring the files published with Portrait4D-v2 and PD-FGC (they "
    "keep their owners' licences), convert them, and start again with them: see “A real face” in the README."
)
_COMMANDS = (
    "triportrait convert portrait4d-v2-vfhq512.pkl weights/",
    "triportrait convert motion_model.pth weights/",
    "triportrait live --weights weights/",
)


@dataclass(frozen=True)
class WeightsNotice:
    """The notice about weights that were not trained on photographs of people.

    Attributes:
        title: the notice in a few words.
        sentence: what becomes of a photo as portrait, and of a real face that drives.
        remedy: which weights do better.
        commands: how to convert and use them.
        neutral: whether the page lets a picture of a real driving face count as neutral.
    """

    title: str
    sentence: str
    remedy: str = _REMEDY
    commands: tuple[str, ...] = _COMMANDS
    neutral: bool = False


def weights_notice(weights: str, reenactor: Reenactor) -> WeightsNotice | None:
    """Build the notice about weights; None for those whose motion encoder reads real faces.

    Args:
        weights: a folder, `demo` or `rule`, as the user names them.
        reenactor: the network with these weights.
    """
    if weights == RULE:
        return WeightsNotice(
            "Weights made from names", "They check the installation: the picture is noise, whoever drives it."
        )
    if not reenactor.motion_encoder.of_drawn_heads:
        return None
    whose = "The demo weights have" if weights == DEMO else "These weights have"
    return WeightsNotice(
        "Drawn heads only",
        f"{whose} never seen a person. A photo as portrait becomes a drawn head without its likeness. A real face that "
        "drives is misread, with eyes that shut and smiles that are missed, until one relaxed second of it counts as "
        "neutral.",
        neutral=not reenactor.static,
    )
