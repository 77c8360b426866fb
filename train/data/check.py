"""Whether stored data can be trained on: every checksum, every table, and that its videos decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.frames import decode
from triportrait.train.data.clip_store.store import ClipStore, holds_clips
from triportrait.train.data.multiview import MultiviewSet

NAMED = 3  # bad ones in a sentence
AT_A_TIME = 64  # frames decoded together
_COLUMNS = {True: ("points", "expression", "neck"), False: ("shape", "expression", "pose", "eyes")}  # of heads, tracked


def check_data(
    folder: Path, deep: bool = False, tell: Callable[[int, int], None] = lambda done, count: None
) -> tuple[str, str]:
    """Read all of a multi-view set or a clip store.

    Args:
        deep: decode every frame of a clip, not its first and its last alone.
        tell: is called with the number of heads or clips done and that of all.

    Returns:
        What is whole, in a line, and how that was looked at.

    Raises: `InputError` that names what cannot be trained on, and why.
    """
    return _check_store(folder, deep, tell) if holds_clips(folder) else _check_set(folder, tell)


def _check_set(folder: Path, tell: Callable[[int, int], None]) -> tuple[str, str]:
    found = MultiviewSet(folder, contents=True)

    def wrong() -> Iterator[str]:
        for head in range(len(found)):
            try:
                found.head(head)
            except InputError as error:
                yield str(error).removeprefix(f"{folder}/").rpartition("; ")[0]
            tell(head + 1, len(found))

    _refuse(folder, list(wrong()), len(found), "heads")
    pictures = len(found) * found.index["expressions"] * found.index["views"]
    line = f"{len(found)} heads, {pictures:,} pictures of {found.index['size']} px: whole"
    return line, "checksums, and of every array shape, finite numbers and cameras"


def _check_store(folder: Path, deep: bool, tell: Callable[[int, int], None]) -> tuple[str, str]:
    found = ClipStore(folder, contents=True)

    def wrong() -> Iterator[str]:
        for clip in range(len(found)):
            try:
                found.verify(clip)
                columns = ("camera", "mask", *_COLUMNS[found.source == HEADS])
                if missing := [name for name in columns if name not in found.table(clip)]:
                    raise ValueError(f"its table has no {missing[0]}")
                last = found.frames_of[clip] - 1
                _decode(found, clip, range(last + 1) if deep else sorted({0, last}))
            except ValueError as error:
                yield f"{found.clips[clip]}: {error}"
            tell(clip + 1, len(found))

    _refuse(folder, list(wrong()), len(found), "clips")
    line = f"{len(found)} clips of {found.size} px, {sum(found.frames_of):,} frames: whole"
    frames = "every frame decoded" if deep else "the first and the last frame of each decoded, where --deep decodes all"
    return line, f"checksums, every table, {frames}"


def _decode(store: ClipStore, clip: int, rows: Sequence[int]) -> None:
    """Raises: `ValueError`, in words, for a video that does not decode or shows another size."""
    for start in range(0, len(rows), AT_A_TIME):
        frames = decode(store.path(clip), rows[start : start + AT_A_TIME])
        if frames.shape[1:3] != (store.size, store.size):
            raise ValueError(f"its frames have {frames.shape[1]} x {frames.shape[2]} px, expected {store.size}")


def _refuse(folder: Path, wrong: list[str], count: int, what: str) -> None:
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(
            f"{folder}: {len(wrong)} of {count} {what} cannot be used ({'; '.join(wrong[:NAMED])}{more}); make them "
            "again"
        )
