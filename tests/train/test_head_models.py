"""Stage 2 on clips of another head model than FLAME: trained, exported with its name, and never mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train import tracked, trained
from tests.train.runs import refused
from triportrait import cli
from triportrait.core.checkpoint import load_portrait
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.networks import InitFrom

pytestmark = pytest.mark.usefixtures("little_preset")

OPEN = load_head_model().identity


def words(material: Path, data: Path, out: Path, *more: Any) -> list[str]:
    """A training of three steps by a network without FLAME."""
    options = ["--data", data, "--out", out, "--static", material / "static", "--motion", material / "trained"]
    options += ["--batch", 2, "--micro-batches", 1, "--images", 6, "--save-every", 2, "--sample-every", 100]
    return ["train", "stage2", *map(str, [*options, "--precision", "fp32", *more])]


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Networks without FLAME, and clips of the open head."""
    folder = tmp_path_factory.mktemp("material")
    trained.write(folder / "trained")
    trained.write_static(folder / "static")
    tracked.write_static(folder / "flame")
    store = tracked.write_store(folder / "open")
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps(index | {"head_model": OPEN.to_dict()}))
    return folder


@pytest.mark.parametrize("named", [True, False])
def test_a_network_without_flame_trains_on_clips_of_the_open_head(material, tmp_path, named):
    run = tmp_path / "run"
    data = material / "open"
    options = [*(["--flame", "open-head"] if named else [])]
    assert cli.main(words(material, data, run, *options)) == 0
    assert cli.main(["train", "export", str(run), str(tmp_path / "weights")]) == 0
    card = json.loads((tmp_path / "weights" / "portrait.json").read_text())["provenance"]
    assert card["head_model"] == OPEN.to_dict()
    assert "FLAME" not in card["licence"]
    assert load_portrait(tmp_path / "weights").neck.identity == OPEN
    assert load_head_model(tmp_path / "weights").identity == OPEN


def test_models_are_not_mixed(material, tmp_path, capsys):
    refusal = refused(words(material, material / "open", tmp_path / "run", "--flame", material / "flame"), capsys)
    assert "expected parameters of FLAME 2020" in refusal
    assert f"got those of open head ({OPEN.fingerprint})" in refusal
    other = tracked.write_store(tmp_path / "lmdb")
    refusal = refused(words(material, other, tmp_path / "run", "--flame", "open-head"), capsys)
    assert "expected parameters of open head" in refusal
    assert "got those of FLAME 2020" in refusal
    assert not (tmp_path / "run").exists()


def test_without_a_model_it_says_which_option_names_one(material, tmp_path, capsys):
    other = tracked.write_store(tmp_path / "lmdb")
    refusal = refused(words(material, other, tmp_path / "run"), capsys)
    assert "expected a weights folder with FLAME's tables, got one without" in refusal
    assert "name by --flame the head model of these clips" in refusal


def test_the_name_of_the_open_head_is_no_path():
    assert InitFrom(flame="open-head").resolved()["flame"] == "open-head"
