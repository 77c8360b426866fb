"""Reads and writes protocol files: JSON lines, a head, then clips, then the pairs of a source and a driving clip.

Everything that changes a number stands in the file: which frames, how they are cropped, which networks (by hash), and
the choices that papers leave open. Two results may be compared where the bytes of their protocols are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, parsed_json, read_bytes
from triportrait.core.safe_text import LONGEST_NAME, literal, shown
from triportrait.train.evaluation.metrics.definition import EVERY_KIND, Kind

FILE_KIND, VERSION = "triportrait protocol", 1
MOST_PAIRS, MOST_CLIPS, MOST_FRAMES = 100_000, 20_000, 100_000
SMALLEST_PX, LARGEST_PX = 64, 2048
Crop = Literal["whole", "aligned"]
CameraName = Literal["driving", "front"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MAKE_ANEW = "make it anew by `triportrait evaluate protocol`"


@dataclass(frozen=True)
class Choice:
    """Names what was chosen where papers differ or say nothing, and says what it means."""

    value: str
    sentence: str


@dataclass(frozen=True)
class Head:
    """Holds what all pairs share.

    Attributes:
        name: which protocol: `p4d-table1` and its like.
        seed: decides who drives whom.
        size_px: side S of every compared picture.
        crop: `whole`: frames are squares and are resized to S; `aligned`: each frame is cut by the square of its clip.
        frames: how many frames of a clip are used at most.
        metrics: names of the definitions that tables print first.
        networks: names of metric networks -> SHA-256 of the file that has to be used; others are recorded when scored.
        choices: what the paper leaves open -> what is done here.
    """

    name: str
    seed: int
    size_px: int
    crop: Crop
    frames: int
    metrics: tuple[str, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipRecord:
    """Describes one clip.

    Attributes:
        name: of its record, unique.
        file: its path from the protocol's folder, with `/`; a video, or a folder of pictures.
        sha256: of its bytes, see `frames.content_hash`.
        frames: T, how many frames it has, those beyond the head's number left out.
        fps: frames per second.
        has_sound: whether it has a sound track.
        identity: who is seen; clips of one identity do not drive each other in cross-reenactment.
        squares: for the crop `aligned`, (left, top, side) of each frame in pixels; empty otherwise.
    """

    name: str
    file: str
    sha256: str
    frames: int
    fps: float
    has_sound: bool
    identity: str
    squares: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Pair:
    """Says which source is driven by which frames.

    Attributes:
        name: of the pair and of its results, unique.
        kind: `self`, `cross`, `consistency` or `sound`.
        group: pairs of one group are measured together; of consistency, all drivers of one source.
        source, source_frame: the clip and the frame that give the head.
        driving: the clip that drives. first, frames: which of its frames, in order.
        camera: `driving`: as the driving frame is seen; `front`: from the front, the neck at rest.
    """

    name: str
    kind: Kind
    group: str
    source: str
    source_frame: int
    driving: str
    first: int
    frames: int
    camera: CameraName = "driving"


@dataclass(frozen=True)
class Protocol:
    """Holds a protocol file.

    Attributes:
        folder: where it lies, to which the paths of clips count.
        sha256: of its bytes.
    """

    folder: Path
    sha256: str
    head: Head
    clips: Mapping[str, ClipRecord]
    pairs: tuple[Pair, ...]

    def path_of(self, clip: str) -> Path:
        """Return where a clip lies.

        Raises:
            InputError: it is missing or lies outside the protocol's folder.
        """
        return inside(self.folder, self.clips[clip].file)

    def check_files(self) -> None:
        """Check before any work that every clip is there and lies inside. Raises: `InputError` for the first."""
        for clip in self.clips:
            self.path_of(clip)


def inside(folder: Path, file: str) -> Path:
    """Return a path of a protocol.

    Raises:
        InputError: it leads outside the folder, also by a link, or nothing is there.
    """
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or ":" in path.parts[0] or "\0" in file:
        raise InputError(
            f"{literal(file)}: expected a path inside the protocol's folder, got one that leads out of it; {_MAKE_ANEW}"
        )
    found = folder / path
    if not found.exists():
        raise InputError(f"{found}: the protocol names this clip and it is missing; bring it back, or {_MAKE_ANEW}")
    if not found.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{found}: expected a clip inside the protocol's folder, got a link out of it; copy the clip")
    return found


def protocol_bytes(head: Head, clips: list[ClipRecord], pairs: list[Pair]) -> bytes:
    """Return the bytes of a protocol file; the same protocol has the same bytes."""
    choices = {name: {"value": c.value, "sentence": c.sentence} for name, c in sorted(head.choices.items())}
    lines: list[dict[str, Any]] = [
        {
            "kind": FILE_KIND, "version": VERSION, "name": head.name, "seed": head.seed, "size_px": head.size_px,
            "crop": head.crop, "frames": head.frames, "metrics": list(head.metrics),
            "networks": dict(sorted(head.networks.items())), "choices": choices,
            "clips": len(clips), "pairs": len(pairs),
        }
    ]  # fmt: skip
    for clip in clips:
        line: dict[str, Any] = {
            "clip": clip.name, "file": clip.file, "sha256": clip.sha256, "frames": clip.frames,
            "fps": round(clip.fps, 6), "sound": clip.has_sound, "identity": clip.identity,
        }  # fmt: skip
        lines.append(line | ({"squares": [list(square) for square in clip.squares]} if clip.squares else {}))
    for pair in pairs:
        lines.append(
            {
                "pair": pair.name, "kind": pair.kind, "group": pair.group,
                "source": {"clip": pair.source, "frame": pair.source_frame},
                "driving": {"clip": pair.driving, "first": pair.first, "frames": pair.frames}, "camera": pair.camera,
            }
        )  # fmt: skip
    return "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines).encode()


def read_protocol(path: Path) -> Protocol:
    """Read and check a protocol file; the clips themselves are looked at by `Protocol.check_files`.

    Raises:
        InputError: it cannot be read, is no protocol, or contradicts itself.
    """
    try:
        data = read_bytes(path, MOST_INDEX)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{path}: expected a protocol file, it cannot be read ({reason}); {_MAKE_ANEW}") from error
    lines = data.splitlines()
    if len(lines) > 1 + MOST_CLIPS + MOST_PAIRS:
        raise InputError(
            f"{path}: expected at most {1 + MOST_CLIPS + MOST_PAIRS:,} lines, got {len(lines):,}; split the protocol"
        )
    records = [_Record.parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    if not records or records[0].values.get("kind") != FILE_KIND:
        raise InputError(f"{path}: expected a protocol file, its first line is no head of one; {_MAKE_ANEW}")
    head, counts = _head(records[0])
    clips = [_clip(record, head) for record in records[1 : 1 + counts[0]]]
    by_name = {clip.name: clip for clip in clips}
    pairs = [_pair(record, by_name) for record in records[1 + counts[0] :]]
    if (len(clips), len(pairs)) != counts:
        raise InputError(
            f"{path}: expected {counts[0]} clips and {counts[1]} pairs, as its head says, got {len(clips)} and"
            f" {len(pairs)}; {_MAKE_ANEW}"
        )
    for what, names in (("clip", [c.name for c in clips]), ("pair", [p.name for p in pairs])):
        if len({name.casefold() for name in names}) != len(names):
            raise InputError(f"{path}: expected a name of its own for each {what}, got one twice; {_MAKE_ANEW}")
    return Protocol(path.absolute().parent, hashlib.sha256(data).hexdigest(), head, by_name, tuple(pairs))


@dataclass(frozen=True)
class _Record:
    """Holds one line, whose values are checked as they are taken."""

    path: Path
    line: int
    values: dict[str, Any]

    @classmethod
    def parsed(cls, path: Path, line: int, data: bytes) -> _Record:
        try:
            values = parsed_json(data)
        except ValueError as error:
            raise InputError(f"{path}: line {line} is no JSON ({error}); {_MAKE_ANEW}") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: line {line}: expected an object, got {shown(values)}; {_MAKE_ANEW}")
        return cls(path, line, values)

    def inner(self, name: str) -> _Record:
        return _Record(self.path, self.line, self.take(name, lambda v: isinstance(v, dict), "an object"))

    def take(self, name: str, fits: Callable[[Any], bool], wanted: str) -> Any:
        value = self.values.get(name)
        if not fits(value):
            raise InputError(
                f"{self.path}: line {self.line}: {name}: expected {wanted}, got {literal(value, LONGEST_NAME)};"
                f" {_MAKE_ANEW}"
            )
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        fits: Callable[[Any], bool] = lambda v: type(v) is int and low <= v <= high  # noqa: E731
        return int(self.take(name, fits, f"a whole number from {low} to {high}"))

    def text(self, name: str) -> str:
        return str(self.take(name, lambda v: isinstance(v, str) and 0 < len(v) <= 500, "a text"))

    def named(self, name: str) -> str:
        wanted = "a name of up to 80 letters, digits, dots, dashes and underscores"
        return str(self.take(name, lambda v: isinstance(v, str) and bool(NAME.fullmatch(v)), wanted))

    def one_of(self, name: str, values: tuple[str, ...]) -> Any:
        return self.take(name, lambda v: v in values, f"one of {', '.join(values)}")


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and bool(_HASH.fullmatch(value))


def _head(record: _Record) -> tuple[Head, tuple[int, int]]:
    record.take("version", lambda v: v == VERSION, f"version {VERSION}")
    metrics = record.take(
        "metrics", lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v), "a list of names"
    )
    networks = record.take(
        "networks", lambda v: isinstance(v, dict) and all(map(_is_hash, v.values())), "names with SHA-256"
    )
    named = record.inner("choices")
    choices = {
        name: Choice(named.inner(name).text("value"), named.inner(name).text("sentence")) for name in named.values
    }
    head = Head(
        record.named("name"), record.whole("seed", 0, 2**31), record.whole("size_px", SMALLEST_PX, LARGEST_PX),
        record.one_of("crop", get_args(Crop)), record.whole("frames", 1, MOST_FRAMES), tuple(metrics), networks,
        choices,
    )  # fmt: skip
    return head, (record.whole("clips", 1, MOST_CLIPS), record.whole("pairs", 1, MOST_PAIRS))


def _clip(record: _Record, head: Head) -> ClipRecord:
    count = record.whole("frames", 1, head.frames)
    squares = record.values.get("squares", [])
    if head.crop == "aligned":
        record.take("squares", lambda v: _are_squares(v, count), f"{count} squares [left, top, side > 0]")
    fps = record.take("fps", lambda v: type(v) in (int, float) and 0 < v <= 1000, "a rate above 0")
    return ClipRecord(
        record.named("clip"), record.text("file"), record.take("sha256", _is_hash, "a SHA-256"), count, float(fps),
        record.take("sound", lambda v: isinstance(v, bool), "true or false"), record.text("identity"),
        tuple((float(a), float(b), float(c)) for a, b, c in squares),
    )  # fmt: skip


def _are_squares(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(
            isinstance(square, list)
            and len(square) == 3
            and all(type(number) in (int, float) and abs(number) <= 1e6 for number in square)
            and square[2] >= 1
            for square in value
        )
    )


def _pair(record: _Record, clips: Mapping[str, ClipRecord]) -> Pair:
    source, driving = record.inner("source"), record.inner("driving")
    for role in (source, driving):
        role.take("clip", lambda v: v in clips, "a clip of this protocol")
    frames_of_source, frames_of_driving = (clips[role.values["clip"]].frames for role in (source, driving))
    first = driving.whole("first", 0, frames_of_driving - 1)
    pair = Pair(
        record.named("pair"), record.one_of("kind", EVERY_KIND), record.named("group"), source.values["clip"],
        source.whole("frame", 0, frames_of_source - 1), driving.values["clip"], first,
        driving.whole("frames", 1, frames_of_driving - first), record.one_of("camera", get_args(CameraName)),
    )  # fmt: skip
    if pair.kind == "self" and pair.source != pair.driving:
        record.take("kind", lambda v: False, "one clip as source and driving of a pair of kind self")
    return pair
