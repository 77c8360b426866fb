"""What depends on how far a training is: functions of the images seen, never of the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from triportrait.train.config import LossConfig, OptimizerConfig, ScheduleConfig


def learning_rate(config: OptimizerConfig, images_seen: int, images: int) -> float:
    """The rate after `images_seen` of `images`: a straight warm-up, then half a cosine down to the last rate."""
    full, _ = corrected(config)
    if images_seen < config.warm_up:
        return full * (images_seen + 1) / (config.warm_up + 1)
    done = min(1.0, (images_seen - config.warm_up) / max(1, images - config.warm_up))
    share = config.last_rate + (1 - config.last_rate) * 0.5 * (1 + math.cos(math.pi * done))
    return full * share


def corrected(config: OptimizerConfig) -> tuple[float, tuple[float, float]]:
    """Rate and betas where a regularisation takes a step of its own every k-th time: k + 1 steps do the work of k."""
    if not config.lazy:
        return config.rate, config.betas
    share = config.lazy / (config.lazy + 1)
    return config.rate * share, (config.betas[0] ** share, config.betas[1] ** share)


def averaging(config: OptimizerConfig, steps: int, images_seen: int = 0, batch: int = 1) -> float:
    """Share of the old weights in their moving average after `steps` steps: small at first, so the start fades."""
    if not config.half_life:
        return min(config.average, (1 + steps) / (10 + steps))
    half_life = (
        min(config.half_life, config.half_life_share * images_seen) if config.half_life_share else config.half_life
    )
    return 0.5 ** (batch / max(half_life, 1e-8))


@dataclass(frozen=True)
class Moment:
    """What is on at a moment of a training.

    Attributes:
        neural_size: side of the ray grid, px; None: the model's.
        adversary, identity, teacher: whether these terms count.
    """

    neural_size: int | None = None
    adversary: bool = False
    identity: bool = False
    teacher: bool = True


def moment(config: ScheduleConfig, losses: LossConfig, images_seen: int, full_size: int) -> Moment:
    """What is on after so many images."""
    return Moment(
        neural_size(config, images_seen, full_size),
        losses.adversary > 0 and images_seen >= config.adversary_from,
        losses.identity > 0 and images_seen >= config.identity_from,
        images_seen < config.teacher_until,
    )


def neural_size(config: ScheduleConfig, images_seen: int, full_size: int) -> int | None:
    """Side of the ray grid: `grows_from` px, then a straight line to the model's, rounded; None: it never changes."""
    if not config.grows_from:
        return None
    start, end = config.grows
    done = min(1.0, max(0.0, (images_seen - start) / max(1, end - start)))
    return round(config.grows_from + done * (full_size - config.grows_from))
