"""Streaming heads keeps none of them: the short form of `memory.py`, whose 2,000 heads are in docs/train."""

from __future__ import annotations

import torch

from tests.train.generated.memory import stream
from triportrait.train.data.generated.draws import GeneratedConfig
from triportrait.train.data.generated.store import making

HEADS, PER_SHARD, VIEWS, PADDING = 72, 8, 2, 500_000  # numbers of half precision that make each volume a megabyte


def test_memory_is_flat_while_heads_stream(weights, tables, tmp_path, monkeypatch):
    packed = making._packed

    def padded(volume: dict[str, torch.Tensor], row: int, number: int) -> bytes:
        if "points" in volume:
            volume = volume | {"padding": torch.zeros(len(volume["points"]), PADDING, dtype=torch.half)}
        return packed(volume, row, number)

    monkeypatch.setattr(making, "_packed", padded)
    config = GeneratedConfig(views=VIEWS, points=50)
    memory: dict[str, list[float]] = {"written": [], "read": []}
    stream(
        making.Making(weights, tables, "cpu", 0, config, False, "png"), tmp_path / "heads", HEADS, PER_SHARD,
        lambda what, done, mb: memory[what].append(mb),
    )  # fmt: skip
    for what, measured in memory.items():
        third = len(measured) // 3
        grown = max(measured[-third:]) - max(measured[:third])
        kept = HEADS * 2 / 3 * VIEWS * PADDING * 2 / 1e6
        assert grown < 0.3 * kept, f"{what}: {grown:.0f} MB more; {kept:.0f} MB if every head were kept"
