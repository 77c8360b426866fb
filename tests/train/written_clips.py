"""A small store of clips that a test writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from triportrait.train.data.clip_store.records import COLUMNS, LABEL_WIDTH
from triportrait.train.data.clip_store.store import ClipStore, ClipWriter, pack_masks

T, S = 20, 64  # frames of a clip, pixels of a side
SETTINGS = {"source": "test"}
MODEL = {"name": "open head", "fingerprint": "0123456789abcdef"}
TRACKED_FRAMES = 6  # of the first clip of `tracked`


def frames(seed: int, count: int = T) -> np.ndarray:
    """Smooth pictures whose brightness tells the frame."""
    across, down = np.meshgrid(np.arange(S), np.arange(S))
    shades = [(across * 2 + down + 8 * t + 40 * seed) % 200 + 20 + 0 * across for t in range(count)]
    base = [np.stack([np.full((S, S), 20 + 9 * t), s * 0.4 + 40, np.full((S, S), 60 + 30 * seed)], -1)
            for t, s in enumerate(shades)]  # fmt: skip
    return np.stack(base).astype(np.uint8)


def labels(seed: int, count: int = T) -> np.ndarray:
    """Rows of 437: cameras that turn about the vertical, all else random."""
    rows = np.random.default_rng(seed).normal(size=(count, LABEL_WIDTH)).astype(np.float32)
    angle = np.linspace(0, 0.5, count)
    camera = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    camera[:, 0, 0], camera[:, 0, 2] = np.cos(angle), np.sin(angle)
    camera[:, 2, 0], camera[:, 2, 2] = -np.sin(angle), np.cos(angle)
    rows[:, :16] = camera.reshape(count, 16)
    return rows


def table(seed: int, count: int = T) -> dict[str, np.ndarray]:
    rows = labels(seed, count)
    return {"camera": rows[:, :25], "shape": rows[:, 25:325], "mask": pack_masks(frames(seed, count)[..., 1] > 90)}


def store(folder: Path, count: int = 2) -> ClipStore:
    writer = ClipWriter(folder, SETTINGS)
    for seed in range(count):
        writer.add(f"clip_{seed}", frames(seed), table(seed))
    writer.finish()
    return ClipStore(folder, contents=True)


def tracked(folder: Path, count: int = 3, motion: int | None = 548, leave_out: str | None = None) -> ClipStore:
    """A store of clips of tracked faces, one frame more in each than in the one before."""
    writer = ClipWriter(folder, {"source": "videos", "head_model": MODEL})
    for clip in range(count):
        T_clip = TRACKED_FRAMES + clip
        rows = labels(clip, T_clip)
        table = {name: rows[:, a:b] for name, (a, b) in COLUMNS.items() if name != leave_out}
        table["mask"] = pack_masks(frames(clip, T_clip)[..., 1] > 90)
        if motion is not None:
            table["motion"] = np.random.default_rng(clip).normal(size=(T_clip, motion)).astype(np.float32)
        writer.add(f"clip_{clip:08d}", frames(clip, T_clip), table)
    writer.finish()
    return ClipStore(folder)
