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

from triportrait.serve.clips import Clip, opened

_COMMON = {"aac", "mp3", "alac"}
_PCM = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8"}
# Container → the codecs that players expect in it; libav would also put Vorbis or plain PCM into an mp4.
_COPIED = {
    "mp4": _COMMON | {"opus", "flac"},
    "mov": _COMMON | _PCM | {"pcm_s16be", "pcm_s24be"},
    "matroska": _COMMON | _PCM | {"opus", "flac", "vorbis", "ac3", "eac3", "dts"},
    "webm": {"opus", "vorbis"},
}
_AAC_RATES_HZ = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
# A decoder needs some packets before the first sample that is heard: 48 ms for AAC, 80 ms for Opus.
_PREROLL_S = Fraction(1, 10)
_JITTER_S = Fraction(1, 100)

_Chunks = Iterator[tuple[Fraction, av.Packet]]


class Sound:
    """The sound of `clip` as a second stream of `container`, on the clock of the clip's frames.

    Made before the first packet is written. `write_until` keeps the file interleaved, `finish` writes the rest up to
    the clip's `cut_s`. Damage costs the sound it hits, not the video; it is told in the clip's `warnings`.
    """

    def __init__(self, clip: Clip, container: OutputContainer) -> None:
        self._clip = clip
        self._container = container
        self._errors = 0
        self._stack = ExitStack()
        with ExitStack() as stack:
            source = stack.enter_context(opened(clip.path))
            known = [s for s in source.streams.audio if s.codec_context is not None]
            best = source.streams.best("audio")
            stream = best if isinstance(best, av.AudioStream) and best in known else known[0]
            context = stream.codec_context
            name = context.codec.canonical_name
            self._packets = source.demux(stream)
            # AAC of a transport stream would be unpacked while muxing, where damage would end the video too.
            unpacked = name != "aac" or (context.extradata and source.format.name != "mpegts")
            if name in _COPIED[container.format.name] and unpacked:
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
        if self._errors:
            self._clip.warnings.append(f"{self._clip.path}: {self._errors} pieces of its sound are damaged; left out")

    def close(self) -> None:
        """Close the file that the sound comes from."""
        self._stack.close()

    def _read(self) -> Iterator[av.Packet[av.AudioStream]]:
        """Read the packets that have a time; an unreadable place ends the sound."""
        try:
            for packet in self._packets:
                if packet.size and (packet.pts is not None or packet.dts is not None):
                    yield packet
        except av.FFmpegError:
            self._errors += 1

    def _copied(self, track: av.AudioStream, stream: av.AudioStream) -> _Chunks:
        time_base = Fraction(stream.time_base or 1)
        start = round(self._clip.start_s / time_base)
        mp4 = self._container.format.name in ("mp4", "mov")
        last: int | None = None
        for packet in self._read():
            given = packet.pts if packet.pts is not None else packet.dts
            assert given is not None
            stamp = given - start
            end_s = (stamp + (packet.duration or 0)) * time_base
            # Only mp4 and mov can hide what a decoder needs before the first frame; elsewhere it would be heard, so
            # only what the source itself has there is kept.
            before = mp4 or given < 0
            if end_s <= (-_PREROLL_S if before else 0) or (last is not None and stamp <= last):
                continue
            last = packet.pts = packet.dts = stamp
            packet.stream = track
            yield stamp * time_base, packet

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
                heard = _from_zero(piece)
                if heard is not None:
                    yield from _timed(track.encode(heard))
        yield from _timed(track.encode(None))

    def _decoded(self, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
        """Decode what decodes, timed in samples from the first frame of the video."""
        following: int | None = None
        for packet in chain(self._read(), [None]):
            try:
                frames = stream.decode(packet)
            except av.FFmpegError:
                self._errors += 1
                continue
            for frame in frames:
                rate_hz = frame.sample_rate
                if frame.pts is not None:
                    given = round((frame.pts * Fraction(stream.time_base or 1) - self._clip.start_s) * rate_hz)
                    # A gap is kept; less is the jitter of a container that counts milliseconds.
                    if following is None or given - following > _JITTER_S * rate_hz:
                        following = given
                following = following or 0
                frame.pts, frame.time_base = following, Fraction(1, rate_hz)
                following += frame.samples
                yield frame


def _timed(packets: list[av.Packet]) -> _Chunks:
    for packet in packets:
        yield (packet.pts or 0) * Fraction(packet.time_base), packet


def _from_zero(frame: av.AudioFrame) -> av.AudioFrame | None:
    """Leave out the samples before time 0; None when no sample is left."""
    early = -round((frame.pts or 0) * Fraction(frame.time_base or 0) * frame.sample_rate)
    if early <= 0:
        return frame
    if early >= frame.samples:
        return None
    width = 1 if frame.format.is_planar else len(frame.layout.channels)
    kept: Any = np.ascontiguousarray(frame.to_ndarray()[:, early * width :])
    rest = av.AudioFrame.from_ndarray(kept, frame.format.name, frame.layout.name)
    rest.sample_rate, rest.pts, rest.time_base = frame.sample_rate, 0, Fraction(1, frame.sample_rate)
    return rest
