"""Keep torch's operators of one thread on one core, while other threads work on the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the operators that the calling thread starts on it alone, and give it its team back afterwards.

    Beside other work a second thread makes small operators up to 30 times slower. A thread whose first operator runs
    while another thread is in here gets one core for good: a new thread that wants more calls `torch.set_num_threads`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
