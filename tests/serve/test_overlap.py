"""Reading ahead and writing behind: bounded queues, order, and the error that came first."""

from __future__ import annotations

import threading

import pytest

from triportrait.serve.overlap import WriteBehind, read_ahead


def overlap(read, work, write, depth=4) -> int:
    """Reading, work and writing at the same time, as the command does."""
    count = 0
    with WriteBehind(write, depth) as writer:
        items = read_ahead(read, depth)
        try:
            for item in items:
                writer.put(work(item))
                count += 1
        finally:
            items.close()
    return count


def test_results_come_in_order_and_are_counted():
    written: list[int] = []
    assert overlap(lambda: iter(range(100)), lambda x: x * x, written.append) == 100
    assert written == [x * x for x in range(100)]


def test_nothing_to_read_is_nothing_written():
    assert overlap(lambda: iter(()), lambda x: x, lambda x: pytest.fail("wrote")) == 0


def test_the_reader_does_not_run_ahead_of_the_queue():
    read = []
    ahead = []

    def source():
        for i in range(50):
            read.append(i)
            yield i

    def work(x):
        ahead.append(len(read) - x)
        return x

    overlap(source, work, lambda x: None, depth=3)
    assert max(ahead) <= 3 + 2  # waiting, one in the reader's hand, one being worked on


def test_the_three_run_at_the_same_time():
    """Each waits for the other two at a barrier, which only an overlap can pass."""
    barrier = threading.Barrier(3, timeout=20)

    def source():
        yield 1
        yield 2
        barrier.wait()
        yield 3

    def work(x):
        if x == 2:
            barrier.wait()
        return x

    def write(x):
        if x == 1:
            barrier.wait()

    assert overlap(source, work, write, depth=2) == 3


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_a_failing_stage_stops_the_others_and_its_error_is_raised(stage):
    closed = threading.Event()
    written = []

    def source():
        try:
            for i in range(1000):
                if stage == "read" and i == 5:
                    raise ValueError("read failed")
                yield i
        finally:
            closed.set()

    def work(x):
        if stage == "work" and x == 5:
            raise ValueError("work failed")
        return x

    def write(x):
        if stage == "write" and x == 5:
            raise ValueError("write failed")
        written.append(x)

    before = threading.active_count()
    with pytest.raises(ValueError, match=f"{stage} failed"):
        overlap(source, work, write)
    assert closed.is_set()
    assert len(written) <= 5
    assert threading.active_count() == before


def test_a_reader_that_is_left_early_is_closed():
    closed = threading.Event()

    def source():
        try:
            yield from range(1000)
        finally:
            closed.set()

    before = threading.active_count()
    items = read_ahead(source)
    assert next(items) == 0
    items.close()
    assert closed.is_set()
    assert threading.active_count() == before


def test_an_interrupt_is_not_swallowed():
    def work(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overlap(lambda: iter(range(9)), work, lambda x: None)


def test_an_interrupt_while_the_last_results_are_written_waits_for_the_writer(monkeypatch):
    """What is closed after it must not be in use any more."""
    writing, written = threading.Event(), threading.Event()
    join = threading.Thread.join
    interrupts = iter([KeyboardInterrupt()])

    def interrupted(self, timeout=None):
        if self.name == "write-behind":
            assert writing.wait(20)
            for error in interrupts:
                raise error
        join(self, timeout)

    def write(x):
        writing.set()
        threading.Event().wait(0.3)
        written.set()

    before = threading.active_count()
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        overlap(lambda: iter([1]), lambda x: x, write)
    assert written.is_set()
    assert threading.active_count() == before
