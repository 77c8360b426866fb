"""Clips whose pictures move, their protocol, and results of methods that are no method at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from triportrait.serve.media.pictures.picture_file import write_picture
from triportrait.train.evaluation.protocols.frames import clip_frames
from triportrait.train.evaluation.protocols.records import Protocol

SIZE_PX, FRAMES = 64, 6


def picture(person: int, time: float) -> np.ndarray:
    """A disc with two dark spots, in the colour of a person, that moves to the right and turns."""
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX]
    random = np.random.default_rng(person)
    back, skin = random.integers(40, 220, (2, 3))
    cx, cy = 24 + 16 * time, 32 + 6 * np.sin(3 * time)
    image = np.where(((x - cx) ** 2 + (y - cy) ** 2 < 300)[..., None], skin, back)
    for side in (-6, 6):
        spot = (x - cx - side * np.cos(time)) ** 2 + (y - cy + 4 + side * np.sin(time)) ** 2 < 6
        image = np.where(spot[..., None], 10, image)
    return image.astype(np.uint8)


def write_clip(folder: Path, person: int, frames: int = FRAMES) -> None:
    folder.mkdir(parents=True)
    for k in range(frames):
        Image.fromarray(picture(person, k / max(1, frames - 1))).save(folder / f"{k:06d}.png")


def write_results(folder: Path, protocol: Protocol, method: str) -> Path:
    """Write what a method would: `copy` of the source, a 2D `warp` of it, the `truth` or that `shuffled`."""
    for pair in protocol.pairs:
        (source,) = clip_frames(protocol, pair.source, pair.source_frame, 1)
        driving = list(clip_frames(protocol, pair.driving, pair.first, pair.frames))
        step = round(16 / max(1, len(driving) - 1))
        made = {
            "copy": [source] * len(driving),
            "warp": [np.roll(source, step * k, 1) for k in range(len(driving))],
            "shuffled": driving[::-1],
            "truth": driving,
        }[method]
        (folder / pair.name).mkdir(parents=True)
        for k, image in enumerate(made):
            write_picture(folder / pair.name / f"{k:06d}.png", image)
    return folder
