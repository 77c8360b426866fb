"""Measure how many frames a second this machine reads of the data, beside what one GPU shall train on.

An image of stage 2 is two frames: its source and its driving picture.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triportrait.core.config import PRESETS, ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_json
from triportrait.profiling.markdown import markdown_table
from triportrait.profiling.step.timing import WANTED_IMAGES_PER_S
from triportrait.train.config import ReenactConfig
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.frames import AvDecoder, DaliDecoder, Decoder, Request, dali_fault
from triportrait.train.data.clip_store.store import INDEX, KIND, ClipStore
from triportrait.train.data.clip_store.tracks import HeadTracks
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import PictureSet
from triportrait.train.stages import reenact as stage2

FRAMES_OF_IMAGE = 2
WANTED_FRAMES_PER_S = WANTED_IMAGES_PER_S * FRAMES_OF_IMAGE  # for one GPU
BATCH = 4


def measure(data: Path, seconds: float) -> list[dict[str, Any]]:
    """Read at random, a row for each way of reading.

    Args:
        data: a multi-view set or a clip store.
        seconds: how long each way is measured.

    Raises:
        InputError: the folder is neither of them, or it is damaged.
    """
    if not seconds > 0:
        raise InputError(f"seconds: expected more than 0, got {seconds}; choose another")
    if _kind(data) == KIND:
        return _clips(ClipStore(data), seconds)
    return _pictures(data, seconds)


def _kind(data: Path) -> str:
    try:
        index = read_json(data / INDEX, MOST_INDEX)
        return str(index.get("kind", ""))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{data}: expected a multi-view set or a clip store, it has no {INDEX} that can be read; make one by "
            "`triportrait prepare`"
        ) from error


def _pictures(data: Path, seconds: float) -> list[dict[str, Any]]:
    side = MultiviewSet(data).index["size"]
    pictures = PictureSet(data, _model(side), necks=False, positions=True)
    config = ReenactConfig(batch=BATCH)
    streams = np.random.default_rng(0)

    def batch() -> int:
        stage2.draw(pictures, config, streams)
        return BATCH * FRAMES_OF_IMAGE

    return [_row("multi-view set, in memory", side, _rate(batch, seconds))]


def _model(side: int) -> ModelConfig:
    """The preset for pictures of this side, else a small model made for it, as the ray grid decides what is read."""
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def request() -> Request:
        clip = int(streams.integers(len(store)))
        return store.path(clip), streams.integers(store.frames_of[clip], size=FRAMES_OF_IMAGE).tolist()

    def decoded(decode: Decoder) -> int:
        for frames in decode([request() for _ in range(BATCH)]):
            if isinstance(frames, ValueError):
                raise InputError(f"{store.folder}: {frames}; make the store again") from frames
        return BATCH * FRAMES_OF_IMAGE

    ways: dict[str, Decoder] = {"PyAV": AvDecoder()}
    if dali_fault(device) is None:
        ways["DALI, NVDEC" if device.type == "cuda" else "DALI on the CPU"] = DaliDecoder(device, BATCH)
    rows = [
        _row(f"clip store, {way}", store.size, _rate(lambda d=decode: decoded(d), seconds))  # type: ignore[misc]
        for way, decode in ways.items()
    ]
    if store.source == HEADS:
        model = _model(store.size)
        clips = ClipPictures(store, model, HeadTracks(model, device), 0, AvDecoder(), 1.0, positions=True)
        config = ReenactConfig(batch=BATCH)
        place = iter(range(0, 2**62, BATCH))

        def batch() -> int:
            stage2.draw(clips, config, streams, next(place))
            return BATCH * FRAMES_OF_IMAGE

        rows.append(_row("clip store, PyAV, with the neck's grids", store.size, _rate(batch, seconds)))
    return rows


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Count the frames a second that `work` reads in so many seconds; its first call is not measured."""
    work()
    frames, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or not frames:
        frames += work()
    return frames / max(passed, 1e-9)


def _row(way: str, side: int, frames_per_s: float) -> dict[str, Any]:
    return {"way": way, "size_px": side, "frames_per_s": frames_per_s, "of_wanted": frames_per_s / WANTED_FRAMES_PER_S}


def table(rows: list[dict[str, Any]]) -> str:
    """Tabulate the rows."""
    columns = "way, one process", "px", "frames/s", "of what one GPU wants", "processes for one GPU"
    lines = []
    for row in rows:
        processes = int(np.ceil(1 / row["of_wanted"])) if row["of_wanted"] else "-"
        lines.append([row["way"], row["size_px"], f"{row['frames_per_s']:.1f}", f"{row['of_wanted']:.2f}", processes])
    legend = (
        f"One GPU wants {WANTED_FRAMES_PER_S:.0f} frames/s: {WANTED_IMAGES_PER_S:.0f} images/s (an aim, not measured) "
        f"of {FRAMES_OF_IMAGE} frames each. Frames are read at random, as training draws them, and nothing else runs. "
        "The figures hold for this machine alone."
    )
    return f"{markdown_table(columns, lines)}\n{legend}\n"
