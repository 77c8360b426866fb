"""How many frames a second the data give on this machine, beside what one GPU would eat: a figure of the machine alone.

An image of stage 2 is two frames, its source and its driving picture.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triportrait.core.config import PRESETS, ModelConfig
from triportrait.core.errors import InputError
from triportrait.profiling.training.scaling import AIM
from triportrait.train import stage2
from triportrait.train.config import ReenactConfig
from triportrait.train.data.clip_store.frames import DaliFrames, decode
from triportrait.train.data.clip_store.store import INDEX, KIND, ClipStore
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import PictureSet

FRAMES_OF_IMAGE = 2
APPETITE = AIM * FRAMES_OF_IMAGE  # frames a second of one GPU
BATCH = 4


def measure(data: Path, seconds: float) -> list[dict[str, Any]]:
    """A row for each way of reading.

    Args:
        data: a multi-view set or a clip store. seconds: for each way.

    Raises:
        InputError: neither of them is there, or it is damaged.
    """
    if not seconds > 0:
        raise InputError(f"seconds: expected more than 0, got {seconds}; choose another")
    if _kind(data) == KIND:
        return _clips(ClipStore(data), seconds)
    return _pictures(data, seconds)


def _kind(data: Path) -> str:
    try:
        found = json.loads((data / INDEX).read_text())
        return str(found.get("kind", ""))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{data}: expected a multi-view set or a clip store, it has no {INDEX} that can be read; make one by "
            "`triportrait heads multiview` or `triportrait prepare`"
        ) from error


def _pictures(data: Path, seconds: float) -> list[dict[str, Any]]:
    side = MultiviewSet(data).index["size"]
    chosen = PictureSet(data, _model(side), necks=False, positions=True)
    config = ReenactConfig(batch=BATCH)
    streams = np.random.default_rng(0)

    def batch() -> int:
        stage2.draw(chosen, config, streams)
        return BATCH * FRAMES_OF_IMAGE

    return [_row("multi-view set, in memory", side, _rate(batch, seconds))]


def _model(side: int) -> ModelConfig:
    """A preset for pictures of a side, else one made for it: the side of the ray grid decides what is kept."""
    for make in PRESETS.values():
        if make().image_size == side:
            return make()
    tiny = PRESETS["tiny"]()
    if side % 32:
        raise InputError(f"data: expected pictures of a multiple of 32 px, got {side}; make the set again")
    render = dataclasses.replace(tiny.render, plane_size=side // 2, neural_size=side // 2)
    return dataclasses.replace(tiny, preset="bench", image_size=side, render=render)


def _clips(store: ClipStore, seconds: float) -> list[dict[str, Any]]:
    streams = np.random.default_rng(0)

    def request() -> tuple[Path, list[int]]:
        clip = int(streams.integers(len(store)))
        return store.path(clip), streams.integers(store.frames_of[clip], size=FRAMES_OF_IMAGE).tolist()

    def by_pyav() -> int:
        try:
            decode(*request())
        except ValueError as error:
            raise InputError(f"{store.folder}: {error}; make the store again") from error
        return FRAMES_OF_IMAGE

    rows = [_row("clip store, PyAV", store.size, _rate(by_pyav, seconds))]
    if importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None:
        many = max(BATCH, int(4 * seconds * APPETITE) // BATCH * BATCH)
        batches = iter(DaliFrames([request() for _ in range(many)], BATCH, torch.device("cpu")))

        def by_dali() -> int:
            return 0 if next(batches, None) is None else BATCH * FRAMES_OF_IMAGE

        rows.append(_row("clip store, DALI on the CPU", store.size, _rate(by_dali, seconds)))
    return rows


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Frames a second: what `work` gives, after its first time, until it gives none or the seconds have passed."""
    work()
    frames, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds or not frames:
        got = work()
        frames += got
        if not got:
            break
    return frames / max(passed, 1e-9)


def _row(way: str, side: int, frames_per_s: float) -> dict[str, Any]:
    return {"way": way, "size_px": side, "frames_per_s": frames_per_s, "appetite": frames_per_s / APPETITE}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| way, one process | px | frames/s | of one GPU's appetite | processes for one GPU |", "|" + " --- |" * 5]
    for row in rows:
        processes = int(np.ceil(1 / row["appetite"])) if row["appetite"] else "-"
        lines.append(
            f"| {row['way']} | {row['size_px']} | {row['frames_per_s']:.1f} | {row['appetite']:.2f} | {processes} |"
        )
    said = (
        f"One GPU's appetite: {APPETITE:.0f} frames/s, {AIM:.0f} images/s (an aim, not measured) of {FRAMES_OF_IMAGE} "
        "frames each. What is read is as it would be drawn, at random; nothing else runs. It is of this machine."
    )
    return "\n".join([*lines, "", said]) + "\n"
