"""Work on all cores: in order, the same as in one process, and ended with the first one."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from multiprocessing import active_children

import pytest
import torch

from triportrait.core.errors import InputError
from triportrait.train.data.heads.population import Expression, cast
from triportrait.train.data.parallel import FEWEST_PARTS, cores, in_order

pytestmark = pytest.mark.usefixtures("two_threads")


def test_few_parts_stay_here_and_are_done_by_one_thread():
    seen = [(os.getpid(), 1, k) for k in range(FEWEST_PARTS - 1)]
    assert list(in_order(lambda k: (os.getpid(), torch.get_num_threads(), k), range(FEWEST_PARTS - 1))) == seen
    assert torch.get_num_threads() == 2
    assert cores() >= 1


def test_parts_are_done_when_they_are_asked_for():
    done: list[int] = []
    answers = in_order(done.append, [1, 2])
    next(answers)
    assert done == [1]


def test_processes_give_the_same_in_the_same_order():
    first, *_, last = in_order(partial(cast, 5), [1, 3, 2], processes=2)
    assert len(first) == 1
    assert len(last) == 2
    for one, other in zip((first, last), in_order(partial(cast, 5), [1, 2], processes=1), strict=True):
        assert all(torch.equal(value, other.fields()[name]) for name, value in one.fields().items())


def test_results_that_nobody_takes_are_few():
    asked: list[int] = []

    class Parts(list[int]):
        def __iter__(self):
            for part in range(len(self)):
                asked.append(part)
                yield self[part]

    answers = in_order(abs, Parts(range(9)), processes=2, ahead=2)
    assert next(answers) == 0
    assert asked == [0, 1, 2, 3], "the first, two ahead of it, and one in its place"
    assert list(answers) == list(range(1, 9))


def test_no_process_is_idle_while_one_part_is_waited_for():
    asked: list[int] = []

    def parts():
        for part in range(9):
            asked.append(part)
            yield part

    answers = in_order(abs, parts(), processes=2, ahead=0)  # type: ignore[arg-type]
    assert next(answers) == 0
    assert asked == [0, 1, 2, 3], "the first, one for each process, and one in the place of the first"
    answers.close()  # type: ignore[attr-defined]


def test_errors_come_back_as_they_are():
    with pytest.raises(InputError, match=r"seed: expected a whole number from 0 .* got -1; choose another"):
        list(in_order(partial(cast, count=1), [-1], processes=2))


def test_a_process_that_is_killed_is_said():
    with pytest.raises(InputError, match="a helper process was ended"):
        list(in_order(os._exit, [1, 1], processes=2))


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN], ids=["ended by SIGTERM", "ignores SIGTERM"])
def test_stopping_ends_the_processes_at_once(handler):
    signal.signal(signal.SIGTERM, handler)  # processes that are started inherit what is ignored
    before = set(active_children())
    answers = in_order(time.sleep, [0.0, 60.0, 60.0, 60.0], processes=2)
    next(answers)
    assert set(active_children()) - before
    since = time.perf_counter()
    answers.close()  # type: ignore[attr-defined]
    assert time.perf_counter() - since < 30
    assert not set(active_children()) - before


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not list open files")
def test_what_travels_is_no_open_file():
    """Tensors left to themselves travel as one open file each, and some hundred are too many."""
    taken = list(in_order(Expression.neutral, [1] * 150, processes=2))
    assert len(taken) == 150
    assert len(os.listdir("/proc/self/fd")) < 500
