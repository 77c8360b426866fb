"""One clock for all streams of a video file, made by reading its packets once without decoding them.

Recordings that were joined, live dumps and damaged files have clocks that start anew, leap or run back. Such a break is
one event of the file: every stream is moved by the same time there, so that sound and picture stay together. A picture
that stands still, or a silence, is none: a stream that leaps forward while another one goes on is believed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer

# libav's own tools take a longer leap of every stream for a break, in containers whose clock may start anew.
_LEAP_S = 10.0
# Elsewhere a recording may rest for a while with all its streams.
_LONGEST_REST_S = 3600.0
# Clocks of live recordings tremble; a fall by less is no break.
_TREMBLE_S = 0.1
# So many packets can lie between two pictures that are shown one after the other.
_REORDER = 17
# Fewer packets than this that are elsewhere, with the rest going on where it was, have broken stamps.
_STRAY = 8
_BLOCK = 4096
# Where the clock of a transport stream, 33 bits of 1/90000 s, begins anew by itself.
_TURN_S = Fraction(1 << 33, 90_000)
# A longer time between two packets of sound that none of them fills is a gap.
_GAP_S = 0.05
_TS_DISCONT = 0x200


@dataclass(frozen=True, eq=False)
class Track:
    """The packets of one stream in the order of the file, each array `[N]`.

    Attributes:
        places: int64, the number of each among the packets of all streams.
        times_s: float64, when each is shown or heard on the file's clock; NaN where the file does not say.
        lengths_s: float64, how long; 0 where the file does not say.
        starts: bool, whether decoding can start there; such a picture is shown after all that came before it.
    """

    places: np.ndarray
    times_s: np.ndarray
    lengths_s: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class _Jump:
    """A stream's clock goes from `before_s`, where it was to go on, to `after_s` at packet `index`."""

    track: int
    index: int
    place: int
    before_s: float
    after_s: float

    @property
    def by_s(self) -> float:
        return self.after_s - self.before_s

    def is_before(self, time_s: float) -> bool:
        """Tell whether a stamp is on the clock before the jump, as far as the two can be told apart."""
        far = abs(self.by_s) > _LEAP_S / 2
        return far and abs(time_s - self.before_s) < abs(time_s - self.after_s)


@dataclass
class Moves:
    """What is done to one stream: from packet `at[k]` on, `shifts_s[k]` is added; the stamps of `lost` are dropped.

    `leaps[k]` is the jump that begins the part: pictures that are decoded after it and shown before it belong to the
    part before.
    """

    at: list[int] = field(default_factory=lambda: [0])
    shifts_s: list[Fraction] = field(default_factory=lambda: [Fraction(0)])
    leaps: list[_Jump | None] = field(default_factory=lambda: [None])
    lost: set[int] = field(default_factory=set)

    def of(self, index: int, time_s: float) -> Fraction:
        """Give what is added to a stamp of packet `index` that says `time_s`."""
        part = bisect_right(self.at, index) - 1
        leap = self.leaps[part]
        if leap is not None and index < leap.index + _REORDER and leap.is_before(time_s):
            part -= 1
        return self.shifts_s[part]


@dataclass(frozen=True)
class Repair:
    """A place where clocks were moved: the time there on the clock that is given out, and which tracks moved."""

    time_s: float
    tracks: tuple[int, ...]


def settle(
    tracks: Sequence[Track], declared_s: float | None = None, restarts: bool = False
) -> tuple[list[Moves], list[Repair]]:
    """Find where the clocks of a file break and how every stream is moved there.

    Args:
        tracks: the pictures and, where there is one, the sound.
        declared_s: length of the file by its own header or index.
        restarts: whether the container allows its clock to start anew.
    """
    moves = [Moves() for _ in tracks]
    jumps: list[_Jump] = []
    # A length that holds a leap says no more than the leap itself.
    tracks = [replace(t, times_s=t.times_s.copy(), lengths_s=_usual(t.lengths_s)) for t in tracks]
    for number, track in enumerate(tracks):
        jumps += _jumps(number, track, moves[number].lost)
    repairs: list[Repair] = []
    waiting = sorted(jumps, key=lambda jump: jump.place)
    while waiting:
        jump = waiting.pop(0)
        other = _along(jump, tracks, jumps, waiting)
        event = [jump] if other is None else [jump, other]
        if other in waiting:
            waiting.remove(other)
        if not _is_break(event, tracks, jumps, declared_s, restarts):
            continue
        if other is None and jump.index <= _STRAY and len(tracks[jump.track].times_s) > 2 * _STRAY:
            # No recording: the stream begins with stamps that are not its own.
            moves[jump.track].lost.update(range(jump.index))
            continue
        ends_s = {j.track: j.before_s + float(moves[j.track].shifts_s[-1]) for j in event}
        shift_s = moves[jump.track].shifts_s[-1] + _TURN_S
        turned = all(abs(j.by_s + _TURN_S) < 1 for j in event)
        if not turned:
            # The part begins where the longest stream of the one before it ended, so that nothing overlaps or is lost.
            shift_s = Fraction(round(max(ends_s[j.track] - j.after_s for j in event) * 1_000_000), 1_000_000)
        for j in event:
            moves[j.track].at.append(j.index)
            moves[j.track].shifts_s.append(shift_s)
            moves[j.track].leaps.append(j)
        if not turned:
            repairs.append(Repair(jump.after_s + float(shift_s), tuple(sorted(ends_s))))
    return moves, repairs


def _usual(lengths_s: np.ndarray) -> np.ndarray:
    """Put the median in the place of lengths above `_LEAP_S`."""
    fair = lengths_s[lengths_s <= _LEAP_S]
    return np.where(lengths_s > _LEAP_S, np.median(fair) if len(fair) else 0, lengths_s)


def _jumps(number: int, track: Track, lost: set[int]) -> Iterator[_Jump]:
    """Find where a stream leaps by more than `_LEAP_S` or falls back; stray stamps become NaN and go into `lost`."""
    begin, latest_s, end_s, times_s = 0, -np.inf, -np.inf, track.times_s
    while (index := _first_jump(track, begin, latest_s)) is not None:
        seen = slice(begin, index)
        if np.isfinite(times_s[seen]).any():
            latest_s = max(latest_s, np.nanmax(times_s[seen]))
            end_s = max(end_s, np.nanmax(times_s[seen] + track.lengths_s[seen]))
        strays = _strays(times_s, index, latest_s)
        if strays:
            lost.update(range(index, index + strays))
            times_s[index : index + strays] = np.nan
            begin = index + strays
            continue
        opening = times_s[index : index + _REORDER]
        far = abs(times_s[index] - latest_s) > _LEAP_S / 2
        middle_s = (times_s[index] + latest_s) / 2 if far else latest_s
        late = (opening > middle_s) != (times_s[index] > middle_s)
        if far and late.any():
            # Pictures that are shown before the jump and decoded after it.
            end_s = max(end_s, np.nanmax((opening + track.lengths_s[index : index + _REORDER])[late]))
            opening[late] = np.nan
        after_s = np.nanmin(opening if far else opening[~late])
        yield _Jump(number, index, int(track.places[index]), float(end_s), float(after_s))
        begin, latest_s = index + 1, times_s[index]
        end_s = latest_s + track.lengths_s[index]


def _first_jump(track: Track, begin: int, latest_s: float) -> int | None:
    """Give the first packet from `begin` on whose clock is not that of the packets before it."""
    times_s = track.times_s
    for at in range(begin, len(times_s), _BLOCK):
        block = times_s[at : at + _BLOCK]
        known = np.where(np.isfinite(block), block, -np.inf)
        before = np.maximum.accumulate(np.concatenate([[latest_s], known]))
        # Where nothing is known yet, anything may come.
        ahead = (block > before[:-1] + _LEAP_S) & np.isfinite(before[:-1])
        fallen = track.starts[at : at + _BLOCK] & (block < before[:-1] - _TREMBLE_S)
        deep = np.nonzero(block < before[:-1] - 1)[0]
        for index in deep:
            # A picture out of turn is followed by one that is ahead; a clock that fell is not, for long.
            rest = times_s[at + index : at + index + 4 * _REORDER]
            fallen[index] |= len(rest) >= _REORDER and np.nanmax(rest[:_REORDER]) < before[index]
            if len(rest) == 4 * _REORDER and block[index] < before[index] - _LEAP_S:
                fallen[index] |= np.nanmax(rest[_REORDER:]) < before[index] - _LEAP_S / 2
            if fallen[index]:
                break
        found = np.nonzero(ahead | fallen)[0]
        if len(found):
            return at + int(found[0])
        latest_s = before[-1]
    return None


def _strays(times_s: np.ndarray, index: int, latest_s: float) -> int:
    """Count the packets from `index` on that are elsewhere while those after them go on from `latest_s`."""
    away_s = times_s[index]
    for count in range(1, _STRAY + 1):
        rest = times_s[index + count : index + count + 4 * _REORDER]
        rest = rest[np.isfinite(rest)]
        if not len(rest):
            return 0
        if latest_s - 1 <= rest[0] <= latest_s + 1:
            near_s = min(_LEAP_S, abs(away_s - latest_s) / 2)
            return 0 if (np.abs(rest - away_s) < near_s).any() else count
    return 0


def _along(jump: _Jump, tracks: Sequence[Track], jumps: Sequence[_Jump], waiting: Sequence[_Jump]) -> _Jump | None:
    """Find where the other stream makes the same jump; None where it goes its own way or there is no other."""
    own = [j.place for j in jumps if j.track == jump.track]
    first = max((p for p in own if p < jump.place), default=-1)
    last = min((p for p in own if p > jump.place), default=np.iinfo(np.int64).max)
    for number, track in enumerate(tracks):
        if number == jump.track:
            continue
        known = [j for j in waiting if j.track == number and first < j.place < last and _is_alike(j, jump)]
        if known:
            return min(known, key=lambda j: abs(j.place - jump.place))
        near = np.nonzero(np.isfinite(track.times_s) & (track.places > first) & (track.places < last))[0]
        near = near[np.abs(track.places[near] - jump.place) < 40 * _REORDER]
        if len(near) < 2:
            return None
        times_s = track.times_s[near]
        # Where each packet's part of the clock had come to before it, pictures out of turn minded.
        ends_s = np.concatenate([np.full(_REORDER - 1, -np.inf), times_s + track.lengths_s[near]])
        ends_s = np.lib.stride_tricks.sliding_window_view(ends_s, _REORDER).max(axis=1)
        steps_s = np.where(track.starts[near[1:]], (times_s[1:] - ends_s[:-1]) * np.sign(jump.by_s), -np.inf)
        best = int(np.argmax(steps_s))
        at, before_s, after_s = int(near[best + 1]), float(ends_s[best]), float(times_s[best + 1])
        if steps_s[best] < abs(jump.by_s) / 2:
            # It leaps elsewhere or not at all: whose clock is it on, once the file has passed the jump?
            after = np.nonzero(track.places[near] > jump.place)[0]
            if jump.by_s > -2 or jump.index <= _STRAY or not len(after) or not after[0]:
                return None
            at, after_s = int(near[after[0]]), float(times_s[after[0]])
            before_s = float(ends_s[after[0] - 1])
            if abs(after_s - jump.after_s) >= abs(after_s - jump.before_s):
                return None
        return _Jump(number, at, int(track.places[at]), before_s, after_s)
    return None


def _is_alike(one: _Jump, other: _Jump) -> bool:
    """Tell whether two streams may make one jump: clocks that start anew may have come to different times before."""
    if one.by_s < 0 or other.by_s < 0:
        return one.by_s < 0 and other.by_s < 0
    return abs(one.before_s - other.before_s) < _LEAP_S and abs(one.after_s - other.after_s) < _LEAP_S


def _is_break(
    event: Sequence[_Jump],
    tracks: Sequence[Track],
    jumps: Sequence[_Jump],
    declared_s: float | None,
    restarts: bool,
) -> bool:
    """Tell a broken clock from one that leaps because nothing happened meanwhile."""
    jump = event[0]
    if jump.by_s < 0:
        return True
    if len(event) > 1:
        return jump.by_s > (_LEAP_S if restarts else _LONGEST_REST_S)
    promised = declared_s is not None and declared_s >= jump.after_s - _first_s(tracks) - 1
    for number, track in enumerate(tracks):
        if number == jump.track:
            continue
        end_s = _end_s(track, [j for j in jumps if j.track == number], jump.place)
        if end_s >= jump.after_s - 1:
            return False  # The other stream goes on through all of it: a pause.
        if end_s > jump.before_s + 1:
            # It goes on and ends early: with which of the two does it end together?
            own = [j for j in jumps if j.track == jump.track]
            rest_s = _end_s(tracks[jump.track], own, jump.place) - jump.after_s
            early = abs(end_s - jump.before_s - rest_s) < abs(end_s - jump.after_s - rest_s)
            return jump.by_s > _LONGEST_REST_S or (early and not promised)
    return jump.by_s > _LONGEST_REST_S and not promised


def _first_s(tracks: Sequence[Track]) -> float:
    return min((float(t.times_s[np.isfinite(t.times_s)][0]) for t in tracks if np.isfinite(t.times_s).any()), default=0)


def _end_s(track: Track, jumps: Sequence[_Jump], place: int) -> float:
    """Give the end of the part of a stream that is running after `place`."""
    begin = max((j.index for j in jumps if j.place <= place), default=0)
    end = min((j.index for j in jumps if j.place > place), default=len(track.times_s))
    ends_s = (track.times_s + track.lengths_s)[begin:end]
    return float(np.nanmax(ends_s)) if np.isfinite(ends_s).any() else -np.inf


class Clock:
    """The one clock of a file: `packets` gives its packets with their times on it.

    Made by `read_clock`. Where nothing is broken all stamps stay as they are.

    Attributes:
        repairs: where clocks were moved.
        first_s: when the first picture is shown on the file's clock, where its own stamp is not to be believed.
        silences_s: how much of the sound's time is missing in the middle of it, in seconds.
        read_to: end of the last packet in the file, in bytes; 0 where an index was enough.
        piece_s: how long a usual packet of the sound is, in seconds; 0 where that varies.
    """

    def __init__(self) -> None:
        self.moves: dict[int, Moves] = {}
        self.repairs: list[Repair] = []
        self.first_s: Fraction | None = None
        self.silences_s = 0.0
        self.piece_s = 0.0
        self.read_to = 0
        self._start_s = 0.0

    def packets(self, container: InputContainer, *streams: Any) -> Iterator[av.Packet[Any]]:
        """Demux `streams`, each packet with its times on this clock; stamps that cannot be are None."""
        counts: dict[int, int] = {}
        for packet in container.demux(streams):
            number = packet.stream.index
            moves = self.moves.get(number)
            if moves is not None:
                index = counts.get(number, 0)
                counts[number] = index + bool(packet.size)
                base = Fraction(packet.time_base)
                if index in moves.lost:
                    packet.pts = packet.dts = None
                if packet.pts is not None:
                    packet.pts += round(moves.of(index, float(packet.pts * base)) / base)
                if packet.dts is not None:
                    packet.dts += round(moves.of(index, float(packet.dts * base)) / base)
            yield packet

    def sentences(self, until_s: float) -> Iterator[str]:
        """Say what was repaired up to `until_s`, in seconds from the first picture."""
        for tracks, what, how in (
            ((0, 1), "its clock breaks", "sound and picture went on from there together"),
            ((0,), "the clock of its pictures breaks", "they went on from where they were"),
            ((1,), "the clock of its sound breaks", "it went on from where it was"),
        ):
            there = [r.time_s - self._start_s for r in self.repairs if r.tracks == tracks]
            there = [time_s for time_s in there if time_s <= until_s]
            if there:
                at = "at" if len(there) == 1 else f"at {len(there)} places, the first at"
                yield f"{what} (starts anew, leaps or runs back) {at} {max(0.0, there[0]):.2f} s; {how}"
        lost = sum(len(moves.lost) for moves in self.moves.values())
        if lost:
            yield f"{lost} of its packets carry times that cannot be; theirs were taken from the packets around them"


def read_clock(
    container: InputContainer, video: Any, audio: Any, by_dts: bool = False, most: int | None = None
) -> Clock | None:
    """Read the packets of `video` and `audio` (None without) and give the clock of the file.

    An index is enough where the container has one of every packet; else the file is read to its end.
    `by_dts` says that only the order of decoding is known of pictures. With `most`, only what comes before so many
    pictures is read; None then says that it leaps there, which only the whole file can settle.
    """
    streams = [video] if audio is None else [video, audio]
    tracks = _indexed(container, streams)
    clock = Clock()
    if tracks is None or not all(_is_steady(track) for track in tracks):
        tracks, clock.read_to = _walked(container, streams, by_dts, most)
        declared = any(name in container.format.name for name in ("mp4", "matroska")) and container.duration
        declared_s = container.duration / av.time_base if declared and container.duration else None
        restarts = bool(int(container.format.flags) & _TS_DISCONT)
        if most is not None and any(_leaps(track) for track in tracks):
            return None
        moves, clock.repairs = settle(tracks, declared_s, restarts)
        clock._start_s = _first_s(tracks[:1])
        if any(len(m.at) > 1 or m.lost for m in moves):
            clock.moves = {stream.index: m for stream, m in zip(streams, moves, strict=True)}
        if 0 in moves[0].lost:
            known = [i for i in range(len(tracks[0].times_s)) if i not in moves[0].lost]
            usual_s = float(np.median(tracks[0].lengths_s))
            first_s = next((tracks[0].times_s[i] - i * usual_s for i in known if np.isfinite(tracks[0].times_s[i])), 0)
            clock.first_s = Fraction(round(first_s * 1_000_000), 1_000_000)
            clock._start_s = first_s
    if audio is not None and len(tracks[1].times_s):
        clock.silences_s = _silences_s(tracks[1], _first_s(tracks[:1]), clock.moves.get(audio.index))
        if audio.codec_context.frame_size:
            clock.piece_s = float(np.median(tracks[1].lengths_s))
    return clock


def _is_steady(track: Track) -> bool:
    steps_s = np.diff(track.times_s)
    return bool((steps_s >= 0).all() and (steps_s <= _LONGEST_REST_S).all())


def _fair(lengths_s: np.ndarray, stream: Any) -> np.ndarray:
    """Cut packets of sound to what one holds, where that is always the same: a gap is no part of it."""
    if stream.type == "audio" and stream.codec_context.frame_size and len(lengths_s):
        return np.minimum(lengths_s, np.median(lengths_s))
    return lengths_s


def _indexed(container: InputContainer, streams: Sequence[Any]) -> list[Track] | None:
    """Make the tracks from the index; None where there is none of every packet. Times are those of decoding."""
    if "mp4" not in container.format.name or not all(stream.frames for stream in streams):
        return None
    tracks = []
    for stream in streams:
        ticks = np.array([entry.timestamp for entry in stream.index_entries], np.float64)
        if len(ticks) < stream.frames / 2:
            return None
        times_s = ticks * float(stream.time_base)
        lengths_s = _fair(np.diff(times_s, append=times_s[-1:]), stream)
        tracks.append(Track(np.arange(len(ticks)), times_s, lengths_s, np.ones(len(ticks), bool)))
    return tracks


def _leaps(track: Track) -> bool:
    lost: set[int] = set()
    track = replace(track, times_s=track.times_s.copy())
    return any(True for _ in _jumps(0, track, lost)) or bool(lost)


def _walked(
    container: InputContainer, streams: Sequence[Any], by_dts: bool, most: int | None
) -> tuple[list[Track], int]:
    """Make the tracks from the packets, read to where they end; that place comes with them."""
    rows: dict[int, list[tuple[int, float, float, bool]]] = {stream.index: [] for stream in streams}
    bases = {stream.index: float(stream.time_base) for stream in streams}
    pictures = streams[0].index
    packets = container.demux(streams)
    place = read_to = 0
    while True:
        try:
            packet: Any = next(packets, None)
        except av.FFmpegError:
            break
        if packet is None or (most is not None and len(rows[pictures]) > most + 4 * _REORDER):
            break
        if not packet.size:
            continue
        number = packet.stream.index
        stamp = packet.dts if packet.pts is None or (by_dts and number == pictures) else packet.pts
        base = bases[number]
        time_s = np.nan if stamp is None else stamp * base
        starts = number != pictures or packet.is_keyframe
        rows[number].append((place, time_s, (packet.duration or 0) * base, starts))
        place += 1
        read_to = max(read_to, (packet.pos or 0) + packet.size)
    tracks = []
    for stream in streams:
        places, times_s, lengths_s, starts = np.array(rows[stream.index] or np.empty((0, 4)), np.float64).T
        tracks.append(Track(places.astype(np.int64), times_s, _fair(lengths_s, stream), starts.astype(bool)))
    return tracks, read_to


def _silences_s(track: Track, start_s: float, moves: Moves | None) -> float:
    """Add up the time after `start_s` that lies between packets of sound and in none."""
    times_s = track.times_s
    if moves is not None and len(moves.at) > 1:
        times_s = times_s + [float(moves.of(i, t)) for i, t in enumerate(times_s)]
    begins_s, ends_s = times_s[1:], np.maximum((times_s + track.lengths_s)[:-1], start_s)
    gaps_s = begins_s - ends_s
    return float(gaps_s[np.isfinite(gaps_s) & (gaps_s > _GAP_S)].sum())
