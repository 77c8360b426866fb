"""What ranks send: rings by hand, predictions against what two ranks were counted to send, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from triportrait import cli
from triportrait.profiling.training import counted, scaling
from triportrait.profiling.training.inputs import stage_config
from triportrait.profiling.training.scaling import GATHERED, REDUCED, SCATTERED, Network, payload, predict, sent

RESULTS = Path(__file__).parents[2] / "profiling/results/scaling.md"
PAIR = [Network("generator", (10, 7), (3,), 1.5), Network("discriminator", (5,), (), 1.25)]
GENERATOR, MOTION, DISCRIMINATOR = 224_766_123, 101_931_008, 31_360_000  # weights, as published


@pytest.mark.parametrize(
    "zero, micro_batches, wanted",
    [
        (0, 3, {REDUCED: 4 * (1.5 * 17 + 1.25 * 5)}),
        (1, 3, {REDUCED: 4 * (1.5 * 17 + 1.25 * 5), GATHERED: 4 * (1.5 * 24 + 1.25 * 8)}),
        (2, 3, {REDUCED: 3 * 4 * (1.5 * 17 + 1.25 * 5), GATHERED: 4 * (1.5 * 24 + 1.25 * 8)}),
        (3, 3, {SCATTERED: 3 * 4 * (1.5 * 20 + 1.25 * 8), GATHERED: 4 * 2.75 * (12 + 8 + 4 + 8)}),
    ],
)
def test_payloads_by_hand(zero, micro_batches, wanted):
    """Four ranks: flat groups are filled up to multiples of 8, single weights to multiples of 4."""
    found = payload(PAIR, zero, 4, micro_batches)
    assert {kind: size for kind, size in found.items() if size} == pytest.approx(wanted)
    assert not any(payload(PAIR, zero, 1, micro_batches).values())


def test_rings_by_hand():
    """Four ranks pass on three pieces of four, twice in an all-reduce."""
    assert sent({REDUCED: 100.0, GATHERED: 0, SCATTERED: 0}, 4) == pytest.approx(150)
    assert sent({REDUCED: 0, GATHERED: 100.0, SCATTERED: 40.0}, 4) == pytest.approx(75 + 30)
    assert sent({REDUCED: 100.0, GATHERED: 100.0, SCATTERED: 100.0}, 1) == 0
    ring = [[float(100 * rank + piece) for piece in range(4)] for rank in range(4)]  # one with real pieces
    passed = [0] * 4
    for half in range(2):
        for turn in range(3):
            moves = [(rank, (rank - turn + half) % 4) for rank in range(4)]
            values = [ring[rank][piece] for rank, piece in moves]
            for (rank, piece), value in zip(moves, values, strict=True):
                other = (rank + 1) % 4
                ring[other][piece] = ring[other][piece] + value if not half else value
                passed[rank] += 1
    assert all(row == [600, 604, 608, 612] for row in ring) and passed == [6] * 4, "6 of 4 pieces: 2 S 3 / 4"


def test_networks_have_the_published_sizes_and_rhythms():
    for name, moves, pseudo in (("paper", 1.0, 0), ("published", 1.25, 4)):
        config = stage_config(name)
        assert config.stage2.schedule.pseudo_every == pseudo
        one, two = scaling.networks(config, "stage2")
        assert sum(one.trained) + sum(one.others) == GENERATOR and sum(one.others) == 4, "strengths of noise"
        assert (one.moves, two.moves) == (moves, 1 + 1 / 16) and sum(two.trained) == DISCRIMINATOR
    one, _ = scaling.networks(config, "stage1")
    assert sum(one.others) == pytest.approx(MOTION, abs=4) and one.moves == 1 + 1 / 16
    quiet = dataclasses.replace(config.stage2, losses=dataclasses.replace(config.stage2.losses, adversarial=0.0))
    assert [n.name for n in scaling.networks(dataclasses.replace(config, stage2=quiet), "stage2")] == ["generator"]


def test_efficiency_by_hand():
    """1 GB on 8 and on 64 GPUs at ZeRO 0: 2 x 7/8 GB at 300 GB/s, 2 x 63/64 GB at 200 GB/s and 25 GB/s."""
    eight, many = predict([Network("generator", (250_000_000,), (), 1.0)], [0], [8, 64])
    assert eight.seconds == pytest.approx({"A100, NVLink 3": 1.75 / 300, "H100 or H200, NVLink 4": 1.75 / 450})
    wide, narrow = ("A100, NVLink 3; 8 x InfiniBand 200 Gb/s", "A100, NVLink 3; 1 x InfiniBand 200 Gb/s")
    assert many.seconds[wide] == pytest.approx(1.96875 / 200) and many.seconds[narrow] == pytest.approx(1.96875 / 25)
    assert many.efficiency(narrow, many.seconds[narrow]) == pytest.approx(0.5)
    assert many.efficiency(wide, many.wanted_step_s(wide)) == pytest.approx(0.95)


def test_two_ranks_send_what_was_predicted():
    pytest.importorskip("deepspeed")
    rows = counted.launch(2, [2, 3])  # which do all that 0 and 1 do; those are in the committed table
    assert [(row["ranks"], row["zero"]) for row in rows] == [(2, 2), (2, 3)]
    for row in rows:
        own, found = (
            sent({kind: row[x].get(kind, 0.0) for kind in scaling.KINDS}, 2) for x in ("predicted", "counted")
        )
        assert own > 1e6 and found == pytest.approx(own, rel=0.05), row
        for kind, size in row["counted"].items():
            assert size == pytest.approx(row["predicted"].get(kind, 0.0), rel=0.05, abs=1e3), (row["zero"], kind)
    text = counted.table(rows)
    assert text.count("**a rank sends**") == 2 and "| 2 | ZeRO 3 | reduce-scatter | " in text


def test_what_is_counted_is_what_is_asked_for():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        x, y = torch.ones(100), torch.ones(25)
        with counted.Collectives() as found:
            torch.distributed.all_reduce(x)
            torch.distributed.all_gather_into_tensor(x, x.clone())
            torch.distributed.reduce_scatter_tensor(y, y.clone())
            torch.distributed.broadcast(y, 0)
            torch.distributed.barrier()
            with pytest.raises(RuntimeError, match="the sum is short"):
                torch.distributed.gather(y, [y.clone()])
        assert found.bytes == {REDUCED: 400, GATHERED: 400, SCATTERED: 100, "broadcast": 100}
    finally:
        torch.distributed.destroy_process_group()


def test_the_command_says_that_it_predicts(capsys, tmp_path):
    into = tmp_path / "scaling.json"
    assert cli.main(["profile", "scaling", "--stage", "stage2", "--gpus", "8", "--zero", "1", "--json", str(into)]) == 0
    said = capsys.readouterr().out
    assert "**A prediction.** No step time was given" in said and "(the aim, not measured)" in said
    (row,) = json.loads(into.read_text())["stage2"]
    assert row["sent_bytes"] == pytest.approx(3 * 7 / 8 * 4 * (GENERATOR + DISCRIMINATOR * 17 / 16), rel=1e-4)
    assert cli.main(["profile", "scaling", "--stage", "stage1", "--step-ms", "400"]) == 0
    said = capsys.readouterr().out
    assert "efficiency at 400 ms (as given)" in said and "No step time" not in said


def test_the_committed_prediction_is_that_of_the_command(capsys):
    """The tables word by word, but for the line that says what made them; and what was counted is as predicted."""
    text = RESULTS.read_text()
    assert cli.main(["profile", "scaling"]) == 0
    predicted = capsys.readouterr().out.split("\n", 1)[1]
    assert text.split("\n", 1)[1].split("\n## counted")[0].strip() == predicted.strip()
    ratios = [line.split(" | ")[-1].strip(" |") for line in text.splitlines() if "**a rank sends**" in line]
    assert len(ratios) == 5 + 4 + 4 and [float(r) for r in ratios if r != "-"] == pytest.approx([1.0] * 8, abs=0.05)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--gpus", "0"], "gpus: expected 1 to 8, or a multiple of 8, got 0"),
        (["--gpus", "12"], "gpus: expected 1 to 8, or a multiple of 8, got 12"),
        (["--zero", "4"], "zero: expected stages from 0 to 3, got 4"),
        (["--micro-batches", "0"], "micro_batches: expected at least 1, got 0"),
        (["--step-ms", "0"], "step-ms: expected more than 0, got 0"),
        (["--ranks", "0"], "ranks: expected more than 0, got 0"),
        (["--json", "nowhere/x.json"], "out: expected a file in a folder that exists"),
    ],
)
def test_bad_options_are_one_sentence(arguments, said, capsys):
    assert cli.main(["profile", "scaling", *arguments]) == 2
    assert said in capsys.readouterr().err
