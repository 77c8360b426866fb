"""Keep torch's operators of one thread on one core, while other threads work on the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_here = threading.local()
_inside = 0  # how often threads are in `one_thread`
_team = 1  # threads that torch gave to the first of them


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the operators that the calling thread starts on it alone, and give it its team back afterwards.

    Beside other work a second thread makes small operators up to 30 times slower. Torch has one number for threads that
    begin: one whose first operator runs while another thread is in here gets one core, unless it comes in here, too.
    A new thread that wants more calls `torch.set_num_threads`.
    """
    global _inside, _team
    within_another = getattr(_here, "inside", False)
    with _lock:
        before = torch.get_num_threads()
        if not _inside:
            _team = before
        elif before == 1 and not within_another:  # it began while another was in here
            before = _team
        _inside += 1
        torch.set_num_threads(1)
    _here.inside = True
    try:
        yield
    finally:
        _here.inside = within_another
        with _lock:
            _inside -= 1
            torch.set_num_threads(before)
