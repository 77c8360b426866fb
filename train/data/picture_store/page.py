"""Write the page that shows what of a folder of pictures was kept and what was dropped, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.train.data.kept_and_dropped import MOST_DROPPED, MOST_KEPT, Tile, write_kept_and_dropped
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.picture_store.writing import Dropped
from triportrait.train.data.shards.layout import disk_error

PAGE = "page.html"
SHOWN_PX = 192
BEHIND = 0.35  # of the picture's shade where no person is, so that the mask is seen


def write_page(store: PictureStore, root: Path, dropped: Iterator[Dropped], others: int) -> None:
    """Write the page into the store's folder.

    Args:
        root: the folder that the pictures come from; what was dropped is read there again, a few of each reason.
        dropped: what was dropped, in order. others: files that are no pictures.

    Raises: `InputError` where the disk refuses.
    """
    listed, counts = int(store.index["listed"]), dict(store.index["dropped"])
    lead = f"{len(store):,} of {listed:,} pictures were kept" + (f"; other files: {others:,}" if others else "")
    name = "a head model" if store.head_model is None else store.head_model.name
    lead += f". Fitted: {name}. What is not the person is shown darker; the mask says so."
    try:
        write_kept_and_dropped(
            store.folder / PAGE,
            root.resolve().name or str(root),
            lead,
            {"pictures": (listed, len(store), counts)},
            _tiles(store, root, dropped),
            SHOWN_PX,
        )
    except OSError as error:
        raise disk_error(store.folder, error) from error


def _tiles(store: PictureStore, root: Path, dropped: Iterator[Dropped]) -> Iterator[Tile]:
    step = max(1, len(store) // MOST_KEPT)
    spread = list(range(0, len(store), step))[:MOST_KEPT]
    for picture in spread:
        row = store.row(picture)
        turn = np.rad2deg(np.linalg.norm(row["pose"][:3]))
        said = f"turned by {turn:.0f}°, fitted to {float(row['error_px']):.1f} px"
        yield Tile(_kept(store, picture), str(row["source"]), None, said)
    yield from (Tile(None, "", None) for _ in range(len(store) - len(spread)))
    seen: dict[str, int] = defaultdict(int)
    for one in dropped:
        seen[one.reason] += 1
        shown = _raw(root / one.source) if seen[one.reason] <= MOST_DROPPED else None
        yield Tile(shown, one.source, one.reason, one.detail)


def _kept(store: PictureStore, picture: int) -> np.ndarray:
    image, mask = store.picture(picture), store.mask(picture)
    return _small(np.where(mask[..., None] > 0, image, image * BEHIND).astype(np.uint8))


def _raw(path: Path) -> np.ndarray | None:
    try:
        return _small(read_picture(path))
    except InputError:
        return None


def _small(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((SHOWN_PX, SHOWN_PX))
    return np.asarray(picture)
