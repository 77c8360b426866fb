"""Scores a folder of results, pair by pair over all processes, and sums them up in `R/scores.json`.

Each pair's scores appear whole in `R/scores`, so that a scoring that was killed goes on. Sums are taken by the first
process, in the order of the protocol, so that any number of processes gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_json
from triportrait.core.metrics.full_precision import PRECISION
from triportrait.core.metrics.rule_weights import RULE
from triportrait.serve.media.output_file import check_output, reason_of
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.metrics.bootstrap import mean_over_clips
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.definition import EVERY_KIND, Definition, Kind
from triportrait.train.evaluation.protocols.features import FOUND, key_of
from triportrait.train.evaluation.protocols.frames import content_hash
from triportrait.train.evaluation.protocols.records import NAME, Pair, Protocol
from triportrait.train.evaluation.protocols.results import Results
from triportrait.train.evaluation.protocols.scoring import (
    DRIVING,
    RESULT,
    SOURCE,
    Instruments,
    PairScorer,
    definitions_of,
    role_of,
    scores_to_json,
    stretches,
    write_json,
)

SCORES, FOLDER = "scores.json", "scores"
SCORES_KIND, VERSION = "triportrait scores", 1
ROWS = 1024  # of kept features that are held at a time
Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """Holds what a table prints of one metric and one kind of pair.

    Attributes:
        value: the mean over clips, or over groups, or the value of the whole set; None where there is none.
        low, high: ends of the 95 % interval of the bootstrap over clips.
        clips: how many went in.
        frames, missing: how many frames were measured, and left out for want of a face.
        note: a sentence for the reader.
        spread: the standard deviation over KID's subsets of one set; None for other metrics.
        by_rule: whether a network that it was measured with has weights made by rule, so that it says nothing about
            pictures.
    """

    kind: Kind
    metric: str
    value: float | None
    low: float | None
    high: float | None
    clips: int
    frames: int
    missing: int
    note: str = ""
    spread: float | None = None
    by_rule: bool = False


def score_results(
    results: Results,
    protocol: Protocol,
    instruments: Instruments,
    ranks: Ranks,
    empty: Mapping[str, str],
    tell: Callable[[int], None] = lambda pairs: None,
) -> dict[str, Any]:
    """Measure all results that are there, write `scores.json`, and return what it holds, on every rank.

    Args:
        empty: need -> why nothing stands for it, such as a network's file that was not given.
        tell: hears how many more pairs are done.

    Raises:
        InputError: no pair at all could be measured.
    """
    folder = results.folder / FOLDER
    with ranks.raise_on_all_ranks():
        check_output(results.folder / SCORES, overwrite=True, kinds=(".json",))
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: expected a folder for scores, it cannot be made ({reason_of(error)}); move it away"
            ) from error
    failed: dict[str, str] = {}
    for pair in protocol.pairs[ranks.rank :: ranks.size]:
        path = results.present.get(pair.name)
        if path is not None:
            try:
                _score_pair(folder, results.folder, path, protocol, pair, instruments)
            except InputError as error:
                failed[pair.name] = str(error)
            except OSError as error:
                reason = (error.strerror or type(error).__name__).lower()
                failed[pair.name] = f"{error.filename or folder}: it could not be read or written ({reason})"
        tell(1)
    all_failed: dict[str, str] = {}
    for some in ranks.all_gather(failed):
        all_failed |= some
    with ranks.raise_on_all_ranks():
        if len(all_failed) == len(results.present):
            first = next(pair.name for pair in protocol.pairs if pair.name in all_failed)
            raise InputError(
                f"{results.folder}: none of {len(all_failed)} results can be measured; {all_failed[first]}"
            )
        summary = _summed(folder, results, protocol, instruments, empty, all_failed) if ranks.first else {}
        if ranks.first:
            write_json(results.folder / SCORES, summary)
    return ranks.broadcast(summary)


def _score_pair(
    folder: Path, results: Path, path: Path, protocol: Protocol, pair: Pair, instruments: Instruments
) -> None:
    """Write the record of a pair, unless the same is there."""
    sha256 = content_hash(path)
    scorer = PairScorer(protocol, pair, results, path, sha256, instruments)
    made_from = {
        "protocol": protocol.sha256, "result": sha256, "networks": instruments.networks(),
        "metrics": {d.name: d.sentence for d in scorer.definitions}, "seconds": scorer.seconds,
    }  # fmt: skip
    record, strip = folder / f"{pair.name}.json", folder / f"{pair.name}.jpg"
    if strip.is_file() and _record(record).get("made_from") == made_from and scorer.features_kept():
        return
    scores = scorer.score(strip)
    write_json(record, {"pair": pair.name, "made_from": made_from, "scores": scores_to_json(scores)})


def _record(path: Path) -> Record:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _summed(
    folder: Path,
    results: Results,
    protocol: Protocol,
    instruments: Instruments,
    empty: Mapping[str, str],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    pairs = [pair for pair in protocol.pairs if pair.name in results.present and pair.name not in failed]
    records = {pair.name: _record(folder / f"{pair.name}.json") for pair in pairs}
    cells = []
    for kind in EVERY_KIND:
        of_kind = [pair for pair in pairs if pair.kind == kind]
        if of_kind:
            cells += list(_cells(kind, of_kind, records, protocol, instruments))
    wanted = {need for d in METRICS.values() for need in d.needs if need.startswith("weights:") or need == "faces"}
    have = set(instruments.networks())
    return {
        "kind": SCORES_KIND, "version": VERSION, "method": results.method, "protocol": protocol.sha256,
        "name": protocol.head.name, "networks": instruments.networks(), "precision": PRECISION, "card": results.card,
        "pairs": {kind: sum(pair.kind == kind for pair in protocol.pairs) for kind in EVERY_KIND},
        "missing": [pair.name for pair in protocol.pairs if pair.name not in results.present],
        "failed": dict(failed), "empty": {need: empty.get(need, "") for need in sorted(wanted - have)},
        "cells": [asdict(cell) for cell in cells],
        "scores": {name: record["scores"] for name, record in records.items()},
    }  # fmt: skip


def _cells(
    kind: Kind, pairs: Sequence[Pair], records: Mapping[str, Record], protocol: Protocol, instruments: Instruments
) -> Iterator[Cell]:
    timed = any("frame_rate" in records[pair.name]["scores"] for pair in pairs)
    by_rule = {need for need, identity in instruments.networks().items() if RULE in identity.split()}
    for definition in definitions_of(pairs[0], instruments, timed):
        if definition.level == "clip":
            scores = [records[pair.name]["scores"].get(definition.name) for pair in pairs]
            cell = _mean(kind, definition, [score for score in scores if score])
        else:
            groups: dict[str, list[Pair]] = {}
            for pair in pairs:
                groups.setdefault(pair.group if definition.level == "group" else "", []).append(pair)
            reduced = [
                scores_to_json({"": _reduced(definition, group, records, protocol, instruments)})[""]
                for group in groups.values()
            ]
            cell = _mean(kind, definition, reduced)
            if definition.level == "set":
                clips = 0 if cell.value is None else len(pairs)
                cell = replace(cell, clips=clips, spread=reduced[0]["spread"])
        yield replace(cell, by_rule=not by_rule.isdisjoint(definition.needs))


def _mean(kind: Kind, definition: Definition, scores: Sequence[Record]) -> Cell:
    """Average the scores of clips or groups; the one score of a set has no interval."""
    values = [score["value"] for score in scores if score["value"] is not None]
    frames, missing = (sum(score[key] for score in scores) for key in ("frames", "missing"))
    notes = [score["note"] for score in scores if score["note"]]
    note = notes[0] if notes else ""
    if note and len(scores) > 1:
        note = f"{len(notes)} of {len(scores)}: {note}"
    if not values:
        return Cell(kind, definition.name, None, None, None, 0, frames, missing, note)
    mean = mean_over_clips(values)
    return Cell(kind, definition.name, mean.mean, mean.low, mean.high, mean.clips, frames, missing, note)


def _reduced(
    definition: Definition, pairs: Sequence[Pair], records: Mapping[str, Record], protocol: Protocol,
    instruments: Instruments,
) -> Any:  # fmt: skip
    """Reduce the kept features of many pairs, in their order."""
    reduction = definition.start()
    for pair in pairs:
        of_pair = stretches(protocol, pair, records[pair.name]["made_from"]["result"])
        kept = []
        for name in definition.reads:
            role, field = role_of(name, pair)
            assert role in (RESULT, DRIVING, SOURCE)
            extractor, stretch = instruments.fields_of(field), of_pair[role]
            key = key_of(stretch.content, stretch.first, stretch.count, stretch.crop, extractor)
            rows = instruments.cache.find(key)
            if rows is None:
                raise InputError(f"{instruments.cache.folder}: what was kept there is gone; score again")
            kept.append((rows, field))
        for start in range(0, pair.frames, ROWS):
            parts = [rows.part(start, min(start + ROWS, pair.frames)) for rows, _ in kept]
            found = np.logical_and.reduce([part[FOUND] for part in parts])
            reduction.add(
                *(part[field] for part, (_, field) in zip(parts, kept, strict=True)),
                found=found if "faces" in definition.needs else None,
            )
    return reduction.score()


def read_scores(folder: Path) -> dict[str, Any]:
    """Return what `score` wrote into a folder of results.

    Raises:
        InputError: there is nothing, or something else.
    """
    path = folder / SCORES
    try:
        scores = read_json(path, MOST_INDEX)
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{path}: expected scores, they cannot be read ({words.lower()}); make them by `triportrait evaluate score"
            f" {folder} --protocol PROTOCOL`"
        ) from error
    if not isinstance(scores, dict) or scores.get("kind") != SCORES_KIND or scores.get("version") != VERSION:
        raise InputError(f"{path}: expected scores of version {VERSION}, got something else; score the results again")
    try:
        scores["cells"] = [Cell(**cell) for cell in scores["cells"]]
        assert all(isinstance(scores[key], dict) for key in ("scores", "failed", "empty", "networks", "pairs"))
        assert isinstance(scores["missing"], list)
        assert all(isinstance(scores[key], str) for key in ("method", "protocol", "name"))
        assert all(cell.metric in METRICS and cell.kind in EVERY_KIND for cell in scores["cells"])
        numbers = [v for cell in scores["cells"] for v in (cell.value, cell.low, cell.high, cell.spread)]
        assert all(map(_is_number, numbers)) and all(isinstance(cell.note, str) for cell in scores["cells"])
        assert all(type(cell.by_rule) is bool for cell in scores["cells"])
        assert all(type(v) is int for cell in scores["cells"] for v in (cell.clips, cell.frames, cell.missing))
        assert all(NAME.fullmatch(name) for name in [*scores["scores"], *scores["failed"], *scores["missing"]])
        assert all(_is_number(s["value"]) for pair in scores["scores"].values() for s in pair.values())
        assert isinstance(scores["card"], dict) and all(type(count) is int for count in scores["pairs"].values())
    except (KeyError, TypeError, AssertionError) as error:
        raise InputError(
            f"{path}: expected scores of version {VERSION}, entries differ; score the results again"
        ) from error
    return scores


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)
