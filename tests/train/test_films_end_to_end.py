"""From films to a trained network and back, in small: what docs/tracking/films/demonstrate.sh does at full length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.tracking.films import check
from docs.tracking.films.compare import compare
from docs.tracking.films.make import make
from tests.face_models import needs_face_models
from tests.train import trained
from tests.train.runs import lines_of
from triportrait import cli
from triportrait.train.data.clip_store.store import ClipStore

pytestmark = [needs_face_models, pytest.mark.usefixtures("little_preset")]
FILMS = ["anna/plain", "ben/plain", "cleo/phone", "short", "nobody"]
SIZE, FRAMES = 128, 10
DEMO_PX = 128  # side of the pictures of the demo weights: crops that are taken as they are
SHORT = ["--size", 64, "--frames", 6, "--window", 10]  # a clip of six frames is one here, one of four is not


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Path:
    """Films with their truth, a store of them, weights to begin from."""
    folder = tmp_path_factory.mktemp("trial")
    make(folder, SIZE, FRAMES, FILMS)
    trained.write(folder / "motion")
    trained.write_static(folder / "static")
    job("prepare", "videos", folder / "films", folder / "store", *SHORT, "--motion", folder / "motion", "--split", 0.4,
        "--workers", 1)  # fmt: skip
    return folder


def job(*words: Any) -> None:
    assert cli.main([*map(str, words), "--quiet"]) == 0


def test_films_are_kept_and_dropped_as_they_are(trial):
    rows, wrong = compare(json.loads((trial / "truth.json").read_text()), trial / "store")
    assert not wrong
    assert sum(row[3] for row in rows) == 3 == len(ClipStore(trial / "store").frames_of)
    page = (trial / "store" / "page.html").read_text()
    for name in ("anna/plain.mp4", "nobody.mp4", "no face", "too short", "unreadable"):
        assert name in page


def test_stage_2_trains_from_the_store_and_measures_the_held_out_person(trial, tmp_path):
    split = json.loads((trial / "store" / "split.json").read_text())
    assert 0 < len(split["held_out"]) < 3
    run = tmp_path / "run"
    job("train", "stage2", "--data", trial / "store", "--out", run, "--static", trial / "static", "--motion",
        trial / "motion", "--flame", "open-head", "--batch", 2, "--micro-batches", 1, "--images", 6, "--save-every", 6,
        "--sample-every", 100, "--evaluate-every", 3, "--precision", "fp32")  # fmt: skip
    lines = lines_of(run)
    steps = [line for line in lines if "l1" in line]
    assert [line["images_seen"] for line in steps] == [2, 4, 6] and all(np.isfinite(line["l1"]) for line in steps)
    measured = [line for line in lines if any(name.startswith("held_out") for name in line)]
    assert measured and all(np.isfinite(v) for line in measured for v in line.values() if isinstance(v, float))


def test_a_tracked_folder_drives_as_the_film_does(trial, tmp_path):
    film = trial / "films" / "anna" / "plain.mp4"
    job("track", film, tmp_path / "tracked", "--no-overlay", "--no-segment", "--size", DEMO_PX)
    assert check.pose_error_deg(trial / "marks" / "anna" / "plain.npz", tmp_path / "tracked").mean() < 8
    from tests.serve.raw import PHOTO

    for name, words in (
        ("by_fit.mp4", (film, "--track", "fit")),
        ("by_files.mp4", (tmp_path / "tracked" / "align_images",)),
    ):
        driving, *more = words
        job("reenact", PHOTO, driving, tmp_path / name, "--weights", "demo", "--device", "cpu", "--no-watermark", *more)
    count, mean, most = check.levels_apart(tmp_path / "by_fit.mp4", tmp_path / "by_files.mp4")
    assert (count, mean, most) == (FRAMES, 0, 0)


def test_the_published_layouts_are_read_back(trial, tmp_path):
    """The tables of stage 1, and the LMDB, whose import gives the numbers again; its motion is 548 wide."""
    check_rule = tmp_path / "rule"
    from triportrait.core.checkpoint import save_weights
    from triportrait.core.seeded_weights import rule_motion_encoder

    motion = {n: t for n, t in rule_motion_encoder().state_dict().items() if not n.endswith("num_batches_tracked")}
    save_weights(check_rule, "motion", motion, None, {})
    wide = tmp_path / "wide"
    job("prepare", "videos", trial / "films" / "anna", wide, *SHORT, "--motion", check_rule, "--workers", 1)
    job("prepare", "parameters", wide, tmp_path / "tables")
    shapes = sorted(np.load(path).shape for path in (tmp_path / "tables").glob("*.npy"))
    assert (6, 325) in shapes or (1, 6, 325) in shapes, shapes
    lmdb = tmp_path / "anna_64_1"
    job("prepare", "export", wide, lmdb)
    job("prepare", "lmdb", lmdb, tmp_path / "again")
    clips, worst = check.tables_apart(wide, tmp_path / "again")
    assert clips == 1 and {"camera", "shape", "expression", "pose", "motion", "mask"} <= {*worst}
    assert not any(worst.values()), worst
