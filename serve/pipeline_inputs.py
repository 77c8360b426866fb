"""What a program gives `Pipeline` to read: sources and driving frames, as paths or as pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.serve.faces.providers import LazyProvider
from triportrait.serve.media.video.decoders import Decoding
from triportrait.serve.picture_inputs import Picture, PictureStream, to_picture
from triportrait.serve.reenactor import PreparedSource
from triportrait.serve.source_and_driving import DrivingFrames, SourcePicture, find_face, find_source, known_of

Source = Picture | SourcePicture | PreparedSource
Driving = Picture | Iterable[Picture] | DrivingFrames


def read_source(
    source: Picture, face: int | None, params: str | os.PathLike[str] | None, finder: LazyProvider, needed: bool
) -> SourcePicture:
    """Read a portrait, and find its face.

    Args:
        source: as in `Pipeline.prepare`.
        face: which one, counted from the left.
        params: the folder with its published files.
        finder: finds faces.
        needed: the weights want a face that was found.

    Raises:
        InputError: it cannot be read, or shows no such face.
    """
    if isinstance(source, str | os.PathLike):
        return find_source(Path(source), optional_path(params)).read(finder, face, needed)
    if params is not None:
        raise InputError("source_params: expected a path as the source beside it, got pixels; leave it out")
    return find_face("source", to_picture(source, "source"), finder(), face, needed)


def open_driving(
    driving: Picture | Iterable[Picture], params: str | os.PathLike[str] | None, frames: int | None,
    fps: float | Fraction | None, device: torch.device,
) -> DrivingFrames:  # fmt: skip
    """Open driving frames, of which the first `frames` are read.

    Args:
        driving, fps: as in `Pipeline.animate`.
        params: the folder with the published files of the faces.
        frames: how many are read; None is all.
        device: where the network is, by which a decoder is chosen.

    Raises:
        InputError: they cannot be read.
    """
    folder = optional_path(params)
    if isinstance(driving, str | os.PathLike):
        if fps is not None:
            raise InputError("fps: expected pictures beside it, got a path, whose frames have times; leave it out")
        return DrivingFrames.open(Path(driving), folder, frames, Decoding.on("auto", device))
    if isinstance(driving, Image.Image) or (isinstance(driving, np.ndarray) and driving.ndim == 3):
        driving = [driving]
    if not isinstance(driving, Iterable) or isinstance(driving, bytes | bytearray | dict):
        raise InputError(
            f"driving: expected a path, a picture or an iterable of them, got {type(driving).__name__}; convert it"
        )
    known = None if folder is None else known_of(folder, folder)
    return DrivingFrames.of("driving", PictureStream(driving, fps), known, frames)


def optional_path(path: str | os.PathLike[str] | None) -> Path | None:
    """Return a path, or None where none is given."""
    return None if path is None else Path(path)
