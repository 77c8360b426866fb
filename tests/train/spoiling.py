"""Sets and stores with damage that their checksums do not show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.checksum import fingerprint
from triportrait.train.data.clip_store.store import INDEX


def indexed(folder: Path, name: str) -> None:
    """Make the index say what a file is now."""
    index = json.loads((folder / INDEX).read_text())
    for clip in index["clips"]:
        if name in clip["files"]:
            clip["files"][name] = fingerprint(folder / name)
    (folder / INDEX).write_text(json.dumps(index))


def changed(store: Path, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]], clip: str = "") -> Path:
    """A copy with other tables, of one clip or of all."""
    if not folder.exists():
        shutil.copytree(store, folder)
    for path in sorted(folder.glob(f"{clip}*.npz")):
        with np.load(path) as file:
            table = dict(file)
        np.savez_compressed(path, **change(table))
        indexed(folder, path.name)
    return folder


def turned_over(table: dict[str, Any]) -> dict[str, Any]:
    return table | {"camera": table["camera"] * np.float32(1.01)}


def spoil(folder: Path, kind: str, clip: str) -> None:
    video = folder / f"{clip}.mp4"
    if kind == "no video":
        video.write_bytes(b"no video" * 500)
        indexed(folder, video.name)
    elif kind == "flipped bit":
        data = bytearray(video.read_bytes())
        data[-100] ^= 1
        video.write_bytes(data)
    elif kind == "gone":
        video.unlink()
    elif kind == "row":
        changed(folder, folder, lambda t: t | {"neck": t["neck"][:-1]}, clip)
    elif kind == "column":
        changed(folder, folder, lambda t: {n: v for n, v in t.items() if n != "points"}, clip)
    elif kind == "camera":
        changed(folder, folder, turned_over, clip)


HEAD = "head_000001.npz"


def altered(source: Path, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a set whose second head holds other arrays, its checksum right."""
    shutil.copytree(source, folder)
    with np.load(folder / HEAD) as file:
        arrays = dict(file)
    np.savez_compressed(folder / HEAD, **change(arrays))
    index = json.loads((folder / "index.json").read_text())
    index["files"][HEAD] = fingerprint(folder / HEAD)
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def spoilt(name: str, value: float = np.nan) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(arrays: dict[str, Any]) -> dict[str, Any]:
        found = arrays[name].copy()
        found.flat[0] = value
        return arrays | {name: found}

    return change
