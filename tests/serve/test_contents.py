"""What a file is, its content says: every kind of picture under every name, wherever one is taken."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.serve.drawn import with_chunks
from tests.serve.making import make, scene
from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.file_type import is_picture, kind_of_bytes
from triportrait.serve.media.pictures.picture_file import decode_picture, read_picture
from triportrait.serve.media.pictures.picture_folder import sorted_folder
from triportrait.serve.media.provenance.verify import read_file
from triportrait.serve.media.video import side_data
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.source_and_driving import find_source

FILES = Path(__file__).parents[1] / "data" / "files"
NAMES = ["a.jpg", "a.jfif", "a.jpe", "a.jif", "a.pjpeg", "a.mpo", "a", "a.png", "a.mp4", "a.gif", "a.mjpeg", "a.heic"]


def _source(path: Path) -> np.ndarray:
    return find_source(path, None).read(lambda: None).image


@pytest.mark.parametrize("name", NAMES)
def test_a_photograph_is_the_same_under_every_name(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(FILES / "phone.jfif", tmp_path / name))
    wanted = decode_picture(path.read_bytes(), "it")
    assert wanted.shape == (512, 512, 3)
    clip = open_clip(path)
    assert clip.is_pictures
    assert clip.size_px == (512, 512)
    for image in (read_picture(path), next(iter(clip.frames())).image, _source(path)):
        assert np.array_equal(image, wanted)
    assert read_file(path).pictures == 1


@pytest.mark.parametrize("name", ["a.jpg", "a.jfif", "a"])
def test_a_profile_is_followed_under_every_name(tmp_path: Path, name: str) -> None:
    profile = Image.open(FILES / "linear_srgb.png").info["icc_profile"]
    Image.open(FILES / "linear_srgb.png").save(tmp_path / name, "JPEG", quality=98, icc_profile=profile)
    wanted = read_picture(FILES / "pattern.png").astype(int)
    for image in (_source(tmp_path / name), next(iter(open_clip(tmp_path / name).frames())).image):
        assert np.abs(image - wanted).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF"])
@pytest.mark.parametrize("name", ["a", "a.jpg", "a.mov"])
def test_every_kind_of_picture_is_told_by_its_content(tmp_path: Path, kind: str, name: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98}
    Image.fromarray(scene(96, 96)).save(tmp_path / name, kind, **options)
    assert kind_of_bytes((tmp_path / name).read_bytes()[:64]) == kind
    for image in (_source(tmp_path / name), next(iter(open_clip(tmp_path / name).frames())).image):
        assert np.abs(image.astype(int) - scene(96, 96)).mean() < 3


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a"])
def test_a_video_is_one_under_every_name(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = make(tmp_path / "whole.mp4", 6).rename(tmp_path / name)
    assert len(list(open_clip(path).frames())) == 6
    assert _source(path).shape == (64, 80, 3)
    assert caplog.messages == [f"source: the first frame of {path}"]
    assert read_file(path).pictures == 6


def test_a_raw_stream_of_jpegs_is_a_video_and_what_follows_a_photograph_is_not(tmp_path: Path) -> None:
    jpeg = tmp_path / "one.jpg"
    Image.fromarray(scene(96, 96)).save(jpeg, quality=90)
    Image.fromarray(scene(96, 96)).save(tmp_path / "progressive.jpg", quality=90, progressive=True)
    one, progressive = jpeg.read_bytes(), (tmp_path / "progressive.jpg").read_bytes()
    (tmp_path / "stream.jpg").write_bytes(one * 3 + progressive * 2)
    assert not is_picture(tmp_path / "stream.jpg")
    assert len(list(open_clip(tmp_path / "stream.jpg").frames())) == 5
    Image.fromarray(scene(64, 64)).save(tmp_path / "preview.jpg")
    preview, video = (tmp_path / "preview.jpg").read_bytes(), make(tmp_path / "motion.mp4", 3).read_bytes()
    for tail in (b"", video, preview, bytes(99), b"\xff\xd8\xff"):
        for photograph in (one, progressive):
            (tmp_path / "photo").write_bytes(photograph + tail)
            assert is_picture(tmp_path / "photo")
    assert is_picture(FILES / "phone.jfif")
    for at in range(3, len(one), 97):
        (tmp_path / "cut").write_bytes(one[:at])
        assert is_picture(tmp_path / "cut")


def test_a_camera_s_raw_file_is_no_thumbnail(tmp_path: Path) -> None:
    for number, value in ((254, 1), (50706, b"\1\4\0\0")):
        Image.fromarray(scene(96, 96)).save(tmp_path / "a.tif", tiffinfo={number: value})
        with pytest.raises(InputError, match="raw file only a thumbnail can be read; export it"):
            read_picture(tmp_path / "a.tif")


def test_a_folder_is_read_by_content_and_says_what_it_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, kind in (("1.jfif", "JPEG"), ("2", "PNG"), ("3.png", "JPEG"), ("10.jpe", "JPEG")):
        Image.fromarray(scene(96, 96)).save(tmp_path / name, kind)
    for name in (".hidden.png", "Thumbs.db", "desktop.ini", "._1.jfif"):
        (tmp_path / name).write_bytes(b"anything")
    assert [p.name for p in sorted_folder(tmp_path)[0]] == ["1.jfif", "2", "3.png", "10.jpe"]
    clip = open_clip(tmp_path)
    assert len(list(clip.frames())) == 4
    assert clip.warnings == []
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "4.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    clip = open_clip(tmp_path)
    assert len(list(clip.frames())) == 4
    sentence = f"{tmp_path}: 2 files (4.heic, notes.txt) are no pictures that can be read; left out"
    assert clip.warnings == [sentence]
    caplog.set_level(logging.INFO)
    _source(tmp_path)
    assert caplog.messages == [
        f"source: {tmp_path / '1.jfif'}, the first picture of the folder",
        f"source: {sentence}",
    ]
    for k in range(9):
        (tmp_path / f"x{k}.md").touch()
    assert open_clip(tmp_path).warnings == []
    clip = open_clip(tmp_path)
    list(clip.frames())
    assert "11 files (4.heic, notes.txt, x0.md, x1.md, x2.md …)" in clip.warnings[0]


def test_names_that_a_terminal_would_obey_are_not_repeated(tmp_path: Path) -> None:
    Image.fromarray(scene(96, 96)).save(tmp_path / "1.png")
    (tmp_path / "a\n\x1b[31m.txt").write_text("hello")
    clip = open_clip(tmp_path)
    list(clip.frames())
    assert clip.warnings == [f"{tmp_path}: a??[31m.txt is no picture that can be read; left out"]


def test_a_folder_without_pictures_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "4.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with pytest.raises(InputError, match=r"no picture in this folder, only 4\.heic; put PNG"):
        open_clip(tmp_path)


def test_words_about_pictures_of_a_folder_are_counted(tmp_path: Path) -> None:
    for k in range(3):
        profile = b"no profile" if k else None
        Image.fromarray(scene(96, 96)).save(tmp_path / f"{k}.png", icc_profile=profile)
    clip = open_clip(tmp_path)
    list(clip.frames())
    assert clip.warnings == [
        f"{tmp_path}: its colour profile is broken or of another kind of picture and was ignored (2 of 3 pictures, the "
        "first is 1.png)"
    ]


def test_what_is_used_of_a_source_with_several_pictures_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert _source(FILES / "animation.webp").shape == (128, 128, 3)
    assert caplog.messages == [f"source: {FILES / 'animation.webp'}: the first of its 8 pictures is used"]


def test_side_data_that_pyav_has_no_name_for_is_passed_over(tmp_path: Path) -> None:
    with av.open(str(FILES / "phone.jfif")) as file:
        frame = next(file.decode(video=0))
    with pytest.raises(ValueError, match="31 is not a valid"):
        frame.side_data  # noqa: B018
    assert len(side_data.side_data(frame, "DISPLAYMATRIX") or b"") == 36
    assert side_data.side_data(frame, "ICC_PROFILE") is None
    assert side_data.side_data(frame, "OF_ANOTHER_VERSION") is None


def test_words_beside_a_profile_do_not_end_the_process() -> None:
    # PyAV frees them twice: a crash, here of another process.
    code = (
        "import av, gc\n"
        "from triportrait.serve.media.video.side_data import side_data\n"
        "for _ in range(40):\n"
        f"    with av.open({str(FILES / 'linear_srgb.png')!r}) as file:\n"
        "        frame = next(file.decode(video=0))\n"
        "    assert side_data(frame, 'DISPLAYMATRIX') is None\n"
        "    gc.collect()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_kind_that_nobody_counts_to_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(str(FILES / "phone.jfif")) as file:
        frame = next(file.decode(video=0))
    monkeypatch.setattr(side_data, "_KINDS", 31)
    assert side_data.side_data(frame, "DISPLAYMATRIX") is None


def test_a_film_of_jpegs_with_exif_is_read_and_upright(tmp_path: Path) -> None:
    data = (FILES / "phone.jfif").read_bytes()
    with av.open(tmp_path / "a.avi", "w") as file:
        stream: Any = file.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuvj420p"
        for k in range(3):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, k, k, Fraction(1, 25)
            file.mux(packet)
    frames = list(open_clip(tmp_path / "a.avi").frames())
    assert len(frames) == 3
    assert np.abs(frames[0].image.astype(int) - read_picture(FILES / "phone.jfif")).mean() < 2


@pytest.mark.parametrize("name", ["colorspace", "color_primaries", "color_trc", "pict_type"])
def test_numbers_of_libav_that_nobody_knows_are_as_if_not_said(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / "a.mkv", [scene()] * 2, codec="ffv1")
    with av.open(path) as file:
        frame = next(file.decode(video=0))
    from av.video.reformatter import VideoReformatter

    from triportrait.serve.media.video.frame_to_rgb import ToRgb

    convert = ToRgb(frame, None, False)
    plain = convert(frame, VideoReformatter())
    setattr(frame, name, 3 if name == "pict_type" else 99)
    assert np.abs(convert(frame, VideoReformatter()).astype(int) - plain).max() <= (40 if name == "colorspace" else 0)


def test_text_in_a_picture_s_clothes_is_refused_as_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jfif").write_text("no picture at all")
    with pytest.raises(InputError, match="not a picture that can be read"):
        open_clip(tmp_path / "a.jfif")
    with pytest.raises(InputError, match="not a picture that can be read"):
        read_file(tmp_path / "a.jfif")


def test_srgb_profiles_cost_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (70, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(read_picture(tmp_path / "a.png"), noise)
    (tmp_path / "b.png").write_bytes(with_chunks((tmp_path / "a.png").read_bytes()))
    assert np.array_equal(read_picture(tmp_path / "b.png"), noise)
