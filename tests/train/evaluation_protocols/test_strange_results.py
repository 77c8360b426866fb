"""What else people bring as results: other pictures, numbers that skip, two results of one pair, links, what cannot be
written to. Each is read rightly or refused in a sentence before any work."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.evaluation_protocols.moving_clips import write_results
from tests.train.evaluation_protocols.stand_ins import cell
from triportrait import cli


@pytest.fixture
def results(protocol, tmp_path) -> Path:
    return write_results(tmp_path / "method", protocol, "truth")


def scored(results, clips, *more) -> int:
    words = ["evaluate", "score", str(results), "--protocol", str(clips / "p4d-table1.jsonl"), "--faces", "none"]
    return cli.main([*words, "--cache", str(results.parent / "cache"), *more])


def refused(results, clips, caplog, sentence) -> None:
    before = sorted(results.rglob("*"))
    assert scored(results, clips) == 2
    assert sentence in caplog.text, caplog.text
    assert sorted(results.rglob("*")) == before, "nothing half-written"


def png_of_16_bits(path: Path) -> None:
    rows = (np.asarray(Image.open(path)).astype(">u2") * 257).astype(">u2")

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def opaque(path: Path) -> None:
    Image.open(path).convert("RGBA").save(path)


def moved_up(folder: Path) -> None:
    """Number the frames from 1 without leading zeros."""
    for number, path in enumerate(sorted(folder.glob("*.png")), start=1):
        path.rename(folder / f"frame_{number}.png")


@pytest.mark.parametrize("change", [png_of_16_bits, opaque])
def test_pictures_of_other_kinds_are_the_same_pictures(change, results, clips):
    for path in results.glob("*/*.png"):
        change(path)
    assert scored(results, clips) == 0
    assert cell(results, "self", "psnr") == 100


def test_pictures_without_colours_are_grey_pictures(results, clips):
    for path in results.glob("*/*.png"):
        Image.open(path).convert("L").save(path)
    assert scored(results, clips) == 0
    assert 10 < cell(results, "self", "psnr") < 40


def test_behind_transparent_pictures_it_is_white(results, clips):
    for path in results.glob("self-0001/*.png"):
        picture = Image.open(path).convert("RGBA")
        picture.putalpha(0)
        picture.save(path)
    assert scored(results, clips) == 0
    seen = cell(results, "self", "psnr")
    for path in results.glob("self-0001/*.png"):
        Image.new("RGB", Image.open(path).size, "white").save(path)
    assert scored(results, clips) == 0
    assert cell(results, "self", "psnr") == seen < 100


def test_frames_may_be_numbered_from_one(results, clips):
    for folder in results.iterdir():
        moved_up(folder)
    assert scored(results, clips) == 0
    assert cell(results, "self", "psnr") == 100


@pytest.mark.parametrize(
    "names, sentence",
    [
        (("000", "001", "002", "004", "005", "006"), "numbered one after the other, got 004.png after 002.png"),
        (
            ("000", "001", "002", "002 copy 2", "003", "004"),
            "numbered one after the other, got 002.png after 002 copy 2.png",
        ),
        (("a", "b", "c", "d", "e", "f"), "numbered one after the other, got b.png after a.png"),
    ],
)
def test_a_frame_that_was_skipped_shifts_no_other(names, sentence, results, clips, caplog):
    folder = results / "self-0001"
    old = folder.rename(results / "old")
    folder.mkdir()
    for path, name in zip(sorted(old.iterdir()), names, strict=True):
        path.rename(folder / f"{name}.png")
    refused(results, clips, caplog, sentence)


def test_two_results_of_one_pair_are_refused(results, clips, caplog):
    (results / "self-0000.mkv").write_bytes(b"any")
    refused(results, clips, caplog, "expected one result of self-0000, got self-0000 and self-0000.mkv")


def test_endings_in_capitals_are_endings(results, clips, capsys):
    from triportrait.serve.media.video.writer import write_video

    frames = [np.asarray(Image.open(path)) for path in sorted((results / "self-0000").glob("*.png"))]
    write_video(results / "video.mp4", np.stack(frames), 50)
    shutil.rmtree(results / "self-0000")
    (results / "video.mp4").rename(results / "self-0000.MP4")
    assert scored(results, clips) == 0
    assert "3 of 3 pairs" in capsys.readouterr().out


def test_what_cannot_be_written_to_is_told_before_any_work(results, clips, caplog, monkeypatch):
    from triportrait.core import atomic
    from triportrait.train.evaluation.protocols import scoring

    monkeypatch.setattr(scoring.PairScorer, "score", lambda *_: pytest.fail("measured in vain"))
    (results / "scores.json").mkdir()
    refused(results, clips, caplog, "scores.json: a file is wanted, this is a folder")
    (results / "scores.json").rmdir()
    (results / "scores").write_text("mine")
    refused(results, clips, caplog, "scores: expected a folder for scores, it cannot be made (file exists)")
    (results / "scores").unlink()

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(atomic.os, "open", read_only)
    refused(results, clips, caplog, "read-only file system")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe{", b"[" * 100_000, b'{"kind": "triportrait scores"}', b"[1, 2]"])
def test_scores_that_are_none_make_no_table(data, results, tmp_path, caplog):
    (results / "scores.json").write_bytes(data)
    assert cli.main(["evaluate", "table", str(results), "--out", str(tmp_path / "t")]) == 2
    assert "scores.json: expected scores" in caplog.text
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("entry", ["value", "note", "frames"])
def test_damaged_numbers_make_no_table(entry, results, clips, tmp_path, caplog):
    assert scored(results, clips) == 0
    scores = json.loads((results / "scores.json").read_text())
    scores["cells"][0][entry] = {"x": 1}
    (results / "scores.json").write_text(json.dumps(scores))
    assert cli.main(["evaluate", "table", str(results), "--out", str(tmp_path / "t")]) == 2
    assert "score the results again" in caplog.text


def test_an_interrupt_leaves_nothing_half_written_and_a_second_scoring_goes_on(results, clips, monkeypatch):
    from triportrait.train.evaluation.protocols import scoring

    whole, done = scoring.PairScorer.score, []

    def interrupted(self, strip):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(self.pair.name)
        return whole(self, strip)

    monkeypatch.setattr(scoring.PairScorer, "score", interrupted)
    assert scored(results, clips) == 130
    assert not (results / "scores.json").exists()
    assert sorted(path.name for path in (results / "scores").iterdir()) == sorted(
        f"{name}{ending}" for name in done for ending in (".json", ".jpg")
    )
    done.clear()
    monkeypatch.setattr(scoring.PairScorer, "score", lambda self, strip: (done.append(1), whole(self, strip))[1])
    assert scored(results, clips) == 0
    assert len(done) == 4


def test_names_of_other_scripts_are_names(clips, protocol, tmp_path):
    away = shutil.copytree(clips, tmp_path / "Größe 顔")
    results = write_results(tmp_path / "Ergebnis é", protocol, "truth")
    assert scored(results, away) == 0
    assert cli.main(["evaluate", "table", str(results), "--out", str(tmp_path / "表")]) == 0
    assert "Ergebnis é" in (tmp_path / "表" / "table.html").read_text(encoding="utf-8")


def test_a_protocol_away_from_its_clips_is_refused(results, clips, tmp_path, caplog):
    (tmp_path / "away").mkdir()
    shutil.copy(clips / "p4d-table1.jsonl", tmp_path / "away")
    refused(results, tmp_path / "away", caplog, "the protocol names this clip and it is missing")
