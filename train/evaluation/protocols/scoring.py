"""Measures one pair: walks its result and its driving frames once, side by side, in small portions.

What networks read is kept by the hash of the pictures (`features`), so that a second walk decodes only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.catalogue import measurable
from triportrait.train.evaluation.metrics.definition import Definition, Need, Reduction, Score
from triportrait.train.evaluation.protocols.features import (
    FOUND,
    Extractor,
    FeatureCache,
    Kept,
    Rows,
    Walk,
    Writer,
    key_of,
)
from triportrait.train.evaluation.protocols.frames import PORTION, clip_frames, portions, raw_frames
from triportrait.train.evaluation.protocols.network_features import LpipsComparison, head_masks
from triportrait.train.evaluation.protocols.records import Pair, Protocol
from triportrait.train.evaluation.protocols.results import seconds_of
from triportrait.train.evaluation.protocols.sync_features import LipSync, sound_of

STRIP_PX = 192  # side of each picture of a strip
RESULT, DRIVING, SOURCE = "result", "driving", "source"


@dataclass(frozen=True)
class Instruments:
    """Holds what scores are measured with.

    Attributes:
        extractors: those of faces first, as others need them.
        cache: where what they read is kept.
        comparisons: what compares two pictures. lip_sync: what compares lips and sound.
    """

    extractors: tuple[Extractor, ...]
    cache: FeatureCache
    comparisons: tuple[LpipsComparison, ...] = ()
    lip_sync: LipSync | None = None

    def networks(self) -> dict[str, str]:
        """Return what a score depends on: need -> identity of what stands for it."""
        lip_sync = () if self.lip_sync is None else (self.lip_sync,)
        return {each.need: each.identity for each in (*self.extractors, *self.comparisons, *lip_sync)}

    def fields_of(self, field: str) -> Extractor:
        """Return which extractor gives a field."""
        return next(extractor for extractor in self.extractors if field in extractor.fields)


@dataclass(frozen=True)
class Stretch:
    """Names frames that an extractor reads: a part of a clip, or a result.

    Attributes:
        content: SHA-256 of the clip. crop: JSON values that say how frames are cut.
    """

    content: str
    first: int
    count: int
    crop: Any


def stretches(protocol: Protocol, pair: Pair, result_sha256: str) -> dict[str, Stretch]:
    """Return the frames that each role of a pair has."""
    head = protocol.head

    def of_clip(name: str, first: int, count: int) -> Stretch:
        clip = protocol.clips[name]
        squares = [list(square) for square in clip.squares[first : first + count]]
        return Stretch(clip.sha256, first, count, [head.crop, head.size_px, squares])

    return {
        RESULT: Stretch(result_sha256, 0, pair.frames, ["result"]),
        DRIVING: of_clip(pair.driving, pair.first, pair.frames),
        SOURCE: of_clip(pair.source, pair.source_frame, 1),
    }


def role_of(name: str, pair: Pair) -> tuple[str, str]:
    """Split the name of an input; in self-reenactment the truth is the driving frame."""
    role, _, field = name.partition(".")
    return (DRIVING if role == "truth" else role), field


class PairScorer:
    """Measures one pair.

    Args:
        result: where its result lies. result_sha256: of it.
    """

    def __init__(
        self, protocol: Protocol, pair: Pair, folder: Path, result: Path, result_sha256: str, instruments: Instruments
    ) -> None:
        self.protocol, self.pair, self.result, self.instruments = protocol, pair, result, instruments
        self.stretches = stretches(protocol, pair, result_sha256)
        self.seconds = seconds_of(folder, pair)
        self.definitions = definitions_of(pair, instruments, self.seconds is not None)

    def score(self, strip: Path) -> dict[str, Score]:
        """Measure, and write a strip of three pictures: source, driving frame and result in the clip's middle.

        Raises:
            InputError: pictures are missing, damaged or of another size or count.
        """
        self._walk(strip)
        runs = {
            d.name: _Run(d)
            for d in self.definitions
            if d.level == "clip" and not _reads_frames(d) and "sound" not in d.needs
        }
        for start in range(0, self.pair.frames, PORTION):
            stop = min(start + PORTION, self.pair.frames)
            for run in runs.values():
                run.add(*self._inputs(run.definition, start, stop, {}))
        scores = self.scores | {name: run.score() for name, run in runs.items()} | self._lip_sync()
        return {d.name: scores[d.name] for d in self.definitions if d.level == "clip"}

    def _lip_sync(self) -> dict[str, Score]:
        """Measure lips against the driver's sound, for which the result is decoded once more."""
        runs = [_Run(d) for d in self.definitions if "sound" in d.needs]
        if not runs or self.instruments.lip_sync is None:
            return {}
        pair, clip = self.pair, self.protocol.clips[self.pair.driving]
        landmarks = self.kept[RESULT, "landmarks"]
        try:
            sound = sound_of(self.protocol.path_of(clip.name), pair.first / clip.fps, pair.frames / clip.fps)
            lips, heard, seen = self.instruments.lip_sync.embed(
                _sized(self.result, pair.frames, self.protocol.head.size_px), np.array(landmarks.rows["landmarks"]),
                np.array(landmarks.rows[FOUND]), clip.fps, sound,
            )  # fmt: skip
        except InputError as error:
            return {run.definition.name: Score(None, 0, 0, str(error)) for run in runs}
        for run in runs:
            run.add([lips, heard], seen)
        return {run.definition.name: run.score() for run in runs}

    def features_kept(self) -> bool:
        """Tell whether everything that networks read for this pair is still kept."""
        return all(
            kept is not None
            for role, stretch in self.stretches.items()
            for kept in _Reader(self.instruments, stretch, self._wanted(role)).kept
        )

    def _walk(self, strip: Path) -> None:
        """Walk the pictures once: features that are missing, and metrics of the pictures themselves."""
        readers = {role: _Reader(self.instruments, stretch, self._wanted(role)) for role, stretch in
                   self.stretches.items()}  # fmt: skip
        runs = [_Run(d) for d in self.definitions if d.level == "clip" and _reads_frames(d)]
        self.kept: dict[tuple[str, str], Kept] = {}
        with ExitStack() as stack:
            for reader in readers.values():
                stack.callback(reader.abandon)
            (source,) = clip_frames(self.protocol, self.pair.source, self.pair.source_frame, 1)
            readers[SOURCE].add(source[None])
            shown, start = self.pair.frames // 2, 0
            for result, driving in self._side_by_side():
                stop = start + len(result)
                pictures = {RESULT: result, DRIVING: driving, SOURCE: np.stack([source])}
                readers[RESULT].add(result)
                faces = readers[DRIVING].add(driving)
                compared = self._compared(result, driving, faces)
                for run in runs:
                    if run.definition.reads[0].startswith("pair."):
                        run.add(*_compared_inputs(run.definition, compared))
                    else:
                        run.add(*self._inputs(run.definition, start, stop, pictures))
                if start <= shown < stop:
                    _write_strip(strip, (source, driving[shown - start], result[shown - start]))
                start = stop
            for role, reader in readers.items():
                self.kept |= {(role, field): kept for field, kept in reader.done().items()}
        self.scores = {run.definition.name: run.score() for run in runs}

    def _side_by_side(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pair, size = self.pair, self.protocol.head.size_px
        driving = portions(clip_frames(self.protocol, pair.driving, pair.first, pair.frames))
        results = portions(_sized(self.result, pair.frames, size))
        yield from zip(results, driving, strict=True)

    def _compared(self, result: np.ndarray, truth: np.ndarray, faces: Rows | None) -> Rows:
        """Compare results and truths by networks that look at both."""
        wanted = {name.partition(".")[2] for d in self.definitions for name in d.reads if name.startswith("pair.")}
        rows: Rows = {}
        if wanted and faces is not None:
            rows["head_mask"] = head_masks(faces, self.protocol.head.size_px)
            rows[FOUND] = np.asarray(rows["head_mask"].any(axis=(1, 2)))
        for comparison in self.instruments.comparisons:
            if wanted & {*comparison.fields}:
                rows |= comparison.compare(result, truth, wanted, rows.get("head_mask"))
        return rows

    def _wanted(self, role: str) -> list[Extractor]:
        """Return what has to be read off the frames of a role, for any metric of this kind of pair."""
        fields = {
            field for d in self.definitions for r, field in (role_of(name, self.pair) for name in d.reads) if r == role
        } - {"frames", "seconds", "head_mask", *LipSync.fields}
        wanted = {id(self.instruments.fields_of(field)) for field in fields}
        needs_faces = any(e.need not in ("faces", "weights:inception") for e in self.instruments.extractors
                          if id(e) in wanted)  # fmt: skip
        needs_faces |= role == RESULT and any("sound" in d.needs for d in self.definitions)
        needs_faces |= role == DRIVING and any("truth.head_mask" in d.reads for d in self.definitions)
        return [e for e in self.instruments.extractors if id(e) in wanted or (needs_faces and e.need == "faces")]

    def _inputs(
        self, definition: Definition, start: int, stop: int, pictures: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        arrays: list[np.ndarray] = []
        found: np.ndarray = np.ones(stop - start, bool)
        for name in definition.reads:
            role, field = role_of(name, self.pair)
            if field == "frames":
                arrays.append(pictures[role])
            elif field == "seconds":
                assert self.seconds is not None
                arrays.append(np.full(stop - start, self.seconds / self.pair.frames))
            else:
                kept = self.kept[role, field]
                rows = slice(0, 1) if role == SOURCE else slice(start, stop)
                arrays.append(np.array(kept.rows[field][rows]))
                found = np.asarray(found & kept.rows[FOUND][rows])
        return arrays, found if "faces" in definition.needs else None


def definitions_of(pair: Pair, instruments: Instruments, timed: bool) -> list[Definition]:
    """Return what can be measured of a pair."""
    available: list[Need] = ["truth"] if pair.kind == "self" else []
    available += instruments.networks()  # type: ignore[arg-type]
    if timed:
        available.append("seconds")
    if "weights:syncnet" in available:
        available.append("sound")
    return measurable(pair.kind, available)


class _Run:
    """Reduces one definition; what it cannot be computed from is its note, and the other metrics go on."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.reduction: Reduction = definition.start()
        self.refusal = ""

    def add(self, arrays: Sequence[np.ndarray], found: np.ndarray | None) -> None:
        if not self.refusal:
            try:
                self.reduction.add(*arrays, found=found)
            except InputError as error:
                self.refusal = str(error)

    def score(self) -> Score:
        return Score(None, 0, 0, self.refusal) if self.refusal else self.reduction.score()


class _Reader:
    """Reads the features of one role that are not kept yet."""

    def __init__(self, instruments: Instruments, stretch: Stretch, wanted: Sequence[Extractor]) -> None:
        self.cache, self.wanted, self.count = instruments.cache, wanted, 0
        self.keys = [key_of(stretch.content, stretch.first, stretch.count, stretch.crop, e) for e in wanted]
        self.kept = [self.cache.find(key) for key in self.keys]
        self.walks: list[tuple[Walk, Writer] | None] = [
            (e.start(), self.cache.writer(key)) if kept is None else None
            for e, key, kept in zip(wanted, self.keys, self.kept, strict=True)
        ]

    def add(self, frames: np.ndarray) -> Rows | None:
        """Read the next frames; return what was read off their faces, where that is wanted."""
        faces: Rows | None = None
        stop = self.count + len(frames)
        for extractor, kept, walk in zip(self.wanted, self.kept, self.walks, strict=True):
            if walk is not None:
                rows = walk[0].add(frames, faces)
                walk[1].add(rows)
            elif extractor.need == "faces":
                assert kept is not None
                rows = kept.part(self.count, stop)
            else:
                continue
            if extractor.need == "faces":
                faces = rows
        self.count = stop
        return faces

    def done(self) -> dict[str, Kept]:
        """Keep what was read; return each field's rows."""
        for walk in self.walks:
            if walk is not None:
                walk[1].done()
        self.walks = [None] * len(self.wanted)
        kept: dict[str, Kept] = {}
        for extractor, key in zip(self.wanted, self.keys, strict=True):
            found = self.cache.find(key)
            if found is None:
                raise InputError(f"{self.cache.folder}: what was kept there is gone; score again, once at a time")
            kept |= dict.fromkeys(extractor.fields, found)
        return kept

    def abandon(self) -> None:
        for walk in self.walks:
            if walk is not None:
                walk[1].abandon()


def _reads_frames(definition: Definition) -> bool:
    return any(name.endswith(".frames") or name.startswith("pair.") for name in definition.reads)


def _compared_inputs(definition: Definition, compared: Rows) -> tuple[list[np.ndarray], np.ndarray | None]:
    arrays = [compared[name.partition(".")[2]] for name in definition.reads]
    return arrays, compared[FOUND] if "faces" in definition.needs else None


def _sized(path: Path, count: int, size_px: int) -> Iterator[np.ndarray]:
    """Give the frames of a result. Raises: `InputError` for another size or count."""
    for number, image in enumerate(raw_frames(path, 0, count, whole=True)):
        if image.shape[:2] != (size_px, size_px):
            height, width = image.shape[:2]
            raise InputError(
                f"{path}: expected {size_px} x {size_px} px as the protocol says, got {width} x {height} in frame"
                f" {number}; make the results in that size"
            )
        yield image


def _write_strip(path: Path, pictures: Sequence[np.ndarray]) -> None:
    from PIL import Image

    small = [
        np.asarray(Image.fromarray(picture).resize((STRIP_PX, STRIP_PX), Image.Resampling.LANCZOS))
        for picture in pictures
    ]
    with replacing(path, only_writer=True) as temporary:
        Image.fromarray(np.concatenate(small, 1)).save(temporary, format="JPEG", quality=88)


def scores_to_json(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Return scores as JSON values."""
    return {
        name: {"value": s.value, "frames": s.frames, "missing": s.missing, "note": s.note, "spread": s.spread}
        for name, s in scores.items()
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON that nobody else writes at the same time; it appears whole."""
    with replacing(path, only_writer=True) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")
