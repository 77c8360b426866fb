"""Tell what the tables of a clip store say of motion: whose parameters they hold, and what an encoder read before."""

from __future__ import annotations

import logging

from triportrait.core.motion.encoder import MotionColumns, MotionEncoder
from triportrait.core.motion.parameter_encoder import flame_parameters
from triportrait.core.motion.small_encoder import HEAD_COLUMNS
from triportrait.core.safe_text import literal, shown
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.motion_targets import head_model_of

logger = logging.getLogger(__name__)


def parameters_of(store: ClipStore | None) -> MotionColumns:
    """Return what the parameters of data are, each in the unit 1; of a multi-view set (None) or a clip store.

    Raises: `InputError` where the store names no head model in its place.
    """
    if store is None or store.source == HEADS:
        return MotionColumns(HEAD_COLUMNS.widths, (1.0,) * HEAD_COLUMNS.width)
    return flame_parameters(head_model_of(store)).columns


def stored_motion_width(store: ClipStore, encoder: MotionEncoder, tells: bool = True) -> int | None:
    """Return M where the tables of tracked faces hold what this encoder read off the frames; None: they are read now.

    A store says in its index by whom its motion was read. One that says nothing, as imports leave it, is taken to hold
    that of this encoder where the first table has a motion of this width.

    Args:
        tells: log that what is stored is not used.
    """
    named = store.index.get("motion_encoder")
    if named is not None and named != encoder.name:
        if tells:
            logger.info(
                "%s: its motion was read by %s; %s reads the pictures", store.folder, literal(named),
                shown(encoder.name),
            )  # fmt: skip
        return None
    for clip in range(len(store)):
        try:
            table = store.table(clip)
        except ValueError:
            continue
        stored = table["motion"].shape[1:] if "motion" in table else ()
        if stored and stored != (encoder.motion_width,) and tells:
            logger.info(
                "%s: its motion has %s numbers, not %d; %s reads the pictures", store.folder,
                " x ".join(map(str, stored)), encoder.motion_width, shown(encoder.name),
            )  # fmt: skip
        if not stored and tells:
            logger.info("%s: no motion is stored; %s reads the pictures", store.folder, shown(encoder.name))
        return encoder.motion_width if stored == (encoder.motion_width,) else None
    return encoder.motion_width
