"""`track` on films that are bad, rare or none: one sentence and nothing left, or every frame accounted for."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from docs.tracking.films.make import make
from tests.face_models import needs_face_models
from triportrait import cli
from triportrait.core.motion.flame import rotation_matrices
from triportrait.serve.tracking_files import LENGTHS

pytestmark = [needs_face_models, pytest.mark.usefixtures("real_faces")]
SIZE, FRAMES = 112, 9
ONLY = ["anna/plain", "cleo/phone", "away", "nobody", "half_outside", "turns_away", "ten", "short", "two_cuts"]
NECK = slice(sum(LENGTHS[name] for name in ("camera", "shape", "expression")), -9)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Small films of the trial, and files that are none."""
    out = tmp_path_factory.mktemp("trial")
    make(out, SIZE, FRAMES, ONLY)
    return out / "films"


@pytest.fixture
def track(capsys):
    """Run `triportrait track`; gives the exit code and the standard error."""

    def call(*arguments: object) -> tuple[int, str]:
        code = cli.main(["track", *map(str, arguments)])
        return code, capsys.readouterr().err

    return call


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "quality.csv").open() as file:
        return list(csv.DictReader(file))


def records_of(out: Path) -> dict[str, np.ndarray]:
    files = sorted((out / "flame_optim_params").glob("*.npy"))
    return {path.stem: np.load(path) for path in files}


def refused(code: int, said: str, folder: Path, before: set[str]) -> str:
    """Check that one sentence was said and nothing written; returns the sentence."""
    assert code == 2, said
    assert {path.name for path in folder.iterdir()} == before
    lines = [line for line in said.splitlines() if line.strip()]
    assert lines and "Traceback" not in said, said
    return lines[-1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty.mp4", "empty"),
        ("text.mp4", "no video stream"),
        ("corrupt.mp4", "could be decoded"),
        ("sound_only.mp4", "no video stream"),
        ("no such film.mp4", "no such film"),
        ("nobody.mp4", "found none in any of 9 frames"),
        ("half_outside.mp4", "found none in any of 9 frames"),
    ],
)
def test_what_shows_no_face_or_is_no_film_is_refused_in_one_sentence(track, films, tmp_path, name, says):
    code, said = track(films / name, tmp_path / "out", "--quiet")
    assert says in refused(code, said, tmp_path, set())


@pytest.mark.parametrize(
    ("name", "missing"),
    [("short.mp4", range(0)), ("away.mp4", range(3, 6)), ("ten.mp4", range(0)), ("cleo/phone.mp4", range(0))],
)
def test_each_frame_has_a_record_or_a_reason(track, films, tmp_path, name, missing):
    """Four frames, a face that leaves and comes back, ten faces, a film that lies on its side."""
    out = tmp_path / "out"
    code, said = track(films / name, out)
    assert code == 0, said
    rows, records = rows_of(out), records_of(out)
    truth = json.loads((films.parent / "truth.json").read_text())[name]
    assert len(rows) == truth["frames"]
    unseen = [k for k, row in enumerate(rows) if row["found"] == "0"]
    assert unseen == list(missing) and all(rows[k]["reason"] for k in unseen)
    assert sorted(records) == [f"{k + 1:05d}" for k in range(len(rows)) if k not in missing]
    assert all(record.shape == (437,) and np.isfinite(record).all() for record in records.values())
    assert json.loads((out / "head_model.json").read_text())["name"] == "open head"
    if missing:
        assert str(len(missing)) in said and "no face" in said, said


def test_a_film_on_its_side_gives_upright_heads(track, films, tmp_path):
    assert track(films / "cleo" / "phone.mp4", tmp_path / "out")[0] == 0
    turns = turns_of(tmp_path / "out")
    assert (turns[:, 1, 1] > 0.85).all(), turns[:, 1, 1]  # up stays up


def turns_of(out: Path) -> np.ndarray:
    """How the head is turned in each frame, [T, 3, 3]."""
    necks = np.stack([record[NECK] for record in records_of(out).values()])
    return rotation_matrices(torch.from_numpy(necks)).numpy()


def test_a_head_that_turns_away_is_followed_while_its_face_is_seen(track, films, tmp_path):
    code, said = track(films / "turns_away.mp4", tmp_path / "out")
    assert code == 0, said
    rows = rows_of(tmp_path / "out")
    found = [row["found"] == "1" for row in rows]
    assert found[0] and not found[-1]  # its back is seen last
    turns = turns_of(tmp_path / "out")
    away_deg = np.degrees(np.arccos(turns[:, 2, 2].clip(-1, 1)))
    assert away_deg[-1] > away_deg[0] + 15, away_deg


def test_shots_of_a_film_are_told_apart(track, films, tmp_path):
    assert track(films / "two_cuts.mp4", tmp_path / "out")[0] == 0
    shots = [int(row["shot"]) for row in rows_of(tmp_path / "out")]
    assert [shots.count(shot) for shot in sorted(set(shots))] == [FRAMES] * 3
    shapes = [record[25:325] for record in records_of(tmp_path / "out").values()]
    assert np.array_equal(shapes[0], shapes[FRAMES - 1]) and not np.array_equal(shapes[0], shapes[FRAMES])


def test_a_film_of_which_half_is_missing_keeps_what_can_be_seen(track, films, tmp_path):
    code, said = track(films / "truncated.mp4", tmp_path / "out")
    assert code == 0, said
    assert 0 < len(records_of(tmp_path / "out")) < FRAMES


def test_nothing_of_others_is_lost(track, films, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.txt").write_text("mine")
    for extra in ([], ["--overwrite"]):
        code, said = track(films / "short.mp4", out, *extra)
        assert code == 2 and "holiday.txt" in said
    assert [path.name for path in out.iterdir()] == ["holiday.txt"]
    code, said = track(films / "short.mp4", tmp_path / "file" / "deeper")
    assert code == 2 and "does not exist" in said, said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_head_model_that_is_none_is_refused_before_any_work(track, films, tmp_path):
    """A pickle that would run a command, one of another topology, one that is cut off, a text."""
    marker = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    rng = np.random.default_rng(0)
    other = {
        "v_template": rng.normal(size=(100, 3)),
        "f": np.zeros((50, 3), np.int64),
        "shapedirs": rng.normal(size=(100, 3, 400)),
        "posedirs": rng.normal(size=(100, 3, 36)),
        "J_regressor": rng.random((5, 100)),
        "weights": rng.random((100, 5)),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
    }
    makers = {
        "runs.pkl": lambda path: path.write_bytes(pickle.dumps({"v_template": Runs(), "shapedirs": Runs()}, 2)),
        "other.pkl": lambda path: path.write_bytes(pickle.dumps(other, 2)),
        "other.npz": lambda path: np.savez(path, **other),
        "objects.npz": lambda path: np.savez(path, v_template=np.array([Runs()], dtype=object)),
        "cut.pkl": lambda path: path.write_bytes(pickle.dumps(other, 2)[:1000]),
        "empty.npz": lambda path: path.write_bytes(b""),
        "text.pkl": lambda path: path.write_text("no pickle"),
    }
    for name, make_file in makers.items():
        make_file(tmp_path / name)
    before = {*makers}
    for name in [*makers, "missing.pkl"]:
        code, said = track(films / "short.mp4", tmp_path / "out", "--head-model", tmp_path / name)
        sentence = refused(code, said, tmp_path, before)
        assert name in sentence, sentence
    assert not marker.exists()


def test_a_run_that_was_killed_is_done_again_with_equal_results(films, track, tmp_path):
    """SIGKILL while it follows: no folder of that name, and the same command ends with the same files."""
    film, whole, out = films / "anna" / "plain.mp4", tmp_path / "whole", tmp_path / "out"
    assert track(film, whole)[0] == 0
    begun = subprocess.Popen(
        [sys.executable, "-m", "triportrait", "track", str(film), str(out)], stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not any(path.name.startswith(".out") for path in tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)
        assert begun.poll() is None or out.exists(), begun.returncode
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    code, said = track(film, out, *(["--overwrite"] if out.exists() else []))
    assert code == 0, said
    ours, theirs = records_of(out), records_of(whole)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_parameters_of_another_model_are_refused(films, track, tmp_path, run, portrait_file):
    """The folder says whose they are: weights with FLAME of another kind do not take them."""
    out = tmp_path / "out"
    assert track(films / "short.mp4", out)[0] == 0
    assert json.loads((out / "head_model.json").read_text())["name"] == "open head"
    code, said = run(portrait_file, out / "align_images", tmp_path / "film.mp4", "--faces", "none")
    assert code == 2 and "open head" in said, said
    assert not (tmp_path / "film.mp4").exists()
