"""What ranks send: rings and payloads by hand, the networks' published sizes, and the committed table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from triportrait import cli
from triportrait.profiling.step.communication import (
    ALL_GATHER,
    ALL_REDUCE,
    REDUCE_SCATTER,
    TrainedNetwork,
    collective_bytes,
    sent_bytes,
    trained_networks,
)
from triportrait.train.presets import STAGE_PRESETS

RESULTS = Path(__file__).parents[2] / "profiling/results/communication.md"
PAIR = [TrainedNetwork("generator", (10, 7), (3,), 1.5), TrainedNetwork("discriminator", (5,), (), 1.25)]
GENERATOR, MOTION, DISCRIMINATOR = 224_766_123, 101_931_008, 31_360_000  # weights, as published


@pytest.mark.parametrize(
    "zero, micro_batches, expected",
    [
        (0, 3, {ALL_REDUCE: 4 * (1.5 * 17 + 1.25 * 5)}),
        (1, 3, {ALL_REDUCE: 4 * (1.5 * 17 + 1.25 * 5), ALL_GATHER: 4 * (1.5 * 24 + 1.25 * 8)}),
        (2, 3, {ALL_REDUCE: 3 * 4 * (1.5 * 17 + 1.25 * 5), ALL_GATHER: 4 * (1.5 * 24 + 1.25 * 8)}),
        (3, 3, {REDUCE_SCATTER: 3 * 4 * (1.5 * 20 + 1.25 * 8), ALL_GATHER: 4 * 2.75 * (12 + 8 + 4 + 8)}),
    ],
)
def test_collectives_by_hand(zero, micro_batches, expected):
    """Four ranks: flat groups are filled up to multiples of 8, single weights to multiples of 4."""
    total = collective_bytes(PAIR, zero, 4, micro_batches)
    assert {name: size for name, size in total.items() if size} == pytest.approx(expected)
    assert not any(collective_bytes(PAIR, zero, 1, micro_batches).values())


def test_rings_by_hand():
    """Four ranks pass on three pieces of four, twice in an all-reduce."""
    assert sent_bytes({ALL_REDUCE: 100.0, ALL_GATHER: 0, REDUCE_SCATTER: 0}, 4) == pytest.approx(150)
    assert sent_bytes({ALL_REDUCE: 0, ALL_GATHER: 100.0, REDUCE_SCATTER: 40.0}, 4) == pytest.approx(75 + 30)
    assert sent_bytes({ALL_REDUCE: 100.0, ALL_GATHER: 100.0, REDUCE_SCATTER: 100.0}, 1) == 0


def test_networks_have_the_published_sizes_and_rhythms():
    for name, moves, pseudo in (("paper", 1.0, 0), ("published", 1.25, 4)):
        config = STAGE_PRESETS[name]()
        assert config.stage2.schedule.pseudo_every == pseudo
        generator, discriminator = trained_networks(config, "stage2")
        assert sum(generator.trained) + sum(generator.fixed) == GENERATOR
        assert sum(generator.fixed) == 4, "strengths of noise"
        assert sum(discriminator.trained) == DISCRIMINATOR
        assert (generator.moves, discriminator.moves) == (moves, 1 + 1 / 16)
    generator, _ = trained_networks(config, "stage1")
    assert sum(generator.fixed) == pytest.approx(MOTION, abs=4)
    assert generator.moves == 1 + 1 / 16
    quiet = dataclasses.replace(config.stage2, losses=dataclasses.replace(config.stage2.losses, adversarial=0.0))
    (alone,) = trained_networks(dataclasses.replace(config, stage2=quiet), "stage2")
    assert alone.name == "generator"


def test_the_committed_table_is_that_of_the_command(capsys):
    """The table is compared word by word, except for the line that says what made it."""
    assert cli.main(["profile", "communication"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("`triportrait profile communication --stage both --preset paper --ranks 8 64 ")
    assert RESULTS.read_text().split("\n", 1)[1] == printed.split("\n", 1)[1]
    assert cli.main(["profile", "communication", "--stage", "stage2", "--ranks", "8"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 | 8 |"))
    sent_GB = 3 * 7 / 8 * 4 * (GENERATOR + DISCRIMINATOR * 17 / 16) / 1e9
    assert float(row.split("|")[-2]) == pytest.approx(sent_GB, abs=1e-3)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--ranks", "0"], "ranks: expected at least 1, got 0"),
        (["--micro-batches", "0"], "micro-batches: expected at least 1, got 0"),
    ],
)
def test_bad_options_are_one_sentence(arguments, sentence, capsys):
    assert cli.main(["profile", "communication", *arguments]) == 2
    assert sentence in capsys.readouterr().err
