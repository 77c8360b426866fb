"""Operations and weights against numbers that were counted by hand from the paper's sizes."""

from __future__ import annotations

import pytest

from triportrait.core.config import PRESETS
from triportrait.profiling.roofline import CEILINGS, Ceiling, Work, count, sums, table

PAPER = {  # part -> GFLOP, MB of weights in half precision
    "global encoder": (219.2, 52.0),
    "detail encoder": (41.9, 0.6),
    "background U-Net": (94.6, 17.4),
    "neutral blocks": (110.3, 174.0),
    "motion encoder": (12.7, 18.1),
    "motion maps": (0.07, 68.3),
    "motion blocks": (105.4, 101.0),
    "canonical convs": (43.5, 1.1),
    "tri-plane decoder": (847.2, 31.8),
    "neck field": (2.7, 13.1),
    "render": (13.1, 0.0),
    "super-resolution": (197.6, 3.3),
    "frame, source cached": (1222, 237),
    "frame, nothing cached": (1688, 481),
}


@pytest.fixture(scope="module")
def parts():
    return count(PRESETS["portrait4d_v2"]())


@pytest.mark.parametrize("name", PAPER)
def test_a_part_does_what_the_paper_s_sizes_say(name, parts):
    works = [parts[name]] if name in parts else list(sums(parts)[name].values())
    gflop, megabytes = sum(w.flop for w in works) / 1e9, sum(w.weight_bytes for w in works) / 1e6
    assert gflop == pytest.approx(PAPER[name][0], rel=0.05) or gflop == pytest.approx(PAPER[name][0], abs=0.005)
    assert megabytes == pytest.approx(PAPER[name][1], rel=0.05, abs=0.05)


def test_the_attention_is_counted(parts):
    """Two products of 16384 queries, 4096 keys and two heads of 512."""
    product = 2 * 2 * 16384 * 4096 * 1024 / 1e9
    largest = sorted(flop / 1e9 for flop, _ in parts["tri-plane decoder"].operations)
    assert any(flop == pytest.approx(product, rel=1e-6) for flop in largest) or largest.count(product / 2) >= 2


def test_a_floor_is_the_larger_of_two_times():
    ceiling = Ceiling("toy", flops=100.0, bandwidth=10.0, double_flops=4.0, source="")
    assert Work("frame", [(8.0, 1.0)], double=True).floor_s(ceiling) == pytest.approx(2.0)
    assert Work("frame", [(200.0, 1.0), (1.0, 40.0)]).floor_s(ceiling) == pytest.approx(2.0 + 4.0)


def test_the_render_is_one_operation(parts):
    ((flop, size),) = parts["render"].operations
    assert size == 2 * (3 * 256 * 256 * 32 + 128 * 128 * 34)
    samples = 128 * 128 * 96
    assert flop == pytest.approx(2 * samples * (32 * 64 + 64 * 33 + 32), rel=0.001), "MLP and compositing"


def test_a_tiny_network_is_counted_too():
    parts = count(PRESETS["tiny"]())
    assert parts["motion encoder"].flop == 0
    assert parts["tri-plane decoder"].flop > 0


def test_the_table_says_what_it_is(parts):
    printed = table(parts, CEILINGS, measured_ms={"render": 1.0})
    assert "| tri-plane decoder | frame | 847" in printed
    assert "data sheet" in printed
    assert "Floor:" in printed
    row = next(line for line in printed.splitlines() if line.startswith("| render"))
    assert row.split("|")[-3].strip() == "1.000"
