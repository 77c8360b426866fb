"""From what the user calls the weights to networks that run."""

from __future__ import annotations

from triportrait.core.checkpoint import load_pair, load_portrait, weights_folder
from triportrait.core.config import portrait4d_v2
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.network_kind import REENACTMENT, check_network
from triportrait.core.portrait import Portrait4D
from triportrait.core.rule import rule_motion_encoder, rule_portrait
from triportrait.core.weights import VARIABLE as VARIABLE  # named where weights are
from triportrait.core.weights import named_weights

RULE = "rule"


def load_weights(weights: str | None, static: bool = False) -> tuple[Portrait4D, MotionEncoder | SmallMotionEncoder]:
    """The networks of a weights folder, the package's own, or the rule-made ones.

    Args:
        weights: a folder, "demo" for the weights in the package (the tiny network, trained on procedural heads), or
            "rule" for weights made from names; None takes what `named_weights` does.
        static: nothing will read motion, so that a static synthesizer is as good.

    Raises:
        InputError: the folder does not hold what is needed, or it holds a static synthesizer, whose motion layers
            nobody trained.
    """
    weights = named_weights(weights)
    if weights == RULE:
        return rule_portrait(portrait4d_v2()), rule_motion_encoder()
    if not static:
        advice = "name weights that move, or let `triportrait reenact --static` show these without motion"
        check_network(weights, REENACTMENT, "weights", advice)
    folder = weights_folder(weights)
    if static and not (folder / "motion.json").exists():  # stage 1 leaves none, and nothing will ask it
        portrait = load_portrait(folder)
        return portrait, SmallMotionEncoder(portrait.config.transformer.motion_width)
    return load_pair(folder)
