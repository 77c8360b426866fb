"""Protocol files: the same clips and seed give the same bytes, and what could mislead a reader is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.train.evaluation_protocols.moving_clips import FRAMES, SIZE_PX, write_clip
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.protocols.presets import PRESETS
from triportrait.train.evaluation.protocols.records import protocol_bytes, read_protocol


def test_a_protocol_has_the_same_bytes_each_time(clips, protocol, tmp_path):
    shutil.copytree(clips, tmp_path / "again", ignore=shutil.ignore_patterns("*.jsonl"))
    assert cli.main(["evaluate", "protocol", str(tmp_path / "again"), "--size", str(SIZE_PX), "--seed", "4"]) == 0
    data = (clips / "p4d-table1.jsonl").read_bytes()
    assert (tmp_path / "again" / "p4d-table1.jsonl").read_bytes() == data
    assert protocol_bytes(protocol.head, list(protocol.clips.values()), list(protocol.pairs)) == data


def test_each_clip_drives_itself_and_one_other(protocol):
    own = [pair for pair in protocol.pairs if pair.kind == "self"]
    other = [pair for pair in protocol.pairs if pair.kind == "cross"]
    assert [pair.source for pair in own] == [pair.driving for pair in own] == list(protocol.clips)
    assert {pair.source for pair in other} == {pair.driving for pair in other} == set(protocol.clips)
    assert all(pair.source != pair.driving for pair in other)
    assert all((pair.source_frame, pair.first, pair.frames) == (0, 0, FRAMES) for pair in protocol.pairs)


def test_consistency_has_one_group_of_drivers_for_each_source(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "clips", ignore=shutil.ignore_patterns("*.jsonl"))
    assert cli.main(["evaluate", "protocol", str(tmp_path / "clips"), "--kind", "p4d-table3", "--size", "64"]) == 0
    found = read_protocol(tmp_path / "clips" / "p4d-table3.jsonl")
    drivers: dict[str, list[str]] = {}
    for pair in found.pairs:
        assert pair.kind in ("self", "cross", "consistency")
        if pair.kind == "consistency":
            assert (pair.frames, pair.camera) == (1, "front")
            drivers.setdefault(pair.group, []).append(pair.driving)
    assert [sorted(names) for names in drivers.values()] == [sorted(set(found.clips) - {name}) for name in found.clips]


def test_presets_name_metrics_that_exist():
    for preset in PRESETS.values():
        assert set(preset.metrics) <= set(METRICS)


SPOILED = {
    "no head": (lambda lines: lines[1:], "no head"),
    "another version": (lambda lines: [lines[0] | {"version": 2}, *lines[1:]], "version 1"),
    "a pair too few": (lambda lines: lines[:-1], "6 pairs"),
    "a name twice": (lambda lines: [*lines[:-1], lines[-1] | {"pair": lines[-2]["pair"]}], "a name of its own"),
    "a name that leads out": (lambda lines: [*lines[:-1], lines[-1] | {"pair": "../x"}], "pair: expected a name"),
    "an unknown clip": (
        lambda lines: [*lines[:-1], lines[-1] | {"source": {"clip": "clip-9", "frame": 0}}], "a clip of this protocol",
    ),
    "frames beyond the end": (
        lambda lines: [*lines[:-1], lines[-1] | {"driving": lines[-1]["driving"] | {"frames": 7}}], "from 1 to 6",
    ),
    "a size beyond all": (lambda lines: [lines[0] | {"size_px": 10**9}, *lines[1:]], "from 64 to 2048"),
    "a size that is no number": (lambda lines: [lines[0] | {"size_px": True}, *lines[1:]], "from 64 to 2048"),
    "self by another": (
        lambda lines: [*lines[:4], lines[4] | {"source": {"clip": "clip-0002", "frame": 0}}, *lines[5:]], "one clip",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_a_file_that_contradicts_itself_is_refused(name, clips, tmp_path):
    spoil, sentence = SPOILED[name]
    lines = [json.loads(line) for line in (clips / "p4d-table1.jsonl").read_text().splitlines()]
    path = tmp_path / "spoiled.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in spoil(lines)))
    with pytest.raises(InputError, match=sentence):
        read_protocol(path)


@pytest.mark.parametrize("file", ["../person0", "/etc", "person0/../../x", "C:/x", "a\\..\\b"])
def test_clips_outside_the_protocol_s_folder_are_refused(file, clips, tmp_path):
    lines = (clips / "p4d-table1.jsonl").read_text().splitlines(keepends=True)
    clip = json.loads(lines[1]) | {"file": file}
    path = tmp_path / "p.jsonl"
    path.write_text("".join([lines[0], json.dumps(clip) + "\n", *lines[2:]]))
    with pytest.raises(InputError, match="leads out of it"):
        read_protocol(path).check_files()


def test_links_out_of_the_folder_and_missing_clips_are_refused(clips, tmp_path):
    shutil.copy(clips / "p4d-table1.jsonl", tmp_path)
    protocol = read_protocol(tmp_path / "p4d-table1.jsonl")
    with pytest.raises(InputError, match="this clip and it is missing"):
        protocol.check_files()
    for person in range(3):
        (tmp_path / f"person{person}").symlink_to(clips / f"person{person}")
    with pytest.raises(InputError, match="got a link out of it"):
        protocol.check_files()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "it exists already"),
        (["--size", "8"], "--size: expected a whole number from 64"),
        (["--frames", "0"], "--frames: expected"),
        (["--out", "elsewhere.jsonl"], "where the clips are"),
        (["--kind", "p4d"], "expected one of p4d-table1"),
    ],
)
def test_a_protocol_that_cannot_be_made_is_refused_before_any_work(arguments, sentence, clips, caplog, monkeypatch):
    monkeypatch.setattr(
        "triportrait.train.jobs.evaluate_protocol.make_protocol", lambda *_: pytest.fail("looked at clips")
    )
    assert cli.main(["evaluate", "protocol", str(clips), *arguments]) == 2
    assert sentence in caplog.text


def test_one_clip_has_nobody_to_drive_it(tmp_path, caplog):
    write_clip(tmp_path / "clips" / "alone", 0, 2)
    assert cli.main(["evaluate", "protocol", str(tmp_path / "clips"), "--size", "64"]) == 2
    assert "two clips at least" in caplog.text
    assert not list((tmp_path / "clips").glob("*.jsonl"))
