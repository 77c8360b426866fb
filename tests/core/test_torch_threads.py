"""One thread for torch's operators, for a while, and the team back whatever other threads do."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from triportrait.core.torch_threads import one_thread

pytestmark = pytest.mark.usefixtures("two_threads")


def test_one_thread_for_a_while():
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2


def test_one_within_another_keeps_the_thread_alone():
    with one_thread():
        with one_thread():
            pass
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_thread_that_begins_meanwhile_leaves_the_others_their_teams():
    """It inherits one core from the first, and leaves after it: threads that begin later have a team nevertheless."""
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first() -> int:
        with one_thread():
            first_is_in.set()
            assert second_is_in.wait(30)
        first_is_out.set()
        return torch.get_num_threads()

    def second() -> int:
        assert first_is_in.wait(30)
        with one_thread():
            second_is_in.set()
            assert first_is_out.wait(30)
        return torch.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in (pool.submit(first), pool.submit(second))] == [2, 2]
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2
