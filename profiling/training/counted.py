"""What ranks really send: a little training of stage 2 on gloo ranks of this machine, its collectives counted.

    torchrun --nproc_per_node N -m triportrait.profiling.training.counted OUT.json

Every collective that PyTorch is asked for passes its dispatcher, whoever asks; there its tensors are measured.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from triportrait.core.config import (
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    NeckConfig,
    RenderConfig,
    TransformerConfig,
)
from triportrait.core.errors import InputError
from triportrait.core.libraries import install
from triportrait.profiling.training.inputs import make_inputs
from triportrait.profiling.training.reference import our_phases
from triportrait.profiling.training.scaling import (
    GATHERED,
    KINDS,
    REDUCED,
    SCATTERED,
    STAGES,
    networks,
    payload,
    sent,
)
from triportrait.train.config import LossConfig, OptimizerConfig, ReenactConfig, ScheduleConfig, TrainConfig
from triportrait.train.data.set_config import SetConfig
from triportrait.train.engines.engine import Group
from triportrait.train.engines.make import Engines
from triportrait.train.engines.ranks import Ranks, process_group
from triportrait.train.engines.zero import ZeroConfig
from triportrait.train.loop import run_stage
from triportrait.train.stages.stage import Stage

MICROS, IMAGES = 2, 2  # micro-batches of a rank, images of one
PERIOD, BEFORE = 2, 1  # steps until all phases have come, and steps before counting
NAMES = {  # operators of the dispatcher -> kind, and which argument is the whole tensor
    "c10d::allreduce_": (REDUCED, 0), "c10d::allgather_": (GATHERED, 0), "c10d::_allgather_base_": (GATHERED, 0),
    "c10d::reduce_scatter_": (SCATTERED, 1), "c10d::_reduce_scatter_base_": (SCATTERED, 1),
    "c10d::broadcast_": ("broadcast", 0), "c10d::reduce_": ("reduce", 0), "c10d::alltoall_base_": ("all-to-all", 0),
}  # fmt: skip


def config(ranks: int) -> TrainConfig:
    """A small stage 2 with its discriminator, R1 in every second step."""
    model = ModelConfig(
        preset="counted", image_size=64,
        encoder=EncoderConfig((8, 8, 16, 16), (1, 1, 1, 1), (2,), 16, (8, 8), (8, 8, 16)),
        transformer=TransformerConfig(
            token_width=64, num_heads=2, mlp_width=128, num_neutral_blocks=1, num_motion_blocks=1, motion_width=9,
            motion_hidden=16, num_motion_tokens=4, tail_width=8, canonical_width=8,
        ),
        decoder=DecoderConfig(head_widths=(8, 8), token_width=32, num_heads=2, mlp_width=32, tail_widths=(8,)),
        render=RenderConfig(
            plane_size=32, plane_width=8, field_hidden=16, num_coarse=4, num_fine=4, neural_size=16,
            superres_widths=(8, 8), style_width=8,
        ),
        neck=NeckConfig(fine_size=4, coarse_size=3),
    )  # fmt: skip
    micro_batches = MICROS * ranks
    batch = IMAGES * micro_batches
    still = OptimizerConfig(lr=1e-6, warmup=0, weight_decay=0.0, max_grad_norm=0.0)
    stage = ReenactConfig(
        images=batch * (BEFORE + PERIOD + 1), batch=batch, micro_batches=micro_batches, optimizer=still,
        discriminator=still, losses=LossConfig(adversarial=0.1), schedule=ScheduleConfig(r1_every=PERIOD),
    )  # fmt: skip
    return TrainConfig(
        "counted", model, cast=SetConfig(size=64), precision="fp32", stage2=stage, discriminator_base=1024,
        discriminator_widest=32,
    )  # fmt: skip


class Collectives(TorchDispatchMode):
    """Adds up the bytes of collectives, whole tensors, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket._qualified_op_name
        if name in NAMES:
            kind, whole = NAMES[name]
            tensors = [x for x in torch.utils._pytree.tree_leaves(args[whole]) if isinstance(x, Tensor)]
            self.bytes[kind] += sum(x.numel() * x.element_size() for x in tensors)
        elif name.startswith("c10d::") and "barrier" not in name:
            raise RuntimeError(f"{name}: expected one of {sorted(NAMES)}; count it too, or the sum is short")
        return func(*args, **(kwargs or {}))


def count(ranks: Ranks, zero: int | None, run: Path) -> dict[str, float]:
    """Train a little on this rank; bytes of a step by kind, the mean over a period of all phases.

    Args:
        zero: DeepSpeed's stage; None is plain PyTorch, on one rank.
        run: a folder that all ranks see.
    """
    numbers = config(ranks.size)
    own = numbers.stage2
    inputs = make_inputs("stage2", numbers, IMAGES, ranks.device)
    portrait, discriminator = inputs.models.portrait, inputs.models.discriminator
    engines = Engines(ranks, None if zero is None else ZeroConfig(zero, bucket=100_000))
    made = {
        "generator": engines.make(portrait, [Group([p for p in portrait.parameters() if p.dim()])], own.optimizer, own),
        "discriminator": engines.make(discriminator, [Group(list(discriminator.parameters()))], own.discriminator, own),
    }
    collectives, begun = Collectives(), dict[int, Counter[str]]()

    def draw(streams: np.random.Generator, images_seen: int) -> Any:
        begun.setdefault(images_seen // own.batch, collectives.bytes.copy())
        return inputs.batch(False, int(streams.integers(2**31)))

    phases = our_phases(dataclasses.replace(inputs, own=own))
    stage = Stage("stage2", 3, made, own.images, own.batch, own.micro_batches, draw, phases, lambda path: {})
    if ranks.first:
        run.mkdir()
    ranks.barrier()
    with collectives:
        run_stage(stage, run, 0, 10**9, 10**9, ranks)
    first, last = begun[BEFORE], begun[BEFORE + PERIOD]
    return {kind: (last[kind] - first[kind]) / PERIOD for kind in {*KINDS, *last}}


def launch(ranks: int, zeros: Sequence[int] = STAGES) -> list[dict[str, Any]]:
    """Count on so many processes of this machine: a row for each stage, on one rank for plain PyTorch, too.

    Raises:
        InputError: DeepSpeed is missing, or the ranks did not get through.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError(f"ranks: expected DeepSpeed, it is not installed; {install('train')}, or count no ranks")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counted.json"
        words = [sys.executable, "-m"]
        if ranks > 1:
            words += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "-m"]
        words += ["triportrait.profiling.training.counted", str(out), *map(str, zeros)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if not out.exists():  # gloo's threads may abort a process at its end, when all is written
            said = next((line for line in reversed(done.stderr.splitlines()) if "Error" in line), "nothing was said")
            raise InputError(
                f"ranks: expected {ranks} processes to train a little, they ended early ({said}); try again"
            )
        return json.loads(out.read_text())  # type: ignore[no-any-return]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Predicted beside counted, as Markdown."""
    lines = ["| ranks | engine | kind | predicted MB | counted MB | counted / predicted |", "|" + " --- |" * 6]
    for row in rows:
        engine = "plain PyTorch" if row["zero"] is None else f"ZeRO {row['zero']}"
        both = row["predicted"], row["counted"]
        kinds = [k for k in sorted({*both[0], *both[1]}) if row["ranks"] > 1 and (both[0].get(k) or both[1].get(k))]
        cells = {kind: [x.get(kind, 0.0) for x in both] for kind in kinds}
        cells["**a rank sends**"] = [sent({k: x.get(k, 0.0) for k in KINDS}, row["ranks"]) for x in both]
        for name, (predicted, found) in cells.items():
            ratio = f"{found / predicted:.4f}" if predicted else "-"
            line = [row["ranks"], engine, name, f"{predicted / 1e6:.4f}", f"{found / 1e6:.4f}", ratio]
            lines.append("| " + " | ".join(map(str, line)) + " |")
    said = (
        "A step of a small stage 2 with discriminator and R1, two micro-batches a rank; counted where PyTorch is asked "
        "for collectives, the loop's own (losses, stops) included. A group of one rank is asked, and sends nothing."
    )
    return "\n".join([*lines, "", said]) + "\n"


def main(out: Path, zeros: Sequence[int]) -> None:
    """One of the ranks."""
    torch.set_num_threads(1)
    rows = []
    with process_group(always=True) as ranks:
        folder = Path(str(ranks.broadcast(tempfile.mkdtemp(dir=out.parent) if ranks.first else None)))
        for zero in [None, *zeros] if ranks.size == 1 else zeros:
            found = count(ranks, zero, folder / f"run{zero}")
            predicted = payload(networks(config(ranks.size), "stage2"), zero or 0, ranks.size, MICROS)
            rows.append({"ranks": ranks.size, "zero": zero, "predicted": predicted, "counted": found})
        if ranks.first:
            part = out.with_suffix(".part")
            part.write_text(json.dumps(rows))
            part.replace(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(x) for x in sys.argv[2:]])
