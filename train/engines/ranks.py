"""The processes of a training: which one this is, and what they agree on.

`torchrun` and the `deepspeed` launcher say it in the environment; without them there is one process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.gpus import warn_of_unused_card

Item = TypeVar("Item")
REFUSED = 2  # exit code of bad input
TIMEOUT = timedelta(hours=2)  # of a wait for another rank: the first may still make necks or write a checkpoint


class RaisedElsewhere(InputError):
    """Another process says already what cannot be used."""


@dataclass(frozen=True)
class Ranks:
    """One of `size` processes.

    Attributes:
        rank: from 0; the first writes what all share.
        size: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Tell whether this process writes."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all ranks."""
        if self.size == 1:
            return values
        values = values.detach().clone()
        torch.distributed.all_reduce(values)
        return values / self.size

    def any(self, flag: bool) -> bool:
        """Return whether it is so on any rank."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return bool(flags > 0)

    def broadcast(self, value: Item) -> Item:
        """Return the first rank's value, any object that can be pickled, on all ranks."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.first else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]

    def all_gather(self, value: Item) -> list[Item]:
        """Return the value of every rank, in their order: any objects that can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Fail on all ranks where the block fails on one.

        Raises: `InputError` on all ranks: on the first that failed its own, on the others `RaisedElsewhere`.
        """
        error: InputError | None = None
        try:
            yield
        except InputError as refused:
            error = refused
        except OSError as failed:
            error = InputError(f"{failed.filename or 'disk'}: {(failed.strerror or type(failed).__name__).lower()}")
        if not self.any(error is not None):
            return
        speaks = error is not None and not isinstance(error, RaisedElsewhere)
        if speaks and self.all_gather(speaks).index(True) == self.rank:
            assert error is not None
            raise error
        if not speaks:
            self.all_gather(speaks)
        raise RaisedElsewhere("another process could not go on; its sentence stands beside this one")

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def shard(self, count: int) -> range:
        """Return which of `count` this rank takes; `count` divides by the ranks."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)


@contextmanager
def one_error_message() -> Iterator[None]:
    """Let one of the processes that refuse the same thing say so, and torchrun, which reports how ranks end.

    Raises: `SystemExit` with `REFUSED` where another process says it.
    """
    try:
        yield
    except InputError as error:
        _tell_launcher(str(error))
        if isinstance(error, RaisedElsewhere):
            raise SystemExit(REFUSED) from error
        raise


def _tell_launcher(sentence: str) -> None:
    """Put a sentence where torchrun looks for the reason of an end, in its own format."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        extra = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": sentence, "extraInfo": extra}}))


def launcher() -> int | None:
    """Return the process of torchrun or deepspeed that started this one as one of its ranks, or None."""
    return os.getppid() if {"TORCHELASTIC_RUN_ID", "CROSS_RANK"} & os.environ.keys() else None


def launched_ranks() -> tuple[int, int, int]:
    """Return the rank, how many there are, and the rank on this machine, as a launcher set them.

    Raises: `InputError` for half of it, or for what is no number.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = [os.environ.get(name) for name in names]
    if values[0] is None and values[1] is None:
        return 0, 1, 0
    try:
        rank, size, local = (int(value or 0) for value in values)
    except ValueError as error:
        raise InputError(
            f"RANK, WORLD_SIZE, LOCAL_RANK: expected whole numbers from a launcher, got {values}"
        ) from error
    if not 0 <= rank < size:
        raise InputError(f"RANK: expected 0 to WORLD_SIZE - 1, got {rank} of {size}; start it by torchrun")
    if size > 1 and "MASTER_ADDR" not in os.environ:
        raise InputError(f"MASTER_ADDR: expected where the {size} ranks meet, got none; start it by torchrun")
    return rank, size, local


@contextmanager
def process_group(always: bool = False) -> Iterator[Ranks]:
    """Meet the other processes, and leave them at the end: gloo on CPUs, NCCL on GPUs.

    Args:
        always: a process that is alone makes a group of one, too, as DeepSpeed needs.
    """
    rank, size, local = launched_ranks()
    cuda = torch.cuda.is_available()
    if cuda:
        if local >= torch.cuda.device_count():
            raise InputError(
                f"LOCAL_RANK: expected a GPU for each rank of a machine, got rank {local} and "
                f"{torch.cuda.device_count()} GPUs; start fewer"
            )
        torch.cuda.set_device(local)
    elif rank == 0:
        warn_of_unused_card()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if size == 1 and not always:
        yield Ranks(0, 1, device)
        return
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    backend = "nccl" if cuda else "gloo"
    if size > 1:
        torch.distributed.init_process_group(backend, timeout=TIMEOUT)
    else:
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield Ranks(rank, size, device)
    finally:
        if sys.exc_info()[0] is None:  # one that failed must not wait for those that did not
            torch.distributed.barrier()
        torch.distributed.destroy_process_group()
