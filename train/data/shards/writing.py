"""Write a store shard by shard; several processes may write different shards, and a killed one goes on."""

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
from triportrait.train.data.head_model_file import same_settings
from triportrait.train.data.shards.layout import BEGUN, INDEX, disk_error, shard_name

_NOTES = ".shard_*.json"
_BLOCK = 512  # bytes of a tar's header, and what its files are padded to


@dataclass
class ShardFiles:
    """Takes the files of one shard: bytes go to the tar at once, the table at the end.

    Attributes:
        table: columns of equal length, set before the end; without any the shard has no files.
        noted: plain JSON values that the shard's entry keeps until the store is finished.
    """

    tar: tarfile.TarFile
    table: dict[str, np.ndarray] = field(default_factory=dict)
    noted: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return how many bytes the tar has so far."""
        return self.tar.offset

    def put(self, name: str, data: bytes) -> tuple[int, int]:
        """Add a file to the tar; returns where its bytes begin, and how many there are."""
        entry = tarfile.TarInfo(name)  # without time or owner, so that equal items make equal files
        entry.size, entry.mode = len(data), 0o644
        at = self.tar.offset + _BLOCK
        self.tar.addfile(entry, io.BytesIO(data))
        return at, len(data)


class ShardWriter:
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
            entry = self.entry(shard)
            return all(fingerprint(self.folder / name) == said for name, said in entry["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    @contextmanager
    def files(self, number: int) -> Iterator[ShardFiles]:
        """Yield what takes the files of a shard; it is on the disk when the block ends well.

        Raises: `InputError` where the disk refuses.
        """
        name, entry = shard_name(number), dict[str, Any]()
        tar_path, table_path = self.folder / f"{name}.tar", self.folder / f"{name}.npz"
        try:
            self._done_path(number).unlink(missing_ok=True)  # nobody finishes a store while this shard is made again
            with replacing(tar_path, only_writer=True) as tar_part, replacing(table_path, only_writer=True) as npz_part:
                with tarfile.open(tar_part, "w", format=tarfile.USTAR_FORMAT) as tar:
                    files = ShardFiles(tar)
                    yield files
                if files.table:
                    np.savez_compressed(npz_part, **files.table)  # type: ignore[arg-type]
                    entry = {tar_path.name: fingerprint(tar_part), table_path.name: fingerprint(npz_part)}
            if not files.table:
                tar_path.unlink()
                table_path.unlink()
            said = {"shard": number, "files": entry, **files.noted}
            write_text(self._done_path(number), json.dumps(said) + "\n")
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def are_done(self, shards: int) -> bool:
        """Tell whether all shards are written, by whichever process."""
        return all(self._done_path(shard).exists() for shard in range(shards))

    def entry(self, shard: int) -> dict[str, Any]:
        """Return what is noted of a written shard. Raises: `OSError` or `ValueError` where it is not there."""
        entry: dict[str, Any] = read_json(self._done_path(shard), MOST_INDEX)
        return entry

    def write_index(self, index: Mapping[str, Any]) -> None:
        """Write the index, and remove what was noted meanwhile; several processes may do it, as they write the same.

        Raises: `InputError` where the disk refuses.
        """
        try:
            with replacing(self.folder / INDEX) as part:
                part.write_text(json.dumps(index, indent=1) + "\n")
            remove_notes(self.folder)
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def _done_path(self, shard: int) -> Path:
        return self.folder / f".{shard_name(shard)}.json"


def noted_shards(folder: Path) -> int:
    """Return how many shards of a store that was begun are written, by whichever process."""
    return sum(1 for _ in folder.glob(_NOTES))


def remove_notes(folder: Path) -> None:
    """Remove what a finished store does not need any more, as a kill may have come before; others may do it, too.

    Raises: `OSError` where the disk refuses.
    """
    for path in (*folder.glob(_NOTES), folder / BEGUN):
        path.unlink(missing_ok=True)


def spread(shards: int, rank: int, ranks: int) -> Sequence[int]:
    """Return the shards that one of several processes writes."""
    return range(rank, shards, ranks)
