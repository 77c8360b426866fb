"""Pictures in and out: whatever a camera, a phone or an editor saved becomes plain 8-bit RGB.

Every picture is a uint8 array `[H, W, 3]` in sRGB, upright. What a picture cannot be used for is said in one sentence
(`InputError`), never with a traceback.
"""

from __future__ import annotations

import io
import math
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, features

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.core.files import opened
from triportrait.serve.media.output_file import ending_of, reason_of, writing
from triportrait.serve.media.pictures.avif_trial import check_avif
from triportrait.serve.media.pictures.colour_spaces import PROFILE_DAMAGE, follow_profile
from triportrait.serve.media.pictures.colour_tags import Tags, colour_tags
from triportrait.serve.media.pictures.decoding_cost import check_file, check_ratio, check_work
from triportrait.serve.media.pictures.file_type import kind_of, kind_of_bytes

Say = Callable[[str], None]

SMALLEST_SIDE_PX = 64
LARGEST_PICTURE_PX = 100_000_000

# Named, because Pillow's full list holds EPS, which starts Ghostscript on a stranger's file.
_AVIF = "avif" in features.modules and bool(features.check("avif"))
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", *(("AVIF",) if _AVIF else ()))
_WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_ADVICE = {
    "HEIC": "(an iPhone takes JPEG by itself: Settings, Camera, Formats, Most Compatible)",
    "AVIF": "(or install Pillow 11.3 or newer, which reads it)",
}
_PILLOW_LIMIT = threading.Lock()

# Everything that Pillow's readers are known to raise on damaged bytes.
DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, AttributeError, RuntimeError,
    OverflowError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
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
# A TIFF that is a thumbnail, and a camera's raw file.
_TIFF_KIND, _DNG_VERSION = 254, 50706


def read_picture(path: str | os.PathLike[str], say: Say | None = None) -> np.ndarray:
    """Read a picture file as upright 8-bit sRGB.

    Grey, palette, 1-bit, 16-bit, CMYK and transparent pictures are converted: 16 bits are scaled (not clipped),
    transparency is laid on white, an embedded colour profile, or what else the file says of its colours, is followed,
    the EXIF orientation is applied. Of several pictures in a file the first is taken. The name does not matter.

    Args:
        say: hears in a few words what was not followed, or left out.

    Returns: uint8 `[H, W, 3]`, H and W after the orientation.
    Raises: `InputError` when the file is missing, a folder, unreadable, no picture, damaged, its shorter side is below
        64 px, it has more than 100 megapixels or asks for more work than pictures do (told before anything is decoded).
    """
    path = Path(path)
    with opened_picture(path) as picture:
        return _loaded(path, picture, say)


def decode_picture(
    data: bytes, name: str, largest_px: int = LARGEST_PICTURE_PX, most_ratio: float = math.inf
) -> np.ndarray:
    """`read_picture` of bytes that came from elsewhere; no file is touched.

    Args:
        data: the whole picture file.
        name: what the sentences call it.
        largest_px: refuse more pixels than this, told from the header, before anything is decoded.
        most_ratio: refuse a longer side of more than so many shorter ones, likewise.

    Returns: uint8 `[H, W, 3]`.
    Raises: `InputError` as `read_picture` does.
    """
    _check_kind(name, kind_of_bytes(data[:64]))
    check_work(name, data, largest_px)
    try:
        picture = _open(io.BytesIO(data))
    except DAMAGE as error:
        raise InputError(f"{name}: this is not a picture that can be read; save it as PNG or JPEG") from error
    with picture:
        _check_size(name, *picture.size, largest_px)
        check_ratio(name, *picture.size, most_ratio)
        return _loaded(name, picture)


def _loaded(name: Path | str, picture: Image.Image, say: Say | None = None) -> np.ndarray:
    try:
        if getattr(picture, "default_image", False):
            picture.seek(1)  # of an animated PNG, for viewers that know only still ones
        tags = tags_of(picture)
        picture.load()
        pixels = to_rgb(name, picture, tags, say)
        if say is not None and (count := pictures_inside(picture)) > 1:
            say(f"the first of its {count} pictures is used")
        return pixels
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{name}: the picture is damaged ({_first_line(error)}); save or copy it again") from error


def check_picture(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Check the header of a picture file without decoding it: everything that `read_picture` refuses but damage within.

    Returns: (width, height) in pixels before the orientation.
    Raises: `InputError` as `read_picture` does.
    """
    with opened_picture(Path(path)) as picture:
        return picture.size


def pictures_inside(picture: Image.Image) -> int:
    """Count the pictures of an opened file that show something of their own: frames, pages, views; no previews or maps.

    A file that breaks off counts as far as it goes. Afterwards the first picture is to be sought anew.
    """
    try:
        count = int(getattr(picture, "n_frames", 1))
    except DAMAGE:
        count = 1
        with suppress(*DAMAGE):
            while True:
                picture.seek(count)
                count += 1
    if picture.format == "MPO":
        return _views(picture, count)
    return count - bool(getattr(picture, "default_image", False))


def _views(picture: Image.Image, count: int) -> int:
    """Count the pictures of an .mpo that are as large as the first: the others are previews, gain and depth maps."""
    size, found = picture.size, 1
    for index in range(1, count):
        with suppress(*DAMAGE):
            picture.seek(index)
            found += picture.size == size
    return found


def _check_kind(name: Path | str, kind: str | None) -> None:
    """Raises: `InputError` for a kind of picture that is known and cannot be read."""
    if kind == "HEIC" or (kind == "AVIF" and not _AVIF):
        raise InputError(f"{name}: {kind} pictures cannot be read; save it as PNG or JPEG {_ADVICE[kind]}")


def write_picture(
    path: str | os.PathLike[str],
    image: np.ndarray,
    *,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write uint8 `[H, W, 3]` RGB as .png, .jpg, .jpeg or .webp, which appears only when it is complete.

    JPEG and WebP are written at quality 95, JPEG without chroma subsampling. `overwrite` replaces an existing file.
    `finish` is called with the whole file, under another name, before it appears.

    Raises: `InputError` for another ending, for a file that exists, or when the folder or disk refuses; `ValueError`
        when `image` is not uint8 `[H, W, 3]`.
    """
    path = Path(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    kind = _WRITTEN.get(path.suffix.lower())
    if kind is None:
        known = " ".join(_WRITTEN)
        raise InputError(f"{path}: a picture ending is wanted ({known}), {ending_of(path)} came; rename it")
    with writing(path), replacing(path, overwrite) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, format=kind, quality=95, subsampling=0)
        if finish is not None:
            finish(temporary)


@contextmanager
def opened_picture(path: Path, smallest_px: int = SMALLEST_SIDE_PX) -> Iterator[Image.Image]:
    """Open a picture and check what its header says.

    Raises: `InputError` when it is missing, unreadable, no picture, or of a size that is not wanted.
    """
    _check_readable(path)
    _check_kind(path, kind_of(path))
    check_file(path, LARGEST_PICTURE_PX)
    try:
        picture = _open(path)
    except DAMAGE as error:
        raise InputError(f"{path}: this is not a picture that can be read; save it as PNG or JPEG") from error
    with picture:
        _check_size(path, *picture.size, smallest_px=smallest_px)
        if picture.format == "AVIF":
            check_avif(path)
        if picture.format == "TIFF" and _is_raw(picture):
            raise InputError(f"{path}: of a camera's raw file only a thumbnail can be read; export it as JPEG or PNG")
        yield picture


def _is_raw(picture: Image.Image) -> bool:
    tags = getattr(picture, "tag_v2", {})
    kind = tags.get(_TIFF_KIND, 0)
    return _DNG_VERSION in tags or (isinstance(kind, int) and bool(kind & 1))


def _open(file: Path | io.BytesIO) -> Image.Image:
    # Pillow's own limit warns on the terminal and hides the size; ours comes right after. Others keep theirs.
    with _PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_readable(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: a picture is wanted, this is a folder; name one file in it")
    try:
        with opened(path) as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputError(f"{path}: the picture cannot be read ({reason_of(error)}); check the path") from error
    if empty:
        raise InputError(f"{path}: a picture is wanted, this file is empty; copy it again")


def _check_size(
    path: Path | str,
    width_px: int,
    height_px: int,
    largest_px: int = LARGEST_PICTURE_PX,
    smallest_px: int = SMALLEST_SIDE_PX,
) -> None:
    if width_px * height_px > largest_px:
        raise InputError(
            f"{path}: at most {largest_px // 1_000_000} megapixels are wanted, {width_px} × {height_px} px "
            "came; make it smaller"
        )
    if min(width_px, height_px) < smallest_px:
        raise InputError(
            f"{path}: a picture of at least {smallest_px} px on its shorter side is wanted, {width_px} × "
            f"{height_px} px came; use a larger one"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def to_rgb(path: Path | str, picture: Image.Image, tags: Tags, say: Say | None = None) -> np.ndarray:
    """Convert a decoded picture of any Pillow mode; pixels stay in the order of the file until the orientation.

    Args:
        tags: what the file said of its colours before it was decoded.
        say: hears in a few words which of it was not followed.

    Returns: uint8 `[H, W, 3]`.
    Raises: `InputError` for 32 bits a channel; what Pillow raises on damaged bytes.
    """
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
    picture = _to_srgb(picture, profile, tags, say or _nobody)
    if alpha is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, "white"), alpha)
    if turn is not None:
        picture = picture.transpose(turn)
    return np.array(picture, dtype=np.uint8)


def tags_of(picture: Image.Image) -> Tags:
    """What an opened picture, not loaded yet, says of its colours; nothing where that is damaged."""
    try:
        return colour_tags(picture)
    except DAMAGE:
        return Tags()


def _nobody(words: str) -> None:
    """Hears what nobody asked for."""


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def _from_16_bit(path: Path | str, picture: Image.Image) -> Image.Image:
    """Scale 0…65535 to 0…255; Pillow's own conversion clips everything above 255 to white."""
    values = np.asarray(picture)
    if values.dtype == np.int32 and (values.min() < 0 or values.max() > 65535):
        raise InputError(f"{path}: 8 or 16 bits a channel are wanted, 32 came; save it as a 16-bit PNG")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes | None, tags: Tags, say: Say) -> Image.Image:
    """Follow the colour profile, or the tags; what is broken or does not fit is ignored, as viewers do, and said."""
    if profile and not tags.above_profile:
        try:
            return follow_profile(picture, profile).convert("RGB")
        except PROFILE_DAMAGE:
            say("its colour profile is broken or of another kind of picture and was ignored")
    picture = picture.convert("RGB")
    try:
        return tags.follow(picture)
    except PROFILE_DAMAGE:
        say("what it says of its colours cannot be and was ignored")
        return picture
