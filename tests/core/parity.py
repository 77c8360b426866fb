"""What the parity tests share: seeded inputs, the stored numbers, and the comparison (all made by a written rule)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parents[1] / "data" / "parity"
STATS = json.loads((DATA / "stats.json").read_text())
TABLE = "parity with the published network: stage, tensor, largest error / largest value"
TOLERANCE = 2e-4  # of the stage's largest value


def seeded(key: str, shape: tuple[int, ...], kind: str = "normal", scale: float = 1.0) -> Tensor:
    """The input of that key: the same numbers on every machine."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"input/{key}".encode())))
    values = generator.standard_normal(shape) if kind == "normal" else generator.uniform(-1, 1, shape)
    return torch.from_numpy((values * scale).astype(np.float32))


def stored(stage: str) -> dict[str, Tensor]:
    with np.load(DATA / f"{stage}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


class Agrees:
    """`agrees(stage, name, tensor)` compares a full tensor with the stored slice of it."""

    def __init__(self, record_row: Callable[[str, tuple[str, ...]], None]) -> None:
        self.record_row = record_row

    def __call__(
        self, stage: str, name: str, tensor: Tensor, note: str = "", strides: tuple[int, ...] | None = None
    ) -> None:
        """`strides` are of a tensor whose file holds its facts as `NAME__stats` (mean, std, absmax, l2)."""
        arrays = stored(stage)
        want = arrays[name]
        # without facts the file holds the whole tensor
        facts = STATS.get(
            f"{stage}/{name}", {"shape": list(want.shape), "strides": None, "absmax": want.abs().max().item()}
        )
        if f"{name}__stats" in arrays:
            mean, deviation, absmax, length = arrays[f"{name}__stats"].tolist()
            full = tensor.double()
            facts = {"shape": list(tensor.shape), "strides": strides, "absmax": absmax}
            assert abs(full.mean().item() - mean) <= TOLERANCE * absmax, (
                f"{stage}/{name}: mean {full.mean()}, not {mean}"
            )
            assert abs(full.std(correction=0).item() - deviation) <= 2e-3 * deviation, f"{stage}/{name}: other spread"
            assert abs(full.norm().item() - length) <= 2e-3 * length, f"{stage}/{name}: another length than {length}"
        assert list(tensor.shape) == facts["shape"], f"{stage}/{name}: {list(tensor.shape)} instead of {facts['shape']}"
        strides = facts["strides"] or (1,) * tensor.dim()
        part = tensor[tuple(slice(None, None, s) for s in strides)]
        assert part.shape == want.shape, f"{stage}/{name}: {list(part.shape)} instead of {list(want.shape)}"
        error = (part - want).abs().max().item()
        self.judge(stage, f"{name} {note}".rstrip(), error / facts["absmax"])

    def judge(self, stage: str, name: str, relative: float) -> None:
        """Put an error, relative to the stage's largest value, into the table and hold it to the tolerance."""
        self.record_row(TABLE, (stage, name, f"{relative:.1e}"))
        assert relative <= TOLERANCE, f"{stage}/{name}: off by {relative:.2e} of the largest value"
