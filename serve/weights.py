"""From what the user calls the weights to networks that run."""

from __future__ import annotations

import os
from pathlib import Path

from triportrait.core.checkpoint import load_motion_encoder, load_portrait, read_card
from triportrait.core.config import portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.rule import rule_motion_encoder, rule_portrait

RULE = "rule"
VARIABLE = "TRIPORTRAIT_WEIGHTS"


def default_weights() -> str | None:
    """The weights folder that the environment names, if it does."""
    return os.environ.get(VARIABLE) or None


def load_weights(weights: str | None) -> tuple[Portrait4D, MotionEncoder | SmallMotionEncoder]:
    """The networks of a weights folder, or the rule-made ones.

    Args:
        weights: a folder, or "rule"; None takes what the environment variable TRIPORTRAIT_WEIGHTS names.

    Raises:
        InputError: nothing is named, or the folder does not hold what is needed.
    """
    weights = weights or default_weights()
    if weights is None:
        raise InputError(
            "weights: none are named; give --weights FOLDER (from `triportrait convert`), or --weights rule to check "
            "the installation with a picture of noise"
        )
    if weights == RULE:
        return rule_portrait(portrait4d_v2()), rule_motion_encoder()
    folder = Path(weights)
    portrait, motion_encoder = load_portrait(folder), load_motion_encoder(folder)
    wanted = portrait.config.transformer.motion_width
    if motion_encoder.motion_width != wanted:
        raise InputError(
            f"{folder}: the portrait takes motion of {wanted} numbers, the motion encoder gives "
            f"{motion_encoder.motion_width}; put two files of one training or conversion there"
        )
    return portrait, motion_encoder


def published_file(folder: str) -> str:
    """The name of the published file that a folder's portrait weights come from, empty where nobody noted it.

    Raises:
        InputError: the folder holds no portrait weights.
    """
    provenance = read_card(Path(folder), "portrait").get("provenance")
    return str(provenance.get("file", "")) if isinstance(provenance, dict) else ""
