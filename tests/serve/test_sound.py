"""The driving sound is beside the new pictures where it was beside the old ones, untouched where possible."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.serve.claps import clap, loud
from tests.serve.making import copy, heard, make, noise, sound_of, times_of
from triportrait.serve.media.video import writer
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.discontinuities import Moves
from triportrait.serve.media.video.writer import VideoWriter


@pytest.mark.parametrize(
    ("source", "codec", "out"),
    [
        ("a.mp4", "aac", "o.mp4"),
        ("a.mp4", "aac", "o.mov"),
        ("a.mp4", "aac", "o.mkv"),
        ("a.mkv", "aac", "o.mp4"),
        ("a.mkv", "libopus", "o.webm"),
        ("a.mkv", "libopus", "o.mkv"),
        ("a.mkv", "flac", "o.mkv"),
        ("a.mkv", "vorbis", "o.webm"),
        ("a.mov", "pcm_s16le", "o.mov"),
        ("a.mp4", "libmp3lame", "o.mp4"),
    ],
)
@pytest.mark.parametrize("sound_at_s", [0.0, 0.25])
def test_sound_is_copied_bit_for_bit(tmp_path: Path, source: str, codec: str, out: str, sound_at_s: float) -> None:
    driving = open_clip(make(tmp_path / source, 30, sound=codec, sound_at_s=sound_at_s))
    assert driving.has_audio
    copy(driving, tmp_path / out)
    given, got = sound_of(driving.path), sound_of(tmp_path / out)
    assert [data for _, data in got] == [data for _, data in given]
    assert np.abs(np.subtract([at for at, _ in got], [at for at, _ in given])).max() < 2e-3


@pytest.mark.parametrize(
    ("source", "codec", "out", "becomes"),
    [
        ("a.mkv", "pcm_s16le", "o.mp4", "aac"),
        ("a.mkv", "vorbis", "o.mp4", "aac"),
        # An mp4 with these is silent on Apple's devices.
        ("a.webm", "libopus", "o.mp4", "aac"),
        ("a.mkv", "flac", "o.mp4", "aac"),
        ("a.mkv", "ac3", "o.mov", "aac"),
        ("a.mp4", "aac", "o.webm", "opus"),
        ("a.avi", "pcm_s16le", "o.mkv", None),
    ],
)
def test_sound_is_encoded_where_the_container_refuses_it(
    tmp_path: Path, source: str, codec: str, out: str, becomes: str | None
) -> None:
    at_s = 0.0 if source == "a.avi" else 0.25
    pictures = {"codec": "libvpx-vp9"} if source == "a.webm" else {"options": {"bf": "0"}}
    driving = open_clip(make(tmp_path / source, 30, sound=codec, sound_at_s=at_s, **pictures))
    copy(driving, tmp_path / out)
    with av.open(tmp_path / out) as file:
        assert file.streams.audio[0].codec_context.codec.canonical_name == (becomes or codec)
    began_s, samples = heard(tmp_path / out)
    wanted_s, wanted = heard(driving.path)
    assert began_s == pytest.approx(wanted_s, abs=0.012)
    assert len(samples) == pytest.approx(len(wanted), abs=3000)
    tone = np.abs(np.fft.rfft(samples[4000:24_000]))
    assert np.argmax(tone) * 48_000 / 20_000 == pytest.approx(440, abs=5)


def test_transport_stream_sound_goes_into_mp4(tmp_path: Path) -> None:
    # AAC in a transport stream carries its own headers, which mp4 must not: it is encoded anew.
    driving = open_clip(make(tmp_path / "a.ts", 30, sound="aac"))
    copy(driving, tmp_path / "o.mp4")
    (began_s, samples), (wanted_s, _) = heard(tmp_path / "o.mp4"), heard(driving.path)
    assert began_s == pytest.approx(wanted_s, abs=0.012)
    assert len(samples) > 40_000


def test_sound_that_changes_its_kind_goes_on(tmp_path: Path) -> None:
    # Two recordings in one transport stream, as broadcasts are: one channel, then two.
    one = make(tmp_path / "a.ts", 30, sound="aac").read_bytes()
    two = make(tmp_path / "b.ts", 30, sound="aac", layout="stereo").read_bytes()
    (tmp_path / "c.ts").write_bytes(one + two)
    driving = open_clip(tmp_path / "c.ts")
    assert len(copy(driving, tmp_path / "o.mp4")) == 60
    _, samples = heard(tmp_path / "o.mp4")
    assert len(samples) == pytest.approx(2 * 48_000, abs=6000)
    assert np.abs(samples[-20_000:-8_000]).max() > 0.2


def test_damaged_sound_of_a_transport_stream_costs_no_frame(tmp_path: Path) -> None:
    path = make(tmp_path / "a.ts", 30, sound="aac")
    whole = path.read_bytes()
    with av.open(path) as file:
        ids = {s.type: s.id for s in file.streams}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for at in range(0, len(data), 188):
            if ((data[at + 1] & 31) << 8 | data[at + 2]) == ids["audio"]:
                for place in rng.integers(at + 30, at + 188, 2):
                    data[place] = rng.integers(256)
        path.write_bytes(data)
        assert len(copy(open_clip(path), tmp_path / "o.mp4", overwrite=True)) == 30
        assert len(times_of(open_clip(tmp_path / "o.mp4"))) == 30


@pytest.mark.parametrize(("codec", "out"), [("aac", "o.mp4"), ("libopus", "o.webm")])
def test_sound_before_the_first_frame_is_left_out(tmp_path: Path, codec: str, out: str) -> None:
    pts = [90_000 + 3000 * i for i in range(15)]
    driving = open_clip(make(tmp_path / "a.mkv", 15, pts=pts, sound=codec, sound_s=1.6))
    assert float(driving.start_s) == pytest.approx(1, abs=0.02)
    copy(driving, tmp_path / out)
    given, got = sound_of(driving.path), sound_of(tmp_path / out)
    assert [data for _, data in got] == [data for _, data in given][-len(got) :]
    assert got[0][0] == pytest.approx(given[-len(got)][0], abs=2e-3)
    assert -0.11 < got[0][0] < 0.02
    (told,) = driving.warnings
    assert re.search(r": (0\.9\d|1\.0\d) s of its sound come before the first frame; left out$", told)


@pytest.mark.parametrize("out", ["o.mp4", "o.webm"])
@pytest.mark.parametrize("how", ["limit", "closed early"])
def test_sound_ends_with_the_frames_of_a_preview(tmp_path: Path, out: str, how: str) -> None:
    driving = open_clip(make(tmp_path / "a.mp4", 30, sound="aac"))
    if how == "limit":
        copy(driving, tmp_path / out, limit=12)
    else:
        with VideoWriter(tmp_path / out, size_px=driving.size_px, fps=30, audio_from=driving) as writer:
            frames = driving.frames()
            for _, frame in zip(range(12), frames, strict=False):
                writer.write(frame.image, frame.time_s)
            frames.close()
    assert len(times_of(open_clip(tmp_path / out))) == 12
    got = sound_of(tmp_path / out)
    assert 0.4 - 0.025 <= got[-1][0] < 0.4


def test_longer_sound_of_a_whole_video_is_kept(tmp_path: Path) -> None:
    driving = open_clip(make(tmp_path / "a.mp4", 6, sound="aac", sound_s=1.0))
    copy(driving, tmp_path / "o.mp4")
    assert [d for _, d in sound_of(tmp_path / "o.mp4")] == [d for _, d in sound_of(driving.path)]


@pytest.mark.parametrize("out", ["o.mp4", "o.webm"])
def test_encoded_sound_before_the_first_frame_is_left_out(tmp_path: Path, out: str) -> None:
    pts = [90_000 + 3000 * i for i in range(15)]
    driving = open_clip(make(tmp_path / "a.mkv", 15, pts=pts, sound="pcm_s16le", sound_s=1.6))
    copy(driving, tmp_path / out)
    assert -0.03 < sound_of(tmp_path / out)[0][0] < 0.01
    began_s, samples = heard(tmp_path / out)
    assert -0.01 < began_s < 0.03
    assert len(samples) == pytest.approx(0.6 * 48_000, abs=2500)


def test_sound_and_pictures_are_interleaved(tmp_path: Path) -> None:
    driving = open_clip(make(tmp_path / "a.mp4", noise(150), pts=[18_000 * i for i in range(150)], sound="aac"))
    copy(driving, tmp_path / "o.mp4")
    # Longer than the ten seconds that the muxer holds back to sort by itself.
    with av.open(tmp_path / "o.mp4") as file:
        places = [p.pos / os.path.getsize(file.name.removeprefix("file:")) for p in file.demux(audio=0) if p.size]
    assert places[0] < 0.1
    assert places[len(places) // 2] == pytest.approx(0.5, abs=0.25)
    assert places[-1] > 0.7


def test_sound_that_cannot_be_taken_costs_only_the_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise av.error.ArgumentError(22, "Invalid argument", "sound")

    driving = open_clip(make(tmp_path / "a.mp4", 12, sound="aac"))
    monkeypatch.setattr(writer, "Sound", refuse)
    assert len(copy(driving, tmp_path / "o.mp4")) == 12
    assert len(times_of(open_clip(tmp_path / "o.mp4"))) == 12
    assert not open_clip(tmp_path / "o.mp4").has_audio
    assert driving.warnings == [f"{driving.path}: its sound cannot be taken (Invalid argument); it is left out"]


def test_damaged_sound_costs_only_the_sound(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", 30, sound="vorbis")
    data = bytearray(path.read_bytes())
    for _, packet in sound_of(path)[10:20]:
        at = data.index(packet)
        data[at : at + len(packet)] = b"\xff" * len(packet)
    path.write_bytes(data)
    driving = open_clip(path)
    assert len(copy(driving, tmp_path / "o.mp4")) == 30
    assert len(times_of(open_clip(tmp_path / "o.mp4"))) == 30
    assert any("sound" in warning for warning in driving.warnings)


_B_FRAMES = {"bf": "2", "x264-params": "b-adapt=0"}
_TONES = {
    "a.mp4": {"sound": "aac"},
    "fragments.mp4": {"sound": "aac", "container": {"movflags": "frag_keyframe+empty_moov"}},
    "a.mov": {"sound": "pcm_s16le"},
    "a.mkv": {"sound": "aac"},
    "opus.mkv": {"sound": "libopus"},
    "a.webm": {"sound": "libopus", "codec": "libvpx-vp9", "options": {}},
    "a.ts": {"sound": "aac"},
    "a.flv": {"sound": "aac"},
    "mp3.flv": {"sound": "libmp3lame"},
}


@pytest.mark.parametrize("out", ["o.mp4", "o.mov", "o.mkv", "o.webm"])
@pytest.mark.parametrize("source", _TONES)
@pytest.mark.parametrize("begin_s", [0.0, 0.3])
def test_a_tone_loses_neither_its_first_nor_its_last_sample(
    tmp_path: Path, source: str, out: str, begin_s: float
) -> None:
    options: dict[str, Any] = {"options": _B_FRAMES, **_TONES[source]}
    path = make(tmp_path / source, 36, sound_at_s=begin_s, sound_s=1.2 - begin_s, **options)
    driving = open_clip(path)
    copy(driving, tmp_path / out)
    (span,) = loud(tmp_path / out, quiet_s=0.005)
    assert span == pytest.approx((begin_s, 1.2), abs=0.03)
    assert driving.warnings == []
    if out in ("o.mp4", "o.mov"):
        with av.open(tmp_path / out) as file:
            codec = file.streams.audio[0].codec_context.codec.canonical_name
        assert codec in ("aac", "mp3") or (out == "o.mov" and codec.startswith("pcm_"))


@pytest.mark.parametrize("out", ["o.mp4", "o.mkv", "o.webm"])
def test_a_gap_in_the_sound_is_silence_of_its_length(tmp_path: Path, out: str) -> None:
    path = clap(tmp_path / "a.mkv", "mkv", 3.0, 3.0, [0.0, 2.0], sound_holes=[(0.1, 2.1)])
    driving = open_clip(path)
    copy(driving, tmp_path / out)
    assert np.array(loud(tmp_path / out)) == pytest.approx(np.array([[0, 0.1], [2.1, 2.2]]), abs=0.03)
    if out == "o.mp4":
        with av.open(tmp_path / out) as file:
            lengths = [p.duration for p in file.demux(audio=0) if p.size]
        assert max(lengths) <= 1024, "a packet is stretched over the gap, which players fill in their own ways"


def test_sound_without_stamps_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driving = open_clip(make(tmp_path / "a.mkv", 30, sound="aac"))
    lost = set(range(10, 20))
    driving.clock.moves[1] = Moves(lost=lost)
    copy(driving, tmp_path / "o.mp4")
    given, got = sound_of(driving.path), sound_of(tmp_path / "o.mp4")
    assert [data for _, data in got] == [data for _, data in given]
    assert np.abs(np.subtract([at for at, _ in got], [at for at, _ in given])).max() < 0.012


def test_sound_that_overlaps_is_left_out_and_told(tmp_path: Path) -> None:
    # The sound alone falls by less than a break: five packets say times that were filled already.
    driving = open_clip(make(tmp_path / "a.mkv", 60, sound="aac"))
    back = Moves(at=[0, 40], shifts_s=[Fraction(0), Fraction(-1, 8)], leaps=[None, None])
    driving.clock.moves[1] = back
    copy(driving, tmp_path / "o.mp4")
    assert driving.warnings[-1] == f"{driving.path}: 0.13 s of its sound overlap what came before; left out"
    assert len(sound_of(driving.path)) - len(sound_of(tmp_path / "o.mp4")) == 6
