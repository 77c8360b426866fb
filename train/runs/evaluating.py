"""Measure a stage on held-out people every so many images, and tell the log, the terminal and a page of curves."""

from __future__ import annotations

import logging
import time
from typing import Generic

import torch

from triportrait.train.engines.ranks import Ranks
from triportrait.train.runs.draw_curves import write_curves
from triportrait.train.runs.run_log import HELD_OUT, Record
from triportrait.train.stages.stage import Batch, Stage

MOST_OF_THE_TIME = 0.1  # share of a run's time beyond which a sentence says how to spend less
CURVES = "held_out_{stage}.svg"
logger = logging.getLogger(__name__)


class Evaluating(Generic[Batch]):
    """Runs the evaluation of a stage when it is due. No random number of the training is drawn or moved by it.

    Args:
        stage: its `evaluate` measures; without one nothing is done.
        record: takes the numbers.
        every: images between two evaluations; 0: never.
    """

    def __init__(self, stage: Stage[Batch], record: Record, ranks: Ranks, every: int) -> None:
        self._stage, self._record, self._ranks = stage, record, ranks
        self._every = every if stage.evaluate is not None else 0
        self._began, self._spent, self._warned = time.perf_counter(), 0.0, False

    def after_step(self, images_before: int, last: bool) -> None:
        """Measure if as many images were seen as are between two evaluations, or the stage is at its end."""
        seen = self._stage.engine.images_seen
        if self._every and (last or images_before // self._every != seen // self._every):
            self.run()

    def run(self) -> None:
        """Measure the EMA of the weights now; all ranks call it together."""
        engine, evaluate = self._stage.engine, self._stage.evaluate
        if not self._every or evaluate is None:
            return
        began = time.perf_counter()
        with engine.ema_in_place(), torch.no_grad():
            numbers = evaluate(self._ranks)
        now = time.perf_counter()
        self._spent += now - began
        share = self._spent / max(now - self._began, 1e-9)
        if not self._record.writes:
            return
        clock = {"evaluate_s": round(now - began, 2), "evaluate_share": round(share, 4)} if engine.steps else {}
        before = list(self._record.measured.values())[-1:]
        self._record.measured[engine.images_seen] = numbers
        self._record.numbers(engine, numbers | clock)
        write_curves(self._record.run / CURVES.format(stage=self._stage.name), self._record.measured)
        logger.info("%s", self._sentence(numbers, before[0] if before else {}))
        if engine.steps and share > MOST_OF_THE_TIME and not self._warned:
            self._warned = True
            logger.warning(
                "%s: held-out evaluation takes %.0f %% of the time; --evaluate-every %d takes %.0f %%",
                self._stage.name, 100 * share, self._fewer(share), 100 * MOST_OF_THE_TIME,
            )  # fmt: skip

    def _fewer(self, share: float) -> int:
        """Return how many images between two evaluations bring their share down to `MOST_OF_THE_TIME`."""
        factor = share / (1 - share) * (1 - MOST_OF_THE_TIME) / MOST_OF_THE_TIME
        return -(-int(self._every * factor + 1) // 100) * 100

    def _sentence(self, numbers: dict[str, float], before: dict[str, float]) -> str:
        words = []
        for name, value in numbers.items():
            change = f" ({value - before[name]:+.3g})" if name in before else ""
            words.append(f"{name.removeprefix(HELD_OUT)} {value:.4g}{change}")
        return f"{self._stage.name}: held out after {self._stage.engine.images_seen:,} images: {', '.join(words)}"
