"""What a start that cannot be says: all of it at once, with an option that there is, and no folder left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.train import little
from tests.train.runs import lines_of, refused, stage_words
from tests.train.spoiling import altered, spoilt
from triportrait import cli
from triportrait.train.data.pictures import open_set
from triportrait.train.presets import STAGE_PRESETS
from triportrait.train.runs import disk_space
from triportrait.train.runs.checkpoints import FOLDER, checkpoints_of
from triportrait.train.runs.claim import LOCK
from triportrait.train.stages import static as stage1

pytestmark = pytest.mark.usefixtures("little_preset")

ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def stage1_run(material, tmp_path_factory) -> Path:
    """A run of stage 1 with two checkpoints."""
    run = tmp_path_factory.mktemp("begun") / "stage1"
    assert cli.main(words(material, "stage1", run, "--adversarial", 0.1)) == 0
    last = checkpoints_of(run, "stage1")[-1]
    shutil.copytree(last, last.with_name("stage1_000000004"))
    return run


def words(material: Path, stage: str, out: Path, *more: Any) -> list[str]:
    quick = ["--images", 8, "--adversarial", 0, "--save-every", 4, "--sample-every", 8]
    return stage_words(material, stage, out, *quick, *more)


def test_a_run_in_the_place_of_weights_is_told_how_to_become_some(material, stage1_run, tmp_path, capsys):
    run = stage1_run
    wanted = (
        f"{run}: this is a run, not its weights; make them by `triportrait train export {run} FOLDER` and name that"
    )
    assert refused(words(material, "stage2", tmp_path / "run", "--static", run), capsys) == wanted
    assert refused(words(material, "stage2", tmp_path / "run", "--motion", run), capsys) == wanted
    source = str(ROOT / "docs/demo/portrait.jpg")
    assert refused(["reenact", source, source, str(tmp_path / "o.png"), "--weights", str(run)], capsys) == wanted
    (tmp_path / "whole" / "weights").mkdir(parents=True)
    (tmp_path / "whole" / "weights" / "portrait.json").write_text("{}")
    said = refused(words(material, "stage2", tmp_path / "run", "--static", tmp_path / "whole"), capsys)
    assert said.endswith(f"name {tmp_path / 'whole/weights'} or {tmp_path / 'whole/static'}")
    assert not (tmp_path / "run").exists()


def test_pictures_of_another_size_are_told_of_by_options_that_there_are(material, tmp_path, capsys):
    alone = ["--perceptual", "gradients", "--identity-weight", 0, "--distill-planes", 0, "--renderer-frozen-until", 0]
    said = refused(words(material, "stage1", tmp_path / "a" / "run", "--preset", "paper", *alone), capsys)
    assert "expected pictures of 512 px for preset paper, got 64; make them again by `triportrait prepare heads" in said
    assert "heads --size 512`" in said
    assert not (tmp_path / "a").exists()


def test_everything_that_is_missing_is_named_in_one_start(material, tmp_path, capsys):
    said = refused(words(material, "stage1", tmp_path / "run", "--preset", "paper"), capsys)
    assert (
        "stage1 of preset paper: 4 things are missing: --vgg FILE (VGG-16 as torchvision has it), --identity FILE"
        in said
    )
    assert "heads of GenHead (--data genhead:FOLDER --parameters TABLES, or a store of `prepare genhead`)" in said
    assert "--genhead FOLDER (a GenHead, whose renderer this one begins with, as it does not move)" in said
    way = said.rpartition("or go without by ")[2].split()
    assert way == [
        "--perceptual", "gradients", "--identity-weight", "0", "--distill-planes", "0", "--distill-feature", "0",
        "--renderer-frozen-until", "0",
    ]  # fmt: skip
    assert "expected pictures of 512 px" in refused(
        words(material, "stage1", tmp_path / "run", "--preset", "paper", *way), capsys
    )
    said = refused(words(material, "stage2", tmp_path / "run", "--static", "nowhere", "--motion", "none"), capsys)
    assert (
        "2 things are missing: --static nowhere, which is not there, --motion none, which is not there; name them"
        in said
    )
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_stage_is_called_so(material, stage1_run, tmp_path, capsys):
    run = stage1_run
    said = refused(words(material, "stage2", run), capsys)
    assert said == f"{run}: expected a stage-2 run, this is a stage-1 run; name another folder for the run"
    assert "begun with" not in said
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text('{"preset": "tiny"}')
    assert "expected a stage-1 run, this is a run of both stages" in refused(
        words(material, "stage1", tmp_path / "whole"), capsys
    )


def test_how_often_a_run_saves_may_change(material, tmp_path):
    run = tmp_path / "run"
    assert cli.main(words(material, "stage1", run)) == 0
    shutil.rmtree(checkpoints_of(run, "stage1")[-1])
    assert cli.main(words(material, "stage1", run, "--save-every", 3, "--sample-every", 2)) == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["save_every"], config["sample_every"]) == (3, 2)


def test_another_number_of_micro_batches_is_told_by_its_option(material, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(words(material, "stage1", run, "--micro-batches", 2)) == 0
    said = refused(words(material, "stage1", run), capsys)
    assert (
        "begun with stage1.micro_batches 2, now it is 1; name another folder or say --allow-change; --micro-batches 2 "
        "goes on" in said
    )
    assert cli.main(words(material, "stage1", run, "--micro-batches", 2)) == 0


def test_other_data_are_told_by_what_differs(material, tmp_path, capsys):
    run, same = tmp_path / "run", tmp_path / "data" / "cast"
    assert cli.main(words(material, "stage1", run)) == 0
    shutil.copytree(material / "cast", same)
    assert cli.main(words(material, "stage1", run, "--data", same)) == 0, "where they lie does not matter"
    other = altered(material / "cast", tmp_path / "other", lambda a: a | {"landmarks": a["landmarks"] + 1})
    said = refused(words(material, "stage1", run, "--data", other), capsys)
    assert (
        "begun on other data: cast with 2 then, other with 2 now, of which head_000001.npz differs; name the data"
        in said
    )
    more = open_set(tmp_path / "more", dataclasses.replace(little.CAST, count=3), little.model())
    assert more.heads == 3
    said = refused(words(material, "stage1", run, "--data", tmp_path / "more"), capsys)
    assert "cast with 2 then, more with 3 now, of which head_000002.npz is new" in said
    (run / "data.json").unlink()
    said = refused(words(material, "stage1", run, "--data", other), capsys)
    assert "begun on other data: its checksums are not those of other; name" in said


@pytest.mark.parametrize("there", [False, True])
def test_a_start_that_is_refused_leaves_nothing(there, material, tmp_path, capsys):
    bad = altered(material / "cast", tmp_path / "bad", spoilt("landmarks"))
    run = tmp_path / "runs" / "one"
    if there:
        run.mkdir(parents=True)
    for stage, more in (("stage1", ["--data", bad]), ("stage2", ["--perceptual", "lpips", "--vgg", __file__])):
        refused(words(material, stage, run, *more), capsys)
        assert run.exists() == there
        assert not there or not list(run.iterdir())
        assert (tmp_path / "runs").exists() == there


def test_what_lay_in_a_folder_stays_when_a_start_is_refused(material, tmp_path, capsys):
    """Also what is named as a run's own files are."""
    run = tmp_path / "mine"
    run.mkdir()
    for name in ("data.json", "letter.txt"):
        (run / name).write_text("mine")
    assert "expected an empty folder or a run, it holds letter.txt" in refused(words(material, "stage1", run), capsys)
    assert {path.name: path.read_text() for path in run.iterdir()} == {"data.json": "mine", "letter.txt": "mine"}


def test_a_disk_without_room_is_said_before_the_first_step(material, stage1_run, tmp_path, capsys, monkeypatch):
    taken = sum(path.stat().st_size for path in checkpoints_of(stage1_run, "stage1")[-1].glob("*.safetensors"))
    free = 10**12
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: Usage(10**13, 0, free))
    assert cli.main(words(material, "stage1", tmp_path / "enough", "--adversarial", 0.1)) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if "a checkpoint takes" in line)
    told = re.fullmatch(r"stage1: a checkpoint takes (\d\.\d) MB; 3 are kept and one is being written", line)
    assert told
    assert float(told[1]) == pytest.approx(taken / 1e6, rel=0.04)
    free = 3 * taken
    assert cli.main(words(material, "stage1", tmp_path / "little", "--adversarial", 0.1)) == 0
    assert f"MB more and {free / 1e6:.1f} MB are free: free some space, or the run" in capsys.readouterr().err
    free = taken // 2
    monkeypatch.setattr(stage1, "losses", lambda *a: pytest.fail("a step"))
    said = refused(words(material, "stage1", tmp_path / "none", "--adversarial", 0.1), capsys)
    assert f"expected room for a checkpoint of {told[1]} MB, {free / 1000:.0f} kB are free; free some space" in said
    assert not (tmp_path / "none").exists()


def test_who_trains_in_a_folder_is_named(material, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    hold = "import sys; from pathlib import Path; from triportrait.train.runs.claim import claim\n" \
           "lock = claim(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said = refused(words(material, "stage1", run), capsys)
        assert f"another process trains in this folder; wait for it (pid {other.pid} on {socket.gethostname()})" in said
        assert [path.name for path in run.iterdir()] == [LOCK], "the other's lock is not taken away, nothing is made"
        other.communicate("")
    assert cli.main(words(material, "stage1", run)) == 0, "the claim ends with the process"


def test_an_older_checkpoint_is_told_where_it_is_taken(material, stage1_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stage1_run, run)
    newest = run / FOLDER / "stage1_000000008"
    for name in ("generator", "discriminator"):
        with (newest / f"{name}.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x55")
    assert cli.main(["train", "export", str(run), str(tmp_path / "weights")]) == 0
    said = capsys.readouterr().err.strip()
    assert said.startswith(
        f"warning: {newest}: expected a whole checkpoint of generator, generator.safetensors is not what"
    )
    assert said.endswith("left out, stage1_000000004 is taken")
    made = json.loads((tmp_path / "weights" / "portrait.json").read_text())["provenance"]
    assert made["images seen"] == {"stage1": 4}
    more = ["--adversarial", 0.1, "--discriminator", run]
    assert cli.main(words(material, "stage1", tmp_path / "next", *more)) == 0
    assert f"{newest}: expected a whole checkpoint of discriminator" in (said := capsys.readouterr().err)
    assert "left out, an older one is taken" in said
    assert cli.main(["train", "export", str(stage1_run), str(tmp_path / "folders" / "above" / "quiet")]) == 0
    assert capsys.readouterr().err == "", "nothing to say of a run that is whole"


def test_the_log_s_loss_is_the_sum_of_its_terms(stage1_run):
    steps = [line for line in lines_of(stage1_run) if "l1" in line]
    assert steps
    for line in steps:
        terms = ("l1", "raw", "perceptual", "opacity", "depth", "adversary")
        assert line["loss"] == pytest.approx(sum(line[name] for name in terms), abs=1e-4)


def test_the_rate_of_the_layers_that_read_motion_is_logged(material, tmp_path):
    own = little.adversarial().stage2
    quick = dataclasses.replace(own, optimizer=dataclasses.replace(own.optimizer, motion_lr_factor=2.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGE_PRESETS, "tiny", lambda: dataclasses.replace(little.adversarial(), stage2=quick))
        assert cli.main(words(material, "stage2", tmp_path / "run", "--renderer-frozen-until", 6)) == 0
    lines = [line for line in lines_of(tmp_path / "run") if "l1" in line]
    assert all(line["lr motion"] == pytest.approx(2.5 * line["lr"], rel=1e-4) for line in lines)
    assert [line["lr renderer"] for line in lines] == [0, 0]
