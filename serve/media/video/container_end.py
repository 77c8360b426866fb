"""What a container says of its end: when its last picture does, whether it was cut off, what lies behind it."""

from __future__ import annotations

import mmap
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from triportrait.core.files import opened
from triportrait.serve.media.video.decoding import Tally

_CLUSTER = b"\x1f\x43\xb6\x75"  # holds the packets of a Matroska file
_TRAILING = 64  # bytes that may follow the last packet in it


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


def unread(path: Path, container: InputContainer, read_to: int) -> str | None:
    """Say what libav does not read of a file, or not as it was; None where there is no such thing.

    Files that were joined byte by byte end, for some containers, with the first of them, or go on in part. `read_to` is
    the end of the last packet that was read.
    """
    name, size = container.format.name, path.stat().st_size
    at, all_of_it = None, True
    if "mp4" in name:
        at, all_of_it = _second_film(path, size)
    elif name == "avi":
        at = _second_avi(path, size)
        if at is not None:
            return (
                f"another recording begins in it at byte {at}, where sound and picture may part or end, as AVI keeps "
                "no times; split the file there, or convert it"
            )
    elif name in ("flv", "ogg") or "matroska" in name:
        with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = _next_head(data, name, read_to) if 0 < read_to < size else None
            if at is None and "matroska" in name and _last_block(data) > read_to + _TRAILING:
                at, all_of_it = _next_head(data, name, 1), False
            elif name == "ogg":
                at, all_of_it = _second_ogg(data), False
            elif at is None and name == "flv" and not container.streams.audio:
                at = _first_sound(data)
                if at is not None:
                    return f"its sound begins only at byte {at} and is not read; split the file there, or convert it"
    if at is None:
        return None
    what = "which cannot be read on to" if all_of_it else "which may not be read to its end"
    return f"another recording begins in it at byte {at}, {what}; split the file there, or convert it"


def _next_head(data: mmap.mmap, name: str, begin: int) -> int | None:
    """Find where, from `begin` on, an FLV or a Matroska file begins."""
    mark = b"FLV\x01" if name == "flv" else b"\x1a\x45\xdf\xa3"
    at = data.find(mark, begin)
    while at >= 0:
        head = data[at : at + 64]
        if head[5:9] == b"\0\0\0\x09" if name == "flv" else b"matroska" in head or b"webm" in head:
            return at
        at = data.find(mark, at + 1)
    return None


def _last_block(data: mmap.mmap) -> int:
    """Give where the last packets of a Matroska file end; 0 where there are none."""
    at = data.rfind(_CLUSTER) + 4
    if at < 4 or at + 8 > len(data) or not data[at]:
        return 0
    width = 9 - data[at].bit_length()
    length = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return min(len(data), at + width + length)


def _second_ogg(data: mmap.mmap) -> int | None:
    """Find a first page of a stream behind the pages that all streams of a recording begin with."""
    at = 0
    while data[at : at + 4] == b"OggS" and data[at + 5] & 2:
        lengths = data[at + 27 : at + 27 + data[at + 26]]
        at += 27 + len(lengths) + sum(lengths)
    at = data.find(b"OggS\0\x02", at)
    while at >= 0:
        if data[at + 18 : at + 22] == b"\0\0\0\0":  # the number of the page
            return at
        at = data.find(b"OggS\0\x02", at + 1)
    return None


def _second_avi(path: Path, size: int) -> int | None:
    """Walk the chunks of an AVI for a head behind the first; large files go on in others, of another kind."""
    at = 0
    with opened(path) as file:
        while at + 12 <= size:
            file.seek(at)
            head = file.read(12)
            if head[:4] != b"RIFF":
                return None
            if at and head[8:] == b"AVI ":
                return at
            length = int.from_bytes(head[4:8], "little")
            at += 8 + length + length % 2
    return None


def _first_sound(data: mmap.mmap) -> int | None:
    """Walk the tags of an FLV for the first of sound."""
    at = 13
    while at + 11 <= len(data):
        if data[at] & 0x1F == 8:
            return at
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    return None


def _second_film(path: Path, size: int) -> tuple[int | None, bool]:
    """Walk the boxes of an mp4 for a head behind the index.

    Returns: (where it is, whether libav reads nothing from there on: of fragments it reads some).
    """
    at, films, second, whole = 0, 0, None, True
    with opened(path) as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if kind == b"ftyp" and films and second is None:
                second = at
            films += kind == b"moov"
            whole &= kind != b"moof"
            if length < 8:
                break
            at += length
    return (second if films > 1 else None), whole
