"""What pixel values mean becomes sRGB: profiles are judged by what they do, tags are followed by their numbers.

Everything goes through a colour profile and Little CMS: an embedded profile as it is, and gamma, chromaticities and the
code points of ITU-T H.273 (videos, PNG's cICP, AVIF's nclx) as a profile that is made here.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation, VideoReformatter
from PIL import Image, ImageCms

Point = tuple[float, float]  # a chromaticity, CIE xy
Primaries = tuple[Point, Point, Point, Point]  # red, green, blue, white

HDR_CURVES = (int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67))
PROFILE_DAMAGE = (ImageCms.PyCMSError, OSError, ValueError, TypeError)

_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_BT709: Primaries = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
_SMPTE170M: Primaries = ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)
# Table 2 of H.273; 2 is "not said".
_PRIMARIES: dict[int, Primaries] = {
    1: _BT709,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: _SMPTE170M,
    7: _SMPTE170M,
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_ADOBE_RGB: Primaries = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])

# As far as a profile may be from sRGB, in levels of 255, and still be sRGB: published ones are rounded differently.
_SAME = 2
_LARGEST_CACHED = 1 << 20


def follow_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    """Bring a picture with an embedded profile to sRGB; one whose profile is sRGB is given back as it is.

    Raises: one of `PROFILE_DAMAGE` for a profile that is broken or of another kind of picture.
    """
    make = _transform if len(profile) <= _LARGEST_CACHED else _transform.__wrapped__
    turn = make(profile, None, picture.mode)
    return picture if turn is None else turn.apply(picture)


def follow_profile_of_pixels(rgb: np.ndarray, profile: bytes) -> np.ndarray:
    """Bring uint8 `[H, W, 3]` with a profile to sRGB; a profile that is broken is ignored."""
    try:
        return np.asarray(follow_profile(Image.fromarray(rgb), profile))
    except PROFILE_DAMAGE:
        return rgb


def follow_adobe_rgb(picture: Image.Image) -> Image.Image:
    """Bring a picture in Adobe RGB (1998) to sRGB."""
    return follow_profile(picture, _profile(_ADOBE_RGB, _parametric(563 / 256)))


def follow_gamma(picture: Image.Image, gamma: float | None, primaries: Primaries | None) -> Image.Image:
    """Bring a picture of PNG's gAMA and cHRM to sRGB.

    Args:
        gamma: the exponent that coded it (1 is linear light); None, or 1/2.2 within 5 % as every editor writes it, is
            taken for sRGB's curve.
        primaries: None is sRGB's.

    Raises: `ValueError` for numbers that no picture can have.
    """
    if gamma is not None and not 0.01 <= gamma <= 100:
        raise ValueError(f"a gamma of {gamma:g}")
    curve = _SRGB if gamma is None or abs(gamma * 2.2 - 1) < 0.05 else _parametric(1 / gamma)
    if primaries is None and curve == _SRGB:
        return picture
    return follow_profile(picture, _profile(primaries or _BT709, curve))


def follow_codes(picture: Image.Image, primaries: int, curve: int) -> Image.Image:
    """Bring a picture, RGB, to sRGB by its code points of H.273; see `follow_codes_of_pixels`."""
    return Image.fromarray(follow_codes_of_pixels(np.asarray(picture), primaries, curve))


def follow_codes_of_pixels(rgb: np.ndarray, primaries: int, curve: int) -> np.ndarray:
    """Bring uint8 `[H, W, 3]` to sRGB by its code points of H.273: primaries, and curves that are not a video's own.

    BT.709's curve and its kin are shown as sRGB, as players do, and primaries are converted in the light of the display
    they are meant for (BT.1886). PQ and HLG are tone-mapped by libav. What is not said, or unknown, is BT.709's.

    Returns: the same array where there is nothing to do, else a new one.
    """
    if curve in HDR_CURVES:
        return _tone_mapped(rgb, primaries, curve)
    coded, target = _CURVES.get(curve, (_BT1886, _BT1886))
    chroma = _PRIMARIES.get(primaries, _BT709)
    if chroma == _BT709 and coded == target:
        return rgb
    turn = _transform(_profile(chroma, coded), _profile(_BT709, target), "RGB")
    return rgb if turn is None else np.asarray(turn.apply(Image.fromarray(rgb)))


def known_codes(primaries: int, curve: int) -> bool:
    """Tell whether both code points say something that can be followed."""
    return primaries in _PRIMARIES and (curve in _CURVES or curve in HDR_CURVES or curve in _LIKE_BT709)


def _tone_mapped(rgb: np.ndarray, primaries: int, curve: int) -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
    frame.color_primaries, frame.color_trc = primaries if primaries in _PRIMARIES else 9, curve
    turned = VideoReformatter().reformat(
        frame,
        format="rgb24",
        dst_color_trc=ColorTrc.IEC61966_2_1,
        dst_color_primaries=ColorPrimaries.BT709,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
        threads=1,
    )
    return np.asarray(turned.to_ndarray())


@lru_cache(maxsize=16)
def _transform(profile: bytes, target: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Make what turns a picture of `mode` into RGB of `target` (sRGB by default); None where it would change nothing.

    Raises: one of `PROFILE_DAMAGE`.
    """
    # Without its cache of one colour a transform may serve several threads.
    turn = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB") if target is None else ImageCms.ImageCmsProfile(io.BytesIO(target)),
        mode,
        "RGB",
        flags=ImageCms.Flags.NOCACHE,
    )
    if mode in ("RGB", "L"):
        colours = Image.fromarray(_COLOURS if mode == "RGB" else _COLOURS[:1, :, 0])
        seen = np.asarray(turn.apply(colours)).astype(int)
        # Converting sRGB to sRGB would only round every value once more.
        if np.abs(seen - np.asarray(colours.convert("RGB"))).max() <= _SAME:
            return None
    return turn


def _colours() -> np.ndarray:
    """All greys, then all colours of 8 steps a channel: uint8 [3, 256, 3]."""
    steps = np.linspace(0, 255, 8).round()
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(2, 256, 3)
    greys = np.repeat(np.arange(256.0)[None, :, None], 3, 2)
    return np.concatenate((greys, colours)).astype(np.uint8)


def _numbers(values: np.ndarray | tuple[float, ...]) -> bytes:
    """ICC's numbers with 16 bits behind the point."""
    return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


def _parametric(*values: float) -> bytes:
    """ICC's curve: value^g; or, of five numbers g a b c d, (a·value + b)^g from d on and c·value below."""
    return b"para\0\0\0\0" + struct.pack(">HH", 0 if len(values) == 1 else 3, 0) + _numbers(values)


def _table(light: np.ndarray) -> bytes:
    """ICC's curve of values in 0…1 at even steps."""
    return b"curv\0\0\0\0" + struct.pack(">I", len(light)) + (light.clip(0, 1) * 65535).round().astype(">u2").tobytes()


def _profile(primaries: Primaries, curve: bytes) -> bytes:
    """Make an ICC profile of a display: `primaries`, the same `curve` for each channel.

    Raises: `ValueError` for primaries that span nothing.
    """
    xy = np.array(primaries)
    red_green_blue_white = np.concatenate((xy, 1 - xy.sum(1, keepdims=True)), 1).T  # XYZ each in a column
    white = red_green_blue_white[:, 3]
    if not np.isfinite(xy).all() or white[1] < 0.01:
        raise ValueError("a white point without light")
    white = white / white[1]
    colours = red_green_blue_white[:, :3]
    if abs(np.linalg.det(colours)) < 1e-4:
        raise ValueError("primaries that lie on one line")
    colours = colours * np.linalg.solve(colours, white)
    seen = _BRADFORD @ white
    if (seen <= 0).any():
        raise ValueError("a white point that no eye adapts to")
    adapted = np.linalg.solve(_BRADFORD, np.diag(_BRADFORD @ _D50 / seen)) @ _BRADFORD @ colours
    if np.abs(adapted).max() > 100:
        raise ValueError("primaries that no picture can have")
    word = "colours of the file".encode("utf-16-be")
    text = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(word), 28) + word
    tags = [(b"desc", text), (b"cprt", text), (b"wtpt", b"XYZ \0\0\0\0" + _numbers(_D50))]
    tags += [(name + b"XYZ", b"XYZ \0\0\0\0" + _numbers(adapted[:, i])) for i, name in enumerate((b"r", b"g", b"b"))]
    tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    at, index, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags:
        index += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI12s12x4s28x", at + len(body), 0x0430_0000, b"mntrRGB XYZ ", b"acsp")
    return head + _numbers(_D50) + bytes(48) + index + body


_COLOURS = _colours()
_SRGB = _parametric(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# BT.1886 is a power of 2.4; a slope that ends keeps the darkest values apart in 8 bits, as in other working spaces.
_BT1886 = _parametric(2.4, 1, 0, 1 / 32, 32 ** (-1 / 1.4))
_STEPS = np.linspace(0, 1, 4096)
# Table 3 of H.273 → the curve of the values, the curve in which they are to be shown.
_LIKE_BT709 = (1, 6, 7, 11, 12, 14, 15)
_CURVES = {
    4: (_parametric(2.2), _SRGB),
    5: (_parametric(2.8), _SRGB),
    8: (_parametric(1), _SRGB),
    9: (_table(np.where(_STEPS > 0, 100 ** (_STEPS - 1), 0)), _SRGB),
    10: (_table(np.where(_STEPS > 0, 10 ** (2.5 * (_STEPS - 1)), 0)), _SRGB),
    13: (_SRGB, _SRGB),
    17: (_table(52.37 / 48 * _STEPS**2.6), _SRGB),
}
