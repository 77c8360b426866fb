"""Record a run: log.jsonl, samples/, and TensorBoard's files in tensorboard/. Only the first rank writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triportrait.core.atomic import write_text
from triportrait.core.files import MOST_INDEX, read_bytes
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import Engine

LOG, SAMPLES, BOARD = "log.jsonl", "samples", "tensorboard"
HELD_OUT = "held_out "  # how the names of an evaluation's numbers begin
logger = logging.getLogger(__name__)


class Record:
    """The record of a stage.

    Args:
        run: the folder of the run.
        stage: the stage's name.
        engine: says how far the stage is; lines of later steps, which nobody saved, are taken out.
        ranks: only the first of them writes.

    Attributes:
        writes: whether this rank is that one.
        measured: the numbers of the stage's evaluations so far, by images seen.
    """

    def __init__(self, run: Path, stage: str, engine: Engine, ranks: Ranks) -> None:
        self.run, self.stage, self.writes = run, stage, ranks.first
        self._log: Any = None
        self._board: Any = None
        self.measured: dict[int, dict[str, float]] = {}
        if self.writes:
            for line in _forget(run / LOG, stage, engine.steps):
                if values := {name: value for name, value in line.items() if name.startswith(HELD_OUT)}:
                    self.measured[line["images_seen"]] = values
            (run / SAMPLES).mkdir(exist_ok=True)
            self._log = (run / LOG).open("a")
            self._board = _open_board(run / BOARD / stage, engine.images_seen)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()

    def left_out(self, engine: Engine, name: str, reason: str) -> None:
        """Write a line of the log for what the data lacks, and warn of it."""
        if self.writes:
            logger.warning("%s: left out %s: %s", self.stage, name, reason)
        self.line({"left out": name, "reason": reason}, engine)

    def grid(self, engine: Engine) -> Path:
        """Return where the pictures of this moment belong."""
        return self.run / SAMPLES / f"{self.stage}_{engine.images_seen:07d}.png"

    def numbers(self, engine: Engine, values: dict[str, float], grid: Path | None = None) -> None:
        """Write a line of the log, and its numbers for TensorBoard with the pictures, if there are any."""
        if not self.writes:
            return
        self.line(values, engine)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name.replace(" ", "/", 1), value, engine.images_seen)
            if grid is not None and grid.exists():
                import numpy as np
                from PIL import Image

                self._board.add_image("samples", np.asarray(Image.open(grid)), engine.images_seen, dataformats="HWC")

    def line(self, values: Mapping[str, Any], engine: Engine) -> None:
        """Write a line of the log alone."""
        if self.writes:
            line = {"stage": self.stage, "images_seen": engine.images_seen, "step": engine.steps, **values}
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()


def _open_board(folder: Path, images_seen: int) -> Any:
    """TensorBoard's writer; None where it is not installed or does not load: the log says the same."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except Exception:  # with another protobuf than it was made for it ends with TypeError
        return None
    return SummaryWriter(str(folder), purge_step=images_seen + 1 if images_seen else None)


def _forget(log: Path, stage: str, steps: int) -> list[dict[str, Any]]:
    """Take the lines of steps that were lost, as nobody saved them, out of a log; returns the stage's others."""
    if not log.exists():
        return []
    remaining: list[str] = []
    entries: list[dict[str, Any]] = []
    for line in read_bytes(log, MOST_INDEX).decode().splitlines(keepends=True):
        try:
            entry = json.loads(line)
            lost = entry["stage"] == stage and (entry["step"] > steps or not steps)
        except (ValueError, KeyError, TypeError):
            lost = True  # cut off
        if not lost:
            remaining.append(line)
            entries += [entry] if entry["stage"] == stage else []
    write_text(log, "".join(remaining))
    return entries
