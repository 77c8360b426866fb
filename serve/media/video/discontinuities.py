"""Where the clocks of a file break, found from the times of its packets, and by how much its streams are moved there.

Recordings that were joined, live dumps and damaged files have clocks that start anew, leap or run back. Such a break is
one event of the file: every stream is moved by the same time there, so that sound and picture stay together. A picture
that stands still, or a silence, is none: a stream that leaps forward while another one goes on is believed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

# libav's own tools take a longer leap of every stream for a break, in containers whose clock may start anew.
_LEAP_S = 10.0
# Elsewhere a recording may rest for a while with all its streams.
_LONGEST_REST_S = 3600.0
# Clocks of live recordings tremble; a fall by less is no break.
_TREMBLE_S = 0.1
# So many packets can lie between two pictures that are shown one after the other.
REORDER = 17
# Fewer packets than this that are elsewhere, with the rest going on where it was, have broken stamps.
_STRAY = 8
_BLOCK = 4096
# What leaps more often has no clock.
_MOST_JUMPS = 1000
# Where the clock of a transport stream, 33 bits of 1/90000 s, begins anew by itself.
_TURN_S = Fraction(1 << 33, 90_000)


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
        if leap is not None and index < leap.index + REORDER and leap.is_before(time_s):
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
    for _ in range(_MOST_JUMPS):
        if (index := _first_jump(track, begin, latest_s)) is None:
            return
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
        opening = times_s[index : index + REORDER]
        far = abs(times_s[index] - latest_s) > _LEAP_S / 2
        middle_s = (times_s[index] + latest_s) / 2 if far else latest_s
        late = np.isfinite(opening) & ((opening > middle_s) != (times_s[index] > middle_s))
        if far and late.any():
            # Pictures that are shown before the jump and decoded after it.
            end_s = max(end_s, np.nanmax((opening + track.lengths_s[index : index + REORDER])[late]))
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
            rest = times_s[at + index : at + index + 4 * REORDER]
            fallen[index] |= len(rest) >= REORDER and np.nanmax(rest[:REORDER]) < before[index]
            if len(rest) == 4 * REORDER and block[index] < before[index] - _LEAP_S:
                fallen[index] |= np.nanmax(rest[REORDER:]) < before[index] - _LEAP_S / 2
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
        rest = times_s[index + count : index + count + 4 * REORDER]
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
        window = max(first + 1, jump.place - 40 * REORDER), min(last, jump.place + 40 * REORDER)
        near = np.arange(*np.searchsorted(track.places, window))
        near = near[np.isfinite(track.times_s[near])]
        if len(near) < 2:
            return None
        times_s = track.times_s[near]
        # Where each packet's part of the clock had come to before it, pictures out of turn minded.
        ends_s = np.concatenate([np.full(REORDER - 1, -np.inf), times_s + track.lengths_s[near]])
        ends_s = np.lib.stride_tricks.sliding_window_view(ends_s, REORDER).max(axis=1)
        steps_s = np.where(track.starts[near[1:]], (times_s[1:] - ends_s[:-1]) * np.sign(jump.by_s), -np.inf)
        best = int(np.argmax(steps_s))
        at, before_s, after_s = int(near[best + 1]), float(ends_s[best]), float(times_s[best + 1])
        if steps_s[best] < abs(jump.by_s) / 2:
            # It leaps elsewhere or not at all: whose clock is it on, once the file has passed the jump?
            after = np.nonzero(track.places[near] > jump.place)[0]
            if jump.by_s > -2 or jump.index <= _STRAY or not len(after) or (near[0] and not after[0]):
                return None
            at, after_s = int(near[after[0]]), float(times_s[after[0]])
            # A stream that begins with this recording had come to nothing before.
            before_s = float(ends_s[after[0] - 1]) if after[0] else jump.before_s
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
    promised = declared_s is not None and declared_s >= jump.after_s - first_s(tracks) - 1
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


def first_s(tracks: Sequence[Track]) -> float:
    """Give the earliest of the first times of tracks; 0 where there is none."""
    return min((float(t.times_s[np.isfinite(t.times_s)][0]) for t in tracks if np.isfinite(t.times_s).any()), default=0)


def _end_s(track: Track, jumps: Sequence[_Jump], place: int) -> float:
    """Give the end of the part of a stream that is running after `place`."""
    begin = max((j.index for j in jumps if j.place <= place), default=0)
    end = min((j.index for j in jumps if j.place > place), default=len(track.times_s))
    ends_s = (track.times_s + track.lengths_s)[begin:end]
    return float(np.nanmax(ends_s)) if np.isfinite(ends_s).any() else -np.inf


def leaps(track: Track) -> bool:
    """Tell whether a stream has jumps or stray stamps at all."""
    lost: set[int] = set()
    track = replace(track, times_s=track.times_s.copy())
    return any(True for _ in _jumps(0, track, lost)) or bool(lost)
