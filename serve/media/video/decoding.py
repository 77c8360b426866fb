"""A video's pictures in the order they are shown, each with its time.

Damage costs the pictures it hits, not the video; a `Tally` counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer

from triportrait.serve.media.video.timestamps import Clock

# Opens a video anew, with or without hardware.
Reads = Callable[[HWAccel | None], AbstractContextManager[tuple[InputContainer, av.VideoStream]]]


@dataclass
class Tally:
    """What a pass over a video met: packets read, of them hidden by an edit list or broken, frames, errors.

    `end_s` is the end of all streams, `last_s` and `last_end_s` when the picture that is shown last begins and ends,
    all on the clock; `last_packet` is its number in the order of decoding.
    """

    packets: int = 0
    hidden: int = 0
    broken_packets: int = 0
    frames: int = 0
    broken_frames: int = 0
    errors: int = 0
    end_s: Fraction = Fraction(0)
    reason: str = "no picture data"
    last_s: Fraction | None = None
    last_end_s: Fraction | None = None
    last_packet: int = 0

    @property
    def is_damaged(self) -> bool:
        """Whether a packet or a frame was broken, or did not decode."""
        return bool(self.errors or self.broken_packets or self.broken_frames)

    def reset(self) -> None:
        """Forget all, for another pass."""
        for field in fields(self):
            setattr(self, field.name, field.default)

    def read(self, packet: Any, stream: av.VideoStream, by_dts: bool) -> bool:
        """Count a packet of any stream; return whether it holds a picture of `stream`."""
        moment = packet.pts if packet.pts is not None and not by_dts else packet.dts
        if moment is not None:
            begin_s = moment * Fraction(packet.time_base)
            end_s = begin_s + (packet.duration or 0) * packet.time_base
            if packet.size:
                self.end_s = max(self.end_s, end_s)
            shown = packet.stream.index == stream.index and not packet.is_discard
            if shown and (self.last_s is None or begin_s >= self.last_s):
                self.last_s, self.last_packet = begin_s, self.packets + 1
                self.last_end_s = end_s if packet.duration else None
        if not packet.size or packet.stream.index != stream.index:
            # To the decoder an empty packet means the end; AVI has them in the middle for repeated frames.
            return False
        self.packets += 1
        self.hidden += packet.is_discard
        self.broken_packets += packet.is_corrupt
        return True


def decoded(
    container: InputContainer, stream: av.VideoStream, tally: Tally, clock: Clock, by_dts: bool = False
) -> Iterator[av.VideoFrame]:
    """Decode what decodes, in the order it is shown, and count the rest."""
    packets = clock.packets(container, stream, *container.streams.audio)
    while True:
        try:
            packet: Any = next(packets, None)
        except av.FFmpegError as error:
            tally.errors, tally.reason, packet = tally.errors + 1, str(error.strerror), None
        if packet is not None and not tally.read(packet, stream, by_dts):
            continue
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            tally.errors, tally.reason, frames = tally.errors + 1, str(error.strerror), []
        for frame in frames:
            tally.frames += 1
            tally.broken_frames += frame.is_corrupt
            yield frame
        if packet is None:
            return


def stamp_of(frame: av.VideoFrame, by_dts: bool) -> int | None:
    """Give when a frame is shown, in ticks; where `by_dts`, only the order of decoding is known."""
    return frame.pts if frame.pts is not None and not by_dts else frame.dts


def timed(
    frames: Iterator[av.VideoFrame], time_base: Fraction, step_s: Fraction, by_dts: bool = False
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Give every frame a time from the first one on that only grows, inventing what the file leaves out."""
    shift_s: Fraction | None = None
    last_s: Fraction | None = None
    for frame in frames:
        stamp = stamp_of(frame, by_dts)
        if last_s is None:
            shift_s, time_s = (None if stamp is None else -stamp * time_base), Fraction(0)
        elif stamp is None:
            time_s = last_s + step_s
        else:
            if shift_s is None:
                shift_s = last_s + step_s - stamp * time_base
            time_s = stamp * time_base + shift_s
            if time_s < last_s - 1:
                # Breaks of the clock are mended before decoding; this is one that the packets did not show.
                shift_s += last_s + step_s - time_s
                time_s = last_s + step_s
            elif time_s <= last_s:
                # Half a step, so that the next honest time is still ahead.
                time_s = last_s + step_s / 2
        last_s = time_s
        yield time_s, frame
