"""The end of a container: when its last picture ends, whether the file is truncated, and what follows it."""

from __future__ import annotations

import mmap
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from triportrait.core.files import opened
from triportrait.serve.media.video.decoding import Tally

_SEGMENT = b"\x18\x53\x80\x67"  # holds all of a Matroska file but its head
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
        # Its lengths are in the order of decoding: the picture that is shown last may carry another one's.
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
    """Tell whether a file is shorter than its head says; True, too, where it has no head of AVI or Matroska."""
    with opened(path) as file:
        head = file.read(4096)
    size = path.stat().st_size
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 > size
    at = head.find(_SEGMENT) + 4
    if at < 4 or not head[at : at + 1] or not head[at]:
        return True
    begin, stated = _ebml_size(head, at)
    return stated is not None and begin + stated > size


def _ebml_size(data: bytes | mmap.mmap, at: int) -> tuple[int, int | None]:
    """Read a size of variable length: it has as many bytes as zero bits before the first one bit, plus one.

    Returns: (where what has that size begins, the size; None where it is unknown, all bits being ones).
    """
    width = 9 - data[at].bit_length()
    unknown = (1 << 7 * width) - 1
    size = int.from_bytes(data[at : at + width], "big") & unknown
    return at + width, None if size == unknown else size


def appended_recording(path: Path, container: InputContainer, read_to: int) -> str | None:
    """Describe the part of a file that libav skips or mistimes, a second recording behind the first; None without one.

    Where files were joined byte by byte, libav stops in some containers behind the first, or reads the rest in part.
    `read_to` is the end of the last packet that was read.
    """
    name, size = container.format.name, path.stat().st_size
    at, nothing_read_after = None, True
    if "mp4" in name:
        at, nothing_read_after = _second_mp4(path, size)
    elif name == "avi":
        at = _second_avi(path, size)
        if at is not None:
            return (
                f"another recording begins in it at byte {at}, from where sound and picture may drift apart or "
                "stop, as AVI stores no times; split the file there, or convert it"
            )
    elif name in ("flv", "ogg") or "matroska" in name:
        with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = _next_head(data, name, read_to) if 0 < read_to < size else None
            if at is None and "matroska" in name and _end_of_last_cluster(data) > read_to + _TRAILING:
                at, nothing_read_after = _next_head(data, name, 1), False
            elif name == "ogg":
                at, nothing_read_after = _second_ogg(data), False
            elif at is None and name == "flv" and not container.streams.audio:
                at = _first_sound(data)
                if at is not None:
                    return f"its sound begins only at byte {at} and is not read; split the file there, or convert it"
    if at is None:
        return None
    what = "which is not read" if nothing_read_after else "which may be read only in part"
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


def _end_of_last_cluster(data: mmap.mmap) -> int:
    """Find where the last cluster of a Matroska file ends; 0 where it has none."""
    at = data.rfind(_CLUSTER) + 4
    if at < 4 or at + 8 > len(data) or not data[at]:
        return 0
    begin, length = _ebml_size(data, at)
    return len(data) if length is None else min(len(data), begin + length)


def _second_ogg(data: mmap.mmap) -> int | None:
    """Find a first page of a stream behind the first pages that begin the file: recordings that were chained."""
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
    """Walk the chunks of an AVI for a second head; large files go on in chunks `RIFF AVIX`, which are none."""
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


def _second_mp4(path: Path, size: int) -> tuple[int | None, bool]:
    """Walk the boxes of an mp4 for a second `ftyp`, behind a `moov`.

    Returns: (where it is, whether libav reads nothing from there on: where there are fragments it reads some).
    """
    at, moov_count, second, nothing_read_after = 0, 0, None, True
    with opened(path) as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if kind == b"ftyp" and moov_count and second is None:
                second = at
            moov_count += kind == b"moov"
            nothing_read_after &= kind != b"moof"
            if length < 8:
                break
            at += length
    return (second if moov_count > 1 else None), nothing_read_after
