"""Films whose faces are known, and a tracker that knows them: for tests of what is fitted to films."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.serve.making import make
from tests.serve.raw import moving_head
from triportrait.serve.faces.face import Face

SIZE, FRAMES = 160, 6


@cache
def head_film() -> tuple[list[np.ndarray], list[Face], np.ndarray]:
    """A procedural head that moves: frames uint8 [SIZE, SIZE, 3], faces with the generator's landmarks, necks."""
    return moving_head(2, FRAMES, SIZE)


def write_film(path: Path, frames: Sequence[np.ndarray] | None = None, **options: object) -> Path:
    """A video of the frames, 25 a second, nearly without loss."""
    frames = head_film()[0] if frames is None else frames
    return make(path, frames, [3600 * i for i in range(len(frames))], options={"crf": "6"}, **options)


def write_pictures(
    folder: Path, frames: Sequence[np.ndarray] | None = None, faces: Sequence[Face] | None = None
) -> Path:
    """The frames as pictures, with landmarks/ beside them."""
    frames, faces = frames or head_film()[0], faces or head_film()[1]
    (folder / "landmarks").mkdir(parents=True)
    for i, (frame, face) in enumerate(zip(frames, faces, strict=True), start=1):
        Image.fromarray(frame).save(folder / f"{i:03d}.png")
        np.save(folder / "landmarks" / f"{i:03d}.npy", face.points[:, :2])
    return folder
