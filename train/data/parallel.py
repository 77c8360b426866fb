"""Run equal parts of work in processes on all cores; Python threads of small operations hardly run at the same time."""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import TypeVar

import torch

from triportrait.core.errors import InputError
from triportrait.core.torch_threads import one_thread

MOST_PROCESSES = 8
MOST_GPU_PROCESSES = 4  # each has the networks and half a GB of CUDA's own on the card
FEWEST_PARTS = 8  # below them a second process is not worth its start, seconds

Part = TypeVar("Part")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Callable[[Part], Result],
    parts: Sequence[Part],
    processes: int | None = None,
    gpu: bool = False,
    ahead: int | None = None,
) -> Iterator[Result]:
    """Yield the results of `work` on each part, in order; they do not depend on the number of processes.

    Args:
        work: a function of a module; it, the parts and the results travel between processes.
        processes: None takes one per core, and none beside this one for few parts.
        gpu: the work runs networks on a GPU, whose memory few processes share.
        ahead: how many parts, beside the one that is waited for, may be done or under way, so that large results do
            not pile up where whoever takes them is slow; as many as there are processes at least; None: all.

    Raises:
        InputError: a process was ended from outside.
    """
    if processes is None:
        most = MOST_GPU_PROCESSES if gpu else MOST_PROCESSES
        processes = 1 if len(parts) < FEWEST_PARTS else min(cores(), most)
    if processes == 1:
        for part in parts:
            with one_thread():
                result = work(part)
            yield result
        return
    submitted = None if ahead is None else max(ahead, processes) + 1
    other_children = set(active_children())
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _initialize_helper)
    try:
        remaining = iter(parts)
        waiting = deque(pool.submit(_pickled_result, work, part) for part in islice(remaining, submitted))
        while waiting:
            result = pickle.loads(waiting.popleft().result())
            waiting += (pool.submit(_pickled_result, work, part) for part in islice(remaining, 1))
            yield result
    except BrokenProcessPool as error:
        raise InputError("a helper process was ended, perhaps for want of memory; free some and start again") from error
    except BaseException:  # nobody needs what the helpers are doing
        for helper in set(active_children()) - other_children:
            helper.kill()  # a helper inherits SIGTERM ignored from a parent that ignores it
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _initialize_helper() -> None:
    for name in ("SIGINT", "SIGHUP"):  # they reach every process of a terminal; the first one ends the others
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this helper when its parent is gone, as a killed parent cannot do it."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _pickled_result(work: Callable[[Part], Result], part: Part) -> bytes:
    return pickle.dumps(work(part))  # torch's own way would send each tensor as an open file
