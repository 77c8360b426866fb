"""Keys of configs and kinds of tensors that once had other names, and their names of today.

Runs, checkpoints and weights cards that have all of today's fields under older names are read through this map, so
that a run goes on bit by bit.
"""

from __future__ import annotations

import copy
from typing import Any

_OPTIMIZER = {
    "rate": "lr",
    "last_rate": "final_lr_ratio",
    "motion_factor": "motion_lr_factor",
    "warm_up": "warmup",
    "decay": "weight_decay",
    "clip": "max_grad_norm",
    "average": "ema_decay",
    "lazy": "reg_interval",
    "half_life": "ema_half_life",
    "half_life_share": "ema_rampup",
    "clean": "zero_nan_grads",
}
_STAGE = {
    "micros": "micro_batches",
    **{
        f"{network}.{old}": f"{network}.{new}"
        for network in ("optimizer", "discriminator")
        for old, new in _OPTIMIZER.items()
    },
    "losses.features": "losses.eye_mouth_boost",
    "losses.adversary": "losses.adversarial",
    "losses.planes": "losses.distill_planes",
    "losses.feature": "losses.distill_feature",
    "schedule.grows": "schedule.neural_size_grows",
    "schedule.grows_from": "schedule.neural_size_from",
    "schedule.adversary_from": "schedule.adversarial_from",
    "schedule.teacher_until": "schedule.distill_until",
}
KEYS = {
    "save_each": "save_every",
    "sample_each": "sample_every",
    "run.begin": "run.init_from",
    **{f"{stage}.{old}": f"{stage}.{new}" for stage in ("stage1", "motion", "stage2") for old, new in _STAGE.items()},
}
TENSOR_KINDS = {"average": "ema"}


def with_new_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return a stored config under the keys of today; what stands under them already is left alone."""
    config = copy.deepcopy(config)
    for old, new in KEYS.items():
        *path, old_key = old.split(".")
        section: Any = config
        for name in path:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and old_key in section:
            section[new.rpartition(".")[2]] = section.pop(old_key)
    if "save_every" in config and "stage1" in config:  # a run's, not a card's, nor GenHead's own training's
        config.setdefault("evaluate_every", 0)  # which older runs do not have
        config.setdefault("portrait4d", None)
        config.setdefault("superres_style", "own")
    return config
