"""The files of a store in shards.

    index.json          what the store is, what it was made from, and each shard's files with sizes and checksums
    shard_000000.tar    the files of its items, whose places in it the table tells
    shard_000000.npz    the table: a row for each item

While a store is written, `.begun.json` holds what it is made from and `.shard_000000.json` what a finished shard holds.
"""

from __future__ import annotations

from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_json

INDEX, BEGUN = "index.json", ".begun.json"
MOST_IN_SHARD = 1 << 16
LARGEST_TAR = 1 << 40  # bytes


def shard_name(number: int) -> str:
    """Return the name of a shard's files without their endings."""
    return f"shard_{number:06d}"


def holds_store(folder: Path, kind: str) -> bool:
    """Tell whether a folder is a finished store of a kind."""
    try:
        return bool(read_json(folder / INDEX, MOST_INDEX)["kind"] == kind)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def disk_error(folder: Path, error: OSError) -> InputError:
    """Word that the disk refused what was to be written."""
    reason = (error.strerror or type(error).__name__).lower()
    return InputError(f"{folder}: it could not be written ({reason}); free some space, and the same command goes on")
