"""What depends on how far a training is: functions of the images seen, never of the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from triportrait.train.config import LossConfig, OptimizerConfig, ScheduleConfig


def learning_rate(config: OptimizerConfig, images_seen: int, images: int) -> float:
    """Return the learning rate after `images_seen` of `images`: a linear warm-up, then a cosine decay."""
    full, _ = lazy_corrected(config)
    if images_seen < config.warmup:
        return full * (images_seen + 1) / (config.warmup + 1)
    progress = min(1.0, (images_seen - config.warmup) / max(1, images - config.warmup))
    ratio = config.final_lr_ratio + (1 - config.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    return full * ratio


def lazy_corrected(config: OptimizerConfig) -> tuple[float, tuple[float, float]]:
    """Return learning rate and betas under lazy regularisation: where a regularisation takes a step of its own every
    k-th time, k + 1 steps do the work of k."""
    if not config.reg_interval:
        return config.lr, config.betas
    ratio = config.reg_interval / (config.reg_interval + 1)
    return config.lr * ratio, (config.betas[0] ** ratio, config.betas[1] ** ratio)


def ema_decay_at(config: OptimizerConfig, steps: int, images_seen: int = 0, batch: int = 1) -> float:
    """Return the decay of the EMA after `steps` steps: small at first, so that the fresh weights fade."""
    if not config.ema_half_life:
        return min(config.ema_decay, (1 + steps) / (10 + steps))
    half_life = (
        min(config.ema_half_life, config.ema_rampup * images_seen) if config.ema_rampup else config.ema_half_life
    )
    return 0.5 ** (batch / max(half_life, 1e-8))


@dataclass(frozen=True)
class ActiveTerms:
    """What is on at a moment of a training.

    Attributes:
        neural_size: side of the ray grid, px; None: the model's.
        adversarial, identity, distill: whether these terms count; `distill` is depth and what GenHead's volume says.
    """

    neural_size: int | None = None
    adversarial: bool = False
    identity: bool = False
    distill: bool = True


def active_terms(config: ScheduleConfig, losses: LossConfig, images_seen: int, full_size: int) -> ActiveTerms:
    """Return what is on after so many images."""
    return ActiveTerms(
        neural_size(config, images_seen, full_size),
        losses.adversarial > 0 and images_seen >= config.adversarial_from,
        losses.identity > 0 and images_seen >= config.identity_from,
        images_seen < config.distill_until,
    )


def neural_size(config: ScheduleConfig, images_seen: int, full_size: int) -> int | None:
    """Return the side of the ray grid, a straight line from `neural_size_from` px to the model's; None: no change."""
    if not config.neural_size_from:
        return None
    start, end = config.neural_size_grows
    progress = min(1.0, max(0.0, (images_seen - start) / max(1, end - start)))
    return round(config.neural_size_from + progress * (full_size - config.neural_size_from))
