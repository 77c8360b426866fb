"""Check stored data before training: every checksum, every table, and that videos and pictures decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.frames import decode
from triportrait.train.data.clip_store.store import ClipStore, is_clip_store
from triportrait.train.data.generated.store.layout import is_head_store
from triportrait.train.data.generated.store.reading import HeadStore
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.picture_store.layout import is_picture_store
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.split import read_split

NAMED = 3  # unusable heads or clips that a sentence names
AT_A_TIME = 64  # frames decoded together
_COLUMNS = {True: ("points", "expression", "neck"), False: ("shape", "expression", "pose", "eyes")}  # of heads, tracked


def check_data(
    folder: Path, deep: bool = False, progress: Callable[[int, int], None] = lambda done, count: None
) -> tuple[str, str]:
    """Check all of a multi-view set, a clip store, a picture store or a store of generated heads.

    Args:
        deep: decode every frame of a clip, every picture or head of a shard; by default the first and the last.
        progress: is called with the number of heads, clips or shards done and that of all.

    Returns:
        A line that says what is whole, and a list of the checks in words.

    Raises: `InputError` that names what cannot be trained on, and why.
    """
    if is_head_store(folder):
        line, checks = _check_generated(folder, deep, progress)
    elif is_picture_store(folder):
        line, checks = _check_pictures(folder, deep, progress)
    elif is_clip_store(folder):
        line, checks = _check_store(folder, deep, progress)
    else:
        line, checks = _check_set(folder, progress)
    split = read_split(folder)
    return (line, checks) if split is None else (f"{line}; {split.sentence()}", f"{checks}; who is held out")


def _check_set(folder: Path, progress: Callable[[int, int], None]) -> tuple[str, str]:
    heads = MultiviewSet(folder, contents=True)

    def flaws() -> Iterator[str]:
        for head in range(len(heads)):
            try:
                heads.head(head)
            except InputError as error:
                yield str(error).removeprefix(f"{folder}/").rpartition("; ")[0]
            progress(head + 1, len(heads))

    _refuse(folder, list(flaws()), len(heads), "heads")
    pictures = len(heads) * heads.index["expressions"] * heads.index["views"]
    line = f"{len(heads)} heads, {pictures:,} pictures of {heads.index['size']} px: whole"
    return line, "checksums, and of every array shape, finite numbers and cameras"


def _check_store(folder: Path, deep: bool, progress: Callable[[int, int], None]) -> tuple[str, str]:
    store = ClipStore(folder, contents=True)

    def flaws() -> Iterator[str]:
        for clip in range(len(store)):
            try:
                store.verify(clip)
                columns = ("camera", "mask", *_COLUMNS[store.source == HEADS])
                if missing := [name for name in columns if name not in store.table(clip)]:
                    raise ValueError(f"its table has no {missing[0]}")
                last = store.frames_of[clip] - 1
                _decode(store, clip, range(last + 1) if deep else sorted({0, last}))
            except ValueError as error:
                yield f"{store.clips[clip]}: {error}"
            progress(clip + 1, len(store))

    _refuse(folder, list(flaws()), len(store), "clips")
    line = f"{len(store)} clips of {store.size} px, {sum(store.frames_of):,} frames: whole"
    frames = "every frame decoded" if deep else "the first and the last frame of each decoded, where --deep decodes all"
    return line, f"checksums, every table, {frames}"


def _check_pictures(folder: Path, deep: bool, progress: Callable[[int, int], None]) -> tuple[str, str]:
    store = PictureStore(folder)
    _check_shards(store, deep, progress)
    line = f"{len(store):,} pictures of {store.size} px in {len(store.shards):,} shards: whole"
    pictures = (
        "every picture decoded" if deep else "the first and the last of each shard decoded, where --deep decodes all"
    )
    return line, f"checksums, every table, {pictures}"


def _check_generated(folder: Path, deep: bool, progress: Callable[[int, int], None]) -> tuple[str, str]:
    store = HeadStore(folder)
    store.check_model()
    _check_shards(store, deep, progress)
    kept = ", with feature images" if store.features else ""
    line = (
        f"{len(store):,} generated heads, {len(store) * store.views:,} pictures of {store.size} px in "
        f"{len(store.shards):,} shards{kept}: whole"
    )
    heads = "every head read" if deep else "the first and the last head of each shard read, where --deep reads all"
    return line, f"checksums, the head model, every table, {heads}"


def _check_shards(store: PictureStore | HeadStore, deep: bool, progress: Callable[[int, int], None]) -> None:
    """Raises: `InputError` that names the shards which cannot be used."""

    def flaws() -> Iterator[str]:
        for shard, entry in enumerate(store.shards):
            try:
                store.verify(shard, deep)
            except ValueError as error:
                yield f"{entry.name}: {str(error).removeprefix(f'{store.folder}/')}"
            progress(shard + 1, len(store.shards))

    _refuse(store.folder, list(flaws()), len(store.shards), "shards")


def _decode(store: ClipStore, clip: int, rows: Sequence[int]) -> None:
    """Raises: `ValueError`, in words, for a video that does not decode or shows another size."""
    for start in range(0, len(rows), AT_A_TIME):
        frames = decode(store.path(clip), rows[start : start + AT_A_TIME])
        if frames.shape[1:3] != (store.size, store.size):
            raise ValueError(f"its frames have {frames.shape[1]} x {frames.shape[2]} px, expected {store.size}")


def _refuse(folder: Path, flaws: list[str], count: int, unit: str) -> None:
    if flaws:
        more = f" and {len(flaws) - NAMED} more" if len(flaws) > NAMED else ""
        raise InputError(
            f"{folder}: {len(flaws)} of {count} {unit} cannot be used ({'; '.join(flaws[:NAMED])}{more}); make them "
            "again"
        )
