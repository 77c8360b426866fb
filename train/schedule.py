"""What depends on how far a training is: functions of the images seen, never of the clock."""

from __future__ import annotations

import math

from triportrait.train.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, images_seen: int, images: int) -> float:
    """The rate after `images_seen` of `images`: a straight warm-up, then half a cosine down to the last rate."""
    if images_seen < config.warm_up:
        return config.rate * (images_seen + 1) / (config.warm_up + 1)
    done = min(1.0, (images_seen - config.warm_up) / max(1, images - config.warm_up))
    share = config.last_rate + (1 - config.last_rate) * 0.5 * (1 + math.cos(math.pi * done))
    return config.rate * share


def averaging(config: OptimizerConfig, steps: int) -> float:
    """Share of the old weights in their moving average after `steps` steps: small at first, so the start fades."""
    return min(config.average, (1 + steps) / (10 + steps))
