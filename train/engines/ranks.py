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
from typing import Any

import torch
from torch import Tensor

from triportrait.core.cards import warn_of_unused_card
from triportrait.core.errors import InputError

REFUSED = 2  # exit code of bad input
WAITS = timedelta(hours=2)  # for another rank: the first may still make necks or write a checkpoint


class Elsewhere(InputError):
    """What cannot be used is said by another process already."""


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
        """Whether this one writes."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all ranks."""
        if self.size == 1:
            return values
        values = values.detach().clone()
        torch.distributed.all_reduce(values)
        return values / self.size

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        if self.size == 1:
            return flag
        told = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told > 0)

    def told(self, value: Any) -> Any:
        """What the first rank says: any object that can be pickled."""
        if self.size == 1:
            return value
        box = [value if self.first else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """What every rank says, in their order: any objects that can be pickled."""
        if self.size == 1:
            return [value]
        found = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one rank cannot do in the block, no rank goes on after.

        Raises: `InputError` on all ranks: the own of the first that failed, `Elsewhere` on the others.
        """
        failed: InputError | None = None
        try:
            yield
        except InputError as error:
            failed = error
        except OSError as error:
            failed = InputError(f"{error.filename or 'disk'}: {(error.strerror or type(error).__name__).lower()}")
        if not self.any(failed is not None):
            return
        own = failed is not None and not isinstance(failed, Elsewhere)
        if own and self.gathered(own).index(True) == self.rank:
            assert failed is not None
            raise failed
        if not own:
            self.gathered(own)
        raise Elsewhere("another process could not go on; its sentence stands beside this one")

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def share(self, count: int) -> range:
        """Which of `count` this rank takes; `count` divides by the ranks."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)


@contextmanager
def one_voice() -> Iterator[None]:
    """Of processes that refuse the same thing one says so; torchrun, which tells of its ranks' ends, learns it, too.

    Raises: `SystemExit` with `REFUSED` where another process says it.
    """
    try:
        yield
    except InputError as error:
        _tell_launcher(str(error))
        if isinstance(error, Elsewhere):
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
    """The process that started this one as one of its ranks, torchrun's or deepspeed's; None where nobody did."""
    return os.getppid() if {"TORCHELASTIC_RUN_ID", "CROSS_RANK"} & os.environ.keys() else None


def told_ranks() -> tuple[int, int, int]:
    """rank, size and the rank on this machine, as a launcher told them.

    Raises: `InputError` for half of it, or for what is no number.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    told = [os.environ.get(name) for name in names]
    if told[0] is None and told[1] is None:
        return 0, 1, 0
    try:
        rank, size, local = (int(value or 0) for value in told)
    except ValueError as error:
        raise InputError(f"RANK, WORLD_SIZE, LOCAL_RANK: expected whole numbers from a launcher, got {told}") from error
    if not 0 <= rank < size:
        raise InputError(f"RANK: expected 0 to WORLD_SIZE - 1, got {rank} of {size}; start it by torchrun")
    if size > 1 and "MASTER_ADDR" not in os.environ:
        raise InputError(f"MASTER_ADDR: expected where the {size} ranks meet, got none; start it by torchrun")
    return rank, size, local


@contextmanager
def joined(always: bool = False) -> Iterator[Ranks]:
    """Meet the other processes, and leave them at the end: gloo on CPUs, NCCL on GPUs.

    Args:
        always: a process that is alone makes a group of one, too, as DeepSpeed needs.
    """
    rank, size, local = told_ranks()
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
        torch.distributed.init_process_group(backend, timeout=WAITS)
    else:
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield Ranks(rank, size, device)
    finally:
        if sys.exc_info()[0] is None:  # one that failed must not wait for those that did not
            torch.distributed.barrier()
        torch.distributed.destroy_process_group()
