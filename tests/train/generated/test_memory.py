"""Streaming heads keeps none of them: the short form of `memory.py`, whose 2,000 heads are in docs/train."""

from __future__ import annotations

from tests.train.generated.memory import stream
from triportrait.train.data.generated.draws import GeneratedConfig
from triportrait.train.data.generated.store.making import Making

HEADS, PER_SHARD, POINTS = 96, 8, 20_000
VOLUME_MB = 2 * POINTS * (3 * 4 + 4 * 2) / 1e6  # of a head of two views: 0.8


def test_memory_is_flat_while_heads_stream(weights, tables, tmp_path):
    making = Making(weights, tables, "cpu", 0, GeneratedConfig(views=2, points=POINTS), False, "png")
    memory: dict[str, list[float]] = {"written": [], "read": []}
    stream(making, tmp_path / "heads", HEADS, PER_SHARD, lambda what, done, mb: memory[what].append(mb))
    for what, measured in memory.items():
        third = len(measured) // 3
        grown = max(measured[-third:]) - max(measured[:third])
        assert grown < 0.4 * VOLUME_MB * HEADS * 2 / 3, f"{what}: {grown:.0f} MB, as if most of the heads were kept"
