"""What the ranks of a training send, computed from its configuration, and how far that lets it scale: a prediction.

All ranks of a ring send alike. Of a tensor of S bytes each of N ranks sends 2 S (N - 1) / N for an all-reduce, and
S (N - 1) / N for a reduce-scatter or an all-gather. What is reduced and gathered, and when, follows DeepSpeed 0.19.8
as `train.engines.zero` asks for it: float32 at every stage, as autocast leaves weights and gradients alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from triportrait.core.errors import InputError
from triportrait.core.portrait import Portrait4D
from triportrait.train.config import ReenactConfig, StageConfig, StageName, TrainConfig
from triportrait.train.stages.assemble import make_discriminator
from triportrait.train.stages.initialize import reads_motion

FLOAT = 4  # bytes
REDUCED, GATHERED, SCATTERED = KINDS = ("all-reduce", "all-gather", "reduce-scatter")
FACTORS = {REDUCED: 2.0, GATHERED: 1.0, SCATTERED: 1.0}
ALIGNED = 2  # elements: DeepSpeed's flat groups are padded to so many for each rank
STAGES = (0, 1, 2, 3)
IN_A_MACHINE = 8
WANTED = 0.95  # efficiency
AIM = 23.0  # images a second and GPU


@dataclass(frozen=True)
class Network:
    """One that is trained.

    Attributes:
        trained: elements of each weight that moves. others: of each that does not.
        moves: how often it moves in a step of the training, on average.
    """

    name: str
    trained: tuple[int, ...]
    others: tuple[int, ...]
    moves: float


@dataclass(frozen=True)
class Machine:
    """Eight GPUs and what connects them, each way, by data sheet.

    Attributes:
        adapters: of the network between machines.
        inside: bytes a second of a GPU to the next. between: of a machine to the next, over all its adapters.
    """

    name: str
    adapters: str
    inside: float
    between: float

    def path(self, gpus: int) -> tuple[str, float]:
        """What a ring of so many GPUs goes through, and the bandwidth of its narrowest part."""
        if gpus <= IN_A_MACHINE:
            return self.name, self.inside
        return f"{self.name}; {self.adapters}", min(self.inside, self.between)


MACHINES = (
    Machine("A100, NVLink 3", "8 x InfiniBand 200 Gb/s", 300e9, 8 * 25e9),
    Machine("A100, NVLink 3", "1 x InfiniBand 200 Gb/s", 300e9, 25e9),
    Machine("H100 or H200, NVLink 4", "8 x InfiniBand 400 Gb/s", 450e9, 8 * 50e9),
)


def networks(config: TrainConfig, stage: StageName) -> list[Network]:
    """The generator and, where there is one, the discriminator, sized without their memory."""
    own: StageConfig = getattr(config, stage)
    schedule, losses = own.schedule, own.losses
    with torch.device("meta"):
        portrait = Portrait4D(config.model)
        discriminator = make_discriminator(config) if losses.adversarial else None
    moves = 1.0
    if stage == "stage1" and losses.density:
        moves += 1 / schedule.density_every
    if isinstance(own, ReenactConfig) and schedule.pseudo_every:
        moves += 1 / schedule.pseudo_every
    still = [(stage == "stage1" and reads_motion(name)) or p.dim() == 0 for name, p in portrait.named_parameters()]
    sizes = [p.numel() for p in portrait.parameters()]
    found = [
        Network(
            "generator",
            tuple(n for n, out in zip(sizes, still, strict=True) if not out),
            tuple(n for n, out in zip(sizes, still, strict=True) if out),
            moves,
        )
    ]
    if discriminator is not None:
        found.append(
            Network(
                "discriminator", tuple(p.numel() for p in discriminator.parameters()), (), 1 + 1 / schedule.r1_every
            )
        )
    return found


def payload(found: Sequence[Network], zero: int, ranks: int, micro_batches: int = 1) -> dict[str, float]:
    """Bytes that a step reduces, gathers and scatters, whole tensors, by kind.

    Args:
        zero: DeepSpeed's stage. ranks: N. micro_batches: of a rank; from stage 2 on each is reduced for itself.
    """
    total = dict.fromkeys(KINDS, 0.0)
    if ranks == 1:
        return total
    phases = sum(network.moves for network in found)
    for network in found:
        trained = sum(network.trained)
        if zero < 3:
            total[REDUCED] += FLOAT * network.moves * trained * (micro_batches if zero == 2 else 1)
        if zero in (1, 2):
            total[GATHERED] += FLOAT * network.moves * _padded(trained, ALIGNED * ranks)
        if zero == 3:
            parts = sum(_padded(n, ranks) for n in network.trained)
            still = sum(_padded(n, ranks) for n in network.others)
            total[GATHERED] += FLOAT * phases * (parts + still)  # all networks are whole in every phase
            total[SCATTERED] += FLOAT * network.moves * micro_batches * parts
    return total


def sent(total: dict[str, float], ranks: int) -> float:
    """Bytes that each rank of a ring sends for them."""
    return sum(FACTORS[kind] * (ranks - 1) / ranks * size for kind, size in total.items())


def _padded(elements: int, to: int) -> int:
    return math.ceil(elements / to) * to


@dataclass(frozen=True)
class Prediction:
    """Of one training on so many GPUs; `seconds` by machine, that sending takes if nothing else runs meanwhile."""

    zero: int
    gpus: int
    payload: dict[str, float]
    sent: float
    seconds: dict[str, float]

    def efficiency(self, machine: str, step_s: float) -> float:
        """Share of its time that a GPU computes, nothing of what is sent being hidden behind that."""
        return step_s / (step_s + self.seconds[machine])

    def wanted_step_s(self, machine: str) -> float:
        """From which step time on the efficiency is as wanted."""
        return self.seconds[machine] * WANTED / (1 - WANTED)


def predict(
    found: Sequence[Network], zeros: Sequence[int], gpus: Sequence[int], micro_batches: int = 1
) -> list[Prediction]:
    """All combinations.

    Raises:
        InputError: numbers of GPUs that fill no machines, stages that do not exist, no micro-batch.
    """
    for count in gpus:
        if count < 1 or (count > IN_A_MACHINE and count % IN_A_MACHINE):
            raise InputError(
                f"gpus: expected 1 to {IN_A_MACHINE}, or a multiple of {IN_A_MACHINE}, got {count}; choose another"
            )
    for zero in zeros:
        if zero not in STAGES:
            raise InputError(f"zero: expected stages from 0 to 3, got {zero}; choose among them")
    if micro_batches < 1:
        raise InputError(f"micro_batches: expected at least 1, got {micro_batches}; choose another number")
    made = []
    for zero in zeros:
        for count in gpus:
            total = payload(found, zero, count, micro_batches)
            own = sent(total, count)
            paths = dict(machine.path(count) for machine in MACHINES)
            made.append(Prediction(zero, count, total, own, {name: own / width for name, width in paths.items()}))
    return made


def table(
    found: Sequence[Network], predictions: Sequence[Prediction], batch: int, step_s: float | None, micro_batches: int
) -> str:
    """The predictions as Markdown.

    Args:
        batch: images of a GPU and step. step_s: of a step on one GPU, where it was measured.
    """
    at = batch / AIM if step_s is None else step_s
    told = "the aim, not measured" if step_s is None else "as given"
    lines = [
        "| " + " | ".join((
            "ZeRO", "GPUs", "all-reduce GB", "all-gather GB", "reduce-scatter GB", "a rank sends GB", "through",
            "sending takes ms", f"efficiency at {1e3 * at:.0f} ms ({told})", f"step ms for {WANTED:.0%}",
        )) + " |",
        "|" + " --- |" * 10,
    ]  # fmt: skip
    for p in predictions:
        volume = [f"{p.payload[kind] / 1e9:.3f}" for kind in KINDS]
        for machine, seconds in p.seconds.items():
            cells = [str(p.zero), str(p.gpus), *volume, f"{p.sent / 1e9:.3f}", machine, f"{1e3 * seconds:.2f}"]
            cells += [f"{p.efficiency(machine, at):.1%}", f"{1e3 * p.wanted_step_s(machine):.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    sizes = ", ".join(
        f"{n.name}: {sum(n.trained):,} weights that move {n.moves:.4g} times a step"
        + (f" and {sum(n.others):,} that do not" if n.others else "")
        for n in found
    )
    unmeasured = (
        f"No step time was given: {1e3 * at:.0f} ms is {batch} images at the aim of {AIM:.0f} images/s, which nobody "
        "has measured. The last column says which step time is long enough. "
        if step_s is None
        else ""
    )
    said = (
        f"**A prediction.** {unmeasured}{sizes}; {batch} images and {micro_batches} micro-batches a GPU and step, "
        "however many GPUs there are, so that a step's batch grows with them. Rings at the data sheets' bandwidths, "
        "each way; over machines a ring goes through all adapters of each. Nothing that is sent is hidden behind "
        "computing, latency is free, data keep up. Efficiency is the share of time that a GPU computes."
    )
    return "\n".join([*lines, "", said]) + "\n"


def figures(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Plain JSON values."""
    return [
        {"zero": p.zero, "gpus": p.gpus, "payload_bytes": p.payload, "sent_bytes": p.sent, "seconds": p.seconds}
        for p in predictions
    ]
