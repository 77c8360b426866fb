"""One of some processes, started by torchrun: DeepSpeed's engine against the plain one on a network of three layers.

    torchrun --nproc_per_node N zero_worker.py OUT.json

Every stage, with and without offload and clipping; each step has a second loss that reaches the last layer alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.ranks import Ranks, process_group
from triportrait.train.engines.training_engine import Engine, Group, PlainEngine
from triportrait.train.engines.zero import ZeroConfig, ZeroEngine

IMAGES, BATCH, MICROS = 40, 8, 4
CASES = [(stage, offload) for stage in range(4) for offload in (False, True) if stage or not offload]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1))


def groups(module: nn.Sequential) -> list[Group]:
    first, second, third = (list(module[i].parameters()) for i in (0, 2, 4))
    return [Group(first), Group(second, 2.5), Group(third, frozen_until=8)]


def loss_of(module: nn.Sequential, step: int, micro: int) -> Tensor:
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(100 * step + micro))
    return (module(x) - x[:, :1].sin()).square().mean()


def move(engine: Engine, step: int, micro_batches: range) -> None:
    module: Any = engine.module
    with engine.full_params():
        for micro in micro_batches:
            engine.backward(loss_of(module, step, micro))
    engine.step(BATCH)
    with engine.full_params():
        for micro in micro_batches:
            engine.backward(module[4](torch.ones(1, 3) * micro).square().sum())
    engine.step(0)


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest of all tensors, 1 if the counts differ."""
    if any(one[key] != other[key] for key in ("images_seen", "steps", "updates")):
        return 1.0
    kinds = ("module", "ema", "exp_avg", "exp_avg_sq")
    return max(float((one[kind][name] - other[kind][name]).abs().max()) for kind in kinds for name in other[kind])


def compare(ranks: Ranks, zero: ZeroConfig, clip: float) -> dict[str, Any]:
    """Three steps, a state handed from the plain engine to a new one, three more; then a gradient that is infinite."""
    config = OptimizerConfig(lr=0.05, warmup=8, max_grad_norm=clip, weight_decay=0.1, ema_decay=0.6)

    def fresh() -> ZeroEngine:
        module = network()
        return ZeroEngine(module, groups(module), config, IMAGES, MICROS // ranks.size, BATCH, zero, ranks)

    engine, module = fresh(), network()
    plain = PlainEngine(module, groups(module), config, IMAGES, MICROS, BATCH)
    for step in range(3):
        move(engine, step, ranks.shard(MICROS))
        move(plain, step, range(MICROS))
    found = {"fresh": difference(engine.save(), plain.save())}
    engine = fresh()
    engine.load(plain.save())
    for step in range(3, 6):
        move(engine, step, ranks.shard(MICROS))
        move(plain, step, range(MICROS))
    found["loaded"] = difference(engine.save(), plain.save())
    found["moments"] = len(engine.save()["exp_avg"])
    with engine.ema_in_place():
        shown = engine.module(torch.ones(1, 5))
    with plain.ema_in_place():
        found["averaged"] = float((shown - plain.module(torch.ones(1, 5))).abs().max().detach())
    before = engine.save()
    try:
        with engine.full_params():
            for _ in ranks.shard(MICROS):
                engine.backward((engine.module(torch.ones(1, 5)) * 0).sum().sqrt())
        engine.step(BATCH)
        found["infinite"] = "nothing was said"
    except FloatingPointError as error:
        found["infinite"] = str(error)
    found["kept"] = difference(engine.save(), before)
    return found


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with process_group(always=True) as ranks:
        found = {
            f"{stage}{' offload' if offload else ''}{' clipped' if clip else ''}": compare(
                ranks, ZeroConfig(stage, offload, bucket=1000), clip
            )
            for stage, offload in CASES
            for clip in (0.0, 0.5)
        }
        for stage in range(1, 4):
            found[f"{stage} overlap"] = compare(ranks, ZeroConfig(stage, bucket=1000, overlap=True), 0.5)
        if ranks.first:
            out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
