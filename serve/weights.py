"""From what the user calls the weights to networks that run."""

from __future__ import annotations

import os

from triportrait.core.checkpoint import load_pair, weights_folder
from triportrait.core.config import portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.network_kind import REENACTMENT, check_network
from triportrait.core.portrait import Portrait4D
from triportrait.core.rule import rule_motion_encoder, rule_portrait

RULE = "rule"
VARIABLE = "TRIPORTRAIT_WEIGHTS"


def default_weights() -> str | None:
    """The weights folder that the environment names, if it does."""
    return os.environ.get(VARIABLE) or None


def named_weights(weights: str | None) -> str:
    """The weights that are meant: those given, else those that the environment names.

    Raises:
        InputError: neither names any.
    """
    weights = weights or default_weights()
    if weights is None:
        raise InputError(
            "weights: none are named; give --weights FOLDER (from `triportrait convert` or `triportrait train`), "
            "--weights demo for the package's own, a small network for procedural heads, or --weights rule to check "
            "the installation with a picture of noise"
        )
    return weights


def load_weights(weights: str | None, static: bool = False) -> tuple[Portrait4D, MotionEncoder | SmallMotionEncoder]:
    """The networks of a weights folder, the package's own, or the rule-made ones.

    Args:
        weights: a folder, "demo" for the weights in the package (the tiny network, trained on procedural heads), or
            "rule" for weights made from names; None takes what the environment variable TRIPORTRAIT_WEIGHTS names.
        static: nothing will read motion, so that a static synthesizer is as good.

    Raises:
        InputError: nothing is named, the folder does not hold what is needed, or it holds a static synthesizer, whose
            motion layers nobody trained.
    """
    weights = named_weights(weights)
    if weights == RULE:
        return rule_portrait(portrait4d_v2()), rule_motion_encoder()
    if not static:
        advice = "name weights that move, or let `triportrait reenact --static` show these without motion"
        check_network(weights, REENACTMENT, "weights", advice)
    return load_pair(weights_folder(weights))
