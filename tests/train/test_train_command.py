"""`triportrait train`: weights at the end, and what cannot be trained is one sentence before any work."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.train import little
from tests.train.runs import hashes, refused
from triportrait import cli
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.train.jobs import train as job
from triportrait.train.presets import PRESETS
from triportrait.train.run_all_stages import shortcomings
from triportrait.train.runs.checkpoints import FOLDER, checkpoints_of
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1


@pytest.fixture(autouse=True, scope="module")
def little_preset():
    """`overfit` is the smallest training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "overfit", lambda: little.config(preset="overfit"))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A complete run."""
    run = tmp_path_factory.mktemp("command") / "run"
    assert cli.main(["train", "overfit", "--out", str(run)]) == 0
    return run


@pytest.fixture
def copied(done, tmp_path) -> Path:
    """A complete run, to be damaged."""
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_work(monkeypatch):
    """Whatever takes long fails."""
    for name in ("run_folder.run_stage", "run_all_stages.probe", "run_all_stages.Portrait4D"):
        monkeypatch.setattr(f"triportrait.train.{name}", lambda *a, **k: pytest.fail("worked"))
    monkeypatch.setattr("triportrait.train.data.heads.render.HeadRenderer.__init__", lambda *a: pytest.fail("drew"))


def test_a_run_ends_with_weights_that_say_how_they_were_made(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    arguments = ["train", "overfit", "--out", str(run), "--seed", "4", "--stage2-images", "6"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert said.out == f"{run / 'weights'}\n", "what was made goes to stdout, the story beside it"
    for line in ("stage1: done, 8 images", "motion: done, 12 images", "stage2: done, 6 images"):
        assert line in said.err
    assert load_portrait(run / "weights").config == little.model()
    assert load_motion_encoder(run / "weights").motion_width == 9
    provenance = json.loads((run / "weights" / "portrait.json").read_text())["provenance"]
    assert provenance["command"] == "triportrait train overfit --out run --seed 4 --stage2-images 6"
    assert provenance["seed"] == 4
    config = json.loads((run / "config.json").read_text())
    assert (config["seed"], config["stage2"]["images"], config["stage1"]["images"]) == (4, 6, 8)


def test_a_run_can_end_after_a_stage_and_go_on(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert cli.main(["train", "overfit", "--out", str(run), "--until", "stage1"]) == 0
    assert capsys.readouterr().out == ""
    assert checkpoints_of(run, "stage1")
    assert not checkpoints_of(run, "motion")
    assert not (run / "weights").exists()
    monkeypatch.setattr(stage1, "losses", lambda *a: pytest.fail("stage 1 again"))
    assert cli.main(["train", "overfit", "--out", str(run)]) == 0
    assert load_portrait(run / "weights").config == little.model()


def test_an_interrupted_run_goes_on(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage2, "losses", interrupted)
        assert cli.main(["train", "overfit", "--out", str(run)]) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("triportrait: interrupted")
    assert checkpoints_of(run, "motion")
    assert not (run / "weights").exists()
    assert cli.main(["train", "overfit", "--out", str(run)]) == 0
    assert (run / "weights").is_dir()


def test_a_complete_run_is_not_trained_again(copied, capsys, monkeypatch):
    before = hashes(copied)
    for module in (stage1, stage2):
        monkeypatch.setattr(module, "losses", lambda *a: pytest.fail("another step"))
    assert cli.main(["train", "overfit", "--out", str(copied)]) == 0
    after = hashes(copied)
    changed = {name for name in after if after[name] != before.get(name)}
    assert after.keys() == before.keys() and changed <= {
        f"{folder}/{kind}.json" for folder in ("weights", "static") for kind in ("portrait", "motion")
    }, "only the command on the cards may differ"


def test_a_training_that_diverges_is_one_sentence_and_keeps_its_states(copied, capsys, monkeypatch):
    for path in (*checkpoints_of(copied, "stage2"), copied / "weights", copied / "static"):
        shutil.rmtree(path)
    states = {name: value for name, value in hashes(copied).items() if name.startswith(FOLDER)}
    monkeypatch.setattr(stage2, "losses", lambda *a: {"l1": torch.tensor(torch.nan, requires_grad=True)})
    assert cli.main(["train", "overfit", "--out", str(copied)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"triportrait: {copied}: training diverged, l1 of main is not finite after 0 images, ")
    assert {name: value for name, value in hashes(copied).items() if name.startswith(FOLDER)} == states
    assert not (copied / "weights").exists()


BAD = {
    "no preset": ([], "train: expected one of tiny, overfit"),
    "another preset": (["huge"], "train: expected one of tiny, overfit"),
    "no stage 1": (
        ["overfit", "--stage1-images", 0],
        "stage1.images: expected a positive number, got 0",
    ),
    "less than no stage 1": (
        ["overfit", "--stage1-images", -4],
        "stage1.images: expected a positive number, got -4",
    ),
    "no motion": (
        ["overfit", "--motion-images", 0],
        "motion.images: expected a positive number, got 0",
    ),
    "no stage 2": (
        ["overfit", "--stage2-images", -1],
        "stage2.images: expected a positive number, got -1",
    ),
    "half an image": (["overfit", "--stage2-images", "0.5"], "--stage2-images: expected a whole number, got '0.5'"),
    "endless": (
        ["overfit", "--stage1-images", 10**15],
        "stage1.images: expected up to 1,000,000,000,000, got 1000000000000000",
    ),
    "a negative seed": (["overfit", "--seed", -1], "seed: expected"),
    "a huge seed": (["overfit", "--seed", 2**64], "seed: expected up to 1,000,000,000,000, got 18446744073709551616"),
    "no seed": (["overfit", "--seed", "x"], "--seed: expected a whole number, got 'x'"),
    "a perceptual distance": (["overfit", "--perceptual", "lpips"], "--perceptual: expected one of gradients, random"),
    "a stage": (["overfit", "--until", "stage3"], "--until: expected one of stage1, motion, stage2, got 'stage3'"),
    "an option": (["overfit", "--stage1-image", 4], "there is no option --stage1-image, perhaps --stage1-images"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_refused_before_any_work(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(job, "Run", lambda *a: pytest.fail("worked"))
    options, said = BAD[case]
    assert said in refused(["train", *options, "--out", tmp_path / "run"], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_run_needs_a_folder(capsys):
    assert "train overfit: --out is missing; " in refused(["train", "overfit"], capsys)


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_is_no_folder_for_a_run(place, tmp_path, capsys, no_work):
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file") in refused(["train", "overfit", "--out", tmp_path / place], capsys)
    assert hashes(tmp_path) == {"file": hashlib.sha256(b"mine").hexdigest()}


def test_a_folder_with_something_else_in_it_is_no_run(tmp_path, capsys, no_work):
    """Else `--out .` would put its weights over those that stand there."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "portrait.safetensors").write_bytes(b"converted")
    before = hashes(tmp_path)
    refused(["train", "overfit", "--out", tmp_path], capsys)
    assert hashes(tmp_path) == before


def test_an_empty_folder_may_become_a_run(tmp_path, capsys):
    assert cli.main(["train", "overfit", "--out", str(tmp_path), "--until", "stage1"]) == 0
    assert checkpoints_of(tmp_path, "stage1")


@pytest.mark.parametrize(
    "options, said",
    [
        (["tiny"], r"this run was begun with .* name another folder"),
        (["overfit", "--seed", 3], "this run was begun with seed 0, now it is 3; name another folder"),
        (["overfit", "--stage1-images", 80], "this run was begun with stage1.images 8, now it is 80; name another"),
        (["overfit", "--stage2-images", 16], "begun with stage2.images 8, now it is 16; name another folder"),
        (["overfit", "--perceptual", "random_features"], "begun with perceptual 'gradients', now it is 'random_feat"),
    ],
)
def test_a_run_of_other_numbers_is_refused_and_kept(options, said, copied, capsys, no_work):
    before = hashes(copied)
    assert re.search(said, refused(["train", *options, "--out", copied], capsys))
    assert hashes(copied) == before


def _damage_cast(run: Path) -> str:
    head = run / "cast" / "head_000000.npz"
    head.write_bytes(head.read_bytes()[:1000])
    return "head_000000.npz: it is not what the index says (damaged or changed); make the folder again"


def _damage_index(run: Path) -> str:
    (run / "cast" / "index.json").write_text("{")
    return "index.json: it cannot be read as JSON; make the folder again"


def _other_cast(run: Path) -> str:
    index = json.loads((run / "cast" / "index.json").read_text())
    (run / "cast" / "index.json").write_text(json.dumps(index | {"seed": 9}))
    return "cast: expected a set with seed 3, got 9; name another folder for the run"


def _cast_is_a_file(run: Path) -> str:
    shutil.rmtree(run / "cast")
    (run / "cast").write_text("x")
    return "cast: a folder of heads is wanted, a file is there"


def _damage_config(run: Path) -> str:
    (run / "config.json").write_text("[]")
    return "config.json"


@pytest.mark.parametrize("damage", [_damage_cast, _damage_index, _other_cast, _cast_is_a_file, _damage_config])
def test_a_damaged_run_is_refused_before_any_work_and_kept(damage, copied, capsys, no_work):
    said = damage(copied)
    before = hashes(copied)
    assert said in refused(["train", "overfit", "--out", copied], capsys)
    assert hashes(copied) == before


@pytest.mark.parametrize("stage", ["stage1", "motion", "stage2"])
def test_a_damaged_state_is_refused_before_any_work_and_kept(stage, copied, capsys, no_work):
    (file,) = checkpoints_of(copied, stage)[-1].glob("*.safetensors")
    file.write_bytes(os.urandom(1000))
    before = hashes(copied)
    said = refused(["train", "overfit", "--out", copied], capsys)
    assert f"no checkpoint of {stage} is whole" in said
    assert f"{file.name} is not what its card says" in said
    assert hashes(copied) == before


def test_a_state_of_another_network_is_refused_and_kept(copied, capsys):
    shutil.rmtree(checkpoints_of(copied, "stage2")[-1])
    shutil.copytree(checkpoints_of(copied, "motion")[-1], copied / FOLDER / "stage2_000000012")
    before = hashes(copied)
    said = refused(["train", "overfit", "--out", copied], capsys)
    assert "it is of another network (networks motion, wanted generator); name another folder" in said
    assert hashes(copied) == before


def test_a_full_disk_is_one_sentence(copied, capsys, monkeypatch):
    shutil.rmtree(checkpoints_of(copied, "stage2")[-1])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("triportrait.train.stages.preview_grids.write_grid", full)
    said = refused(["train", "overfit", "--out", copied], capsys)
    assert said == (
        f"{copied}: the run could not be written or read (no space left on device); free some space or "
        "give access, and the same command goes on"
    )


def test_what_a_stage_should_not_be_built_on_is_said(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [
        {"stage": "stage1", "psnr unseen": 25.0}, {"stage": "stage1", "psnr unseen": 21.94},
        {"stage": "motion", "jaw": 0.91, "blink_left": 0.5, "blink_right": 0.95}, {"stage": "stage2", "l1": 0.1},
    ]  # fmt: skip
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert shortcomings("stage1", log) == ["stage1: 21.9 dB on unseen poses, 22 are wanted before stage 2"]
    assert shortcomings("motion", log) == ["motion: correlation 0.50 of blink_left on unseen heads, 0.9 is wanted"]
    assert shortcomings("stage2", log) == []


def test_the_card_names_the_command_and_each_commit(tmp_path, monkeypatch):
    run = tmp_path / "a run"
    monkeypatch.setattr("triportrait.train.run_all_stages.source_commit", lambda: "one")
    arguments = ["train", "overfit", "--out", str(run), "--seed", "4"]
    assert cli.main([*arguments, "--until", "stage1"]) == 0
    monkeypatch.setattr("triportrait.train.run_all_stages.source_commit", lambda: "two")
    for _ in range(2):
        assert cli.main([*arguments, "-v"]) == 0
    for folder, network in (("weights", "reenactment"), ("static", "static synthesizer")):
        card = json.loads((run / folder / "portrait.json").read_text())["provenance"]
        assert card["command"] == "triportrait train overfit --out 'a run' --seed 4"
        assert card["commit"] == "one, two"
        assert card["network"] == network


@pytest.mark.parametrize(
    "old, new", [("--rate", "--lr"), ("--micros=2", "--micro-batches"), ("--planes-weight", "--distill-planes")]
)
def test_an_option_that_was_renamed_leads_to_its_new_name(old, new, tmp_path, capsys):
    said = refused(["train", "stage1", "--out", tmp_path / "run", old, "1"], capsys)
    assert f"{old.partition('=')[0]} is {new} now" in said
    assert list(tmp_path.iterdir()) == []
