"""What a container says of its end: when its last picture does, whether it was cut off, what lies behind it."""

from __future__ import annotations

import mmap
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from triportrait.core.files import opened
from triportrait.serve.decoding import Tally


def duration_s(container: InputContainer, stream: av.VideoStream) -> Fraction | None:
    """Give the length of a stream, else of its file, as the file says it."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return Fraction(container.duration, av.time_base) if container.duration else None


def end_of_pictures_s(path: Path, container: InputContainer, stream: av.VideoStream, tally: Tally) -> Fraction | None:
    """Give when the picture that is shown last ends, on the file's clock; None where the file does not say."""
    name, end_s = container.format.name, tally.last_end_s
    base = stream.time_base or Fraction(1)
    stated_s = None if stream.duration is None else ((stream.start_time or 0) + stream.duration) * base
    if "mp4" in name:
        # There a sample's length is that of decoding: pictures that are decoded out of turn have another's.
        return stated_s if stated_s is not None and tally.last_packet != tally.packets else end_s
    if ("matroska" in name or name == "avi") and not is_cut_off(path):
        if stated_s is None and "DURATION" in stream.metadata:
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            stated_s = Fraction(hours) * 3600 + Fraction(minutes) * 60 + Fraction(seconds)
        if stated_s is None and not container.streams.audio and container.duration:
            stated_s = Fraction(container.duration, av.time_base)
        return max((s for s in (stated_s, end_s) if s is not None), default=None)
    return end_s


def is_cut_off(path: Path) -> bool:
    """Tell whether an AVI or Matroska file is shorter than it says."""
    with opened(path) as file:
        head = file.read(4096)
    size = path.stat().st_size
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 > size
    # The segment's size is written in as many bytes as its first byte has zeros before the first one, plus one.
    at = head.find(b"\x18\x53\x80\x67") + 4
    if at < 4 or not head[at : at + 1] or not head[at]:
        return True
    width = 9 - head[at].bit_length()
    stated = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    return stated != (1 << 7 * width) - 1 and at + width + stated > size


def later_recording(path: Path, container: InputContainer, read_to: int) -> int | None:
    """Give where another recording begins that libav does not read, in bytes; None where there is none.

    Files that were joined byte by byte end, for some containers, with the first of them. `read_to` is the end of the
    last packet that was read.
    """
    name, size = container.format.name, path.stat().st_size
    if "mp4" in name:
        return _second_film(path, size)
    if not (name == "flv" or "matroska" in name) or not 0 < read_to < size:
        return None
    with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        mark = b"FLV\x01" if name == "flv" else b"\x1a\x45\xdf\xa3"
        at = data.find(mark, read_to)
        while at >= 0:
            head = data[at : at + 64]
            if head[5:9] == b"\0\0\0\x09" if name == "flv" else b"matroska" in head or b"webm" in head:
                return at
            at = data.find(mark, at + 1)
    return None


def _second_film(path: Path, size: int) -> int | None:
    """Walk the boxes of an mp4 for a head behind the index; those of fragments are read by libav."""
    at, films, second = 0, 0, None
    with opened(path) as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if kind == b"moof":
                return None
            if kind == b"ftyp" and films and second is None:
                second = at
            films += kind == b"moov"
            if length < 8:
                break
            at += length
    return second if films > 1 else None
