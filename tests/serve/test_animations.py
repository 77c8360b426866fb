"""Files of several pictures that move are driving frames, composed as browsers do, each with its own time."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.serve.drawn import SIDE, composed, pieces, write_apng
from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.picture_file import read_picture
from triportrait.serve.media.video.clips import open_clip

FILES = Path(__file__).parents[1] / "data" / "files"


def _frames(count: int, alpha: bool = False) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    made = []
    for _ in range(count):
        flat = np.kron(rng.integers(0, 256, (9, 9, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        if alpha:
            flat = np.dstack((flat, np.where(np.arange(SIDE) < SIDE // 2, 255, 0)[None].repeat(SIDE, 0))).astype(
                np.uint8
            )
        made.append(Image.fromarray(flat))
    return made


def _on_white(image: Image.Image) -> np.ndarray:
    base = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(base, image.convert("RGBA")).convert("RGB")).astype(int)


def _save(path: Path, images: list[Image.Image], kind: str, **options: object) -> Path:
    images[0].save(path, kind, save_all=True, append_images=images[1:], **options)
    return path


def test_an_animated_webp_gives_all_its_frames() -> None:
    clip = open_clip(FILES / "animation.webp")
    frames = list(clip.frames())
    assert [f.time_s for f in frames] == [k / 8 for k in range(8)]
    assert clip.end_s == 1
    assert (clip.frame_count, clip.fps, clip.size_px, clip.warnings) == (8, 8, (128, 128), [])
    assert all(np.abs(a.image.astype(int) - b.image).mean() > 0.1 for a, b in pairwise(frames))
    assert list(clip.frames(3))[-1].time_s == 0.25
    assert clip.end_s is None
    assert clip.cut_s == Fraction(3, 8)


def test_the_last_frame_keeps_its_own_time() -> None:
    clip = open_clip(FILES / "last.gif")
    assert [f.time_s for f in clip.frames()] == [0, 0.1, 0.3, 0.6]
    assert clip.end_s == Fraction(28, 5)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_every_container_of_animations_under_any_name(tmp_path: Path, kind: str) -> None:
    wanted = _frames(5, alpha=kind != "GIF")
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    durations = [40, 100, 250, 60, 700]
    if kind == "AVIF":
        durations = [100] * 5
    path = _save(tmp_path / "a.jpg", wanted, kind, duration=durations, **options)
    clip = open_clip(path)
    frames = list(clip.frames())
    starts = np.cumsum([0, *durations]) / 1000
    assert [f.time_s for f in frames] == pytest.approx(starts[:-1])
    assert float(clip.end_s or 0) == pytest.approx(starts[-1])
    assert not clip.is_pictures
    assert clip.frame_count == 5
    assert clip.warnings == []
    for frame, image in zip(frames, wanted, strict=True):
        assert np.abs(frame.image - _on_white(image)).max() <= (3 if kind == "AVIF" else 0)
    words: list[str] = []
    assert np.array_equal(read_picture(path, words.append), frames[0].image)
    assert words == ["the first of its 5 pictures is used"]


@pytest.mark.parametrize("still", [False, True])
def test_frames_of_an_animated_png_are_composed_by_its_rules(tmp_path: Path, still: bool) -> None:
    given = pieces()
    picture = np.full((SIDE, SIDE, 4), (255, 0, 0, 255), np.uint8)
    write_apng(tmp_path / "a.png", given, picture if still else None)
    clip = open_clip(tmp_path / "a.png")
    frames, wanted = list(clip.frames()), composed(given)
    assert len(frames) == len(wanted) == clip.frame_count == 12
    for frame, image in zip(frames, wanted, strict=True):
        assert np.abs(frame.image.astype(int) - image).max() <= 2
    lengths = [Fraction(*piece[5]) for piece in given]
    starts = [float(sum(lengths[:k])) for k in range(13)]
    assert [*(f.time_s for f in frames), float(clip.end_s or 0)] == pytest.approx(starts, abs=2e-4)
    assert np.abs(read_picture(tmp_path / "a.png").astype(int) - wanted[0]).max() <= 2, (
        "the note to old viewers is none"
    )


@pytest.mark.parametrize("disposal", [1, 2, 3])
def test_frames_of_a_gif_are_what_libav_composes(tmp_path: Path, disposal: int) -> None:
    images = [Image.new("P", (SIDE, SIDE), 0) for _ in range(6)]
    for k, image in enumerate(images):
        image.putpalette([0, 0, 0, 250, 0, 0, 0, 200, 0, 0, 0, 220, 255, 255, 0])
        image.paste(1 + k % 4, (8 * k, 4 * k, 8 * k + 20, 4 * k + 20))
    path = _save(tmp_path / "a.gif", images, "GIF", duration=50, disposal=disposal, transparency=0)
    with av.open(str(path)) as file:
        wanted = [frame.reformat(format="rgb24").to_ndarray() for frame in file.decode(video=0)]
    frames = [frame.image for frame in open_clip(path).frames()]
    assert len(frames) == len(wanted) == 6
    for frame, image in zip(frames, wanted, strict=True):
        assert np.array_equal(frame, image)


def test_times_too_short_to_be_meant_are_those_of_browsers(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.gif", _frames(4), "GIF", duration=[0, 10, 20, 30])
    clip = open_clip(path)
    assert [f.time_s for f in clip.frames()] == pytest.approx([0, 0.1, 0.2, 0.22])
    assert clip.end_s == Fraction(1, 4)


def test_damage_costs_frames_and_is_told(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.gif", _frames(6), "GIF", duration=100)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    clip = open_clip(path)
    count = len(list(clip.frames()))
    assert 2 <= count < 6
    assert any("damaged" in sentence for sentence in clip.warnings)
    whole = _save(tmp_path / "b.webp", _frames(6), "WEBP", duration=100).read_bytes()
    (tmp_path / "b.webp").write_bytes(whole[: len(whole) // 2])
    try:
        clip = open_clip(tmp_path / "b.webp")
        assert len(list(clip.frames())) < 6
        assert clip.warnings
    except InputError as error:
        assert "\n" not in str(error)


def test_random_damage_never_escapes_as_a_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for kind in ("GIF", "PNG", "WEBP", "AVIF"):
        buffer = io.BytesIO()
        images = _frames(3)
        images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=50)
        for _ in range(25):
            data = bytearray(buffer.getvalue())
            for at in rng.integers(0, len(data), 6):
                data[at] = rng.integers(256)
            (tmp_path / "a").write_bytes(data)
            try:
                list(open_clip(tmp_path / "a").frames())
            except InputError as error:
                assert "\n" not in str(error)


def test_a_small_animation_drives(tmp_path: Path) -> None:
    images = [image.resize((24, 20)) for image in _frames(3)]
    assert len(list(open_clip(_save(tmp_path / "a.gif", images, "GIF", duration=100)).frames())) == 3


def test_pages_and_views_are_no_animation(tmp_path: Path) -> None:
    for kind, count in (("TIFF", 3), ("MPO", 2)):
        path = _save(tmp_path / f"a.{kind.lower()}", _frames(count), kind)
        clip = open_clip(path)
        frames = list(clip.frames())
        assert len(frames) == 1
        assert clip.warnings == [f"{path}: the first of its {count} pictures is used"]
        assert np.abs(frames[0].image - _on_white(_frames(1)[0])).mean() < 12


def test_one_frame_is_a_still_picture(tmp_path: Path) -> None:
    for kind in ("GIF", "WEBP", "PNG"):
        path = _save(tmp_path / f"a.{kind.lower()}", _frames(1), kind)
        assert open_clip(path).is_pictures
        assert open_clip(path).frame_count == 1
