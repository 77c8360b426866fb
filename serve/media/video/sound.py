"""The driving sound beside new pictures: copied packet by packet where the container takes it, else encoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np
from av.container import OutputContainer

from triportrait.serve.media.video.clips import Clip, opened, sound_stream

_COMMON = {"aac", "mp3", "alac"}
_PCM = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8"}
# Container → the codecs that players expect in it. Opus, FLAC or AC-3 in an mp4 are silent on many of Apple's.
_COPIED = {
    "mp4": _COMMON,
    "mov": _COMMON | _PCM | {"pcm_s16be", "pcm_s24be"},
    "matroska": _COMMON | _PCM | {"opus", "flac", "vorbis", "ac3", "eac3", "dts"},
    "webm": {"opus", "vorbis"},
}
_AAC_RATES_HZ = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
# A decoder needs some packets before the first sample that is heard: 48 ms for AAC, 80 ms for Opus.
_PREROLL_S = Fraction(1, 10)
# A smaller gap or overlap is the jitter of a container that counts milliseconds, or of a recorder.
_JITTER_S = Fraction(1, 50)
_LEAST_TOLD_S = Fraction(1, 10)

_Chunks = Iterator[tuple[Fraction, av.Packet]]


class Sound:
    """The sound of `clip` as a second stream of `container`, on the clock of the clip's frames.

    Made before the first packet is written. `write_until` keeps the file interleaved, `finish` writes the rest up to
    the clip's `cut_s`. Damage costs the sound it hits, not the video; it is told in the clip's `warnings`, as all sound
    that is left out.
    """

    def __init__(self, clip: Clip, container: OutputContainer) -> None:
        self._clip = clip
        self._container = container
        self._clock = clip.clock
        self._piece_s = Fraction(self._clock.piece_s).limit_denominator(1_000_000)
        self._errors = 0
        self._damaged_s = self._early_s = self._double_s = Fraction(0)
        self._stack = ExitStack()
        with ExitStack() as stack:
            source = stack.enter_context(opened(clip.path))
            stream = sound_stream(source)
            assert stream is not None
            context = stream.codec_context
            name = context.codec.canonical_name
            self._packets = self._clock.packets(source, stream)
            # AAC of a transport stream would be unpacked while muxing, where damage would end the video too.
            unpacked = name != "aac" or (context.extradata and source.format.name != "mpegts")
            # In mp4 a packet lasts until the next: one before a gap would be stretched over it.
            stretched = container.format.name in ("mp4", "mov") and self._clock.silences_s
            if name in _COPIED[container.format.name] and unpacked and not stretched:
                self._chunks = self._copied(container.add_stream_from_template(stream), stream)
            else:
                self._chunks = self._encoded(self._add_encoder(stream), stream)
            self._next = next(self._chunks, None)
            self._stack = stack.pop_all()

    def write_until(self, time_s: Fraction) -> None:
        """Write the packets that start before `time_s`, in seconds from the first frame."""
        while self._next is not None and self._next[0] < time_s:
            self._container.mux(self._next[1])
            self._next = next(self._chunks, None)

    def finish(self) -> None:
        """Write the rest: all of it, or up to where the frames were cut."""
        while self._next is not None and (self._clip.cut_s is None or self._next[0] < self._clip.cut_s):
            self._container.mux(self._next[1])
            self._next = next(self._chunks, None)
        path, say = self._clip.path, self._clip.warnings.append
        if self._errors:
            lost = f" ({float(self._damaged_s):.2f} s)" if self._damaged_s else ""
            say(f"{path}: {self._errors} pieces of its sound{lost} are damaged; left out")
        if self._early_s > _LEAST_TOLD_S:
            say(f"{path}: {float(self._early_s):.2f} s of its sound come before the first frame; left out")
        if self._double_s > _LEAST_TOLD_S:
            say(f"{path}: {float(self._double_s):.2f} s of its sound overlap what came before; left out")

    def close(self) -> None:
        """Close the file that the sound comes from."""
        self._stack.close()

    def _length_s(self, packet: av.Packet[av.AudioStream]) -> Fraction:
        stated_s = (packet.duration or 0) * Fraction(packet.time_base)
        return min(stated_s or self._piece_s, self._piece_s) if self._piece_s else stated_s

    def _read(self) -> Iterator[av.Packet[av.AudioStream]]:
        """Read the packets, each with the time that it has or follows; an unreadable place ends the sound."""
        following: Fraction | None = None
        try:
            for packet in self._packets:
                if not packet.size:
                    continue
                base = Fraction(packet.time_base)
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is None:
                    # Without any time before it, it belongs to where the pictures begin.
                    stamp = round((self._clip.start_s if following is None else following) / base)
                packet.pts = packet.dts = stamp
                following = stamp * base + self._length_s(packet)
                yield packet
        except av.FFmpegError:
            self._errors += 1

    def _copied(self, track: av.AudioStream, stream: av.AudioStream) -> _Chunks:
        time_base = Fraction(stream.time_base or 1)
        start = round(self._clip.start_s / time_base)
        mp4 = self._container.format.name in ("mp4", "mov")
        before: list[av.Packet[av.AudioStream]] = []
        last: int | None = None
        last_end_s = -self._clip.start_s - 1
        for packet in self._read():
            given = packet.pts or 0
            stamp, length_s = given - start, self._length_s(packet)
            end_s = stamp * time_base + length_s
            # Only mp4 and mov can hide what a decoder needs before the first frame; elsewhere it would be heard, so
            # only what the source itself has there is kept.
            if end_s <= (-_PREROLL_S if mp4 or given < 0 else 0):
                self._early_s += length_s
                continue
            if last is not None and end_s - length_s / 2 < last_end_s:
                self._double_s += length_s
                continue
            last = packet.pts = packet.dts = stamp if last is None else max(stamp, last + 1)
            last_end_s = max(end_s, last_end_s)
            packet.stream = track
            if end_s <= 0:
                before.append(packet)
                continue
            yield from self._adjacent(before, stamp, time_base)
            before = []
            yield stamp * time_base, packet
        yield from self._adjacent(before, 0, time_base)

    def _adjacent(self, packets: list[av.Packet[av.AudioStream]], stamp: int, time_base: Fraction) -> _Chunks:
        """Put what only the decoder needs right before `stamp`: in mp4 a gap would become part of its length."""
        for packet in reversed(packets):
            length = round(self._length_s(packet) / time_base)
            if stamp - (packet.pts or 0) - length > _JITTER_S / time_base:
                packet.pts = packet.dts = stamp - length
            stamp = packet.pts or 0
        for packet in packets:
            yield (packet.pts or 0) * time_base, packet

    def _add_encoder(self, stream: av.AudioStream) -> av.AudioStream:
        opus = self._container.format.name == "webm"
        rate_hz = stream.rate if stream.rate in _AAC_RATES_HZ and not opus else 48_000
        track = self._container.add_stream("libopus" if opus else "aac", rate=rate_hz, options={"flags": "+bitexact"})
        assert isinstance(track, av.AudioStream)
        track.codec_context.layout = "mono" if stream.channels == 1 else "stereo"
        track.codec_context.bit_rate = 96_000 * track.codec_context.channels
        return track

    def _encoded(self, track: av.AudioStream, stream: av.AudioStream) -> _Chunks:
        context = track.codec_context
        resampler: av.AudioResampler | None = None
        last: tuple[str, str, int] | None = None
        for frame in chain(self._decoded(stream), [None]):
            kind = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
            pieces = []
            if kind != last:
                # A resampler takes one kind of frame; broadcasts and damage change it on the way.
                pieces = resampler.resample(None) if resampler is not None else []
                resampler, last = av.AudioResampler(context.format, context.layout, context.rate), kind
            if frame is not None and resampler is not None:
                pieces += resampler.resample(frame)
            for piece in pieces:
                early = -round((piece.pts or 0) * Fraction(piece.time_base or 0) * piece.sample_rate)
                heard = _without(piece, early)
                self._early_s += Fraction(piece.samples - (heard.samples if heard else 0), piece.sample_rate)
                if heard is not None:
                    yield from _timed(track.encode(heard))
        yield from _timed(track.encode(None))

    def _decoded(self, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
        """Decode what decodes, timed in samples from the first frame of the video, gaps filled with silence."""
        following: int | None = None
        rate_hz = 0
        for packet in chain(self._read(), [None]):
            try:
                frames = stream.decode(packet)
            except av.FFmpegError:
                self._errors += 1
                self._damaged_s += self._length_s(packet) if packet is not None else 0
                continue
            for frame in frames:
                if following is not None and rate_hz != frame.sample_rate:
                    following = following * frame.sample_rate // rate_hz
                rate_hz = frame.sample_rate
                given = following or 0
                if frame.pts is not None:
                    given = round((frame.pts * Fraction(stream.time_base or 1) - self._clip.start_s) * rate_hz)
                if following is None:
                    following = given
                if given - following > _JITTER_S * rate_hz:
                    following = max(following, min(0, given))
                    yield from _silence(frame, following, given)
                    following = given
                elif following - given > _JITTER_S * rate_hz:
                    self._double_s += Fraction(min(following - given, frame.samples), rate_hz)
                    heard = _without(frame, following - given)
                    if heard is None:
                        continue
                    frame = heard
                frame.pts, frame.time_base = following, Fraction(1, rate_hz)
                following += frame.samples
                yield frame


def _timed(packets: list[av.Packet]) -> _Chunks:
    for packet in packets:
        yield (packet.pts or 0) * Fraction(packet.time_base), packet


def _silence(like: av.AudioFrame, begin: int, end: int) -> Iterator[av.AudioFrame]:
    """Give frames of the kind of `like` that are silent from sample `begin` to `end`."""
    pattern: Any = like.to_ndarray()
    # Unsigned samples are silent in the middle of their range.
    quiet = 128 if pattern.dtype == np.uint8 else 0
    width = 1 if like.format.is_planar else len(like.layout.channels)
    for at in range(begin, end, like.sample_rate):
        count = min(like.sample_rate, end - at)
        still = np.full((pattern.shape[0], count * width), quiet, pattern.dtype)
        frame = av.AudioFrame.from_ndarray(still, like.format.name, like.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = like.sample_rate, at, Fraction(1, like.sample_rate)
        yield frame


def _without(frame: av.AudioFrame, first: int) -> av.AudioFrame | None:
    """Leave out the `first` samples, the rest keeping its time; None when no sample is left."""
    if first <= 0:
        return frame
    if first >= frame.samples:
        return None
    width = 1 if frame.format.is_planar else len(frame.layout.channels)
    kept: Any = np.ascontiguousarray(frame.to_ndarray()[:, first * width :])
    rest = av.AudioFrame.from_ndarray(kept, frame.format.name, frame.layout.name)
    begin = round((frame.pts or 0) * Fraction(frame.time_base or 0) * frame.sample_rate)
    rest.sample_rate, rest.pts, rest.time_base = frame.sample_rate, begin + first, Fraction(1, frame.sample_rate)
    return rest
