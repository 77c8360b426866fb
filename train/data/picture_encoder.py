"""Loads the motion encoder that reads the pictures of a set while it is made."""

from __future__ import annotations

from triportrait.core.checkpoint import load_motion_encoder, weights_folder
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.safe_text import shown


def load_picture_encoder(name: str) -> MotionEncoder:
    """Load a motion encoder that reads pictures, on the CPU, in evaluation mode.

    Args:
        name: a weights folder, or demo.

    Raises: `InputError` where it is missing or damaged, or reads parameters, which are stored in any case.
    """
    encoder = load_motion_encoder(weights_folder(name))
    if not encoder.reads_pictures:
        raise InputError(
            f"{name}: expected a motion encoder that reads pictures, got {shown(encoder.name)}, which takes "
            "parameters, and those are stored in any case; leave --motion out"
        )
    return encoder
