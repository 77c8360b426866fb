"""The rows of Table 3: each trains, and each differs from row K by what its name says alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.train import little, trained
from triportrait.core.checkpoint import load_motion_encoder, load_portrait
from triportrait.core.errors import InputError
from triportrait.serve import cli
from triportrait.train import ablations, stage2
from triportrait.train.ablations import ROWS, Row, ablated
from triportrait.train.data.pictures import PictureSet, open_set
from triportrait.train.presets import STAGE_PRESETS, paper
from triportrait.train.start import reads_motion


@pytest.fixture(autouse=True)
def little_preset(monkeypatch):
    """`tiny` is the smallest training here, and a clip stands for all others."""
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.opposed)
    monkeypatch.setattr(ablations, "_OF_A_SMALL_CAST", 1_000)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A set of ten heads, a static synthesizer and a motion encoder."""
    folder = tmp_path_factory.mktemp("material")
    open_set(folder / "cast", dataclasses.replace(little.CAST, count=10, expressions=2, views=1), little.model())
    trained.write(folder / "trained")
    trained.write_static(folder / "static")
    return folder


def words(material: Path, row: str, out: Path, *more: Any) -> list[str]:
    static = material / ("trained" if row == "F" else "static")
    given = ["--data", material / "cast", "--out", out, "--static", static, "--motion", material / "trained"]
    return ["train", "stage2", *map(str, [*given, "--batch", 4, "--micros", 1, "--ablation", row, *more])]


@pytest.mark.parametrize("row", get_args(Row))
def test_every_row_takes_five_steps(row, material, tmp_path):
    run = tmp_path / "run"
    more = ["--images", 20, "--precision", "fp32", "--save-each", 20, "--sample-each", 20, "--adversary-from", 4]
    assert cli.main(words(material, row, run, *more)) == 0
    assert cli.main(["train", "export", str(run), str(tmp_path / "out")]) == 0
    moved, before = load_file(tmp_path / "out/portrait.safetensors"), load_portrait(material / "static").state_dict()
    assert all(value.isfinite().all() for value in moved.values())
    assert any(not torch.equal(moved[name], before[name]) for name in before)
    assert (run / "motion_encoder").exists() == (tmp_path / "out/motion.json").exists() == (row != "E")
    told = json.loads((run / "config.json").read_text())
    assert told["preset"] == ("test" if row == "L" else f"test, ablation {row}")


def test_a_row_differs_from_k_by_its_name_alone():
    k = ablated(paper(), "K")
    assert k.stage2 == dataclasses.replace(
        paper().stage2, images=5_000_000, optimizer=dataclasses.replace(paper().stage2.optimizer, motion_factor=1.0)
    )
    assert ablated(paper(), "L") == paper()
    changed = {row: _changes(k, ablated(paper(), row)) for row in ROWS if row not in "KL"}
    assert changed == {
        "A": {"begins": "random"},
        "B": {"real_driving": 1.0, "real_target": 1.0},
        "C": {"real_driving": 1.0},
        "D": {"real_target": 1.0},
        "E": {"motion": "parameters", "motion_width": 109},
        "F": {"teacher": "dynamic"},
        "G": {"clips": 1_000},
        "H": {"clips": 2_000},
        "I": {"clips": 5_000},
        "J": {"clips": 10_000},
    }


def _changes(one: Any, other: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(one):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(before):
            found |= _changes(before, after)
        elif before != after and field.name != "preset":
            found[field.name] = after
    return found


@pytest.fixture(scope="module")
def cast(material) -> PictureSet:
    return PictureSet(material / "cast", little.model())


def models(**changes: Any) -> stage2.ReenactModels:
    portrait, static = little.portrait(motion=True), little.portrait(1, motion=True)
    return stage2.ReenactModels(
        portrait, static.eval(), **({"motion_encoder": little.encoder()} | changes), **_DISTANCE
    )


_DISTANCE: dict[str, Any] = {"perceptual": lambda one, other, weight=None: (one - other).abs().mean((1, 2, 3))}


def batch_of(cast: PictureSet, **changes: Any) -> stage2.ReenactBatch:
    return stage2.draw(cast, dataclasses.replace(little.config().stage2, **changes), np.random.default_rng(5))


def test_clips_are_the_first_ones(cast):
    drawn = [batch_of(cast, batch=64, clips=2), batch_of(cast, batch=64)]
    rows = cast.take(cast.pose(np.arange(2).repeat(2), np.tile(np.arange(2), 2)), torch.zeros(4, dtype=torch.long))
    inside = [(batch.source.motion[:, None] == rows.motion).all(-1).any(-1) for batch in drawn]
    assert inside[0].all() and not inside[1].all()


def test_parameters_are_what_the_data_tells(cast):
    batch = batch_of(cast, real_driving=0.0, real_target=0.0)
    motion, targets = stage2.pseudo_views(batch, models(motion_encoder=None))
    assert torch.equal(motion, batch.driving.motion) and len(targets) == len(motion)


def test_a_dynamic_teacher_reads_the_frame_s_own_motion(cast):
    batch, still = batch_of(cast, real_driving=1.0, real_target=0.0), models()
    _, seen = stage2.pseudo_views(batch, dataclasses.replace(still, dynamic=True))
    seen_again = []
    for motion_scale in (1.0, 2.0):
        encoder = little.encoder()
        with torch.no_grad():
            encoder.out.weight.mul_(motion_scale)
        asked = dataclasses.replace(still, motion_encoder=encoder)
        seen_again.append([stage2.pseudo_views(batch, dataclasses.replace(asked, dynamic=d))[1] for d in (True, False)])
    assert torch.equal(seen, seen_again[0][0]) and not torch.equal(seen, seen_again[1][0])
    assert torch.equal(seen_again[0][1], seen_again[1][1])  # a static one knows no motion


@pytest.mark.parametrize("begins, as_static", [("static", True), ("random", False)])
def test_a_portrait_begins_as_it_is_told(begins, as_static, material, tmp_path, monkeypatch):
    made: dict[str, torch.Tensor] = {}

    def take(config, chosen, models, *more):
        made.update(little.copied(models.portrait))
        raise InputError("enough")

    monkeypatch.setattr("triportrait.train.stage_run.reenact_stage", take)
    cli.main(words(material, "A" if begins == "random" else "K", tmp_path / "run", "--seed", 7))
    static = load_portrait(material / "static").state_dict()
    same = [
        torch.equal(made[name], static[name]) for name in static if not reads_motion(name) and static[name].dim() > 1
    ]
    assert all(same) if as_static else not any(same)


@pytest.mark.parametrize(
    "row, more, said",
    [
        ("J", ["--data", "few"], "data: expected 10 clips or more for this training, got 2; name a larger set"),
        ("K", ["--preset", "published"], "expected the preset tiny or paper, as the ablations are the paper's"),
    ],
)
def test_what_cannot_be_ablated_is_refused(row, more, said, material, tmp_path, capsys):
    open_set(tmp_path / "few", little.CAST, little.model(), necks=False)
    more = [str(tmp_path / word) if word == "few" else word for word in more]
    assert cli.main(words(material, row, tmp_path / "run", *more)) == 2
    assert said in capsys.readouterr().err


def test_a_motion_encoder_of_other_numbers_is_refused(material, tmp_path, capsys, monkeypatch):
    transformer = dataclasses.replace(little.model().transformer, motion_width=11)
    wide = dataclasses.replace(little.opposed(), model=dataclasses.replace(little.model(), transformer=transformer))
    monkeypatch.setitem(STAGE_PRESETS, "tiny", lambda: wide)
    assert cli.main(words(material, "L", tmp_path / "run")) == 2
    assert "expected a motion encoder of 11 numbers, got 9; name another folder" in capsys.readouterr().err
    assert load_motion_encoder(material / "trained").motion_width == 9
