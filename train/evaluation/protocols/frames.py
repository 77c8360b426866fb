"""Reads the frames of clips as a protocol compares them: cropped, S x S, in order, one pass, a few at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.files import opened
from triportrait.serve.media.pictures.picture_folder import list_pictures
from triportrait.serve.media.video.clips import open_clip
from triportrait.train.evaluation.protocols.records import Head, Protocol

PORTION = 8  # frames that are held at a time


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a video's bytes, or of the names and bytes of a folder's pictures in their order.

    Raises:
        InputError: nothing can be read there.
    """
    digest = hashlib.sha256()
    files = list_pictures(path) if path.is_dir() else [path]
    for file in files:
        try:
            with opened(file) as stream:
                inner = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise InputError(f"{file}: it cannot be read ({reason}); check the path") from error
        if not path.is_dir():
            return inner.hex()
        digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0" + inner)
    return digest.hexdigest()


def check_clips(protocol: Protocol) -> None:
    """Check before any work that every clip is there, inside the protocol's folder, and has the bytes that it had.

    Raises:
        InputError: a clip is missing, lies outside, or is another one.
    """
    protocol.check_files()
    for name, clip in protocol.clips.items():
        path = protocol.path_of(name)
        if content_hash(path) != clip.sha256:
            raise InputError(
                f"{path}: expected the clip that the protocol was made of, got other bytes; bring that one back, or"
                " make the protocol anew"
            )


def resized(image: np.ndarray, size_px: int) -> np.ndarray:
    """Resize a square uint8 [S, S, 3] by Lanczos, which leaves one of the right size as it is."""
    if image.shape[:2] == (size_px, size_px):
        return image
    from PIL import Image

    return np.array(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.LANCZOS))


def raw_frames(path: Path, first: int, count: int, whole: bool = False) -> Generator[np.ndarray, None, None]:
    """Decode frames `first` to `first + count` of a clip, uint8 [H, W, 3] each.

    Args:
        whole: the clip must end there.

    Raises:
        InputError: it cannot be decoded, has fewer frames, or more where it must end, or one of them is damaged.
    """
    number = 0
    with closing(open_clip(path).frames(first + count + whole)) as frames:
        for frame in frames:
            if frame.index != number:
                break
            if number == first + count:
                raise InputError(f"{path}: expected {first + count} frames, got more; give one for each driving frame")
            if number >= first:
                yield frame.image
            number += 1
    if number < first + count:
        raise InputError(
            f"{path}: expected {first + count} whole frames, got {number}; bring back the clip that the protocol was"
            " made of"
        )


def clip_frames(protocol: Protocol, clip: str, first: int, count: int) -> Iterator[np.ndarray]:
    """Give frames of a clip, cropped: uint8 [S, S, 3] each.

    Raises:
        InputError: as `raw_frames`, and for a frame that is no square where frames are taken whole.
    """
    head, record, path = protocol.head, protocol.clips[clip], protocol.path_of(clip)
    with closing(raw_frames(path, first, count)) as frames:
        for number, image in enumerate(frames, start=first):
            square = record.squares[number] if head.crop == "aligned" else None
            yield cropped(image, head, square, path)


def cropped(image: np.ndarray, head: Head, square: tuple[float, float, float] | None, path: Path) -> np.ndarray:
    """Crop a raw frame uint8 [H, W, 3] as the head says: uint8 [S, S, 3]. Raises: `InputError` for no square."""
    from triportrait.serve.faces.alignment import Alignment

    if square is not None:
        return Alignment(*square).crop(image, head.size_px)
    check_square(path, image)
    return resized(image, head.size_px)


def check_square(path: Path, image: np.ndarray) -> None:
    """Check a frame uint8 [H, W, 3] that is taken whole. Raises: `InputError` where it is no square."""
    height, width = image.shape[:2]
    if height != width:
        raise InputError(
            f"{path}: expected square frames, whose crop is `whole`, got {width} x {height} px; pass --crop aligned,"
            " which finds the face in each frame"
        )


def portions(frames: Iterator[np.ndarray], size: int = PORTION) -> Iterator[np.ndarray]:
    """Stack frames by `size`: uint8 [N, S, S, 3] each."""
    held: list[np.ndarray] = []
    for frame in frames:
        held.append(frame)
        if len(held) == size:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)
