"""Compute what the ranks of a training send in a step from the number of its parameters.

All ranks of a ring send alike. Of a tensor of S bytes each of N ranks sends 2 S (N - 1) / N for an all-reduce, and
S (N - 1) / N for an all-gather or a reduce-scatter. What is reduced and gathered, and when, follows DeepSpeed 0.19.8
as `train.engines.zero` asks for it: in float32 at every ZeRO stage, as autocast leaves weights and gradients alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from triportrait.core.errors import InputError
from triportrait.core.portrait import Portrait4D
from triportrait.core.shapes_alone import shapes_alone
from triportrait.profiling.markdown import markdown_table
from triportrait.train.config import ReenactConfig, StageConfig, StageName, TrainConfig
from triportrait.train.stages.assemble import make_discriminator
from triportrait.train.stages.initialize import reads_motion

FLOAT = 4  # bytes
ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter")
PASSES = {ALL_REDUCE: 2, ALL_GATHER: 1, REDUCE_SCATTER: 1}  # how often a tensor goes around the ring
ALIGNED = 2  # elements: DeepSpeed pads its flat groups to a multiple of so many for each rank
ZERO_STAGES = (0, 1, 2, 3)
LEGEND = (
    "Computed from the number of parameters, not measured. Each of N ranks of a ring sends 2 S (N - 1) / N bytes for "
    "an all-reduce of S bytes, and S (N - 1) / N for an all-gather or a reduce-scatter; all of them are of float32. "
    "ZeRO 0 reduces the gradients; 1 and 2 gather the moved weights too, and 2 reduces every micro-batch for itself; 3 "
    "gathers all weights in every phase and scatters the gradients."
)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network that is trained.

    Attributes:
        name: of its engine.
        trained: the number of elements of each weight that moves.
        fixed: the number of elements of each weight that does not.
        moves: how often it moves in a step of the training, on average.
    """

    name: str
    trained: tuple[int, ...]
    fixed: tuple[int, ...]
    moves: float


def trained_networks(config: TrainConfig, stage: StageName) -> list[TrainedNetwork]:
    """Size the generator and, where a stage has one, the discriminator, without their memory."""
    stage_config: StageConfig = getattr(config, stage)
    schedule, losses = stage_config.schedule, stage_config.losses
    with shapes_alone():
        portrait = Portrait4D(config.model)
        discriminator = make_discriminator(config) if losses.adversarial else None
    moves = 1.0
    if stage == "stage1" and losses.density:
        moves += 1 / schedule.density_every
    if isinstance(stage_config, ReenactConfig) and schedule.pseudo_every:
        moves += 1 / schedule.pseudo_every
    trained, fixed = list[int](), list[int]()
    for name, parameter in portrait.named_parameters():
        is_fixed = parameter.dim() == 0 or (stage == "stage1" and reads_motion(name))
        (fixed if is_fixed else trained).append(parameter.numel())
    networks = [TrainedNetwork("generator", tuple(trained), tuple(fixed), moves)]
    if discriminator is not None:
        sizes = tuple(parameter.numel() for parameter in discriminator.parameters())
        networks.append(TrainedNetwork("discriminator", sizes, (), 1 + 1 / schedule.r1_every))
    return networks


def collective_bytes(
    networks: Sequence[TrainedNetwork], zero: int, ranks: int, micro_batches: int = 1
) -> dict[str, float]:
    """Count the bytes of the whole tensors that a step reduces, gathers and scatters, by collective.

    Args:
        networks: what is trained.
        zero: DeepSpeed's ZeRO stage.
        ranks: N.
        micro_batches: of a rank; from ZeRO stage 2 on the gradients of each are reduced for themselves.
    """
    total = dict.fromkeys(COLLECTIVES, 0.0)
    if ranks == 1:
        return total
    phases = sum(network.moves for network in networks)
    for network in networks:
        trained = sum(network.trained)
        if zero < 3:
            total[ALL_REDUCE] += FLOAT * network.moves * trained * (micro_batches if zero == 2 else 1)
        if zero in (1, 2):
            total[ALL_GATHER] += FLOAT * network.moves * _padded(trained, ALIGNED * ranks)
        if zero == 3:
            shards = sum(_padded(size, ranks) for size in network.trained)
            fixed = sum(_padded(size, ranks) for size in network.fixed)
            total[ALL_GATHER] += FLOAT * phases * (shards + fixed)  # all networks are whole in every phase
            total[REDUCE_SCATTER] += FLOAT * network.moves * micro_batches * shards
    return total


def sent_bytes(collectives: dict[str, float], ranks: int) -> float:
    """Count the bytes that each rank of a ring sends for its collectives."""
    return sum(PASSES[name] * (ranks - 1) / ranks * size for name, size in collectives.items())


def _padded(elements: int, multiple: int) -> int:
    return math.ceil(elements / multiple) * multiple


def table(networks: Sequence[TrainedNetwork], ranks: Sequence[int], micro_batches: int) -> str:
    """Tabulate what a step sends at every ZeRO stage.

    Raises:
        InputError: a number of ranks or of micro-batches below 1.
    """
    for name, value in (*(("ranks", count) for count in ranks), ("micro-batches", micro_batches)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}; choose another number")
    columns = ["ZeRO", "ranks", *(f"{name} GB" for name in COLLECTIVES), "each rank sends GB"]
    rows = []
    for zero in ZERO_STAGES:
        for count in ranks:
            total = collective_bytes(networks, zero, count, micro_batches)
            sizes = [*total.values(), sent_bytes(total, count)]
            rows.append([zero, count, *(f"{size / 1e9:.3f}" for size in sizes)])
    legend = "; ".join(
        f"{network.name}: {sum(network.trained):,} trained weights, moved {network.moves:.4g} times a step"
        + (f", and {sum(network.fixed):,} fixed ones" if network.fixed else "")
        for network in networks
    )
    plural = "micro-batch" if micro_batches == 1 else "micro-batches"
    return f"{markdown_table(columns, rows)}\n{legend}; {micro_batches} {plural} a rank and step.\n"
