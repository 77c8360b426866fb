"""One clock for all streams of a file: pauses are kept, breaks are mended for sound and picture together, and told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.claps import clap, flashes, joined, loud
from tests.serve.making import copy
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.media.video.discontinuities import Track, settle

FILES = Path(__file__).parent.parent / "data" / "files"
STEP = 1 / 25
TURN_S = (1 << 33) / 90_000


def sync(source: Path, folder: Path, claps: int, out: str = "o.mp4") -> tuple[list[float], list[float], list[str]]:
    """Copy a film of claps as the product does; each beep must be at its flash. Gives flashes, times, warnings."""
    clip = open_clip(source)
    copy(clip, folder / out, overwrite=True)
    white, times = flashes(folder / out)
    beeps = [begin_s for begin_s, _ in loud(folder / out)]
    assert len(white) == len(beeps) == claps, (white, beeps)
    assert np.abs(np.subtract(beeps, white)).max() <= 0.04, (white, beeps)
    return white, times, [warning.removeprefix(f"{source}: ") for warning in clip.warnings]


def test_a_picture_that_stands_still_keeps_its_sound(tmp_path: Path) -> None:
    white, times, warnings = sync(FILES / "frozen70.mp4", tmp_path, 2)
    assert white == pytest.approx([71, 72], abs=1e-3)
    assert times[-1] == pytest.approx(72.96, abs=1e-3)
    assert warnings == []


def test_a_clean_film_stays_as_it_is(tmp_path: Path) -> None:
    white, times, warnings = sync(FILES / "clap.mp4", tmp_path, 2)
    assert white == pytest.approx([1, 2], abs=1e-3)
    assert times == pytest.approx([i / 25 for i in range(75)])
    assert warnings == []


def test_a_joined_dump_keeps_all_of_its_sound(tmp_path: Path) -> None:
    white, times, warnings = sync(FILES / "joined.flv", tmp_path, 4)
    assert white == pytest.approx([1, 2, 4, 5], abs=0.04)
    assert len(times) == 150
    (told,) = warnings
    assert told.startswith("its clock breaks (starts anew, leaps or runs back) at 3.0")


@pytest.mark.parametrize("kind", ["flv", "ts", "mpg"])
@pytest.mark.parametrize(("video_s", "sound_s"), [(1.0, 1.0), (1.2, 1.0), (1.0, 1.2)])
@pytest.mark.parametrize("count", [2, 10])
def test_the_error_does_not_grow_with_the_joins(
    tmp_path: Path, kind: str, video_s: float, sound_s: float, count: int
) -> None:
    part = clap(tmp_path / f"a.{kind}", kind, video_s, sound_s, at_s=[0.6])
    white, times, warnings = sync(joined(tmp_path / f"b.{kind}", [part] * count), tmp_path, count)
    assert len(times) == count * round(video_s * 25)
    assert np.diff(white) == pytest.approx(max(video_s, sound_s), abs=0.05), "parts overlap or lie apart"
    at = "at" if count == 2 else f"at {count - 1} places, the first at"
    assert any(f"leaps or runs back) {at} 1." in told for told in warnings)


@pytest.mark.parametrize("kind", ["mkv", "webm", "avi", "ogg"])
def test_two_joined_in_other_containers(tmp_path: Path, kind: str) -> None:
    part = clap(tmp_path / f"a.{kind}", kind, 2.0, 2.0)
    white, times, _ = sync(joined(tmp_path / f"b.{kind}", [part] * 2), tmp_path, 2)
    assert len(times) == 100
    assert white == pytest.approx([1, 3], abs=0.1)


@pytest.mark.parametrize("kind", ["flv", "ts", "mkv"])
@pytest.mark.parametrize("shift_s", [1.0, 1.6, 4.0])
def test_parts_that_overlap_or_lie_apart(tmp_path: Path, kind: str, shift_s: float) -> None:
    # The clock of the second runs on, but by too little (they overlap) or with a rest.
    parts = [clap(tmp_path / f"{at_s}.{kind}", kind, shift_s=at_s) for at_s in (0, shift_s)]
    white, times, warnings = sync(joined(tmp_path / f"b.{kind}", parts), tmp_path, 2)
    assert len(times) == 100
    assert any("clock" in told for told in warnings) == (shift_s < 2)
    assert white[1] == pytest.approx(1 + max(2, shift_s), abs=0.1)


@pytest.mark.parametrize("shift_s", [60.0, TURN_S - 1, TURN_S - 70])
@pytest.mark.parametrize("first", [True, False])
def test_a_transport_stream_whose_clock_leaps_or_turns_over(tmp_path: Path, shift_s: float, first: bool) -> None:
    parts = [clap(tmp_path / "a.ts", "ts"), clap(tmp_path / "b.ts", "ts", shift_s=round(shift_s * 25) / 25)]
    white, _, warnings = sync(joined(tmp_path / "c.ts", parts if first else parts[::-1]), tmp_path, 2)
    assert white == pytest.approx([1, 3], abs=0.1)
    assert sum("its clock breaks" in told for told in warnings) == 1


@pytest.mark.parametrize("kind", ["flv", "ts", "mkv", "webm", "mp4"])
@pytest.mark.parametrize("sound_s", [74.0, 1.5])
def test_a_pause_of_the_picture_is_kept_in_any_container(tmp_path: Path, kind: str, sound_s: float) -> None:
    at_s = (1.0, 72.0) if sound_s > 70 else (1.0,)
    path = clap(tmp_path / f"a.{kind}", kind, 74.0, sound_s, at_s, holes=[(2.0, 71.0)])
    if sound_s > 70:
        white, times, warnings = sync(path, tmp_path, 2)
        assert white == pytest.approx([1, 72], abs=2e-3)
    else:
        clip = open_clip(path)
        times, warnings = [frame.time_s for frame in clip.frames()], clip.warnings
    assert times[-1] == pytest.approx(73.96, abs=2e-3)
    assert warnings == []


@pytest.mark.parametrize("kind", ["flv", "ts", "mkv", "mp4"])
def test_a_silence_is_kept(tmp_path: Path, kind: str) -> None:
    path = clap(tmp_path / f"a.{kind}", kind, 16.0, 16.0, (1.0, 15.0), sound_holes=[(2.0, 14.0)])
    white, _, warnings = sync(path, tmp_path, 2)
    assert white == pytest.approx([1, 15], abs=2e-3)
    assert warnings == []


def test_a_recording_behind_the_first_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for kind, times in (("mp4", 2), ("flv", 2), ("mkv", 3)):
        part = clap(tmp_path / f"a.{kind}", kind).read_bytes()
        (tmp_path / f"b.{kind}").write_bytes(part * times)
        clip = open_clip(tmp_path / f"b.{kind}")
        assert len(list(clip.frames())) == 50 * (times - 1)
        assert any(f"another recording begins in it at byte {len(part) * (times - 1)}," in w for w in clip.warnings)


@pytest.mark.parametrize("kind", ["flv", "ts", "mpg"])
@pytest.mark.parametrize("silent", [1, 2])
def test_sound_that_begins_with_a_later_recording_stays_with_it(tmp_path: Path, kind: str, silent: int) -> None:
    parts = [clap(tmp_path / f"v.{kind}", kind, sound_s=None)] * silent + [clap(tmp_path / f"a.{kind}", kind)]
    path = joined(tmp_path / f"b.{kind}", parts)
    clip = open_clip(path)
    if not clip.has_audio:  # libav looks for it where the file begins
        assert kind == "flv"
        assert silent == 2
        assert len(list(clip.frames())) == 150
        assert any("its sound begins only at byte" in told for told in clip.warnings)
        return
    copy(clip, tmp_path / "o.mp4")
    white, _ = flashes(tmp_path / "o.mp4")
    assert [begin_s for begin_s, _ in loud(tmp_path / "o.mp4")] == pytest.approx(white[-1:], abs=0.04)
    assert white[-1] == pytest.approx(2 * silent + 1, abs=0.05)


@pytest.mark.parametrize("kind", ["ogg", "flv", "mkv"])
def test_a_stream_that_appears_on_the_way_is_told(tmp_path: Path, kind: str) -> None:
    parts = [clap(tmp_path / f"v.{kind}", kind, 30.0, None), clap(tmp_path / f"a.{kind}", kind)]
    clip = open_clip(joined(tmp_path / f"b.{kind}", parts))
    assert len(list(clip.frames())) >= 750
    assert any("at byte" in told and "split the file there" in told for told in clip.warnings)


@pytest.mark.parametrize("kind", ["ogg", "avi", "mp4"])
def test_three_joined_are_told_where_they_may_part(tmp_path: Path, kind: str) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"} if kind == "mp4" else None
    part = clap(tmp_path / f"a.{kind}", kind, options=options)
    for count in (1, 3):
        clip = open_clip(joined(tmp_path / f"b{count}.{kind}", [part] * count))
        list(clip.frames())
        told = f"another recording begins in it at byte {part.stat().st_size}, "
        assert any(told in sentence for sentence in clip.warnings) == (count > 1)


def test_the_warning_waits_for_the_place(tmp_path: Path) -> None:
    clip = open_clip(joined(tmp_path / "b.flv", [clap(tmp_path / "a.flv", "flv")] * 2))
    assert len(list(clip.frames(20))) == 20
    assert clip.warnings == []
    assert len(list(clip.frames(80))) == 80
    assert len(clip.warnings) == 1


def test_a_few_frames_are_no_reason_to_read_it_all(tmp_path: Path) -> None:
    path = clap(tmp_path / "a.mkv", "mkv", 20.0, 20.0)
    clip: Any = open_clip(path)
    assert len(list(clip.frames(3))) == 3
    assert "clock" not in vars(clip)
    # What leaps among them is settled by the whole file: here the sound says that it was a pause.
    path = clap(tmp_path / "b.mkv", "mkv", 40.0, 40.0, holes=[(0.4, 35.0)])
    clip = open_clip(path)
    assert [frame.time_s for frame in clip.frames(12)][-1] == pytest.approx(35.04, abs=2e-3)
    assert clip.warnings == []


def track(times_s: Sequence[float], places: Sequence[int], length_s: float = STEP) -> Track:
    times = np.array(times_s, float)
    return Track(np.array(places), times, np.full(len(times), length_s), np.ones(len(times), bool))


def mended(*streams: Sequence[float], declared_s: float | None = None, restarts: bool = False) -> list[list[float]]:
    """Interleave streams packet by packet, settle their clocks and give their times; NaN for stamps that are lost."""
    tracks = [track(times, [len(streams) * i + k for i in range(len(times))]) for k, times in enumerate(streams)]
    moves, _ = settle(tracks, declared_s, restarts)
    return [
        [np.nan if i in move.lost else float(t + float(move.of(i, t))) for i, t in enumerate(times)]
        for move, times in zip(moves, streams, strict=True)
    ]


def steps(count: int, begin_s: float = 0.0) -> list[float]:
    return [begin_s + STEP * i for i in range(count)]


def test_one_broken_stamp_is_lost_and_no_break() -> None:
    for broken_s in (35_791.59, -500.0):
        given = steps(60)
        given[30] = broken_s
        (got,) = mended(given)
        assert np.isnan(got[30])
        assert [*got[:30], *got[31:]] == given[:30] + given[31:]
        got, other = mended(given, steps(60))
        assert np.isnan(got[30])
        assert other == steps(60)


def test_the_first_stamps_may_be_broken_too() -> None:
    given = [9000.0, 9000.04, *steps(58, 2 * STEP)]
    got, other = mended(given, steps(60))
    assert np.isnan(got[:2]).all()
    assert got[2:] == given[2:]
    assert other == steps(60)


def test_who_leaps_alone() -> None:
    leap = steps(30) + steps(30, 100.0)
    # The sound goes on through all of it: a pause. It ends with the picture as if nothing were between: a break.
    got, _ = mended(leap, steps(2600))
    assert got == leap
    got, sound = mended(leap, steps(60))
    assert got == pytest.approx(steps(60))
    assert sound == steps(60)
    # The file's own length says that the time has passed.
    got, _ = mended(leap, steps(60), declared_s=102)
    assert got == leap
    # Without sound the clock is believed, but not over hours that the file does not promise.
    assert mended(leap) == [leap]
    hours = steps(30) + steps(30, 95_443.0)
    assert mended(hours)[0] == pytest.approx(steps(60))
    assert mended(hours, declared_s=95_446) == [hours]


def test_all_leap() -> None:
    leap = steps(30) + steps(30, 100.0)
    assert mended(leap, leap) == [leap, leap], "a rest of the whole recording"
    got, sound = mended(leap, leap, restarts=True)
    assert got == sound == pytest.approx(steps(60))
    hours = steps(30) + steps(30, 95_443.0)
    got, sound = mended(hours, hours)
    assert got == sound == pytest.approx(steps(60))


def test_all_fall_by_one_time() -> None:
    # The sound of the first part is longer, that of the second begins later: both keep their places to the picture.
    pictures, sound = steps(50) + steps(50), steps(55) + steps(45, 0.2)
    got, heard = mended(pictures, sound)
    assert got == pytest.approx(steps(50) + steps(50, 2.0))
    assert heard == pytest.approx(steps(55) + steps(45, 2.2))
    # Sound that is only in the first and the third part.
    got, heard = mended(steps(50) * 3, steps(50) + [np.nan] * 50 + steps(50))
    assert got == pytest.approx(steps(150))
    assert heard[100:] == pytest.approx(steps(50, 4.0))


def test_pictures_out_of_turn_at_a_leap_stay_with_their_part() -> None:
    # Decoding order around a pause of two streams: one picture of the second part comes before two of the first.
    given = [*steps(28), 100.0, 28 * STEP, 29 * STEP, *steps(30, 100.04)]
    reordered = Track(
        np.arange(len(given)) * 2, np.array(given), np.full(len(given), STEP), np.arange(len(given)) % 28 == 0
    )
    sound_s = [*steps(30), *steps(31, 100.0)]
    moves, _ = settle([reordered, track(sound_s, np.arange(61) * 2 + 1)], restarts=True)
    got = sorted(t + float(moves[0].of(i, t)) for i, t in enumerate(given))
    assert got == pytest.approx(steps(61))


def test_a_clock_of_chance_ends_in_time() -> None:
    times = np.random.default_rng(0).uniform(0, 1e6, 30_000).tolist()
    before_s = time.perf_counter()
    mended(times, times)
    assert time.perf_counter() - before_s < 20


def test_shifts_are_exact_when_the_clock_turns_over() -> None:
    given = [t % TURN_S for t in steps(60, TURN_S - 1)]
    moves, repairs = settle([track(given, range(60))])
    assert moves[0].shifts_s == [0, Fraction(1 << 33, 90_000)]
    assert repairs == []
