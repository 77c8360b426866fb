"""Driving frames come in complete, with true times, upright and in true colours; what is no video is refused."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.serve.making import CLOCK, UNEVEN, H, W, copy, corners, make, noise, scene, times_of
from triportrait.core.errors import InputError
from triportrait.serve.media.video import clips
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.decoding import Tally
from triportrait.serve.media.video.decoding import timed as timed_frames


def _refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(open_clip(path).frames())
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "codec", "fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mkv", "ffv1", "yuv444p10le"),
        ("a.mov", "prores_ks", "yuv422p10le"),
        ("a.ts", "libx264", "yuv420p"),
        ("b.avi", "libx264", "yuv420p"),
        ("a.mpg", "mpeg1video", "yuv420p"),
        ("b.mkv", "libx264", "yuv444p"),
        ("c.mkv", "ffv1", "bgr0"),
        ("b.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_any_container_and_pixel_format(tmp_path: Path, name: str, codec: str, fmt: str) -> None:
    # MPEG-1 and AVI carry no tag; such small pictures are then taken for BT.601.
    tag = {"a.avi": (5, 2), "a.mpg": (5, 1)}.get(name, (1, 1))
    clip = open_clip(make(tmp_path / name, [scene()] * 12, codec=codec, fmt=fmt, tag=tag))
    frames = list(clip.frames())
    assert [f.index for f in frames] == list(range(12))
    assert clip.warnings == []
    assert clip.fps == 30
    assert clip.size_px == (W, H)
    assert not clip.has_audio
    assert clip.frame_count is None or abs(clip.frame_count - 12) <= 1
    assert np.abs([f.time_s - f.index / 30 for f in frames]).max() < 6e-4
    for frame in frames:
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert np.abs(corners(frame.image) - corners(scene())).max() <= 5


def test_frames_come_in_the_order_they_are_shown_to_the_last(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", 25, options={"bf": "3", "crf": "10", "x264-params": "b-adapt=0:scenecut=0"})
    with av.open(path) as file:
        stamps = [p.pts for p in file.demux(video=0) if p.pts is not None]
    assert stamps != sorted(stamps), "the file holds no B frames; the test would show nothing"
    levels = [float(f.image.mean()) for f in open_clip(path).frames()]
    assert np.abs(np.array(levels) - (1.5 + 10 * np.arange(25))).max() < 3


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mp4", 16, pts=UNEVEN))
    assert times_of(clip) == [at / CLOCK for at in UNEVEN]
    assert 15 <= clip.fps <= 16


def test_times_start_at_zero_whatever_the_clock_of_the_file(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mkv", 5, pts=[90_000 + 3000 * i for i in range(5)], sound="aac"))
    assert times_of(clip)[0] == 0
    assert float(clip.start_s) == pytest.approx(1, abs=0.03)


def test_stamps_are_invented_and_made_to_grow() -> None:
    class Given:
        def __init__(self, pts: int | None) -> None:
            self.pts, self.dts = pts, None

    def timed(stamps: list[int | None]) -> list[float]:
        frames: Any = [Given(stamp) for stamp in stamps]
        return [float(t) for t, _ in timed_frames(iter(frames), Fraction(1, 100), Fraction(1, 25))]

    assert timed([None] * 3) == [0, 0.04, 0.08]
    assert timed([7, None, 15]) == [0, 0.04, 0.08]
    assert timed([None, 50, 54]) == [0, 0.04, 0.08]
    assert timed([0, 4, 4, 8]) == [0, 0.04, 0.06, 0.08]
    assert timed([-8, -4, 0]) == [0, 0.04, 0.08]
    # A clock that falls all the same: the steps after it are kept. Leaps are the clock's (tests/serve/test_clock.py).
    assert timed([0, 400, 0, 7]) == pytest.approx([0, 4, 4.04, 4.11])
    assert timed([0, 6000, 6004]) == pytest.approx([0, 60, 60.04])


def test_raw_stream_without_stamps(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.h264", 6, options={"bf": "0"}))
    times = times_of(clip)
    assert len(times) == 6
    assert np.diff(times) == pytest.approx(float(1 / clip.fps))


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_phone_videos_are_turned_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    # A display matrix turns anticlockwise and mirrors after it; undo both to get the stored picture.
    stored = np.rot90(scene()[:, ::-1] if mirrored else scene(), -degrees // 90)
    path = make(tmp_path / "a.mp4", [stored] * 2, turn=(degrees, mirrored, False))
    clip = open_clip(path)
    image = next(iter(clip.frames())).image
    assert clip.size_px == (W, H)
    assert image.shape == (H, W, 3)
    assert np.abs(corners(image) - corners(scene())).max() <= 5


@pytest.mark.parametrize(("stretch", "size"), [(Fraction(3, 2), (120, 64)), (Fraction(1, 2), (80, 128))])
def test_pixels_become_square(tmp_path: Path, stretch: Fraction, size: tuple[int, int]) -> None:
    clip = open_clip(make(tmp_path / "a.mp4", [scene()] * 2, stretch=stretch))
    image = next(iter(clip.frames())).image
    assert clip.size_px == size == image.shape[1::-1]
    assert np.abs(corners(image) - corners(scene())).max() <= 5


def test_odd_sizes(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mkv", [scene(67, 71)], codec="ffv1", fmt="yuv444p"))
    assert clip.size_px == (67, 71)
    assert next(iter(clip.frames())).image.shape == (71, 67, 3)


@pytest.mark.parametrize(("height", "matrix"), [(64, 5), (736, 1)])
def test_untagged_colours_are_guessed_as_players_do(tmp_path: Path, height: int, matrix: int) -> None:
    tall = scene(64, height)
    clip = open_clip(make(tmp_path / "a.mkv", [tall], codec="ffv1", tag=(matrix, 1)))
    path = tmp_path / "b.mkv"
    # The same planes once more without the tag.
    with av.open(clip.path) as source, av.open(path, "w") as file:
        stream: Any = file.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
        frame = next(source.decode(video=0))
        frame.colorspace, frame.color_range, frame.pts = 2, 0, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with av.open(path) as file:
        assert next(file.decode(video=0)).colorspace == 2
    assert np.abs(corners(next(iter(open_clip(path).frames())).image) - corners(tall)).max() <= 4


def test_hdr_white_is_white(tmp_path: Path) -> None:
    # HLG, as phones record: paper white is at 75 % of the signal, 38 % is a mid grey.
    grey = np.full((H, W, 3), 97, np.uint8)
    grey[:, W // 2 :] = 191
    path = make(tmp_path / "a.mkv", [grey], codec="ffv1", fmt="yuv420p10le", tag=(9, 1), hdr=True)
    image = next(iter(open_clip(path).frames())).image
    assert image[H // 2, -9].min() > 245
    assert 90 < image[H // 2, 8].mean() < 115


def test_damage_costs_the_same_frames_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [np.kron(image, np.ones((4, 4, 1), np.uint8)) for image in noise(40)]
    path = make(tmp_path / "a.mp4", frames, options={"g": "40", "bf": "2"}, container={"movflags": "+faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.55)])
    original = clips._video_stream
    seen = []
    for count in (1, 4):

        def threaded(*given: Any, count: int = count) -> av.VideoStream:
            stream = original(*given)
            stream.codec_context.thread_count = count
            return stream

        monkeypatch.setattr(clips, "_video_stream", threaded)
        clip = open_clip(path)
        seen.append(([(f.time_s, f.image.tobytes()) for f in clip.frames()], clip.warnings))
    assert seen[0] == seen[1]
    assert 5 < len(seen[0][0]) < 40


def test_frames_that_are_certainly_there(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", noise(20), options={"bf": "0"}, container={"movflags": "+faststart"})
    assert open_clip(path).least_count == 20
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = open_clip(path)
    assert 0 < cut.least_count <= len(times_of(cut)) < 20
    assert open_clip(make(tmp_path / "a.mkv", 5)).least_count == 0


def test_a_damaged_picture_in_a_folder_is_left_out_and_told(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(noise(5)[i]).save(folder / f"{i}.png")
    for i in (2, 3):
        (folder / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes()[:2000])
    clip = open_clip(folder)
    frames = list(clip.frames())
    assert [f.index for f in frames] == [0, 1, 4]
    assert frames[2].time_s == 4 / 25
    assert clip.warnings == [f"{folder}: 2 of 5 pictures are damaged and were left out, the first is 2.png"]
    assert len(list(clip.frames(2))) == 2
    assert clip.warnings == []


@pytest.mark.parametrize("bad", ["text", "small", "huge", "heic"])
def test_every_header_of_a_folder_is_read_at_the_start(tmp_path: Path, bad: str) -> None:
    for i in range(3):
        Image.fromarray(scene()).save(tmp_path / f"{i}.png")
    if bad == "text":
        (tmp_path / "1.png").write_text("hello")
    elif bad == "heic":
        (tmp_path / "1.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    else:
        Image.new("1", (20, 20) if bad == "small" else (11_000, 10_000)).save(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"1.png: "):
        open_clip(tmp_path)


def test_a_still_picture_that_looks_like_a_video_is_called_a_picture(tmp_path: Path) -> None:
    for name in ("a.heic", "a.mp4", "a"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
        assert "HEIC pictures cannot be read; save it as PNG or JPEG" in _refusal(tmp_path / name)
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(64))
    assert "not a picture that can be read" in _refusal(tmp_path / "a.avif")


def test_folder_and_single_picture(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((64 + i, 70, 3), i, np.uint8)).save(folder / f"{i}.png")
    clip = open_clip(folder)
    frames = list(clip.frames())
    assert [int(f.image[0, 0, 0]) for f in frames] == list(range(12)), "natural order"
    assert [f.time_s for f in frames] == [float(Fraction(i, 25)) for i in range(12)]
    assert frames[3].image.shape == (67, 70, 3)
    assert (clip.fps, clip.size_px, clip.frame_count, clip.has_audio) == (25, (70, 64), 12, False)
    assert [f.index for f in clip.frames(limit=2)] == [0, 1]
    assert clip.cut_s == Fraction(2, 25)
    single = open_clip(folder / "3.png")
    assert [f.image.shape for f in single.frames()] == [(67, 70, 3)]
    assert single.frame_count == 1


def test_limit_and_second_pass(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mp4", 16, pts=UNEVEN))
    assert len(list(clip.frames(limit=5))) == 5
    assert clip.cut_s == Fraction(UNEVEN[5], CLOCK)
    assert len(list(clip.frames(limit=16))) == 16
    assert clip.cut_s is None
    assert list(clip.frames(limit=0)) == []
    assert clip.cut_s == 0
    assert len(list(clip.frames())) == 16
    assert clip.cut_s is None
    assert clip.frame_count == 16


def test_closing_the_iterator_closes_the_file(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")

    def held() -> int:
        links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return sum(os.path.realpath(link) == str(path.resolve()) for link in links)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    clip = open_clip(path)
    assert held() == 0
    frames = clip.frames()
    next(frames)
    assert held() == 1
    frames.close()
    assert held() == 0
    assert clip.cut_s == Fraction(1, 30)


@pytest.mark.parametrize(
    ("name", "options"), [("a.mp4", {"movflags": "+faststart"}), ("a.mkv", None), ("a.webm", None)]
)
def test_truncated_video_gives_what_is_there(tmp_path: Path, name: str, options: dict[str, str] | None) -> None:
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    path = make(tmp_path / name, 50, codec=codec, options={"g": "5"}, container=options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    clip = open_clip(path)
    count = len(times_of(clip))
    assert 5 < count < 45
    (sentence,) = clip.warnings
    assert sentence.startswith(f"{path}: {count} of ")
    assert "50 frames could be decoded" in sentence


@pytest.mark.parametrize(("name", "codec"), [("a.flv", "libx264"), ("a.avi", "mpeg4")])
def test_truncated_video_without_an_index_tells_it_too(tmp_path: Path, name: str, codec: str) -> None:
    path = make(tmp_path / name, noise(50), codec=codec, options={"g": "5", "bf": "0"})
    whole = open_clip(path)
    assert len(times_of(whole)) == 50
    assert whole.warnings == []
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    clip = open_clip(path)
    count = len(times_of(clip))
    (sentence,) = clip.warnings
    assert count < 45
    assert sentence.startswith(f"{path}: {count} of about 5")
    assert "could be decoded" in sentence


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_damage_in_the_middle(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, noise(50), options={"g": "5", "bf": "0"})
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    middle = slice(len(data) // 2, len(data) // 2 + len(data) // 10)
    data[middle] = rng.integers(0, 256, len(data[middle]), dtype=np.uint8).tobytes()
    path.write_bytes(data)
    clip = open_clip(path)
    times = times_of(clip)
    assert 25 < len(times) < 50
    assert times[-1] == pytest.approx(49 / 30, abs=2e-3)
    if name == "a.mp4":
        # A demuxer of Matroska goes on at the next cluster without a word.
        assert clip.warnings == [f"{path}: {len(times)} of 50 frames could be decoded; the rest is damaged"]


def test_whole_videos_warn_of_nothing(tmp_path: Path) -> None:
    # VP8 has packets that are never shown: fewer frames than packets alone is no damage.
    clip: Any = open_clip(make(tmp_path / "a.mp4", 50))
    assert list(clip._damage(Tally(packets=55, frames=50, end_s=Fraction(5, 3)))) == []
    assert list(clip._damage(Tally(packets=50, frames=49, errors=1))) == [
        f"{clip.path}: 49 of 50 frames could be decoded; the rest is damaged"
    ]
    # Cut between two packets: nothing is broken, there are only fewer than the index announces.
    assert list(clip._damage(Tally(packets=33, frames=33))) == [
        f"{clip.path}: 33 of 50 frames could be decoded; the rest is damaged"
    ]
    assert list(clip._damage(Tally(packets=50, hidden=10, frames=39, errors=1))) == [
        f"{clip.path}: 39 of 40 frames could be decoded; the rest is damaged"
    ]
    assert list(clip._damage(Tally(packets=50, frames=50, broken_frames=2))) == [
        f"{clip.path}: 2 of 50 frames are damaged and were used as they decoded"
    ]


def test_an_edit_list_is_no_damage(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", 30, options={"g": "10", "bf": "0"})
    data = path.read_bytes()
    at = data.index(b"elst") if b"elst" in data else -1
    assert at > 0, "no edit list to change"
    # Entry: duration (movie clock, 1/1000 s), media time (track clock). Show 0.5 s from 0.2 s on.
    entry = (500).to_bytes(4, "big") + (18_000).to_bytes(4, "big")
    path.write_bytes(data[: at + 12] + entry + data[at + 20 :])
    clip = open_clip(path)
    times = times_of(clip)
    assert 14 <= len(times) <= 16
    assert times[0] == 0
    assert clip.warnings == []
    assert clip.least_count == len(times)
    assert next(iter(clip.frames())).image.mean() == pytest.approx(61.5, abs=4), "the sixth frame is the first shown"


def test_several_edits_are_no_break_of_the_clock(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", 30, options={"g": "10", "bf": "0"}, sound="aac")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst")
    # Two edits of the pictures in the place of one: 0.5 s from the start, 0.25 s from 0.75 s on, where no key frame is.
    edits = b"".join(
        (ms).to_bytes(4, "big") + (ms_at * 90).to_bytes(4, "big") + b"\0\1\0\0" for ms, ms_at in ((500, 0), (250, 750))
    )
    data[at + 8 : at + 24] = (2).to_bytes(4, "big") + edits
    for name in (b"elst", b"edts", b"trak", b"moov"):
        size_at = data.rindex(name, 0, at + 4) - 4
        size = int.from_bytes(data[size_at : size_at + 4], "big") + 12
        data[size_at : size_at + 4] = size.to_bytes(4, "big")
    path.write_bytes(data)
    clip = open_clip(path)
    levels = [(float(f.image.mean()) - 1.5) / 10 for f in clip.frames()]
    assert clip.warnings == []
    assert clip.clock.moves == {}
    assert np.round(levels).tolist() == [*range(15), *[i % 25 for i in range(23, 30)]]


def test_useless_files_are_refused(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "missing.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "empty" in _refusal(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    assert "no video stream (" in _refusal(tmp_path / "text.mp4")
    assert "(moov atom not found)" in _refusal(tmp_path / "text.mp4"), "the reason must be told every time"
    whole = make(tmp_path / "whole.mp4", noise(16)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert "no video stream (moov atom not found)" in _refusal(tmp_path / "cut.mp4")
    (tmp_path / "folder").mkdir()
    assert "no picture" in _refusal(tmp_path / "folder")


def test_nothing_decodes(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", container={"movflags": "+faststart"}, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    assert "none of its 16 frames could be decoded" in _refusal(path)


@pytest.mark.parametrize("cover", [False, True])
def test_sound_alone_is_refused_even_with_a_cover(tmp_path: Path, cover: bool) -> None:
    path = tmp_path / ("a.mp3" if cover else "a.m4a")
    with av.open(path, "w") as file:
        audio: Any = file.add_stream("libmp3lame" if cover else "aac", rate=48_000)
        picture: Any = None
        if cover:
            picture = file.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = W, H, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            file.mux(picture.encode(av.VideoFrame.from_ndarray(scene(), "rgb24")))
            file.mux(picture.encode(None))
        for k in range(20):
            piece = av.AudioFrame.from_ndarray(np.zeros((2, 1152), np.float32), "fltp", "stereo")
            piece.sample_rate, piece.pts = 48_000, 1152 * k
            file.mux(audio.encode(piece))
        file.mux(audio.encode(None))
    with av.open(path) as file:
        assert len(file.streams.video) == cover
    assert "no video stream (it holds only sound)" in _refusal(path)


def test_rate_of_a_browser_recording_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The header says 30, as it may say 1000; the pictures come 20 times a second.
    path = make(tmp_path / "a.webm", 31, codec="libvpx-vp9", pts=[4500 * i for i in range(31)])
    assert open_clip(path).fps == 30
    monkeypatch.setattr(clips, "_CREDIBLE_FPS", (1, 25))
    clip = open_clip(path)
    assert float(clip.fps) == pytest.approx(20, abs=0.1)
    assert clip.frame_count == 31


def test_a_colon_in_the_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.rename(make(tmp_path / "a.mp4", 3), "take:1.mp4")
    clip = open_clip("take:1.mp4")
    copy(clip, Path("out:1.mp4"))
    assert len(times_of(open_clip("out:1.mp4"))) == 3
