"""Colours come in as sRGB, whatever the file says of them: judged by what a profile does, followed by chunk and tag."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.serve.drawn import chunk, with_chunks
from tests.serve.making import make, scene
from triportrait.serve.media.pictures import colour_spaces
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.frame_to_rgb import SCALING

FILES = Path(__file__).parents[1] / "data" / "files"
PATTERN = np.asarray(Image.open(FILES / "pattern.png").convert("RGB"))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290))
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290))
BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), (0.3127, 0.3290))


def _light(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _matrix(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """XYZ of linear RGB, by the textbook; all of these have the same white."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def _coded(primaries: tuple[tuple[float, float], ...], power: float | None, image: np.ndarray = PATTERN) -> np.ndarray:
    """An sRGB picture in other primaries, coded by a power, or by sRGB's curve: uint8 [H, W, 3]."""
    light = _light(image / 255.0) @ np.linalg.solve(_matrix(primaries), _matrix(BT709)).T
    light = light.clip(0, 1)
    srgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return ((srgb if power is None else light**power) * 255).round().astype(np.uint8)


def _error(image: np.ndarray) -> float:
    return float(np.abs(image.astype(int) - PATTERN).mean())


def _renamed(profile: bytes, name: str) -> bytes:
    """The same profile under another name."""
    data = bytearray(profile)
    for i in range(struct.unpack(">I", data[128:132])[0]):
        tag, offset, size = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if tag == b"desc":
            text = name.encode("utf-16-be")[: size - 28]
            body = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
            data[offset : offset + size] = body.ljust(size, b"\0")
    made = bytes(data)
    assert name[:4] in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(made)))
    return made


def _profiled(path: Path, image: np.ndarray, profile: bytes, **options: Any) -> Path:
    Image.fromarray(image).save(path, icc_profile=profile, **options)
    return path


def test_a_linear_picture_is_not_taken_for_srgb_because_of_its_profile_s_name() -> None:
    assert _error(read_picture(FILES / "linear_srgb.png")) <= 1.5


def test_profiles_are_judged_by_what_they_do(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    for name in ("Display P3", "liar", "sRGB"):
        path = _profiled(tmp_path / "a.png", noise, _renamed(SRGB, name))
        assert np.array_equal(read_picture(path), noise), "sRGB under any name is passed on as it is"
    p3 = colour_spaces._profile(P3, colour_spaces._SRGB)
    for name in ("sRGB IEC", "anything"):
        path = _profiled(tmp_path / "a.png", _coded(P3, None), _renamed(p3, name))
        assert _error(read_picture(path)) <= 1.5
        assert _error(_coded(P3, None)) > 6


def test_grey_profiles_are_followed(tmp_path: Path) -> None:
    head, curve = (
        bytearray(colour_spaces._profile(BT709, colour_spaces._parametric(1.0))),
        colour_spaces._parametric(1.0),
    )
    tags = [(b"desc", b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", 2, 28) + "x".encode("utf-16-be"))]
    tags += [(b"wtpt", b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)), (b"kTRC", curve)]
    index, body = struct.pack(">I", 3), b""
    for name, data in tags:
        index += struct.pack(">4sII", name, 132 + 36 + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head[16:20] = b"GRAY"
    profile = struct.pack(">I", 132 + 36 + len(body)) + bytes(head[4:128]) + index + body
    path = _profiled(tmp_path / "a.png", np.full((80, 80), 120, np.uint8), profile)
    assert abs(int(read_picture(path)[0, 0, 0]) - 180) <= 2
    words: list[str] = []
    path = _profiled(tmp_path / "rgb.png", PATTERN, profile)
    assert np.array_equal(read_picture(path, words.append), PATTERN)
    assert words == ["its colour profile is broken or of another kind of picture and was ignored"]


def test_gama_without_a_profile_is_followed() -> None:
    assert _error(read_picture(FILES / "gama.png")) <= 1.5


def _numbers(*values: float) -> bytes:
    return struct.pack(f">{len(values)}I", *(round(value * 100_000) for value in values))


def test_the_chunks_of_a_png_go_before_each_other_in_the_standard_s_order(tmp_path: Path) -> None:
    def read(image: np.ndarray, *chunks: bytes, profile: bytes | None = None) -> np.ndarray:
        Image.fromarray(image).save(tmp_path / "a.png", icc_profile=profile)
        (tmp_path / "a.png").write_bytes(with_chunks((tmp_path / "a.png").read_bytes(), *chunks))
        return read_picture(tmp_path / "a.png")

    linear, wide = _coded(BT709, 1.0), _coded(P3, None)
    gamma = chunk(b"gAMA", _numbers(1.0))
    usual = chunk(b"gAMA", _numbers(0.45455))
    chroma = chunk(b"cHRM", _numbers(0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060))
    srgb, p3 = chunk(b"sRGB", b"\0"), chunk(b"cICP", bytes((12, 13, 0, 1)))
    assert _error(read(linear, gamma)) <= 1.5
    assert _error(read(_coded(P3, 1.0), gamma, chroma)) <= 2
    assert _error(read(wide, chroma)) <= 1.5
    assert _error(read(wide, usual, chroma)) <= 1.5
    assert _error(read(wide, p3)) <= 1.5
    assert _error(read(_coded(P3, 1.0), chunk(b"cICP", bytes((12, 8, 0, 1))))) <= 2
    assert np.array_equal(read(PATTERN, usual), PATTERN), "what every editor writes means sRGB"
    assert np.array_equal(read(PATTERN, srgb, gamma, chroma), PATTERN), "sRGB goes before gAMA"
    assert np.array_equal(read(PATTERN, gamma, chroma, profile=SRGB), PATTERN), "a profile goes before gAMA"
    assert _error(read(wide, p3, gamma, profile=SRGB)) <= 1.5, "cICP goes before a profile"
    for unknown in ((99, 13, 0, 1), (12, 99, 0, 1), (12, 13, 5, 1), (2, 2, 0, 1)):
        assert _error(read(linear, chunk(b"cICP", bytes(unknown)), gamma)) <= 1.5, "as if it were not there"


@pytest.mark.parametrize("values", [(0.0,) * 8, (0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3), (0.3, 0.0) * 4])
def test_chromaticities_that_cannot_be_are_ignored_with_a_word(tmp_path: Path, values: tuple[float, ...]) -> None:
    Image.fromarray(PATTERN).save(tmp_path / "a.png")
    data = with_chunks((tmp_path / "a.png").read_bytes(), chunk(b"cHRM", _numbers(*values)))
    (tmp_path / "a.png").write_bytes(data)
    words: list[str] = []
    assert np.array_equal(read_picture(tmp_path / "a.png", words.append), PATTERN)
    assert words == ["what it says of its colours cannot be and was ignored"]


def test_adobe_rgb_of_cameras_is_followed(tmp_path: Path) -> None:
    adobe = _coded(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), (0.3127, 0.3290)), 256 / 563)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    Image.fromarray(adobe).save(tmp_path / "a.jpg", quality=98, subsampling=0, exif=exif)
    assert _error(read_picture(tmp_path / "a.jpg")) <= 2 < _error(adobe)
    exif.get_ifd(0x8769)[0xA001] = 1
    Image.fromarray(PATTERN).save(tmp_path / "b.jpg", quality=98, subsampling=0, exif=exif)
    assert _error(read_picture(tmp_path / "b.jpg")) <= 1.5


def test_codes_of_an_avif_are_followed(tmp_path: Path) -> None:
    Image.fromarray(_coded(P3, None)).save(tmp_path / "a.avif", quality=95, subsampling="4:4:4")
    data = (tmp_path / "a.avif").read_bytes()
    at = data.index(b"nclx") + 4
    (tmp_path / "a.avif").write_bytes(data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :])
    assert _error(read_picture(tmp_path / "a.avif")) <= 3 < 6 < _error(_coded(P3, None))


def _tagged(path: Path, image: np.ndarray, primaries: int, curve: int, fmt: str = "yuv444p10le") -> Path:
    """Two frames of one picture in a lossless video with these tags."""
    with av.open(path, "w") as file:
        stream: Any = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], fmt
        context = stream.codec_context
        context.color_primaries, context.color_trc = primaries, curve
        if fmt.startswith("yuv"):
            context.colorspace, context.color_range = 1, 1
        for k in range(2):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            tags = {"dst_colorspace": 1, "dst_color_range": 1} if fmt.startswith("yuv") else {}
            frame = frame.reformat(format=fmt, interpolation=SCALING, **tags)
            frame.color_primaries, frame.color_trc = primaries, curve
            frame.pts, frame.time_base = k, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def test_tagged_primaries_of_a_video_are_converted() -> None:
    assert _error(next(iter(open_clip(FILES / "p3.mp4").frames())).image) <= 1.5


@pytest.mark.parametrize("fmt", ["yuv420p", "yuv444p10le", "bgr0"])
@pytest.mark.parametrize(("primaries", "code"), [(P3, 12), (BT2020, 9)])
def test_primaries_with_srgb_s_curve(tmp_path: Path, primaries: Any, code: int, fmt: str) -> None:
    path = _tagged(tmp_path / "a.mkv", _coded(primaries, None), code, 13, fmt)
    assert _error(next(iter(open_clip(path).frames())).image) <= 2.5 < _error(_coded(primaries, None))


@pytest.mark.parametrize(("curve", "power"), [(4, 1 / 2.2), (5, 1 / 2.8), (8, 1.0)])
def test_curves_of_a_video_are_followed(tmp_path: Path, curve: int, power: float) -> None:
    path = _tagged(tmp_path / "a.mkv", _coded(P3, power), 12, curve)
    assert _error(next(iter(open_clip(path).frames())).image) <= 2


@pytest.mark.parametrize(("primaries", "curve"), [(2, 2), (1, 1), (1, 6), (1, 13), (2, 14), (1, 15), (0, 3), (99, 99)])
def test_what_is_not_tagged_otherwise_stays_bit_by_bit(tmp_path: Path, primaries: int, curve: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert colour_spaces.follow_codes_of_pixels(rgb, primaries, curve) is rgb
    path = make(tmp_path / "a.mkv", [scene()] * 2, codec="ffv1")
    with av.open(path) as file:
        frame = next(file.decode(video=0))
        plain = frame.reformat(format="rgb24", src_colorspace=1, interpolation=SCALING).to_ndarray()
    assert np.array_equal(next(iter(open_clip(path).frames())).image, plain)


@pytest.mark.parametrize("primaries", [4, 5, 6, 7, 8, 9, 11, 12, 22])
@pytest.mark.parametrize("curve", [1, 13])
def test_greys_stay_grey_in_all_primaries(primaries: int, curve: int) -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    assert np.abs(colour_spaces.follow_codes_of_pixels(greys, primaries, curve).astype(int) - greys).max() <= 1


@pytest.mark.parametrize("curve", [4, 5, 8, 9, 10, 13, 16, 17, 18])
def test_every_curve_gives_white_and_rises(curve: int) -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    seen = colour_spaces.follow_codes_of_pixels(np.repeat(greys, 16, 0), 1 if curve < 16 else 9, curve)[0].astype(int)
    assert (np.diff(seen[:, 0]) >= -1).all()
    assert seen[-1].min() >= 250
    assert seen[0].max() <= 2
