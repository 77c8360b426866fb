"""Checkpoints: whole or not there, thinned out, and never replaced by a damaged one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.train.little import same
from triportrait.core.errors import InputError
from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import Group, PlainEngine
from triportrait.train.runs import checkpoints
from triportrait.train.runs.checkpoints import CARD, checkpoints_of, ema_weights, load_newest, save_checkpoint

ONE = Ranks()


class Pair:
    """Two networks as a stage trains them; `move` takes a step with both."""

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.engines = {}
        for name in ("generator", "discriminator"):
            module = nn.Sequential(nn.Linear(width, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
            groups = [Group(list(module.parameters()))]
            self.engines[name] = PlainEngine(module, groups, OptimizerConfig(lr=0.05, ema_decay=0.7), 1000)

    def move(self, times: int = 1) -> Pair:
        for _ in range(times):
            for number, engine in enumerate(self.engines.values()):
                step = engine.steps
                x = torch.randn(5, 4, generator=torch.Generator().manual_seed(100 * number + step))
                engine.backward(engine.module(x).square().mean())
                engine.step(4)
        return self

    def same(self, other: Pair) -> bool:
        return all(
            same(self.engines[name].module.state_dict(), other.engines[name].module.state_dict())
            and same(self.engines[name].ema_state_dict(), other.engines[name].ema_state_dict())
            for name in self.engines
        )


def saved(run: Path, times: int = 3) -> Pair:
    """`times` checkpoints, a step between two."""
    pair = Pair()
    for _ in range(times):
        save_checkpoint(run, "stage", pair.move().engines, {"terms": {"l1": [1.5, 2.0]}}, ONE)
    return pair


def test_a_checkpoint_brings_everything_back(tmp_path):
    pair = saved(tmp_path)
    other = Pair(seed=1).move(9)
    loaded = load_newest(tmp_path, "stage", other.engines, ONE)
    assert loaded is not None
    assert loaded.damaged == []
    assert loaded.loop == {"terms": {"l1": [1.5, 2.0]}}
    assert other.same(pair)
    assert other.engines["generator"].images_seen == 12
    assert other.move(3).same(pair.move(3)), "moments too"


def test_three_are_kept_and_another_stage_is_left_alone(tmp_path):
    save_checkpoint(tmp_path, "other", Pair().move().engines, {}, ONE)
    saved(tmp_path, 5)
    assert [p.name for p in checkpoints_of(tmp_path, "stage")] == [
        "stage_000000012",
        "stage_000000016",
        "stage_000000020",
    ]
    assert [p.name for p in checkpoints_of(tmp_path, "other")] == ["other_000000004"]
    assert load_newest(tmp_path, "nothing", Pair().engines, ONE) is None


def test_a_run_that_went_on_behind_damaged_ones_keeps_three_that_are_whole(tmp_path):
    saved(tmp_path, 4)
    for folder in checkpoints_of(tmp_path, "stage")[-2:]:
        flip(folder / "generator.safetensors")
    pair = Pair()
    load_newest(tmp_path, "stage", pair.engines, ONE)
    assert pair.engines["generator"].images_seen == 8
    save_checkpoint(tmp_path, "stage", pair.move().engines, {}, ONE)
    assert [p.name[-2:] for p in checkpoints_of(tmp_path, "stage")] == ["08", "12"], "what is newer was damaged"
    assert load_newest(tmp_path, "stage", Pair().engines, ONE).damaged == []


def test_the_same_moment_twice_leaves_the_first_until_the_second_is_there(tmp_path, monkeypatch):
    pair = saved(tmp_path)
    renamed, original = [0], os.rename

    def killed(one, other):
        renamed[0] += 1
        if renamed[0] == 2:
            raise KeyboardInterrupt
        original(one, other)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, "stage", pair.engines, {}, ONE)
    kept = tmp_path / "checkpoints" / ".stage_000000012.old"
    assert (kept / "generator.safetensors").is_file()
    assert (kept / CARD).is_file()
    monkeypatch.undo()
    save_checkpoint(tmp_path, "stage", pair.engines, {}, ONE)
    assert not kept.exists()
    assert load_newest(tmp_path, "stage", Pair().engines, ONE).folder.name[-2:] == "12"


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The last bytes are gone."""
    path.write_bytes(path.read_bytes()[:-40])


DAMAGE = {
    "cut": (
        lambda f: (f / "generator.safetensors").write_bytes((f / "generator.safetensors").read_bytes()[:-40]),
        "cut",
    ),
    "a bit": (lambda f: flip(f / "discriminator.safetensors"), "discriminator.safetensors is not what its card says"),
    "empty": (lambda f: (f / "generator.safetensors").write_bytes(b""), "cut or changed"),
    "gone": (lambda f: (f / "generator.safetensors").unlink(), "generator.safetensors is missing"),
    "no card": (lambda f: (f / CARD).unlink(), "it cannot be read"),
    "half a card": (lambda f: (f / CARD).write_text((f / CARD).read_text()[:50]), "checkpoint.json is damaged"),
    "a list": (lambda f: (f / CARD).write_text("[1]"), "checkpoint.json is damaged"),
    "words for numbers": (
        lambda f: (f / CARD).write_text((f / CARD).read_text().replace('"steps": 3', '"steps": "3"')),
        "checkpoint.json is damaged",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_one_is_left_out_and_named(case, tmp_path):
    damage, reason = DAMAGE[case]
    saved(tmp_path)
    damage(checkpoints_of(tmp_path, "stage")[-1])
    other = Pair(seed=1)
    loaded = load_newest(tmp_path, "stage", other.engines, ONE)
    assert loaded is not None
    assert loaded.folder.name == "stage_000000008"
    assert other.same(Pair().move(2))
    assert len(loaded.damaged) == 1
    assert reason in loaded.damaged[0]
    assert "stage_000000012" in loaded.damaged[0]


def test_none_that_is_whole_is_one_sentence_and_nothing_moves(tmp_path):
    saved(tmp_path)
    for folder in checkpoints_of(tmp_path, "stage"):
        flip(folder / "generator.safetensors")
    other = Pair(seed=1)
    with pytest.raises(
        InputError, match=r"no checkpoint of stage is whole \(.*stage_000000012.*; remove them"
    ) as refused:
        load_newest(tmp_path, "stage", other.engines, ONE)
    assert "\n" not in str(refused.value)
    assert other.same(Pair(seed=1))
    assert len(checkpoints_of(tmp_path, "stage")) == 3


def test_another_network_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(InputError, match=r"it is of another network \(Error.*; name another folder"):
        load_newest(tmp_path, "stage", Pair(width=5).engines, ONE)
    with pytest.raises(InputError, match="networks generator, discriminator, wanted generator"):
        load_newest(tmp_path, "stage", {"generator": Pair().engines["generator"]}, ONE)


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_costs_no_older_one(at, tmp_path, monkeypatch):
    pair = saved(tmp_path)
    original, calls = checkpoints.save_file, [0]

    def full(tensors, path):
        calls[0] += 1
        if calls[0] == at:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InputError, match=r"could not be written \(.*No space left on device\); free some space"):
        save_checkpoint(tmp_path, "stage", pair.move().engines, {}, ONE)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith(".")] == []
    assert [p.name[-2:] for p in checkpoints_of(tmp_path, "stage")] == ["04", "08", "12"]


def test_a_half_written_one_is_not_seen_and_is_replaced(tmp_path):
    """What a kill in the middle of writing leaves."""
    pair = saved(tmp_path)
    newest = checkpoints_of(tmp_path, "stage")[-1]
    shutil.copytree(newest, newest.with_name(".stage_000000016.part"))
    assert checkpoints_of(tmp_path, "stage")[-1] == newest
    save_checkpoint(tmp_path, "stage", pair.move().engines, {}, ONE)
    assert not newest.with_name(".stage_000000016.part").exists()
    other = Pair(seed=1)
    load_newest(tmp_path, "stage", other.engines, ONE)
    assert other.same(pair)


def test_averaged_weights_are_read_alone(tmp_path):
    pair = saved(tmp_path)
    folder = checkpoints_of(tmp_path, "stage")[-1]
    flip(folder / "discriminator.safetensors")  # nobody asks for it
    weights = ema_weights(folder, "generator")
    wanted = pair.engines["generator"].ema_state_dict()
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert not torch.equal(weights["0.weight"], pair.engines["generator"].module.state_dict()["0.weight"])
    with pytest.raises(InputError, match=r"a whole checkpoint of discriminator, discriminator\.safetensors is not"):
        ema_weights(folder, "discriminator")
    card = json.loads((folder / CARD).read_text())
    assert set(card["files"]) == {"generator.safetensors", "discriminator.safetensors"}
