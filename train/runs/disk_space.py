"""Check before the first step that a disk has room for a run's checkpoints."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from triportrait.core.errors import InputError
from triportrait.train.engines.training_engine import Engine
from triportrait.train.runs.checkpoints import KEPT, checkpoints_of

NAME_BYTES = 110  # of a tensor in a file's header
logger = logging.getLogger(__name__)


def checkpoint_bytes(engines: Mapping[str, Engine]) -> int:
    """Return what a checkpoint takes: the weights of each network, their EMA, and two moments of those that move."""
    total = 0
    for engine in engines.values():
        parameters = [*engine.module.parameters()]
        moved = sum(_numbers(p) for group in engine.groups for p in group.parameters)
        total += 4 * (2 * sum(map(_numbers, parameters)) + 2 * moved) + 4 * NAME_BYTES * len(parameters)
        total += sum(b.numel() * b.element_size() for b in engine.module.buffers())
    return total


def check_room(run: Path, stage: str, engines: Mapping[str, Engine]) -> None:
    """Say what the checkpoints of a stage take, and warn where the disk has less.

    Raises: `InputError` where it has no room for a single one.
    """
    each, free = checkpoint_bytes(engines), shutil.disk_usage(run).free
    still = max(1, KEPT + 1 - len(checkpoints_of(run, stage)))
    if free < each:
        raise InputError(
            f"{run}: expected room for a checkpoint of {in_words(each)}, {in_words(free)} are free; free some space, "
            "or name a folder on another disk"
        )
    line = f"{stage}: a checkpoint takes {in_words(each)}; {KEPT} are kept and one is being written"
    if free < still * each:
        logger.warning(
            f"{line}, which takes {in_words(still * each)} more and {in_words(free)} are free: free some space, or the "
            "run stops when they are gone"
        )
    else:
        logger.info(line)


def in_words(count: int) -> str:
    """Describe a number of bytes in GB, MB or kB."""
    for size, unit in ((10**9, "GB"), (10**6, "MB")):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:,.0f} {unit}"
    return f"{count / 1000:.0f} kB"


def _numbers(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # at ZeRO stage 3 a rank holds a part
