"""Videos go out whole, with true times and colours, or not at all."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.serve.making import CLOCK, UNEVEN, H, W, copy, make, moving, noise, scene, times_of
from triportrait.core.errors import InputError
from triportrait.serve.media.output_file import check_output
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.writer import VideoWriter


@pytest.mark.parametrize(("ending", "within_s"), [(".mp4", 0), (".mov", 0), (".mkv", 6e-4), (".webm", 6e-4)])
def test_output_times_equal_driving_times(tmp_path: Path, ending: str, within_s: float) -> None:
    driving = open_clip(make(tmp_path / "a.mp4", 16, pts=UNEVEN))
    times = copy(driving, tmp_path / f"out{ending}")
    back = open_clip(tmp_path / f"out{ending}")
    assert times == [at / CLOCK for at in UNEVEN]
    assert np.abs(np.subtract(times_of(back), times)).max() <= within_s
    assert back.size_px == (W, H)
    assert back.warnings == []


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25), Fraction(60)])
def test_film_rates_are_exact(tmp_path: Path, fps: Fraction) -> None:
    with VideoWriter(tmp_path / "a.mp4", size_px=(W, H), fps=fps) as writer:
        for i in range(10):
            writer.write(moving(i), float(i / fps))
    with av.open(tmp_path / "a.mp4") as file:
        stream = file.streams.video[0]
        assert stream.average_rate == fps
        assert stream.duration * stream.time_base == 10 / fps
        assert [f.pts * stream.time_base for f in file.decode(stream)] == [i / fps for i in range(10)]


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_colours_survive_and_are_tagged(tmp_path: Path, ending: str) -> None:
    palette = [
        (0, 0, 0),
        (255, 255, 255),
        (128, 128, 128),
        (200, 30, 40),
        (20, 180, 60),
        (30, 40, 220),
        (224, 172, 105),
    ]
    path = tmp_path / f"a{ending}"
    with VideoWriter(path, size_px=(W, H), fps=25) as writer:
        for i, colour in enumerate(palette):
            writer.write(np.full((H, W, 3), colour, np.uint8), i / 25)
    for frame, colour in zip(open_clip(path).frames(), palette, strict=True):
        assert np.abs(frame.image[H // 2, W // 2].astype(int) - colour).max() <= 3
    with av.open(path) as file:
        context = file.streams.video[0].codec_context
        assert context.name in ("h264", "vp9", "libvpx-vp9")
        assert context.pix_fmt == "yuv420p"
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        if ending == ".mp4":
            data = path.read_bytes()
            assert data.index(b"moov") < data.index(b"mdat"), "not playable while loading"


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_same_input_same_bytes(tmp_path: Path, ending: str) -> None:
    driving = open_clip(make(tmp_path / "a.mp4", 16, pts=UNEVEN, sound="aac"))
    outputs = [tmp_path / f"{i}{ending}" for i in range(2)]
    for out in outputs:
        copy(driving, out)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_the_machine_does_not_choose_the_number_of_encoder_threads(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", size_px=(W, 256), fps=25) as writer:
        writer.write(scene(W, 256), 0)
    # x264 notes its settings in the stream.
    assert b" threads=4 " in (tmp_path / "a.mp4").read_bytes()


@pytest.mark.parametrize("size", [(67, 71), (1, 1), (80, 65)])
def test_odd_sizes_are_padded(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    with VideoWriter(tmp_path / "a.mp4", size_px=size, fps=25) as writer:
        writer.write(np.full((height, width, 3), (200, 40, 30), np.uint8), 0)
    clip = open_clip(tmp_path / "a.mp4")
    (frame,) = clip.frames()
    assert clip.size_px == (width + width % 2, height + height % 2)
    assert np.abs(frame.image.astype(int) - (200, 40, 30)).max() <= 3


def test_one_frame_has_a_length(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", size_px=(W, H), fps=25) as writer:
        writer.write(scene(), 0)
    with av.open(tmp_path / "a.mp4") as file:
        assert file.streams.video[0].duration * file.streams.video[0].time_base == Fraction(1, 25)
    assert times_of(open_clip(tmp_path / "a.mp4")) == [0]


def ends_s(path: Path) -> tuple[float, float, float]:
    """When the video ends: by the file, by its frame that is shown last, and by what a second pass over it says."""
    with av.open(str(path)) as file:
        stated_s = file.duration / av.time_base
        stream = file.streams.video[0]
        last = max(file.decode(stream), key=lambda frame: frame.pts)
        shown_s = float((last.pts + last.duration) * stream.time_base)
    clip = open_clip(path)
    times_of(clip)
    return stated_s, shown_s, float(clip.end_s or 0)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize(("limit", "end_s"), [(None, 5.6), (3, 0.6), (1, 0.1)])
def test_the_last_frame_lasts_as_long_as_it_did(tmp_path: Path, ending: str, limit: int | None, end_s: float) -> None:
    driving = open_clip(Path(__file__).parent.parent / "data" / "files" / "last.gif")
    assert copy(driving, tmp_path / f"o{ending}", limit) == pytest.approx([0, 0.1, 0.3, 0.6][:limit])
    assert ends_s(tmp_path / f"o{ending}") == pytest.approx((end_s,) * 3, abs=2e-3)
    assert driving.warnings == []


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_a_pause_before_the_last_frames_is_part_of_the_length(tmp_path: Path, ending: str) -> None:
    times = [*(i / 25 for i in range(50)), 70.0, 70.04]  # The decoder gets the last ones in another order.
    with VideoWriter(tmp_path / f"o{ending}", size_px=(W, H), fps=25) as writer:
        for i, time_s in enumerate(times):
            writer.write(moving(i), time_s)
    with av.open(tmp_path / f"o{ending}") as file:
        stream = file.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(70.08, abs=2e-3)
    assert times_of(open_clip(tmp_path / f"o{ending}")) == pytest.approx(times, abs=1e-3)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("sound", [None, "libmp3lame"])
def test_the_last_frame_of_a_slide_show(tmp_path: Path, ending: str, sound: str | None) -> None:
    # Slides of a second or two, the last of five: by the container's own word.
    path, at = tmp_path / f"a{ending}", [0, 1, 3, 4]
    with av.open(path, "w") as file:
        video: Any = file.add_stream("mpeg4" if ending == ".avi" else "libx264", rate=25, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = W, H, "yuv420p"
        audio: Any = file.add_stream(sound, rate=48_000, layout="mono") if sound else None
        packets = []
        for i, time_s in enumerate(at):
            frame = av.VideoFrame.from_ndarray(moving(i), "rgb24")
            frame.pts, frame.time_base = 25 * time_s, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        packets[-1].duration = 125
        file.mux(packets)
        if audio is not None:
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), "fltp", "mono")
            piece.sample_rate, piece.pts, piece.time_base = 48_000, 0, Fraction(1, 48_000)
            file.mux(audio.encode(piece) + audio.encode(None))
    clip = open_clip(path)
    copy(clip, tmp_path / "o.mp4")
    # An AVI with sound begins with a picture that it repeats.
    assert ends_s(tmp_path / "o.mp4") == pytest.approx((9, 9, 9), abs=0.041 if ending == ".avi" and sound else 1e-3)


def test_a_video_that_was_cut_off_does_not_rest_at_its_end(tmp_path: Path) -> None:
    for name in ("a.mkv", "a.avi"):
        path = make(tmp_path / name, noise(50), codec="mpeg4" if name == "a.avi" else "libx264")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        clip = open_clip(path)
        times = times_of(clip)
        assert times[-1] < 1
        assert clip.end_s is None or clip.end_s - times[-1] < 0.05


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_leaves_the_old_output_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    driving = open_clip(make(tmp_path / "a.mp4", sound="aac"))
    out = tmp_path / "out" / "o.mp4"
    out.parent.mkdir()
    out.write_bytes(b"precious")
    with (
        pytest.raises(error),
        VideoWriter(out, size_px=driving.size_px, fps=30, audio_from=driving, overwrite=True) as writer,
    ):
        for frame in driving.frames():
            writer.write(frame.image, frame.time_s)
            (hidden,) = [name for name in os.listdir(out.parent) if name != "o.mp4"]
            assert hidden.startswith(".")
            assert out.read_bytes() == b"precious"
            if frame.index == 8:
                raise error
    assert os.listdir(out.parent) == ["o.mp4"]
    assert out.read_bytes() == b"precious"


def test_an_os_error_of_the_caller_stays_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), VideoWriter(tmp_path / "o.mp4", size_px=(W, H), fps=30):
        (tmp_path / "elsewhere").read_bytes()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("count", [2, 120])
def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    real_open = av.open

    def full(file: str, mode: str = "r", **options: Any) -> Any:
        name = file.removeprefix("file:")
        if mode == "w":
            os.unlink(name)
            os.symlink("/dev/full", name)
        return real_open(file, mode, **options)

    monkeypatch.setattr(av, "open", full)
    with (
        pytest.raises(InputError, match=r"o\.mp4: it could not be written \(no space left on device\)"),
        VideoWriter(tmp_path / "o.mp4", size_px=(W, H), fps=30) as writer,
    ):
        for i, image in enumerate(noise(count)):
            writer.write(image, i / 30)
        assert count == 2, "a full disk is noticed while writing, not only at the end"
    assert os.listdir(tmp_path) == []


def test_writer_refuses_wrong_frames(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frame"), VideoWriter(tmp_path / "a.mp4", size_px=(W, H), fps=30):
        pass
    for image, time_s in ((scene(W + 2, H), 1.0), (scene().astype(np.float32), 1.0), (scene(), 0.4)):
        with pytest.raises(ValueError), VideoWriter(tmp_path / "a.mp4", size_px=(W, H), fps=30) as writer:
            writer.write(scene(), 0.5)
            writer.write(image, time_s)
    with pytest.raises(ValueError):
        VideoWriter(tmp_path / "a.mp4", size_px=(W, H), fps=0)
    assert os.listdir(tmp_path) == []


def test_check_output(tmp_path: Path) -> None:
    driving = make(tmp_path / "driving.mp4", 2)
    (tmp_path / "old.mp4").write_bytes(b"old")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(driving)

    def refusal(path: Path, **options: Any) -> str:
        with pytest.raises(InputError) as caught:
            check_output(path, **options)
        assert str(caught.value).startswith(f"{path}: ")
        assert ";" in str(caught.value)
        return str(caught.value)

    assert "--overwrite" in refusal(tmp_path / "old.mp4")
    check_output(tmp_path / "old.mp4", overwrite=True)
    assert (tmp_path / "old.mp4").read_bytes() == b"old"
    assert ".mp4 .mov .mkv .webm" in refusal(tmp_path / "a.txt")
    assert "no ending came" in refusal(tmp_path / "a")
    assert "does not exist" in refusal(tmp_path / "no" / "a.mp4")
    assert "is a file" in refusal(tmp_path / "old.mp4" / "a.mp4")
    assert "folder" in refusal(tmp_path / "folder.mp4", overwrite=True)
    for same in (driving, tmp_path / "link.mp4"):
        assert "input" in refusal(same, overwrite=True, sources=[driving])
    check_output(tmp_path / "new.png", kinds=(".png",))
    check_output(tmp_path / "new.mp4", sources=[driving, tmp_path / "missing.png"])
    assert sorted(os.listdir(tmp_path)) == ["driving.mp4", "folder.mp4", "link.mp4", "old.mp4"]
    with pytest.raises(InputError, match="this is the input"):
        VideoWriter(driving, size_px=(W, H), fps=30, audio_from=open_clip(driving), overwrite=True).__enter__()


def test_check_output_tries_the_folder_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permission bits do not bind root, so the system's refusal is played.
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="permission denied"):
        check_output(tmp_path / "a.mp4")
