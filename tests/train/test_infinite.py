"""A step that is not finite: who was in its batch, what a run that cleans gradients makes of it, and when it ends."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.train import little
from tests.train.runs import lines_of, refused
from triportrait import cli
from triportrait.train.config import OptimizerConfig
from triportrait.train.data.pictures import PictureSet
from triportrait.train.engines.training_engine import Group, PlainEngine
from triportrait.train.loop import run_stage
from triportrait.train.presets import STAGE_PRESETS, paper
from triportrait.train.runs import nonfinite as infinite
from triportrait.train.runs.checkpoints import checkpoints_of
from triportrait.train.runs.nonfinite import shown, suspects
from triportrait.train.stages import static as stage1
from triportrait.train.stages.stage import Phase, Stage

BATCH, STEPS = 2, 12


class Line:
    """A line learned in two micro-batches a step; the first of a step is NaN where it is said."""

    def __init__(self, clean: bool, bad: set[int]) -> None:
        torch.manual_seed(5)
        self.module, self.bad = nn.Linear(3, 1), bad
        config = OptimizerConfig(lr=0.05, warmup=0, max_grad_norm=0.0, zero_nan_grads=clean)
        self.engine = PlainEngine(
            self.module, [Group(list(self.module.parameters()))], config, BATCH * STEPS, micro_batches=2
        )
        phase = Phase("main", "line", lambda micro: self.terms(micro.batch, micro.number), counts=True)
        self.stage = Stage(
            "line",
            1,
            {"line": self.engine},
            BATCH * STEPS,
            BATCH,
            2,
            lambda streams, seen: streams,
            [phase],
            self.sample,
        )

    def terms(self, streams: np.random.Generator, number: int) -> dict[str, Tensor]:
        x = torch.from_numpy(streams.normal(size=(1, 3))).float()
        error = (self.module(x) - x[:, :1]).square().mean()
        if number == 0 and self.engine.steps in self.bad:
            error = error * torch.nan
        return {"error": error, "size": 0.01 * self.module.weight.square().sum()}

    def sample(self, path: Path | None) -> dict[str, float]:
        return {}

    def run(self, folder: Path) -> list[dict[str, Any]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("triportrait.train.loop.LOG_EVERY", 1)
            folder.mkdir(exist_ok=True)
            run_stage(self.stage, folder, 0, 10**6, 10**6)
        return lines_of(folder)


def test_a_run_that_cleans_gradients_goes_on_and_says_so(tmp_path, caplog):
    line = Line(clean=True, bad={3, 7})
    told = line.run(tmp_path)
    assert line.engine.images_seen == BATCH * STEPS
    assert all(bool(p.isfinite().all()) for p in line.module.parameters())
    assert [(t["step"], t["not finite"]) for t in told if "not finite" in t] == [
        (4, "error of main"),
        (8, "error of main"),
    ]
    numbers = [t for t in told if "error" in t]
    assert len(numbers) == STEPS
    assert all(np.isfinite(t["error"]) and np.isfinite(t["loss"]) for t in numbers)
    said = caplog.text
    assert "line: error of main is not finite after 8 images; what is not finite of its gradient counts as 0" in said


def test_a_bad_micro_batch_takes_nothing_from_the_others():
    one, other = Line(True, {0}), Line(True, set())
    for line in (one, other):
        streams = [np.random.default_rng(n) for n in range(2)]
        for number in (0, 1) if line is one else (1,):
            line.engine.backward(sum(line.terms(streams[number], number).values()))  # type: ignore[arg-type]
    for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)
        assert bool(a.grad.any())


def test_infinity_becomes_what_is_published():
    line = Line(True, set())
    (line.module.weight * torch.tensor([[torch.inf, -torch.inf, 1.0]])).sum().backward()
    assert line.module.weight.grad is not None
    assert line.module.weight.grad.tolist() == [[1e5, -1e5, 1.0]]


def test_a_run_that_is_never_finite_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(infinite, "MOST_IN_A_ROW", 4)
    with pytest.raises(FloatingPointError, match="error of main is not finite for 4 steps after 10 images"):
        Line(clean=True, bad=set(range(2, STEPS))).run(tmp_path)


def test_without_cleaning_the_first_one_ends_a_run(tmp_path):
    with pytest.raises(FloatingPointError, match="error of main is not finite after 6 images"):
        Line(clean=False, bad={3}).run(tmp_path)


def test_the_preset_of_the_paper_cleans_both_networks():
    for stage in (paper().stage1, paper().stage2):
        assert stage.optimizer.zero_nan_grads
        assert stage.discriminator.zero_nan_grads


def test_pictures_that_are_not_finite_are_the_suspects(little_folder):
    cast = PictureSet(little_folder, little.model())
    batch = stage1.draw([cast], dataclasses.replace(little.config().stage1, batch=6), np.random.default_rng(1))
    names = {str(little_folder / f"head_00000{n}.npz") for n in (0, 1)}
    assert set(suspects(batch)) == names
    neck = batch.source.neck
    assert neck is not None
    neck.fine[4, 0, 0, 0, 0] = torch.nan
    assert suspects(batch) == [batch.source.origin[4]]
    assert suspects(np.random.default_rng(0)) == []
    assert shown([]) == ""
    assert shown(["a", "b", "a", "c", "d", "e"]) == ", its batch shows a, b, c, d and 1 more"


def command(folder: Path, run: Path, *more: str) -> list[str]:
    options = ["--data", folder, "--out", run, "--batch", 2, "--images", 6, "--adversarial", 0, "--save-every", 2]
    return ["train", "stage1", *map(str, options), "--sample-every", "10", "--precision", "fp32", *more]


def test_a_divergence_names_the_heads_and_the_way_on(little_folder, tmp_path, monkeypatch, capsys):
    """The same command dies at the same image; with the option that its sentence names the run goes on to its end."""
    data = tmp_path / "cast"
    shutil.copytree(little_folder, data)
    original = stage1.losses

    def spoil(batch: Any, *given: Any) -> dict[str, Tensor]:
        terms = original(batch, *given)
        bad_one = batch.source.landmarks.flatten(1).sum(1)[0].item() == marked
        return {name: value * torch.nan if bad_one else value for name, value in terms.items()}

    cast = PictureSet(data, little.model())
    streams = np.random.default_rng([0, 1, 1, 0])
    streams.integers(2**62)
    drawn = stage1.draw([cast], dataclasses.replace(little.adversarial().stage1, batch=2), streams)
    marked = drawn.source.landmarks.flatten(1).sum(1)[0].item()
    monkeypatch.setitem(STAGE_PRESETS, "tiny", little.adversarial)
    monkeypatch.setattr(stage1, "losses", spoil)
    run = tmp_path / "run"
    said = []
    for _ in range(2):
        said.append(refused(command(data, run), capsys))
    assert said[0] == said[1]
    assert "l1, raw, perceptual, opacity, depth of main is not finite after 2 images" in said[0]
    assert f"its batch shows {drawn.source.origin[0]}" in said[0]
    assert (
        "go on without such gradients by --not-finite zero --allow-change, or begin again with another --seed"
        in said[0]
    )
    assert cli.main(command(data, run, "--not-finite", "zero", "--allow-change")) == 0
    told = capsys.readouterr().err
    assert f"is not finite after 4 images, its batch shows {drawn.source.origin[0]}" in told
    assert [p.name for p in checkpoints_of(run, "stage1")] == ["stage1_000000006"]
