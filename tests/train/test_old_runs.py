"""A run that was begun before the renaming goes on: its config, its checkpoint, its optimiser's state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.train.runs import lines_of
from triportrait.core.errors import InputError
from triportrait.train import loop
from triportrait.train.config import TrainConfig
from triportrait.train.data.pictures import open_set
from triportrait.train.networks import InitFrom
from triportrait.train.presets import paper, tiny_stages
from triportrait.train.run_folder import Run
from triportrait.train.run_one_stage import OneStage
from triportrait.train.runs.checkpoints import checkpoints_of, ema_weights
from triportrait.train.runs.flatten import rebuilt
from triportrait.train.runs.old_keys import KEYS, with_new_keys
from triportrait.train.runs.run_config import check_config, read_config

STORED = Path(__file__).parents[1] / "data/train"
ROUNDING = {"rel": 1e-3, "abs": 2e-5}  # of the log's five digits, and of another processor


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(STORED / "run_0_1_0", tmp_path / "run")
    return tmp_path / "run"


def test_an_old_run_goes_on_as_it_would_have(run, tmp_path, monkeypatch):
    """Three of six steps are older, with both networks, R1, a growing ray grid and lazy regularisation."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    expected = json.loads((STORED / "goes_on_0_1_0.json").read_text())
    config: TrainConfig = rebuilt(TrainConfig, read_config(run), {}, "config")
    open_set(tmp_path / "cast", config.cast, config.model)
    averages = ema_weights(checkpoints_of(run, "stage1")[-1], "generator")
    assert averages, "the EMA of an old checkpoint is found"
    Run(config, run, OneStage("stage1", tmp_path / "cast", InitFrom()), changes_allowed=True).train()
    lines = lines_of(run)
    lines = [line for line in lines if line["step"] > 3]
    assert len(lines) == len(expected["log"])
    for line, old in zip(lines, expected["log"], strict=True):
        for name, value in old.items():
            found = line[name.replace("rate", "lr")]
            assert found == (value if isinstance(value, str) else pytest.approx(value, **ROUNDING)), (
                line["step"],
                name,
            )
    for network, sums in expected["absolute sums"].items():
        state: dict[str, float] = {}
        for key, tensor in load_file(checkpoints_of(run, "stage1")[-1] / f"{network}.safetensors").items():
            kind = key.partition("/")[0]
            state[kind] = state.get(kind, 0.0) + tensor.double().abs().sum().item()
        for kind, value in sums.items():
            assert state[{"average": "ema"}.get(kind, kind)] == pytest.approx(value, rel=1e-4), (network, kind)


@pytest.mark.parametrize("name, preset", [("tiny", tiny_stages), ("published", lambda: paper(True))])
def test_an_old_config_is_that_of_today(name: str, preset: Callable[[], TrainConfig]):
    stored = json.loads((STORED / f"config_{name}_0_1_0.json").read_text())
    newer = {"evaluate_every": 0, "superres_style": "own"}  # which 0.1.0 did not have
    today = json.loads(json.dumps(preset().to_dict())) | newer
    assert with_new_keys(stored) == today
    assert with_new_keys(with_new_keys(stored)) == with_new_keys(stored)


def test_a_number_that_differs_from_an_old_run_s_has_the_name_of_today(run):
    config: dict[str, Any] = read_config(run)
    check_config(run, config)
    config["stage1"]["optimizer"]["lr"] = 0.5
    with pytest.raises(InputError, match=r"begun with stage1\.optimizer\.lr 0\.002, now it is 0\.5"):
        check_config(run, config)


def test_every_old_key_leads_to_one_of_today():
    today = json.loads(json.dumps(tiny_stages().to_dict() | {"run": {"init_from": {}}}))
    for new in KEYS.values():
        section: Any = today
        for part in new.split("."):
            assert part in section, new
            section = section[part]
