"""NVDEC tried on a film that is made for it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from triportrait.serve.media.video.clips import reading
from triportrait.serve.media.video.nvdec import why_not_nvdec
from triportrait.serve.media.video.writer import write_video

_FRAMES, _SIDE_PX = 8, 256


def nvdec_fault(gpu: int = 0) -> str | None:
    """Say why NVDEC of a GPU decodes no film, as the end of a sentence about one; None where it decoded one."""
    shades = np.linspace(0, 255, _SIDE_PX).astype(np.uint8)
    picture = np.broadcast_to(shades[:, None, None], (_SIDE_PX, _SIDE_PX, 3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_video(path, (np.roll(picture, 8 * i, 0) for i in range(_FRAMES)), 25)
        return why_not_nvdec(partial(reading, path), gpu)
