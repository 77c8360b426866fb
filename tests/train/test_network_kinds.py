"""Wherever a weights folder is named, the other network is one sentence: what was wanted, what came, what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.train import little, trained
from tests.train.runs import refused
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.serve.weight_loading import load_weights
from triportrait.train.data.pictures import open_set
from triportrait.train.presets import STAGE_PRESETS

STATIC, MOVING = "static synthesizer", "reenactment"


@pytest.fixture(autouse=True)
def little_preset(monkeypatch):
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.config)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A set; both networks with a motion encoder beside each, so that their cards alone tell them apart."""
    folder = tmp_path_factory.mktemp("material")
    open_set(folder / "cast", dataclasses.replace(little.CAST, count=1, expressions=2, views=2), little.model())
    for name, network in (("static", STATIC), ("moving", MOVING)):
        trained.write(folder / name, {"network": network, "cast": trained.CAST})
    return folder


CASES = {  # what is named by what -> the network that is wanted, and what to do
    "stage1 --weights moving": ("static", "name the static synthesizer that stage 1 shall go on from"),
    "stage2 --static moving": ("static", "name the static synthesizer of stage 1, and by --teacher a reenactment"),
    "stage2 --weights static --static static": ("moving", "begin as this one by --init"),
    "stage2 --weights moving --static moving": ("static", "name the static synthesizer of stage 1, and by --teacher"),
    "stage2 --init moving --static static": ("static", "name the static synthesizer of stage 1"),
    "stage2 --init static --static moving": ("static", "name the static synthesizer of stage 1"),
    "stage2 --init random --static moving": ("static", "name the static synthesizer of stage 1"),
    "stage2 --static static --teacher static": ("moving", "name a network that reads motion, as stage 2 makes it"),
    "stage2 --ablation G --static static --teacher static": ("moving", "leave --teacher and row G out"),
    "stage2 --ablation G --static moving --teacher moving": ("static", "name the static synthesizer of stage 1"),
}
WORDS = {"static": "a static synthesizer (stage 1)", "moving": "a reenactment network (stage 2)"}


@pytest.mark.parametrize("case", CASES)
def test_training_refuses_the_other_network(case, material, tmp_path, capsys):
    wanted, advice = CASES[case]
    stage, *options = [str(material / word) if word in WORDS else word for word in case.split()]
    given = ["--data", str(material / "cast"), "--out", str(tmp_path / "run"), "--images", "2"]
    given += ["--motion", str(material / "moving")] if stage == "stage2" else []
    said = refused(["train", stage, *given, *options], capsys)
    got = WORDS["moving" if wanted == "static" else "static"]
    assert f"expected {WORDS[wanted]}, got {got}; " in said
    assert advice in said.partition("; ")[2]
    assert not (tmp_path / "run" / "config.json").exists(), "no run was begun"


@pytest.mark.parametrize(
    "case",
    [
        "stage2 --static static --teacher moving",
        "stage2 --init static --teacher moving",
        "stage2 --weights moving --static static",
    ],
)
def test_training_takes_the_right_ones(case, material, tmp_path, capsys):
    stage, *options = [str(material / word) if word in WORDS else word for word in case.split()]
    given = ["--data", str(material / "cast"), "--out", str(tmp_path / "run"), "--images", "2"]
    assert cli.main(["train", stage, *given, "--motion", str(material / "moving"), *options]) == 0


def test_a_teacher_is_refused_where_the_static_synthesizer_draws_and_missed_where_it_does_not(
    material, tmp_path, capsys
):
    given = ["train", "stage2", "--data", material / "cast", "--out", tmp_path / "run", "--static", material / "static"]
    given += ["--motion", material / "moving"]
    assert cli.main([*map(str, given), "--ablation", "G"]) == 2
    assert "teacher: expected the weights of the reenactment network that draws pseudo views" in capsys.readouterr().err
    assert cli.main([*map(str, given), "--ablation", "K", "--teacher", str(material / "moving")]) == 2
    assert "row K of the paper's Table 3 has teacher static synthesizer" in capsys.readouterr().err


def test_evaluate_and_demo_want_the_network_that_moves(material, tmp_path, capsys):
    out = tmp_path / "out"
    for words in (["evaluate", "WEIGHTS", "--out", str(out)], ["demo", f"{out}.mp4", "--weights", "WEIGHTS"]):
        assert cli.main([str(material / "static") if word == "WEIGHTS" else word for word in words]) == 2
        said = capsys.readouterr().err
        assert f"weights {material / 'static'}: expected {WORDS['moving']}, got {WORDS['static']}; name what " in said
    assert (
        cli.main(["evaluate", str(material / "moving"), "--static", str(material / "moving"), "--out", str(out)]) == 2
    )
    assert (
        f"--static {material / 'moving'}: expected {WORDS['static']}, got {WORDS['moving']}" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_reenact_and_live_load_what_moves_and_reenact_shows_the_other_without_motion(material):
    with pytest.raises(
        InputError, match=r"got a static synthesizer \(stage 1\); name weights that move, or let `tripo"
    ):
        load_weights(str(material / "static"))
    for name, static in (("moving", False), ("moving", True), ("static", True)):
        load_weights(str(material / name), static)


def test_a_static_synthesizer_as_it_is_exported_is_shown_without_motion(tmp_path):
    """Stage 1 leaves no motion encoder beside it, and neither does a converted static file."""
    trained.write_static(tmp_path / "static", noted={"network": STATIC})
    portrait, _ = load_weights(str(tmp_path / "static"), static=True)
    assert portrait.config == little.model()


@pytest.mark.parametrize("option", ["--weights", "--teacher"])
def test_motion_of_the_data_is_told_from_motion_of_pictures(option, material, tmp_path, capsys):
    """Row F's network and row K's have as many numbers here, and each other's mean nothing to them."""
    of_data = trained.write(tmp_path / "of_data", {"network": MOVING, "motion": "parameters"})
    given = ["train", "stage2", "--data", material / "cast", "--out", tmp_path / "run", "--images", 2]
    given += ["--static", material / "static", "--motion", material / "moving", option]
    for folder, more, got in (
        (of_data, [], "read off pictures, got one whose motion is the parameters of tracked faces"),
        (material / "moving", ["--motion-kind", "parameters"], "the parameters of tracked faces (3DMM, row F), got"),
    ):
        assert cli.main([*map(str, [*given, folder, *more])]) == 2
        assert f"{option} {folder}: expected one whose motion is {got}" in capsys.readouterr().err
    with pytest.raises(InputError, match="got one whose motion is the parameters"):
        load_weights(str(of_data))
