"""The pictures by which a training looks at itself, made once for each cast and network.

No step changes them, and in a little run they take longer than its steps: heads that the sets do not hold, for the
probe and for the motion encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from triportrait.train import run_all_stages, run_one_stage
from triportrait.train.config import TrainConfig
from triportrait.train.evaluation import probe


def _once(make: Callable[[TrainConfig], Any]) -> Callable[[TrainConfig], Any]:
    made: dict[str, Any] = {}

    def kept(config: TrainConfig) -> Any:
        key = repr((config.cast, config.model, probe.ROWS))
        if key not in made:
            made[key] = make(config)
        return made[key]

    return kept


PROBE, UNSEEN_HEADS = _once(probe.probe), _once(run_all_stages._unseen_heads)


def keep(patch: pytest.MonkeyPatch) -> None:
    """Let trainings share them."""
    patch.setattr(run_one_stage, "probe", PROBE)
    patch.setattr(run_all_stages, "probe", PROBE)
    patch.setattr(run_all_stages, "_unseen_heads", UNSEEN_HEADS)
