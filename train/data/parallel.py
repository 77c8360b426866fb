"""Work of many equal parts on all cores, a process each: threads of small operations in Python hardly run together."""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import TypeVar

import torch

from triportrait.core.errors import InputError

MOST_PROCESSES = 8
FEWEST_PARTS = 8  # below them a second process is not worth its start, seconds

Part = TypeVar("Part")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Thousands of small operations: where other work shares the cores, a second thread makes them 30 times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[Part], Result], parts: Sequence[Part], processes: int | None = None) -> Iterator[Result]:
    """`work` of each part, in their order, each done by one thread; the results do not depend on how many processes.

    Args:
        work: a function of a module; it, the parts and the results travel between processes.
        processes: None takes one per core, and none beside this one for few parts.

    Raises:
        InputError: a process was ended from outside.
    """
    if processes is None:
        processes = 1 if len(parts) < FEWEST_PARTS else min(cores(), MOST_PROCESSES)
    if processes == 1:
        for part in parts:
            with one_thread():
                result = work(part)
            yield result
        return
    strangers = set(active_children())
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _settle)
    try:
        waiting = deque(pool.submit(_packed, work, part) for part in parts)
        while waiting:
            yield pickle.loads(waiting.popleft().result())
    except BrokenProcessPool as error:
        raise InputError("a helper process was ended, perhaps for want of memory; free some and start again") from error
    except BaseException:  # stopped: what the helpers are doing is wanted no more
        for helper in set(active_children()) - strangers:
            helper.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _settle() -> None:
    for name in ("SIGINT", "SIGHUP"):  # they reach every process of a terminal; the first one ends the others
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)
    Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """A killed process cannot end its helpers; they would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _packed(work: Callable[[Part], Result], part: Part) -> bytes:
    return pickle.dumps(work(part))  # tensors left to themselves would travel as open files, one each
