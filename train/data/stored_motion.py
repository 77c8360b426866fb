"""Tell what the tables of a clip store say of motion: whose parameters they hold, and what an encoder read before."""

from __future__ import annotations

import logging

from triportrait.core.motion.encoder import MotionColumns, MotionEncoder, encoder_fingerprint
from triportrait.core.motion.parameter_encoder import flame_parameters
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.motion.small_encoder import HEAD_COLUMNS
from triportrait.core.safe_text import literal, shown
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.records import MOTION_WIDTH
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.head_model_file import stored_head_model

logger = logging.getLogger(__name__)


def parameters_of(store: ClipStore | None) -> MotionColumns:
    """Return what the parameters of data are, each in the unit 1; of a multi-view set (None) or a clip store.

    Raises: `InputError` where the store names no head model in its place.
    """
    if store is None or store.source == HEADS:
        return MotionColumns(HEAD_COLUMNS.widths, (1.0,) * HEAD_COLUMNS.width)
    return flame_parameters(stored_head_model(store.index, f"{store.folder}: head_model")).columns


def stored_motion_width(store: ClipStore, encoder: MotionEncoder, tells: bool = True) -> int | None:
    """Return M where the tables of tracked faces hold what this encoder read off the frames; None: they are read now.

    A store says in its index by whom its motion was read, and the fingerprint tells whether that is this encoder: two
    trained ones may have one name. A store that says nothing was imported from published records, whose motion of 548
    numbers is PD-FGC's; other widths that nobody names are taken for those of this encoder.

    Args:
        encoder: with its weights.
        tells: log that what is stored is not used.
    """
    named, said = store.index.get("motion_encoder"), store.index.get("motion")
    if named is not None or said is not None:
        digits = said.get("fingerprint") if isinstance(said, dict) else None
        is_read_by_it = digits == encoder_fingerprint(encoder)
        whom = f"{literal(named)} ({shown(digits) if digits else 'no fingerprint'})"
    else:
        is_read_by_it = encoder.motion_width != MOTION_WIDTH or encoder.architecture == PDFGC.architecture
        whom = f"{literal(PDFGC.name)}, as nobody is named"
    if not is_read_by_it:
        if tells:
            logger.info("%s: its motion was read by %s; %s reads the pictures", store.folder, whom, shown(encoder.name))
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
