"""The loop on a network of four numbers: stopped or not it ends the same, and what cannot go on is said."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.train.little import copied, same
from tests.train.runs import unclocked
from triportrait.core.errors import InputError
from triportrait.train import loop
from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import Group, PlainEngine
from triportrait.train.loop import run_stage
from triportrait.train.runs.checkpoints import checkpoints_of, load_newest
from triportrait.train.runs.draw_grids import GAP_PX, LABEL_PX, shown_depth, write_grid
from triportrait.train.runs.run_config import check_config
from triportrait.train.runs.run_log import LOG
from triportrait.train.stages.stage import single_network

IMAGES, BATCH = 120, 4  # 30 steps


class Toy:
    """A stage that learns a line from noise; it can be told to stop, and remembers what it was given.

    Args:
        stop_at: the step in which the person at the keyboard has had enough.
    """

    def __init__(self, stop_at: int | None = None, width: int = 3, name: str = "toy", number: int = 1) -> None:
        torch.manual_seed(5)
        self.module, self.stop_at = nn.Linear(width, 1), stop_at
        config = OptimizerConfig(lr=0.05, warmup=10, ema_decay=0.8)
        self.engine = PlainEngine(self.module, [Group(list(self.module.parameters()))], config, IMAGES)
        self.stage = single_network(name, number, self.engine, IMAGES, BATCH, self.losses, self.sample)
        self.terms: list[dict[str, float]] = []
        self.sampled: list[int] = []
        self.drawn: list[tuple[float, float]] = []

    def losses(self, streams: np.random.Generator, rng: torch.Generator) -> dict[str, Tensor]:
        if self.engine.steps == self.stop_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(streams.normal(size=(BATCH, self.module.in_features))).float()
        wanted = x[:, :1] + 0.1 * torch.randn(BATCH, 1, generator=rng)
        terms = {"error": (self.module(x) - wanted).square().mean(), "size": 0.01 * self.module.weight.square().sum()}
        self.terms.append({name: value.item() for name, value in terms.items()})
        self.drawn.append((x[0, 0].item(), wanted[0].item() - x[0, 0].item()))
        return terms

    def restored(self, folder: Path) -> Toy:
        load_newest(folder, self.stage.name, self.stage.engines, Ranks())
        return self

    def sample(self, path: Path | None) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        assert same(self.module.state_dict(), self.engine.ema_state_dict()), "samples show the averaged weights"
        self.sampled.append(self.engine.images_seen)
        shade = self.module.weight.mean().clamp(-1, 1).expand(2, 3, 8, 8)
        write_grid(path, {"weight": shade})
        return {"weight": self.module.weight[0, 0].item()}

    def run(self, folder: Path, seed: int = 0, save_every: int = 40, sample_every: int = 60) -> Toy:
        folder.mkdir(exist_ok=True)
        run_stage(self.stage, folder, seed, save_every, sample_every)
        return self


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_to_its_end(tmp_path):
    toy = Toy().run(tmp_path)
    assert (toy.engine.steps, toy.engine.images_seen, len(toy.terms)) == (30, 120, 30)
    assert toy.terms[-1]["error"] < 0.3 * toy.terms[0]["error"]
    assert not same(toy.module.state_dict(), toy.engine.ema_state_dict()), "after a sample the own weights come back"
    names = {name for name in files_of(tmp_path) if not name.startswith("tensorboard/")}
    last = "checkpoints/toy_000000120"
    assert names == {
        LOG, "samples/toy_0000060.png", "samples/toy_0000120.png", f"{last}/toy.safetensors", f"{last}/checkpoint.json"
    }  # fmt: skip
    restored = Toy().restored(tmp_path)
    assert same(restored.module.state_dict(), toy.module.state_dict())
    assert restored.engine.steps == 30


def test_the_log_holds_means_rates_and_what_samples_say(tmp_path):
    toy = Toy().run(tmp_path)
    whole = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert all(line["stage"] == "toy" for line in whole)
    means = [line for line in whole if "lr" in line]
    assert [(line["step"], line["images_seen"]) for line in means] == [(10, 40), (20, 80), (30, 120)]
    for k, line in enumerate(means):
        for name in ("error", "size"):
            wanted = np.mean([terms[name] for terms in toy.terms[10 * k : 10 * k + 10]])
            assert line[name] == pytest.approx(wanted, abs=6e-6)
        assert line["images_per_s"] > 0
        assert 0 < line["lr"] <= 0.05
    samples = [line for line in whole if "weight" in line]
    assert [line["images_seen"] for line in samples] == [60, 120] == toy.sampled
    assert samples[1]["weight"] == pytest.approx(toy.engine.ema_state_dict()["weight"][0, 0].item(), abs=6e-5)


@pytest.mark.parametrize("save_every, behind", [(40, 10), (28, 14)])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, save_every, behind):
    whole = Toy().run(tmp_path / "whole", save_every=save_every)
    for stop_at in (17, 26):
        stopped = Toy(stop_at)
        with pytest.raises(KeyboardInterrupt):
            stopped.run(tmp_path / "run", save_every=save_every)
    assert stopped.terms[0] == whole.terms[behind], "it goes on behind its last saved state"
    last = Toy().run(tmp_path / "run", save_every=save_every)
    assert 0 < len(last.terms) < 16
    assert last.terms == whole.terms[-len(last.terms) :]
    assert same(last.module.state_dict(), whole.module.state_dict())
    assert same(last.engine.ema_state_dict(), whole.engine.ema_state_dict())
    ends = [(tmp_path / name / "samples" / "toy_0000120.png").read_bytes() for name in ("run", "whole")]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("save_every", [40, 28], ids=["saved with the log", "saved between its lines"])
def test_the_log_of_a_run_that_was_stopped_is_that_of_one_that_was_not(tmp_path, save_every):
    for stop_at in (17, 26):
        with pytest.raises(KeyboardInterrupt):
            Toy(stop_at).run(tmp_path / "run", save_every=save_every)
    Toy().run(tmp_path / "run", save_every=save_every)
    Toy().run(tmp_path / "whole", save_every=save_every)
    found, wanted = unclocked(tmp_path / "run"), unclocked(tmp_path / "whole")
    by_step = [{(line["step"], "lr" in line): line for line in lines} for lines in (found, wanted)]
    assert by_step[0] == by_step[1], "the last line of each step says the same"
    assert found == wanted, "no step is told twice"


def test_a_run_that_is_complete_does_nothing_more(tmp_path):
    Toy().run(tmp_path)
    before = files_of(tmp_path)
    toy = Toy(stop_at=30).run(tmp_path)
    assert toy.terms == []
    assert toy.sampled == []
    assert files_of(tmp_path) == before
    assert toy.engine.images_seen == 120


def test_the_seed_and_the_stage_decide_the_losses(tmp_path):
    one, same_seed = Toy().run(tmp_path / "1"), Toy().run(tmp_path / "2")
    other_seed, other_stage = Toy().run(tmp_path / "3", seed=1), Toy(number=2).run(tmp_path / "4")
    assert one.terms == same_seed.terms
    assert same(one.module.state_dict(), same_seed.module.state_dict())
    for other in (other_seed, other_stage):
        assert all(a["error"] != b["error"] for a, b in zip(one.terms, other.terms, strict=True))
    assert all(len(set(numbers)) == 30 for numbers in zip(*one.drawn, strict=True)), "two steps see the same"


def test_two_stages_share_a_folder(tmp_path):
    Toy(name="first").run(tmp_path)
    before = files_of(checkpoints_of(tmp_path, "first")[0])
    Toy(name="second", number=2).run(tmp_path)
    assert files_of(checkpoints_of(tmp_path, "first")[0]) == before
    assert len(checkpoints_of(tmp_path, "second")) == 1
    assert [line["stage"] for line in unclocked(tmp_path)] == ["first"] * 5 + ["second"] * 5


def test_a_loss_that_is_not_finite_stops_and_the_last_state_stays(tmp_path):
    toy = Toy()
    good = toy.losses

    def bad(streams, rng):
        terms = good(streams, rng)
        return terms if toy.engine.steps < 14 else terms | {"error": terms["error"] * torch.nan}

    toy.stage = single_network("toy", 1, toy.engine, IMAGES, BATCH, bad, toy.sample)
    with pytest.raises(
        FloatingPointError, match="error of main is not finite after 56 images, what it began from is in"
    ):
        toy.run(tmp_path)
    began = Toy().restored(tmp_path / "diverged")
    assert began.engine.steps == 14
    assert same(began.module.state_dict(), toy.module.state_dict())
    restored = Toy().restored(tmp_path)
    assert restored.engine.steps == 10
    assert all(bool(p.isfinite().all()) for p in restored.module.parameters())


def test_a_failing_sample_leaves_the_own_weights(tmp_path):
    toy = Toy()
    seen: dict[str, Any] = {}

    def failing(path):
        seen.update(copied(toy.module))
        raise OSError(28, "No space left on device")

    toy.stage = single_network("toy", 1, toy.engine, IMAGES, BATCH, toy.losses, failing)
    with pytest.raises(OSError, match="No space"):
        toy.run(tmp_path)
    assert same(seen, toy.engine.ema_state_dict())
    assert not same(toy.module.state_dict(), toy.engine.ema_state_dict())


CONFIG = {"preset": "test", "seed": 3, "stage1": {"images": 8, "betas": (0.9, 0.98)}, "strangers": None}


def test_a_run_keeps_its_config(tmp_path):
    check_config(tmp_path, CONFIG)
    before = files_of(tmp_path)
    check_config(tmp_path, CONFIG)
    assert files_of(tmp_path) == before
    assert json.loads(before["config.json"])["stage1"]["betas"] == [0.9, 0.98]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"preset": "other"}, "preset 'test', now it is 'other'"),
        ({"seed": 4}, "seed 3, now it is 4"),
        ({"stage1": {"images": 9, "betas": (0.9, 0.98)}}, "stage1.images 8, now it is 9"),
        ({"stage1": {"images": 8, "betas": (0.9, 0.99)}}, r"stage1.betas \[0.9, 0.98\], now it is \[0.9, 0.99\]"),
        ({"strangers": {"count": 2}}, r"strangers None, now it is \{'count': 2\}"),
        ({"more": 1}, "more None, now it is 1"),
    ],
)
def test_another_config_is_refused_by_the_name_of_the_field(changed, said, tmp_path):
    check_config(tmp_path, CONFIG)
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=f"this run was begun with {said}; name another folder"):
        check_config(tmp_path, CONFIG | changed)
    assert files_of(tmp_path) == before


NO_CONFIG = {"half": "{", "empty": "", "a list": "[]", "null": "null", "text": '"test"', "deep": "[" * 100_000}


@pytest.mark.parametrize("case", NO_CONFIG)
def test_a_config_that_is_none_is_refused(case, tmp_path):
    (tmp_path / "config.json").write_text(NO_CONFIG[case])
    with pytest.raises(InputError, match=r"config\.json") as found:
        check_config(tmp_path, CONFIG)
    assert "\n" not in str(found.value)
    assert (tmp_path / "config.json").read_text() == NO_CONFIG[case]


def test_a_grid_of_pictures_opens_and_shows_them(tmp_path):
    colours = torch.tensor([[1.0, -1, -1], [-1, -1, 1]])[:, :, None, None].expand(2, 3, 8, 8)
    grey = torch.tensor([0.0, 0.5])[:, None, None, None].expand(2, 1, 8, 8)
    write_grid(tmp_path / "grid.png", {"colours": colours, "grey": grey}, scale=2)
    assert os.listdir(tmp_path) == ["grid.png"]
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == (LABEL_PX + 2 * (16 + GAP_PX), 2 * (16 + GAP_PX) + GAP_PX, 3)
    for row, column, wanted in ((0, 0, (255, 0, 0)), (1, 0, (0, 0, 255)), (0, 1, (0, 0, 0)), (1, 1, (128, 128, 128))):
        top, left = LABEL_PX + row * 18, GAP_PX + column * 18
        tile = picture[top : top + 16, left : left + 16]
        assert np.abs(tile.astype(int) - np.array(wanted)).max() <= 1
    assert (picture[:LABEL_PX] < 100).any(), "the columns are labelled"


def test_near_is_bright_and_beside_the_head_is_black():
    depth = torch.tensor([[3.0, 4.0], [3.5, 9.0]])[None, None]
    opacity = torch.tensor([[1.0, 0.9], [0.6, 0.1]])[None, None]
    torch.testing.assert_close(shown_depth(depth, opacity, 2)[0, 0], torch.tensor([[1.0, 0.2], [0.6, 0.0]]))
    empty = shown_depth(depth, torch.zeros_like(opacity), 4)
    assert empty.shape == (1, 1, 4, 4)
    assert not empty.any()


def test_the_first_step_shows_its_loss(tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, "triportrait")
    Toy(stop_at=None).run(tmp_path)
    lines = [line for line in capsys.readouterr().err.split("\r") if "loss" in line]
    assert lines[0].startswith("toy 3% 4/120 ")
    assert " left, loss " in lines[0]


def test_random_numbers_are_drawn_where_the_rank_computes_by_the_same_seeds(tmp_path, monkeypatch):
    drawn_on, seeds = [], []

    class Recorded(torch.Generator):
        def __new__(cls, device: torch.device) -> Recorded:
            drawn_on.append(device)
            return super().__new__(cls)

        def manual_seed(self, seed: int) -> torch.Generator:
            seeds.append(seed)
            return super().manual_seed(seed)

    monkeypatch.setattr(loop, "_memory", lambda ranks: {})
    monkeypatch.setattr(torch, "Generator", Recorded)
    card, host = torch.device("cuda", 1), torch.device("cpu")
    for chosen in (None, host):
        folder = tmp_path / str(chosen)
        folder.mkdir()
        run_stage(Toy().stage, folder, 0, 400, 400, Ranks(device=card), draws_on=chosen)
    steps = IMAGES // BATCH
    assert drawn_on == steps * [card] + steps * [host]
    assert seeds[:steps] == seeds[steps:]
    assert len(set(seeds)) == steps
