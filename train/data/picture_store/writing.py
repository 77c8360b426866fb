"""Write a picture store shard by shard; several processes may write different shards, and a killed one goes on."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.atomic import replacing, write_text
from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_json
from triportrait.core.safe_text import shown
from triportrait.train.data.head_model_file import same_settings
from triportrait.train.data.picture_store.layout import (
    BEGUN,
    ENDINGS,
    INDEX,
    KIND,
    check_rows,
    disk_error,
    key_of,
    shard_name,
)

_BLOCK = 512  # bytes of a tar's header, and what its files are padded to


@dataclass(frozen=True)
class StoredPicture:
    """A picture as a store keeps it.

    Attributes:
        number: in the list that the store is made from.
        source: its path in the source.
        image, mask: encoded; the mask as PNG, white on the person.
        format: of the image, a key of `ENDINGS`.
        numbers: float32 rows by name: camera [25], shape [300], expression [100], pose [6], eyes [6], error_px [],
            motion [M] where there is one.
    """

    number: int
    source: str
    image: bytes
    mask: bytes
    format: str
    numbers: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Dropped:
    """A picture that is not stored: its path in the source, the reason in a word or two, and more in words."""

    source: str
    reason: str
    detail: str = ""


@dataclass
class _Shard:
    """Collects the pictures of one shard: their bytes go to the tar at once, their numbers wait."""

    tar: tarfile.TarFile
    rows: dict[str, list[Any]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    pictures: int = 0

    def add(self, picture: StoredPicture | Dropped) -> None:
        """Keep a picture, or note that it is dropped."""
        if isinstance(picture, Dropped):
            self.dropped.append(picture)
            return
        key = key_of(picture.number)
        image = self._put(f"{key}{ENDINGS[picture.format]}", picture.image)
        mask = self._put(f"{key}.mask.png", picture.mask)
        row: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in picture.numbers.items()}
        row |= {"number": picture.number, "source": picture.source, "place": (*image, *mask)}
        if self.pictures and self.rows.keys() != row.keys():
            raise ValueError(f"its numbers are {sorted(row)}, those of others {sorted(self.rows)}")
        for name, value in row.items():
            self.rows.setdefault(name, []).append(value)
        self.pictures += 1

    def table(self) -> dict[str, np.ndarray]:
        """Return the numbers of all pictures, N rows in each column."""
        kinds: dict[str, Any] = {"number": np.int64, "place": np.int64, "source": np.str_}
        return {name: np.array(values, kinds.get(name, np.float32)) for name, values in self.rows.items()}

    def _put(self, name: str, data: bytes) -> tuple[int, int]:
        entry = tarfile.TarInfo(name)  # without time or owner, so that equal pictures make equal files
        entry.size, entry.mode = len(data), 0o644
        at = self.tar.offset + _BLOCK
        self.tar.addfile(entry, io.BytesIO(data))
        return at, len(data)


class PictureWriter:
    """Write the shards of a store, in any order, from one process or several.

    Args:
        folder: made if it is missing.
        settings: what the store is made from, plain JSON values; who goes on must say the same.

    Raises: `InputError` for a folder that holds something else, a finished store, or one made from something else.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, dict(settings)
        if (folder / INDEX).exists():
            raise InputError(f"{folder}: this store is finished; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            begun = folder / BEGUN
            if not begun.exists():
                if any(not path.name.startswith(".") for path in folder.iterdir()):
                    raise InputError(f"{folder}: expected an empty folder or a store that was begun; name another")
                self._begin(begun)
            said = read_json(begun, MOST_INDEX)
        except OSError as error:
            raise disk_error(folder, error) from error
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{folder}: expected a store that was begun, its {BEGUN} is damaged; remove it") from error
        if (difference := same_settings(said, self.settings)) is not None:
            raise InputError(f"{folder}: this store was begun {difference}; say the same or name another folder")
        self.settings = said

    def _begin(self, begun: Path) -> None:
        try:
            with replacing(begun, overwrite=False) as part:
                part.write_text(json.dumps(self.settings) + "\n")
        except InputError:
            if not begun.exists():
                raise  # else another process was first, and the settings are compared

    def is_done(self, shard: int) -> bool:
        """Tell whether a shard is written and whole."""
        try:
            entry = self._entry(shard)
            return all(fingerprint(self.folder / name) == said for name, said in entry["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    @contextmanager
    def shard(self, number: int) -> Iterator[_Shard]:
        """Yield what takes the pictures of a shard, in order; it is on the disk when the block ends well.

        Raises: `InputError` where the disk refuses; `ValueError` for numbers that are those of no face.
        """
        name, entry = shard_name(number), dict[str, Any]()
        tar_path, table_path = self.folder / f"{name}.tar", self.folder / f"{name}.npz"
        try:
            self._done_path(number).unlink(missing_ok=True)  # nobody finishes a store while this shard is made again
            with replacing(tar_path, only_writer=True) as tar_part, replacing(table_path, only_writer=True) as npz_part:
                with tarfile.open(tar_part, "w", format=tarfile.USTAR_FORMAT) as tar:
                    taken = _Shard(tar)
                    yield taken
                if taken.pictures:
                    table = taken.table()
                    check_rows(table, taken.pictures, tar_part.stat().st_size)
                    np.savez_compressed(npz_part, **table)  # type: ignore[arg-type]
                    entry = {tar_path.name: fingerprint(tar_part), table_path.name: fingerprint(npz_part)}
            if not taken.pictures:
                tar_path.unlink()
                table_path.unlink()
            said = {
                "shard": number,
                "pictures": taken.pictures,
                "files": entry,
                "dropped": [[one.source, one.reason, one.detail] for one in taken.dropped],
            }
            write_text(self._done_path(number), json.dumps(said) + "\n")
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def are_done(self, shards: int) -> bool:
        """Tell whether all shards are written, by whichever process."""
        return all(self._done_path(shard).exists() for shard in range(shards))

    def dropped(self, shards: int) -> Iterator[Dropped]:
        """Yield every picture that was dropped, in the source's order."""
        for shard in range(shards):
            yield from (Dropped(*map(str, one)) for one in self._entry(shard)["dropped"])

    def dropped_in(self, shard: int) -> int:
        """Return how many pictures of a written shard were dropped."""
        return len(self._entry(shard)["dropped"])

    def finish(self, shards: int, size: int, **more: Any) -> None:
        """Write the index, where all shards are done.

        Several processes may do it at once, as they write the same.

        Raises: `InputError` for a store without a picture, or a disk that refuses.
        """
        entries, counts, total = [], dict[str, int](), 0
        try:
            for number in range(shards):
                entry = self._entry(number)
                if entry["pictures"]:
                    said = {"name": shard_name(number), "pictures": entry["pictures"], "files": entry["files"]}
                    entries.append(said)
                    total += entry["pictures"]
            for one in self.dropped(shards):
                counts[one.reason] = counts.get(one.reason, 0) + 1
        except FileNotFoundError:
            if (self.folder / INDEX).exists():  # another process finished meanwhile
                return
            raise
        if not entries:
            why = ", ".join(f"{shown(reason)} {count}" for reason, count in sorted(counts.items()))
            raise InputError(
                f"{self.folder}: expected pictures that can be used, all {sum(counts.values())} were dropped ({why}); "
                "name other pictures, or loosen the filters in another folder"
            )
        index = {
            "kind": KIND, "version": 1, **self.settings, "size": size, "pictures": total, "dropped": counts, **more,
            "shards": entries,
        }  # fmt: skip
        try:
            with replacing(self.folder / INDEX) as part:
                part.write_text(json.dumps(index, indent=1) + "\n")
            for number in range(shards):
                self._done_path(number).unlink(missing_ok=True)
            (self.folder / BEGUN).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def _done_path(self, shard: int) -> Path:
        return self.folder / f".{shard_name(shard)}.json"

    def _entry(self, shard: int) -> dict[str, Any]:
        entry: dict[str, Any] = read_json(self._done_path(shard), MOST_INDEX)
        return entry


def encoded_picture(image: np.ndarray, kind: str) -> bytes:
    """Encode uint8 [S, S, 3] or a mask uint8 [S, S]: png without loss, jpeg and webp at quality 95."""
    from PIL import Image

    to = io.BytesIO()
    options: dict[str, Any] = {} if kind == "png" else {"quality": 95}
    if kind == "jpeg":
        options["subsampling"] = 0
    Image.fromarray(np.ascontiguousarray(image)).save(to, format=kind.upper(), **options)
    return to.getvalue()


def spread(shards: int, rank: int, ranks: int) -> Sequence[int]:
    """Return the shards that one of several processes writes."""
    return range(rank, shards, ranks)
