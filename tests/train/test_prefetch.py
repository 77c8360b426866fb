"""Batches made ahead: in order, never more than asked, errors where they are taken, and no thread in the end."""

from __future__ import annotations

import threading

import pytest

from triportrait.train.engines.prefetch import Prefetch


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_in_order_and_so_many_are_made_ahead(depth):
    made: list[int] = []
    here = threading.get_ident()
    makers = set()

    def make(step: int) -> int:
        makers.add(threading.get_ident())
        made.append(step)
        return 10 * step

    with Prefetch(make, range(4, 10), depth) as items:
        for number, step in enumerate(range(4, 10)):
            assert items.take() == 10 * step
            assert len(made) <= number + 1 + depth, "more than asked"
            assert items.ready <= depth
        with pytest.raises((IndexError, StopIteration)):
            items.take()
    assert made == list(range(4, 10))
    assert (makers == {here}) == (depth == 0)
    assert not threads()


def test_the_next_items_are_made_while_nobody_takes_any():
    made = threading.Semaphore(0)

    def make(step: int) -> int:
        made.release()
        return step

    with Prefetch(make, range(100), 2) as items:
        for _ in range(2):
            assert made.acquire(timeout=20)
        assert items.take() == 0 and made.acquire(timeout=20), "the third, once the first is taken"
    assert not threads()


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_comes_with_the_item_that_it_spoilt(depth):
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("clip 3 has no frames")
        return step

    with pytest.raises(ValueError, match="clip 3 has no frames"), Prefetch(make, range(10), depth) as items:
        for step in range(10):
            assert items.take() == step < 3
    assert not threads()


def test_a_stop_waits_for_the_item_in_work_and_for_no_other():
    began, may_end, made = threading.Event(), threading.Event(), []

    def make(step: int) -> int:
        began.set()
        may_end.wait(20)
        made.append(step)
        return step

    def release() -> None:
        """The item in work ends when the others were called off, or after a while if they never are."""
        for _ in range(200):
            if items._waiting[-1].cancelled():
                break
            threading.Event().wait(0.01)
        may_end.set()

    with pytest.raises(KeyboardInterrupt), Prefetch(make, range(10), 3) as items:
        assert began.wait(20)
        threading.Thread(target=release).start()
        raise KeyboardInterrupt
    assert made == [0]
    assert not threads()
