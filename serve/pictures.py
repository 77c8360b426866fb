"""Pictures in and out: whatever a camera, a phone or an editor saved becomes plain 8-bit RGB.

Every picture is a uint8 array `[H, W, 3]` in sRGB, upright. What a picture cannot be used for is said in one sentence
(`InputError`), never with a traceback.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from triportrait.core.errors import InputError

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SMALLEST_SIDE_PX = 64
LARGEST_PICTURE_PX = 100_000_000

# Named, because Pillow's full list holds EPS, which starts Ghostscript on a stranger's file.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM")
_WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")

# Everything that Pillow's readers are known to raise on damaged bytes.
_DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, AttributeError, RuntimeError,
    OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip

# EXIF orientation → what makes the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture file as upright 8-bit sRGB.

    Grey, palette, 1-bit, 16-bit, CMYK and transparent pictures are converted: 16 bits are scaled (not clipped),
    transparency is laid on white, an embedded colour profile is followed, the EXIF orientation is applied. Of an
    animation the first frame is taken.

    Returns: uint8 `[H, W, 3]`, H and W after the orientation.
    Raises: `InputError` when the file is missing, a folder, unreadable, no picture, damaged, its shorter side is below
        64 px or it has more than 100 megapixels (told from the header, before anything is decoded).
    """
    path = Path(path)
    _check_readable(path)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            _check_size(path, *picture.size)
            try:
                picture.load()
                return _to_rgb(path, picture)
            except InputError:
                raise
            except _DAMAGE as error:
                raise InputError(
                    f"{path}: the picture is damaged ({_first_line(error)}); save or copy it again"
                ) from error
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, "more") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: {_not_a_picture(path)}; save it as PNG or JPEG") from error


def write_picture(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write uint8 `[H, W, 3]` RGB as .png, .jpg, .jpeg or .webp, replacing an existing file only when it is complete.

    JPEG and WebP are written at quality 95, JPEG without chroma subsampling.

    Raises: `InputError` for another ending or when the folder or disk refuses; `ValueError` when `image` is not uint8
        `[H, W, 3]`.
    """
    path = Path(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    kind = _WRITTEN.get(path.suffix.lower())
    if kind is None:
        known = " ".join(_WRITTEN)
        raise InputError(f"{path}: a picture ending is wanted ({known}), {path.suffix or 'none'!r} came; rename it")
    with writing(path), replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, format=kind, quality=95, subsampling=0)


def list_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """List the pictures of a folder in the order people number them: frame2 before frame10.

    Hidden files and other endings are left out, sub-folders are not entered.

    Raises: `InputError` when `folder` is no readable folder or holds no picture.
    """
    folder = Path(folder)
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_ENDINGS and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: a folder of pictures is wanted ({reason_of(error)}); check the path") from error
    found = [p for p in found if p.is_file()]
    if not found:
        raise InputError(f"{folder}: no picture in this folder; put {' '.join(PICTURE_ENDINGS)} files into it")
    return sorted(found, key=_natural)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    A link is followed: what it points to is replaced.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.stem[:64]}.{secrets.token_hex(6)}{target.suffix}")
    # Not tempfile: that makes files only their owner can read, and the mode would survive the renaming.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell an `OSError` of the block (disk full, no permission) as an `InputError` about `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: it could not be written ({reason_of(error)}); free some space or choose another folder"
        ) from error


def reason_of(error: OSError) -> str:
    """Say in the system's words, in lower case, why a file operation failed: `no such file or directory`."""
    said = error.strerror or str(error) or type(error).__name__
    return said[:1].lower() + said[1:]


def _check_readable(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: a picture is wanted, this is a folder; name one file in it")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputError(f"{path}: the picture cannot be read ({reason_of(error)}); check the path") from error
    if empty:
        raise InputError(f"{path}: a picture is wanted, this file is empty; copy it again")


def _check_size(path: Path, width_px: int, height_px: int) -> None:
    if width_px * height_px > LARGEST_PICTURE_PX:
        raise _too_large(path, f"{width_px} × {height_px}")
    if min(width_px, height_px) < SMALLEST_SIDE_PX:
        raise InputError(
            f"{path}: a picture of at least {SMALLEST_SIDE_PX} px on its shorter side is wanted, {width_px} × "
            f"{height_px} px came; use a larger one"
        )


def _too_large(path: Path, came: str) -> InputError:
    most = LARGEST_PICTURE_PX // 1_000_000
    return InputError(f"{path}: at most {most} megapixels are wanted, {came} px came; make it smaller")


def _not_a_picture(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        return "HEIC pictures cannot be read"
    return "this is not a picture that can be read"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _to_rgb(path: Path, picture: Image.Image) -> np.ndarray:
    """Convert a decoded picture of any Pillow mode; pixels stay in the order of the file until the orientation."""
    # Asked after load(): TIFF turns itself upright while loading and then drops the tag.
    turn = _UPRIGHT.get(_orientation(picture))
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I"):
        picture = _from_16_bit(path, picture)
    elif picture.mode == "F":
        raise InputError(f"{path}: 8 or 16 bits a channel are wanted, floating point came; save it as PNG")

    if picture.mode in ("P", "PA") or (picture.has_transparency_data and picture.mode not in ("RGBA", "LA")):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    alpha = picture.convert("RGBA").getchannel("A") if picture.mode in ("RGBA", "LA") else None
    if alpha is not None:
        picture = picture.convert("L" if picture.mode == "LA" else "RGB")
    if profile:
        picture = _to_srgb(picture, profile)
    picture = picture.convert("RGB")
    if alpha is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, "white"), alpha)
    if turn is not None:
        picture = picture.transpose(turn)
    return np.array(picture, dtype=np.uint8)


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def _from_16_bit(path: Path, picture: Image.Image) -> Image.Image:
    """Scale 0…65535 to 0…255; Pillow's own conversion clips everything above 255 to white."""
    values = np.asarray(picture)
    if values.dtype == np.int32 and (values.min() < 0 or values.max() > 65535):
        raise InputError(f"{path}: 8 or 16 bits a channel are wanted, 32 came; save it as a 16-bit PNG")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Follow the embedded colour profile; a broken or unfitting one is ignored, as viewers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Converting sRGB to sRGB would only round every value once more.
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return picture
        turned = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    return turned if turned is not None else picture


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name
