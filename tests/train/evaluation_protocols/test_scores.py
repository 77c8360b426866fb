"""Scores of results: methods rank as they must, nothing is measured twice, and every number has one origin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.face_models import needs_face_models
from tests.train.evaluation_protocols.moving_clips import write_clip, write_results
from tests.train.evaluation_protocols.stand_ins import Faces, cell
from triportrait import cli
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.protocols import scoring, summary
from triportrait.train.evaluation.protocols.features import FeatureCache
from triportrait.train.evaluation.protocols.instruments import make_instruments
from triportrait.train.evaluation.protocols.records import read_protocol
from triportrait.train.evaluation.protocols.results import open_results
from triportrait.train.evaluation.protocols.tables import markdown

METHODS = ("copy", "warp", "shuffled", "truth")


def score(folder: Path, protocol: Path, cache: Path, *more: str) -> int:
    words = ["evaluate", "score", str(folder), "--protocol", str(protocol), "--cache", str(cache), *more]
    return cli.main(words)


@pytest.fixture(scope="module")
def scored(clips, tmp_path_factory) -> dict[str, Path]:
    folder, path = tmp_path_factory.mktemp("scored"), clips / "p4d-table1.jsonl"
    found = {name: write_results(folder / name, read_protocol(path), name) for name in METHODS}
    for place in found.values():
        assert score(place, path, folder / "cache", "--faces", "none") == 0
    return found


def test_the_truth_is_best_and_what_does_not_follow_is_worse(scored):
    psnr = {name: cell(folder, "self", "psnr") for name, folder in scored.items()}
    ssim = {name: cell(folder, "self", "ssim") for name, folder in scored.items()}
    assert psnr["truth"] == 100 and ssim["truth"] == pytest.approx(1, abs=1e-3)
    for values in (psnr, ssim):
        assert values["truth"] > values["warp"] > values["copy"], values
        assert values["truth"] > values["shuffled"], values
    assert cell(scored["copy"], "self", "flicker") == 0 < cell(scored["truth"], "self", "flicker")
    assert cell(scored["copy"], "cross", "sharpness_to_source") == pytest.approx(1)


def test_a_table_prints_the_numbers_that_were_measured(scored, clips, tmp_path, capsys):
    folders = [str(scored[name]) for name in METHODS]
    protocol = ["--protocol", str(clips / "p4d-table1.jsonl")]
    assert cli.main(["evaluate", "table", *folders, *protocol, "--out", str(tmp_path / "t")]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "t" / "table.md").read_text().strip()
    assert "**100.0**" in printed and "published, own protocol" in printed
    lines = (tmp_path / "t" / "table.csv").read_text().splitlines()
    psnr = [line.split(",") for line in lines if ",self,psnr," in line]
    assert [float(row[8]) for row in psnr] == [cell(scored[name], "self", "psnr") for name in METHODS]
    page = (tmp_path / "t" / "table.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6 * (2 + len(METHODS))
    assert "http" not in page.replace("https://download.pytorch.org", "").replace("github.com", ""), (
        "needs nothing else"
    )
    assert page.index("measured: their networks") < page.index("PIRenderer")


def test_published_rows_are_never_ranked_with_measured_ones(scored, tmp_path):
    assert cli.main(["evaluate", "table", str(scored["truth"]), "--out", str(tmp_path / "t")]) == 0
    page = (tmp_path / "t" / "table.html").read_text()
    published = page[page.index("class='published'") :].partition("</tbody>")[0]
    assert "published, own protocol" in published and "best" not in published
    assert "<td class='best'" not in page, "one method alone is not the best of anything"


def test_a_second_scoring_measures_nothing_again(scored, clips, monkeypatch):
    before = (scored["warp"] / "scores.json").read_bytes()
    monkeypatch.setattr(scoring.PairScorer, "score", lambda *_: pytest.fail("measured again"))
    assert score(scored["warp"], clips / "p4d-table1.jsonl", scored["warp"].parent / "cache", "--faces", "none") == 0
    assert (scored["warp"] / "scores.json").read_bytes() == before


def scored_by(faces: Faces, folder: Path, path: Path, cache: Path) -> dict:
    protocol = read_protocol(path)
    instruments, empty = make_instruments(faces, (), (), None, FeatureCache(cache), "test")
    return summary.score_results(open_results(folder, protocol), protocol, instruments, Ranks(), empty)


def test_each_picture_is_looked_at_once_whoever_made_results(clips, protocol, tmp_path):
    faces, path = Faces(), clips / "p4d-table1.jsonl"
    for name in ("copy", "warp"):
        write_results(tmp_path / name, protocol, name)
    scored_by(faces, tmp_path / "copy", path, tmp_path / "cache")
    after_one = faces.pictures
    scored_by(faces, tmp_path / "warp", path, tmp_path / "cache")
    frames = sum(pair.frames for pair in protocol.pairs)
    assert after_one <= frames + 18 + 3, "driving clips of self and cross are the same pictures"
    assert faces.pictures - after_one <= frames, "of another method only the results are new"


def test_frames_without_a_face_are_counted_and_left_out(clips, protocol, tmp_path):
    write_results(tmp_path / "some", protocol, "truth")
    blank = np.full((64, 64, 3), 200, np.uint8)
    Image.fromarray(blank).save(tmp_path / "some" / "self-0000" / "000002.png")
    found = scored_by(Faces(), tmp_path / "some", clips / "p4d-table1.jsonl", tmp_path / "cache")
    (distance,) = (c for c in found["cells"] if (c["kind"], c["metric"]) == ("self", "landmark_distance"))
    assert (distance["frames"], distance["missing"], distance["value"]) == (17, 1, 0)
    assert "5.6 % of 18 frames without a face" in markdown([found])


def test_of_results_without_any_face_no_number_of_faces_is_made(clips, protocol, tmp_path):
    folder = write_results(tmp_path / "none", protocol, "truth")
    for path in folder.glob("*/*.png"):
        Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(path)
    found = scored_by(Faces(), folder, clips / "p4d-table1.jsonl", tmp_path / "cache")
    cells = {(c["kind"], c["metric"]): c for c in found["cells"]}
    distance = cells["self", "landmark_distance"]
    assert (distance["value"], distance["frames"], distance["missing"]) == (None, 0, 18)
    assert cells["self", "psnr"]["value"] < 30, "pictures are measured all the same"
    assert "100.0 % of 18 frames without a face" in markdown([found])


@needs_face_models
def test_procedural_heads_rank_by_their_faces(tmp_path):
    from triportrait.train.data.head_videos import write_clips

    write_clips(tmp_path / "clips", 3, 2, 5, 25, 96)
    clips = ["evaluate", "protocol", str(tmp_path / "clips"), "--size", "96", "--crop", "aligned"]
    assert cli.main(clips) == 0
    path = tmp_path / "clips" / "p4d-table1.jsonl"
    protocol = read_protocol(path)
    distance, pose = {}, {}
    for name in METHODS:
        folder = write_results(tmp_path / name, protocol, name)
        assert score(folder, path, tmp_path / "cache") == 0
        distance[name] = cell(folder, "self", "landmark_distance")
        pose[name] = cell(folder, "self", "head_pose_distance")
    for values in (distance, pose):
        assert values["truth"] == 0 and min(values[name] for name in METHODS[:3]) > 0.003, values


def test_two_processes_give_the_same_bytes(scored, clips, tmp_path):
    again = shutil.copytree(
        scored["warp"], tmp_path / "warp", ignore=shutil.ignore_patterns("scores", "scores.json")
    )  # fmt: skip
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "triportrait",
    ]
    words += ["evaluate", "score", str(again), "--protocol", str(clips / "p4d-table1.jsonl"), "--faces", "none"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words += ["--cache", str(tmp_path / "c")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (again / "scores.json").is_file(), done.stderr[-2000:]
    assert (again / "scores.json").read_bytes() == (scored["warp"] / "scores.json").read_bytes()


def test_memory_does_not_grow_with_the_clip(tmp_path):
    peaks = []
    for frames in (20, 220):
        folder = tmp_path / str(frames)
        write_clip(folder / "clips" / "one", 1, frames)
        write_clip(folder / "clips" / "two", 2, 2)
        assert cli.main(["evaluate", "protocol", str(folder / "clips"), "--size", "64", "--frames", str(frames)]) == 0
        protocol = read_protocol(folder / "clips" / "p4d-table1.jsonl")
        pair = next(pair for pair in protocol.pairs if pair.kind == "self" and pair.frames == frames)
        instruments, _ = make_instruments(Faces(), (), (), None, FeatureCache(folder / "cache"), "test")
        result = folder / "clips" / "one"
        tracemalloc.start()
        scoring.PairScorer(protocol, pair, folder, result, "0" * 64, instruments).score(folder / "strip.jpg")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1_500_000, peaks  # the frames of the longer clip alone have 2.5 MB more, twice
