"""Training measures held-out people: the same pictures each time, true truths, and not a digit of training moved."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train import little, tracked
from tests.train.ranks_worker import StopsAt
from tests.train.runs import lines_of, refused, stage_words
from tests.train.splits import between
from triportrait import cli
from triportrait.train import loop
from triportrait.train.data.clip_store.store import ClipStore
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.scene_sampling import to_uint8
from triportrait.train.data.split import split_data
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation import held_out
from triportrait.train.evaluation.held_out import CROSS, SELF, VIEWS, Evaluation, reenact_pairs, static_pairs
from triportrait.train.evaluation.metrics.pictures import psnr, ssim
from triportrait.train.named_data import Loading
from triportrait.train.networks import InitFrom
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.run_folder import Run
from triportrait.train.run_one_stage import OneStage
from triportrait.train.runs import evaluating
from triportrait.train.runs.checkpoints import checkpoints_of
from triportrait.train.runs.draw_curves import write_curves
from triportrait.train.runs.run_log import _forget
from triportrait.train.runs.stopping import Stopped


@pytest.fixture(autouse=True)
def little_preset(monkeypatch):
    """`tiny` is the smallest training here, every step is logged, and faces are not looked for."""
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.setattr("triportrait.train.run_one_stage.face_provider", lambda: None)
    monkeypatch.setattr(held_out, "PAIRS", 2)


@pytest.fixture(scope="module")
def split_material(material, little_clips, tmp_path_factory) -> Path:
    """The networks of `material`, and a set and clips of which one head each is held out."""
    folder = tmp_path_factory.mktemp("split")
    for name in ("cast", "static", "trained"):
        shutil.copytree(material / name, folder / name)
    shutil.copytree(little_clips, folder / "clips")
    for name, count in (("cast", 2), ("clips", 5)):
        split_data(folder / name, between(0, count))
    return folder


def words(material: Path, stage: str, run: Path, *more: Any) -> list[str]:
    options = ["--batch", 2, "--images", 4, "--save-every", 100, "--sample-every", 100, "--adversarial", 0]
    return stage_words(material, stage, run, *options, *more)


def losses_of(run: Path) -> list[dict[str, Any]]:
    lines = [line for line in lines_of(run) if "l1" in line]
    return [{k: v for k, v in line.items() if k not in little.CLOCKED and not k.startswith("data_")} for line in lines]


def evaluations(run: Path) -> list[dict[str, Any]]:
    lines = [line for line in lines_of(run) if any(name.startswith("held_out") for name in line)]
    return [{k: v for k, v in line.items() if k not in little.CLOCKED} for line in lines]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_losses_are_bit_equal_with_and_without_evaluation(stage, split_material, tmp_path, capsys):
    data = ["--data", split_material / "clips"] if stage == "stage2" else []
    for run, every in ((tmp_path / "with", 2), (tmp_path / "without", 0)):
        assert cli.main(words(split_material, stage, run, *data, "--evaluate-every", every)) == 0
    assert losses_of(tmp_path / "with") == losses_of(tmp_path / "without")
    weights = [checkpoints_of(tmp_path / name, stage)[-1] / "generator.safetensors" for name in ("with", "without")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    measured = evaluations(tmp_path / "with")
    assert [line["images_seen"] for line in measured] == [0, 2, 4]
    assert not evaluations(tmp_path / "without")
    case = VIEWS if stage == "stage1" else SELF
    named = {f"held_out {case} {metric}" for metric in ("psnr", "ssim", "psnr face", "ssim face")}
    assert named <= measured[-1].keys()
    assert measured[0][f"held_out {case} psnr"] != measured[-1][f"held_out {case} psnr"], "the EMA moves"
    curves = (tmp_path / "with" / f"held_out_{stage}.svg").read_text()
    assert curves.count("<polyline") == len(measured[-1]) - 3
    assert "held out after 4 images" in capsys.readouterr().err


def test_a_run_that_was_stopped_measures_neither_twice_nor_too_little(split_material, tmp_path):
    def start(run: Path) -> Run:
        init_from = InitFrom(static=str(split_material / "static"), motion=str(split_material / "trained"))
        inputs = OneStage("stage2", split_material / "clips", init_from, Loading(prefetch=0))
        config = little.config(evaluate_every=2, save_every=10**6, sample_every=10**6)
        return Run(config, run, inputs, changes_allowed=False)

    start(tmp_path / "whole").train()
    before = start(tmp_path / "run")
    with pytest.raises(Stopped):
        before.train(StopsAt(1))
    before._claim.close()
    start(tmp_path / "run").train()
    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")
    assert [line["images_seen"] for line in evaluations(tmp_path / "run")] == [0, 2, 4, 6, 8]
    curves = [(tmp_path / name / "held_out_stage2.svg").read_text() for name in ("run", "whole")]
    assert curves[0] == curves[1]


def test_a_run_killed_before_its_first_checkpoint_is_measured_once_at_its_start(tmp_path):
    """It begins anew: no line of it is left, of another stage all are."""
    log = tmp_path / "log.jsonl"
    lines = [{"stage": stage, "images_seen": 0, "step": 0, "held_out self psnr": 1.0} for stage in ("stage1", "stage2")]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _forget(log, "stage2", 0) == []
    assert lines_of(tmp_path) == lines[:1]


def test_a_truth_is_what_the_set_shows(split_material):
    """The first head's own views are drawn as they were stored, to a grey level."""
    heads = MultiviewSet(split_material / "cast")
    pairs = static_pairs(heads, [0], little.model())
    assert [pair.case for pair in pairs] == [VIEWS] * 2
    stored = heads.head(0)["image"]
    for pair, pose in zip(pairs, (0, 1), strict=True):
        for picture, view in ((pair.source, 0), (pair.truth, 1)):
            off = np.abs(to_uint8(picture.image)[0].numpy().astype(int) - stored[pose, view])
            assert off.max() <= 1, (pose, view)
        assert 0 < pair.mask.mean() < 1


def test_self_and_cross_pairs_of_clips(split_material, monkeypatch):
    monkeypatch.setattr(held_out, "PAIRS", 4)
    store = ClipStore(split_material / "clips")
    pairs = reenact_pairs(store, [1, 3], little.model())
    assert [pair.case for pair in pairs] == [SELF, CROSS] * 4
    for own, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert own.source.image.equal(other.source.image)
        assert own.driving is own.truth
        assert not other.driving.image.equal(other.truth.image), "the truth shows the source's head"
        assert other.driving.motion.equal(other.truth.motion), "with the driver's expression"
        assert other.driving.camera.world_from_camera.equal(other.truth.camera.world_from_camera)
        assert other.driving.neck is not None
        assert other.truth.neck is not None
        assert other.driving.neck.fine.equal(other.truth.neck.fine)
    again = reenact_pairs(store, [1, 3], little.model())
    assert all(a.truth.image.equal(b.truth.image) for a, b in zip(pairs, again, strict=True))
    assert len({float(pair.truth.image.mean()) for pair in pairs}) == 8, "no picture twice"


def test_metrics_are_the_tables_own(split_material):
    pairs = static_pairs(MultiviewSet(split_material / "cast"), [0], little.model())
    evaluate = Evaluation(
        pairs, lambda source, driving: source.image, torch.device("cpu"), lambda a, b: (a - b).abs().mean((1, 2, 3))
    )  # type: ignore[arg-type]
    numbers = evaluate(Ranks())
    frames = [[to_uint8(x.image).numpy() for x in (pair.source, pair.truth)] for pair in pairs]
    assert numbers["held_out views psnr"] == pytest.approx(np.mean([psnr(*pair) for pair in frames]), abs=1e-4)
    assert numbers["held_out views ssim"] == pytest.approx(np.mean([ssim(*pair) for pair in frames]), abs=1e-4)
    assert numbers["held_out views lpips_vgg"] > 0
    perfect = Evaluation(pairs, lambda source, driving: driving.image, torch.device("cpu"))(Ranks())
    assert perfect["held_out views psnr"] == perfect["held_out views psnr face"] == 100
    bad = Evaluation(pairs, lambda source, driving: driving.image * math.nan, torch.device("cpu"))(Ranks())
    assert bad == {}


@pytest.mark.parametrize("size", [2, 3, 8])
def test_ranks_share_the_pairs(size, split_material, monkeypatch):
    monkeypatch.setattr(held_out, "PAIRS", 3)
    pairs = static_pairs(MultiviewSet(split_material / "cast"), [0], little.model())
    calls: list[int] = []

    def render(source: Any, driving: Any) -> Any:
        calls[-1] += 1
        return source.image

    whole = Evaluation(pairs, lambda source, driving: source.image, torch.device("cpu"))(Ranks())
    evaluate, parts = Evaluation(pairs, render, torch.device("cpu")), []
    for rank in range(size):
        calls.append(0)
        monkeypatch.setattr(Ranks, "all_gather", lambda self, value: parts.append(value) or [*parts])
        ranks = Ranks(rank, size)
        if rank < size - 1:
            with suppress(KeyError):  # the others are not there yet
                evaluate(ranks)
        else:
            assert evaluate(ranks) == whole
    assert set(calls) == {-(-3 // size)}, "all ranks run the network equally often, as ZeRO stage 3 needs"


def test_tracked_clips_are_measured_inside_the_head(split_material, tmp_path):
    data = tmp_path / "tracked"
    tracked.write_store(data)
    tracked.write_static(tmp_path / "flame")
    split, _ = split_data(data, 0.6)
    config = little.config(evaluate_every=100)
    inputs = OneStage("stage2", data, InitFrom(static=str(tmp_path / "flame"), motion=str(split_material / "trained")))
    Run(config, tmp_path / "run", inputs, changes_allowed=False).train()
    unseen = [str(data / f"{list(split.identities)[clip]}.mp4") for clip in split.sides()[1]]
    assert inputs._evaluation is not None
    pairs = inputs._evaluation.pairs
    assert [pair.source.origin for pair in pairs] == [(unseen[i % len(unseen)],) for i in range(2)]
    for pair in pairs:
        assert pair.driving.origin == pair.source.origin
        assert not pair.driving.image.equal(pair.source.image), "another frame"
        assert 0 < pair.mask.mean() < 1
    measured = evaluations(tmp_path / "run")
    assert [line["images_seen"] for line in measured] == [0, 8]
    assert {"held_out self psnr", "held_out self psnr head", "held_out self ssim head"} <= measured[0].keys()
    assert not any("cross" in name or "face" in name for name in measured[0])


def test_data_without_a_split_and_another_split_are_refused(split_material, material, tmp_path, capsys):
    said = refused(words(material, "stage1", tmp_path / "run", "--evaluate-every", 2), capsys)
    assert "expected data that hold somebody out for --evaluate-every, nobody is; hold a tenth out by" in said
    assert not (tmp_path / "run").exists()
    run = tmp_path / "begun"
    assert cli.main(words(material, "stage1", run, "--images", 2)) == 0
    said = refused(words(split_material, "stage1", run, "--images", 2), capsys)
    assert "this run was begun with run.held_out None" in said
    assert cli.main(words(split_material, "stage1", run, "--images", 4, "--allow-change")) == 0
    assert "run.held_out was None, now it is" in capsys.readouterr().err


def test_a_sentence_says_where_evaluation_takes_too_long(split_material, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluating, "MOST_OF_THE_TIME", 1e-4)
    assert cli.main(words(split_material, "stage1", tmp_path / "run", "--evaluate-every", 2)) == 0
    said = capsys.readouterr().err
    assert said.count("held-out evaluation takes") == 1
    line = next(line for line in lines_of(tmp_path / "run") if "evaluate_share" in line)
    assert 0 < line["evaluate_share"] < 1


def test_curves_of_one_and_of_many_points(tmp_path):
    write_curves(tmp_path / "one.svg", {0: {"held_out self psnr": 20.0}})
    many = {i * 10: {"held_out self psnr": 20.0 + i, "held_out cross psnr": 18.0} for i in range(5)}
    write_curves(tmp_path / "many.svg", many)
    assert (tmp_path / "many.svg").read_text().count("<polyline") == 2
    assert "nan" not in (tmp_path / "one.svg").read_text()
