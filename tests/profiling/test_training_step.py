"""A training step in two forms: the same losses, and work that was counted by hand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import little
from triportrait import cli
from triportrait.core.errors import InputError
from triportrait.profiling import roofline
from triportrait.profiling.training import step, timed
from triportrait.profiling.training.inputs import Inputs, make_inputs, stage_config
from triportrait.profiling.training.reference import our_phases, reference_phases
from triportrait.profiling.training.work import (
    BACKWARD,
    CRITIC,
    FORWARD,
    TEACHER,
    Work,
    _Kept,
    _own_storages,
    count,
    states_bytes,
)
from triportrait.train.config import LossConfig, ReenactConfig, ScheduleConfig, StageConfig, TrainConfig
from triportrait.train.data.parallel import one_thread
from triportrait.train.engines.recompute import recompute
from triportrait.train.stages.initialize import motion_parameters

B = 4
RESULTS = Path(__file__).parents[2] / "profiling/results/step.md"


@pytest.fixture(autouse=True, scope="module")
def small_operations():
    with one_thread():
        yield


def config(published: bool = False) -> TrainConfig:
    """Every second step has R1 and the density's phase; half of the targets, a fourth of v_d is real."""
    losses = LossConfig(adversarial=0.1, density=0.1)
    schedule = ScheduleConfig(r1_every=2, density_every=2, pseudo_every=4 if published else 0)
    return little.config(
        stage1=StageConfig(images=100, views=2, losses=losses, schedule=schedule),
        stage2=ReenactConfig(
            images=100, losses=losses, schedule=schedule, real_driving=0.25, real_target=1.0 if published else 0.5
        ),
        discriminator_base=512, discriminator_widest=16,
    )  # fmt: skip


def inputs(stage: Any, published: bool = False, device: str = "cpu") -> Inputs:
    return make_inputs(stage, config(published), B, torch.device(device))


@pytest.fixture(scope="module")
def works() -> dict[tuple[str, bool], tuple[Work, Work]]:
    """Ours and the published arrangement's, by stage and whether pseudo views have a phase of their own."""
    found = {}
    for stage, published in (("stage1", False), ("stage2", False), ("stage2", True)):
        made = inputs(stage, published)
        found[stage, published] = count(made, our_phases(made), False), count(made, reference_phases(made), True)
    return found


CASES = [("stage1", False), ("stage2", False), ("stage2", True)]


@pytest.mark.parametrize("case", CASES)
def test_both_forms_lose_the_same(case, works):
    ours, reference = works[case]
    assert {"main", "discriminator", "R1"} <= set(ours.terms) == set(reference.terms)
    assert ("pseudo views" in ours.terms) == case[1] and ("density" in ours.terms) == (case[0] == "stage1")
    for phase, terms in ours.terms.items():
        for name, value in terms.items():
            assert value.item() == pytest.approx(reference.terms[phase][name].item(), rel=1e-5), (phase, name)
    step.refuse_other_losses(ours.terms, reference.terms, step.SAME)
    assert ours.terms["discriminator"]["D fake"] != ours.terms["discriminator"]["D real"]


def test_other_losses_are_refused(works):
    ours, _ = works["stage1", False]
    other = {"main": ours.terms["main"] | {"l1": ours.terms["main"]["l1"] * 1.01}}
    with pytest.raises(InputError, match="main, l1: expected the same loss of both forms"):
        step.refuse_other_losses(ours.terms, other, step.SAME)


# for each case ours and the published arrangement's pictures, R1 and density in every second step, pseudo views in
# every fourth. Stage 1: 4 sources of 2 views. Stage 2: v_d is read off 3 pseudo views; 2 targets are real, 2 are not.
COUNTED = {
    ("stage1", False): {
        "neck field": (8, 2 * 2 * 8), "generator: source": (4 + 4 / 2, 2 * 4 + 4 / 2),
        "generator: planes": (4 + 4 / 2, 2 * 4 + 4 / 2), "generator: render": (8, 2 * 8),
        "discriminator": (8 + 2 * 8 + 8 / 2,) * 2, "perceptual distance": (8, 8),
    },
    ("stage2", False): {
        "teacher: source": (3, 3 + 3 + 3 / 2), "teacher: planes": (3, 3 + 3 + 3 / 2),
        "teacher: render": (3 + 2, 3 + 2 + 3 + 3 / 2), "motion encoder": (4 + 3 + 4, 4 + 3 + 4 + 3 + 3 / 2),
        "neck field": (4, 2 * (5 + 4) + 2 * (3 + 4) + 2 * 3 / 2), "generator: source": (4, 8),
        "generator: planes": (4, 8), "generator: render": (4, 8), "discriminator": (2 + 2 * 2 + 2 / 2,) * 2,
        "perceptual distance": (4 + 2, 4 + 2),
    },
    ("stage2", True): {
        "teacher: source": (3 + (3 + 4) / 4, 3 + (3 + 4) / 4 + 3 + 3 / 2),
        "teacher: render": (3 + (3 + 4) / 4, 3 + (3 + 4) / 4 + 3 + 3 / 2),
        "motion encoder": (4 + 3 + 4 + (3 + 8) / 4, 4 + 3 + 4 + (3 + 8) / 4 + 3 + 3 / 2),
        "neck field": (4, 2 * (3 + 4) + 2 * 3 / 4 + 2 * (3 + 4) + 2 * 3 / 2),
        "generator: source": (4 + 4 / 4, 8 + 4 / 4), "generator: render": (4 + 4 / 4, 8 + 4 / 4),
        "discriminator": (4 + 2 * 4 + 4 / 2,) * 2, "perceptual distance": (4 + 4 / 4,) * 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_those_that_were_counted_by_hand(case, works):
    ours, reference = works[case]
    for network, (one, other) in COUNTED[case].items():
        assert ours.pictures[network] == pytest.approx(one), network
        assert reference.pictures[network] == pytest.approx(other), network


def test_operations_belong_to_their_parts(works):
    ours, reference = works["stage2", False]
    for part in (BACKWARD, CRITIC):
        same = pytest.approx(ours.flop[part], rel=0.02)  # crops of pictures belong to the phase
        assert reference.flop[part] == same, "the arrangement changes no backward pass"
    assert reference.flop[FORWARD] > 1.5 * ours.flop[FORWARD] and reference.flop[TEACHER] > 1.5 * ours.flop[TEACHER]
    parts = roofline.count(little.model())
    own = [w.flop for name, w in parts.items() if name not in ("motion encoder", "neck field")]
    more = reference.flop[FORWARD] - ours.flop[FORWARD]
    assert more == pytest.approx(B * sum(own), rel=0.02), "a forward pass of each image more"


def test_what_is_kept_is_what_autograd_keeps():
    made = inputs("stage1")
    found = count(made, our_phases(made), False).kept
    assert count(made, reference_phases(made), True).kept == found, "the arrangement keeps the same"
    recompute(made.models.portrait)
    again = count(made, our_phases(made), False)
    assert again.kept["main"] < 0.8 * found["main"] and again.kept["R1"] == found["R1"]
    micro = made.micro(False)
    known = _own_storages(made, micro)
    there = (*made.models.portrait.parameters(), *made.models.discriminator.parameters(), micro.batch.source.image)
    assert all(tensor.untyped_storage()._cdata in known for tensor in (*there, micro.batch.target.neck.fine))
    x, y = torch.ones(100, requires_grad=True), torch.ones(50, requires_grad=True)
    kept = _Kept({x.untyped_storage()._cdata})
    with kept.saving():
        (x[:50] * (y * 2).exp()).exp().sum() + (y * 3)[:10].square().sum()
    assert kept.total == 4 * (50 + 50 + 50), (
        "the other factor, what exp gives, all that is squared a part of; x is there"
    )


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_shapes_alone_give_the_same_counts(stage, works):
    made = inputs(stage, device="meta")
    shapes, (numbers, _) = count(made, our_phases(made), False), works[stage, False]
    assert shapes.pictures == numbers.pictures
    assert shapes.flop[FORWARD] == pytest.approx(numbers.flop[FORWARD], rel=1e-9)
    assert shapes.kept["R1"] == numbers.kept["R1"]


def test_weights_gradients_moments_and_average_are_counted():
    for stage, asked in (("stage1", ()), ("stage2", ("static", "motion_encoder"))):
        made = inputs(stage)
        networks = [getattr(made.models, name) for name in ("portrait", "discriminator", *asked)]
        all_of = [sum(p.numel() for p in x.parameters()) for x in networks]
        reading = sum(p.numel() for p in motion_parameters(made.models.portrait)) if stage == "stage1" else 0
        wanted = sum(all_of) + 4 * sum(all_of[:2]) - 3 * reading
        assert states_bytes(made) == pytest.approx(4 * wanted, rel=0.001), stage


def test_the_committed_table_is_what_the_paper_s_schedule_makes():
    """Pictures by hand: R1 and density in every 16th step; of v_d 0.9 read off pseudo views, of targets 0.8 real."""
    text = RESULTS.read_text()
    sections = dict(re.findall(r"^## (.*)\n\n((?:.+\n|\n(?!## ))*)", text, re.M))
    assert set(sections) >= {"paper, stage1", "paper, stage2", "tiny, stage1", "tiny, stage2"}

    def row(section: str, name: str) -> list[float]:
        line = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", sections[section], re.M)
        assert line, (section, name)
        return [float(cell.replace(",", "")) for cell in line[1].split(" | ")]

    for name, published, ours in (
        ("teacher: source", 0.9 + 0.9 + 0.9 / 16, 0.9), ("teacher: render", 1.1 + 0.9 + 0.9 / 16, 1.1),
        ("generator: source", 2, 1), ("discriminator", 0.8 * (3 + 1 / 16), 0.8 * (3 + 1 / 16)),
        ("neck field", 2 * (1.1 + 1) + 2 * (0.9 + 1) + 2 * 0.9 / 16, 1),
    ):  # fmt: skip
        found = row("paper, stage2", f"pictures through {name}")
        assert found[:2] == pytest.approx([published, ours], abs=0.006), name
    made = make_inputs("stage1", dataclasses.replace(stage_config("paper"), precision="fp32"), 2, torch.device("meta"))
    again = count(made, [phase for phase in our_phases(made) if phase.engine == "generator"], False)
    for part in (FORWARD, BACKWARD):
        assert row("paper, stage1", f"GFLOP, {part}")[1] == pytest.approx(again.flop[part] / 2e9, rel=1e-3), part
    assert row("paper, stage1", "published arrangement")[0] == pytest.approx(again.kept["main"] / 2e6, rel=1e-2)


def test_the_bench_times_all_ways_and_shows_nothing_of_a_cpu(capsys, monkeypatch):
    device = torch.device("cpu")
    monkeypatch.setattr(timed, "WARM_UP", 0)
    rows = timed.bench(config(), "stage2", B, device, repetitions=1)
    assert [row["way"] for row in rows] == list(timed.WAYS) and not any("red" in row for row in rows), rows
    for row in rows:
        assert row["step_ms"] == pytest.approx(sum(row["parts_ms"].values())) and all(row["parts_ms"].values())
    assert timed.table(rows).count("\n| ") == 5 and "Wanted: 3 times" in timed.table(rows)
    monkeypatch.setattr(step, "counted", lambda *a: {"none": 0})
    monkeypatch.setattr(step, "document", lambda rows, made: "work\n")
    assert cli.main(["profile", "step"]) == 0
    assert capsys.readouterr().out == "work\n"


def test_a_way_that_loses_something_else_has_no_time(monkeypatch):
    monkeypatch.setattr(timed, "WARM_UP", 0)
    monkeypatch.setattr(timed, "ALLOWED", -1.0)
    monkeypatch.setattr(timed, "WAYS", (timed.PUBLISHED, timed.OURS))
    rows = timed.bench(config(), "stage1", B, torch.device("cpu"), repetitions=1)
    assert all("the same loss of both forms" in row["red"] and "step_ms" not in row for row in rows)
    assert timed.table(rows).count("no figure: ") == 2


@pytest.mark.gpu
@pytest.mark.full
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_step_at_the_published_sizes_on_a_gpu(stage):
    """Batch 4: a third of the time of eager PyTorch, and memory for a card of 40 GB."""
    changed = dataclasses.replace(stage_config("paper"), perceptual="gradients")
    rows = {row["way"]: row for row in timed.bench(changed, stage, step.TIMED, torch.device("cuda"))}
    ours = rows[timed.OURS]
    assert "red" not in ours, ours
    assert ours["peak_GB"] < 40
    if "red" not in rows[timed.PUBLISHED]:
        assert rows[timed.PUBLISHED]["step_ms"] > timed.WANTED * ours["step_ms"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--batch", "3"], "stage1.batch: expected micro-batches of a multiple of 2"),
        (["--batch", "0"], "batch: expected at least 1, got 0"),
        (["--preset", "huge"], "--preset: expected one of tiny, paper, published, got 'huge'"),
        (["--out", "nowhere/step.md"], "out: expected a file in a folder that exists"),
    ],
)
def test_bad_options_are_one_sentence(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["profile", "step", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
