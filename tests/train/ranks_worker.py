"""One of some processes, started by torchrun: the smallest stage 2 with adversary and R1, at every ZeRO stage.

    torchrun --nproc_per_node N ranks_worker.py WORK CASE...

WORK holds cast/, trained/ and static/. A case is NAME:ENGINE:STEPS with ENGINE plain or 0 to 3; its run is WORK/NAME,
and it is asked to stop after STEPS steps (0: not at all). A run that is there goes on; with :half2 or another after it
it goes on from a copy of WORK/half2. NAME:ENGINE:STEPS:bf16 runs in bfloat16, NAME:ENGINE:STEPS:heads is stage 1 on
heads that WORK/genhead draws from WORK/tables, NAME:ENGINE:STEPS:portrait4d is Portrait4D on two expressions of
such, and NAME:ENGINE:STEPS:nan with a pixel that is no number, in the last micro-batch of the second step, and with
:clean after it gradients that are not finite count as 0.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.train import little
from tests.train.kept_pictures import keep
from triportrait.core.torch_threads import one_thread
from triportrait.train import loop
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import process_group
from triportrait.train.engines.zero import ZeroConfig
from triportrait.train.generated_data import GeneratedData
from triportrait.train.networks import InitFrom
from triportrait.train.run_folder import Inputs, Run
from triportrait.train.run_generated_heads import StaticOnGenerated
from triportrait.train.run_one_stage import OneStage
from triportrait.train.run_portrait4d import DynamicOnGenerated
from triportrait.train.runs.stopping import Stopped, Stopper
from triportrait.train.stages import common
from triportrait.train.stages.stage import MicroBatch, Stage


class StopsAt(Stopper):
    """Asks by itself after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def asked(self) -> bool:  # type: ignore[override]
        self.steps -= 1
        return self.steps == -1


@contextmanager
def spoiled(on: bool) -> Iterator[None]:
    """One pixel of one micro-batch is no number."""
    original = loop._micro

    def made(stage: Stage, seed: int, step: int, number: int, images_seen: int, draws_on: torch.device) -> MicroBatch:
        micro = original(stage, seed, step, number, images_seen, draws_on)
        if on and number == stage.micro_batches - 1 and step == 1:
            micro.batch.source.image[0, 0, 0, 0] = torch.nan
        return micro

    loop._micro = made
    try:
        yield
    finally:
        loop._micro = original


def drawn(work: Path) -> GeneratedData:
    """Heads that WORK/genhead draws from WORK/tables."""
    return GeneratedData(Path(f"genhead:{work / 'genhead'}"), work / "tables")


def main(work: Path, cases: list[str]) -> None:
    loop.LOG_EVERY = 1
    emulated = mock.patch.object(common, "multiplies_bf16", lambda device: True)  # a CPU without it may emulate it here
    init_from = InitFrom(static=str(work / "static"), motion=str(work / "trained"))
    group = process_group(always=not cases[0].endswith("plain:0"))
    with emulated, one_thread(), pytest.MonkeyPatch.context() as patch, group as ranks:
        keep(patch)
        for case in cases:
            name, engine, steps, *more = case.split(":")
            for begun in (one for one in more if one.startswith("half")):
                if ranks.first:
                    shutil.copytree(work / begun, work / name)
                torch.distributed.barrier()
            zero = None if engine == "plain" else ZeroConfig(int(engine), bucket=100_000)
            engines = Engines(ranks, zero)
            config = dataclasses.replace(little.adversarial(), precision="bf16" if "bf16" in more else "fp32")
            if "clean" in more:
                own = config.stage2
                moved = {
                    n: dataclasses.replace(getattr(own, n), zero_nan_grads=True) for n in ("optimizer", "discriminator")
                }
                config = dataclasses.replace(config, stage2=dataclasses.replace(own, **moved))
            inputs: Inputs = OneStage("stage2", work / "cast", init_from)
            if "heads" in more:
                config = little.generated()
                inputs = StaticOnGenerated(drawn(work), InitFrom())
            if "portrait4d" in more:
                config, inputs = little.portrait4d(), DynamicOnGenerated(drawn(work), init_from)
            run = Run(config, work / name, inputs, engines, False)
            with suppress(Stopped, FloatingPointError), spoiled("nan" in more):
                last = ranks.rank == ranks.size - 1  # one asks, and all stop
                run.train(StopsAt(int(steps)) if int(steps) and last else None)
            if ranks.first:
                (work / f"{name}.done").touch()  # a launcher may still fail when gloo's threads end


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
