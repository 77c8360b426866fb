"""Choose which parameters of tracked faces a motion encoder learns to read, and measure the unit of each.

Letters: M chosen numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionColumns
from triportrait.core.motion.parameter_encoder import FLAME_WIDTHS
from triportrait.core.motion.small_encoder import HEAD_COLUMNS
from triportrait.core.safe_text import shown
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.head_model_file import stored_head_model

MOST_MEASURED = 2000  # clips, evenly spread over the store; their units are those of all
MOVES = 1e-6  # of a number, at least, if it means anything
_DIGITS = 6  # of a unit, so that other libraries' last bits do not make another run


@dataclass(frozen=True)
class MotionTargets:
    """What a motion encoder learns to say.

    Attributes:
        columns: the numbers, with their units.
        places: where they stand among all parameters of a face; None: these are all of them, in order.
    """

    columns: MotionColumns
    places: tuple[int, ...] | None = None

    def of(self, parameters: Tensor) -> Tensor:
        """Choose them from parameters [B, P]: [B, M]."""
        return parameters if self.places is None else parameters[:, list(self.places)]


HEAD_TARGETS = MotionTargets(HEAD_COLUMNS)  # of procedural heads


def targets_of(
    store: ClipStore, chosen: Sequence[int] | None, names: Sequence[str], motion_width: int | None
) -> MotionTargets:
    """Choose the numbers of a store of clips.

    Of the expression the first coefficients are taken: as many as the width leaves room for, by default up to the last
    one that moves in these clips.

    Args:
        chosen: the clips that are trained on; None: all.
        names: of `FLAME_WIDTHS`, at least one.
        motion_width: M; None: what the parameters need.

    Raises:
        InputError: for a choice that cannot be, or clips in which nothing moves.
    """
    if store.source == HEADS:
        if motion_width not in (None, HEAD_COLUMNS.width):
            raise InputError(
                f"motion-width: expected {HEAD_COLUMNS.width}, as procedural heads have so many, got {motion_width}; "
                "leave it out"
            )
        return HEAD_TARGETS
    unknown = [name for name in names if name not in FLAME_WIDTHS]
    if unknown or not names or len({*names}) < len(names):
        raise InputError(
            f"targets: expected some of {', '.join(FLAME_WIDTHS)}, each once, got {shown(', '.join(names)) or 'none'}; "
            "choose among them"
        )
    spread = _spread(store, range(len(store)) if chosen is None else chosen)
    widths = {name: width for name, width in FLAME_WIDTHS.items() if name in names}
    if "expression" in widths:
        moves = np.flatnonzero(spread[: FLAME_WIDTHS["expression"]] > MOVES)
        widths["expression"] = int(moves[-1]) + 1 if len(moves) else 1
    if motion_width is not None:
        widths = _fitted(widths, motion_width)
    starts = dict(zip(FLAME_WIDTHS, np.cumsum([0, *FLAME_WIDTHS.values()]).tolist(), strict=False))
    places = [starts[name] + i for name, width in widths.items() for i in range(width)]
    units = spread[places]
    if not bool((units > MOVES).any()):
        raise InputError(f"{store.folder}: expected clips of faces that move, nothing moves in these; name others")
    scale = tuple(float(f"{unit:.{_DIGITS}g}") if unit > MOVES else 1.0 for unit in units.tolist())
    return MotionTargets(
        MotionColumns(widths, scale, stored_head_model(store.index, f"{store.folder}: head_model")), tuple(places)
    )


def _fitted(widths: dict[str, int], motion_width: int) -> dict[str, int]:
    others = sum(width for name, width in widths.items() if name != "expression")
    most = others + FLAME_WIDTHS["expression"] * ("expression" in widths)
    least = others + ("expression" in widths)
    if not least <= motion_width <= most:
        sizes = str(least) if least == most else f"{least} to {most}"
        raise InputError(
            f"motion-width: expected {sizes} for {', '.join(widths)}, got {motion_width}; choose so many, or other "
            "--targets"
        )
    return widths | ({"expression": motion_width - others} if "expression" in widths else {})


def _spread(store: ClipStore, clips: Sequence[int]) -> np.ndarray:
    """Measure the standard deviation of each parameter over the frames of clips: float64 [109].

    Clip after clip is read and forgotten; one that cannot be read is left out, as training leaves it out.
    """
    each = max(1, -(-len(clips) // MOST_MEASURED))
    count, mean, squares = 0, np.zeros(sum(FLAME_WIDTHS.values())), np.zeros(sum(FLAME_WIDTHS.values()))
    reason = "it holds none"
    for clip in clips[::each]:
        try:
            table = store.read_table(clip)
            rows = np.concatenate([table["expression"], table["pose"][:, 3:], table["eyes"]], 1).astype(np.float64)
            if rows.shape[1] != len(mean) or not np.isfinite(rows).all():
                raise ValueError(f"{store.clips[clip]}: rows of {rows.shape[1]} numbers, not all of them finite")
        except (ValueError, KeyError, IndexError) as error:
            reason = str(error)
            continue
        both = count + len(rows)  # the sums of two sets of numbers from those of each (Chan et al. 1979)
        away = rows.mean(0) - mean
        squares += ((rows - rows.mean(0)) ** 2).sum(0) + away**2 * (count * len(rows) / both)
        mean += away * (len(rows) / both)
        count = both
    if count == 0:
        raise InputError(f"{store.folder}: expected clips with parameters of tracked faces, none can be read ({reason})"
                         "; make the store again")  # fmt: skip
    spread: np.ndarray = np.sqrt(squares / count)
    return spread
