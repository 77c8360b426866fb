"""For every kind of picture: either what comes out is right, or a sentence names what is not."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.serve.drawn import chunk, with_chunks
from triportrait.core.errors import InputError
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.source_and_driving import find_source

FILES = Path(__file__).parents[1] / "data" / "files"
PATTERN = Image.open(FILES / "pattern.png").convert("RGB").resize((96, 72), Image.Resampling.NEAREST)
LINEAR = Image.open(FILES / "linear_srgb.png").resize(PATTERN.size, Image.Resampling.NEAREST)
OTHER = PATTERN.transpose(Image.Transpose.ROTATE_180)
PROFILE = LINEAR.info["icc_profile"]
LAB = ImageCms.createProfile("LAB")


def _saved(
    kind: str, image: Image.Image = PATTERN, more: Sequence[Image.Image] = (), **options: Any
) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        # Copies: Pillow leaves what it saved a picture with on it.
        others = {"append_images": [other.copy() for other in more]} if more else {}
        image.copy().save(buffer, kind, save_all=bool(more), **others, **options)
        return buffer.getvalue()

    return make


def _turned(orientation: int) -> Callable[[], bytes]:
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _saved("JPEG", PATTERN.transpose(back[orientation]), exif=exif, quality=95)


def _deep() -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in np.asarray(PATTERN))

    head = struct.pack(">IIBBBBB", *PATTERN.size, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _chunked(image: Image.Image, *chunks: bytes) -> Callable[[], bytes]:
    return lambda: with_chunks(_saved("PNG", Image.fromarray(np.asarray(image)))(), *chunks)


def _animated(kind: str, **options: object) -> Callable[[], bytes]:
    return _saved(kind, more=[OTHER, PATTERN], duration=100, **options)


def _cut(make: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: make()[: len(make()) * 2 // 3]


GAMMA = chunk(b"gAMA", struct.pack(">I", 100_000))
# Kind → its bytes, pictures that drive.
KINDS: dict[str, tuple[Callable[[], bytes], int]] = {
    "JPEG": (_saved("JPEG", quality=95), 1),
    "progressive JPEG": (_saved("JPEG", quality=95, progressive=True), 1),
    "CMYK JPEG": (_saved("JPEG", PATTERN.convert("CMYK"), quality=95), 1),
    "linear JPEG": (_saved("JPEG", LINEAR, quality=98, icc_profile=PROFILE), 1),
    "JPEG with a broken profile": (_saved("JPEG", quality=95, icc_profile=b"broken"), 1),
    **{f"JPEG turned by {o}": (_turned(o), 1) for o in (3, 6, 8)},
    "JPEG cut off": (_cut(_saved("JPEG", quality=95)), 0),
    "MPO": (_saved("MPO", more=[OTHER]), 1),
    "PNG": (_saved("PNG"), 1),
    "PNG of 16 bits": (_deep, 1),
    "PNG of a palette": (_saved("PNG", PATTERN.quantize(16)), 1),
    "linear PNG": (_saved("PNG", LINEAR, icc_profile=PROFILE), 1),
    "PNG with gAMA": (_chunked(LINEAR, GAMMA), 1),
    "PNG with cICP": (_chunked(LINEAR, chunk(b"cICP", bytes((1, 8, 0, 1)))), 1),
    "PNG cut off": (_cut(_saved("PNG", Image.effect_noise((96, 72), 50))), 0),
    "animated PNG": (_animated("PNG"), 3),
    "animated linear PNG": (_saved("PNG", LINEAR, more=[LINEAR.rotate(180)], duration=50,
                                   icc_profile=PROFILE), 2),
    "WebP": (_saved("WEBP", quality=95), 1),
    "linear WebP": (_saved("WEBP", LINEAR, lossless=True, icc_profile=PROFILE), 1),
    "animated WebP": (_animated("WEBP", lossless=True), 3),
    "GIF": (_saved("GIF"), 1),
    "animated GIF": (_animated("GIF"), 3),
    "TIFF": (_saved("TIFF", compression="tiff_lzw"), 1),
    "CMYK TIFF": (_saved("TIFF", PATTERN.convert("CMYK")), 1),
    "TIFF of pages": (_saved("TIFF", more=[OTHER]), 1),
    "TIFF of floats": (_saved("TIFF", PATTERN.convert("F")), 0),
    "BMP": (_saved("BMP"), 1),
    "PPM": (_saved("PPM"), 1),
    "AVIF": (_saved("AVIF", quality=95), 1),
    "linear AVIF": (_saved("AVIF", LINEAR, quality=98, icc_profile=PROFILE), 1),
    "animated AVIF": (_animated("AVIF", quality=95), 3),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic" + bytes(99), 0),
    "text": (lambda: b"no picture at all", 0),
}  # fmt: skip
SAYS = {  # what a sentence must name, where not all of the file is followed
    "JPEG with a broken profile": "colour profile", "MPO": "first of its 2", "TIFF of pages": "first of its 2",
    "animated PNG": "first of its 3", "animated linear PNG": "first of its 2", "animated WebP": "first of its 3",
    "animated GIF": "first of its 3", "animated AVIF": "first of its 3",
}  # fmt: skip


def _is_right(image: np.ndarray) -> bool:
    wanted = np.asarray(PATTERN).astype(int)
    return image.shape == wanted.shape and bool(np.abs(image - wanted).mean() < 4)


@pytest.mark.parametrize("name", ["a", "a.jpg", "a.jfif", "a.mp4"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_right_or_it_is_said(tmp_path: Path, kind: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, count = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(make())
    caplog.set_level(logging.INFO)
    try:
        source = find_source(path, None).read(lambda: None)
        assert _is_right(source.image), caplog.text
        assert count
        assert SAYS.get(kind, "") in caplog.text
    except InputError as error:
        assert count == 0
        assert "; " in str(error)
        assert "\n" not in str(error)
    try:
        clip = open_clip(path)
        frames = list(clip.frames())
        assert len(frames) == count, clip.warnings
        assert _is_right(frames[0].image), clip.warnings
        assert (kind not in SAYS or count > 1) or any(SAYS[kind] in sentence for sentence in clip.warnings)
    except InputError as error:
        assert count == 0
        assert "; " in str(error)
        assert "\n" not in str(error)


def test_an_unfitting_profile_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_saved("PNG", icc_profile=ImageCms.ImageCmsProfile(LAB).tobytes())())
    clip = open_clip(path)
    assert _is_right(next(iter(clip.frames())).image)
    list(clip.frames())
    assert "colour profile is broken or of another kind" in clip.warnings[0]
