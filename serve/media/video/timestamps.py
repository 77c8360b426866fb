"""One clock for all streams of a video file, made by reading its packets once without decoding them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from triportrait.serve.media.video.discontinuities import REORDER, Moves, Repair, Track, first_s, leaps, settle

# A longer time between two packets of sound that none of them fills is a gap.
_GAP_S = 0.05
_LONGEST_STEP_S = 3600.0
_TS_DISCONT = 0x200


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
        for packet in demuxed(container, streams):
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
        if most is not None and any(leaps(track) for track in tracks):
            return None
        moves, clock.repairs = settle(tracks, declared_s, restarts)
        clock._start_s = first_s(tracks[:1])
        if any(len(m.at) > 1 or m.lost for m in moves):
            clock.moves = {stream.index: m for stream, m in zip(streams, moves, strict=True)}
        if 0 in moves[0].lost:
            known = [i for i in range(len(tracks[0].times_s)) if i not in moves[0].lost]
            usual_s = float(np.median(tracks[0].lengths_s))
            times_s = tracks[0].times_s
            clock._start_s = next((float(times_s[i]) - i * usual_s for i in known if np.isfinite(times_s[i])), 0.0)
            clock.first_s = Fraction(round(clock._start_s * 1_000_000), 1_000_000)
    if audio is not None and len(tracks[1].times_s):
        clock.silences_s = _silences_s(tracks[1], first_s(tracks[:1]), clock.moves.get(audio.index))
        if audio.codec_context.frame_size:
            clock.piece_s = float(np.median(tracks[1].lengths_s))
    return clock


def demuxed(container: InputContainer, streams: Sequence[Any]) -> Iterator[av.Packet[Any]]:
    """Demux `streams`, with those that empty the decoders at the end; streams that show up only later are passed over.

    PyAV, which knows what was there when the file was opened, stumbles over these as it comes to the end.
    """
    try:
        yield from container.demux(streams)
    except IndexError:
        return


def _is_steady(track: Track) -> bool:
    steps_s = np.diff(track.times_s)
    return bool((steps_s >= 0).all() and (steps_s <= _LONGEST_STEP_S).all())


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


def _walked(
    container: InputContainer, streams: Sequence[Any], by_dts: bool, most: int | None
) -> tuple[list[Track], int]:
    """Make the tracks from the packets, read to where they end; that place comes with them."""
    # Places, times, lengths and starts: a film has a million packets.
    rows = {stream.index: (array("q"), array("d"), array("d"), array("b")) for stream in streams}
    bases = {stream.index: float(stream.time_base) for stream in streams}
    pictures = streams[0].index
    packets = demuxed(container, streams)
    place = read_to = 0
    while True:
        try:
            packet: Any = next(packets, None)
        except av.FFmpegError:
            break
        if packet is None or (most is not None and len(rows[pictures][0]) > most + 4 * REORDER):
            break
        if not packet.size:
            continue
        number = packet.stream.index
        stamp = packet.dts if packet.pts is None or (by_dts and number == pictures) else packet.pts
        base = bases[number]
        # Packets that an edit list hides are outside of all times.
        time_s = np.nan if stamp is None or packet.is_discard else stamp * base
        starts = number != pictures or packet.is_keyframe
        columns = rows[number]
        columns[0].append(place)
        columns[1].append(time_s)
        columns[2].append((packet.duration or 0) * base)
        columns[3].append(starts)
        place += 1
        read_to = max(read_to, (packet.pos or 0) + packet.size)
    tracks = []
    for stream in streams:
        places, times_s, lengths_s, starts = (np.array(column) for column in rows[stream.index])
        tracks.append(Track(places, times_s, _fair(lengths_s, stream), starts.astype(bool)))
    return tracks, read_to


def _silences_s(track: Track, start_s: float, moves: Moves | None) -> float:
    """Add up the time after `start_s` that lies between packets of sound and in none."""
    times_s = track.times_s
    if moves is not None and len(moves.at) > 1:
        times_s = times_s + [float(moves.of(i, t)) for i, t in enumerate(times_s)]
    begins_s, ends_s = times_s[1:], np.maximum((times_s + track.lengths_s)[:-1], start_s)
    gaps_s = begins_s - ends_s
    return float(gaps_s[np.isfinite(gaps_s) & (gaps_s > _GAP_S)].sum())
