"""Reads ahead of the network and writes behind it, in threads, with bounded queues."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

DEPTH = 4  # items that may wait between two threads: enough to overlap, too few to fill the memory


class _Closed(Exception):
    """Is raised where the other end has gone."""


class _Queue(Generic[Item]):
    """Bounds a queue whose two ends can leave, so that neither waits for a thread that has failed."""

    def __init__(self, depth: int) -> None:
        self._items: deque[Item] = deque()
        self._depth = depth
        self._finished = self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Wait for room. Raises: `_Closed` when nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if self._closed:
                raise _Closed
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Give items until the queue is finished. Raises: `_Closed` when it was closed instead."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._finished or bool(self._items))
                if self._closed:
                    raise _Closed
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def finish(self) -> None:
        """Say that nothing more will be put."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let both ends raise `_Closed`, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def read_ahead(read: Callable[[], Iterator[Item]], depth: int = DEPTH) -> Generator[Item, None, None]:
    """Give the items of `read()` in order; a thread makes them, at most `depth` and one ahead of the consumer.

    An error of `read()` is raised after the items before it. When this generator ends or is closed, the iterator of
    `read()` has been closed and the thread has ended.
    """
    queue: _Queue[Item] = _Queue(depth)
    errors: list[BaseException] = []

    def fill() -> None:
        try:
            items = read()
            try:
                for item in items:
                    queue.put(item)
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
        except _Closed:
            pass
        except BaseException as error:  # whatever it is, it is raised again below
            errors.append(error)
        queue.finish()

    thread = threading.Thread(target=fill, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield from queue
        if errors:
            raise errors[0]
    finally:
        queue.close()
        _join(thread)


class WriteBehind(Generic[Item]):
    """Calls `write` on items in the order they are put, in a thread of its own, at most `depth` items behind.

    Use as a context manager: a block that ends well waits until all is written, any other drops what waits. An error
    of `write` is raised by the next `put`, or at the end of the block.
    """

    def __init__(self, write: Callable[[Item], None], depth: int = DEPTH) -> None:
        self._write = write
        self._queue: _Queue[Item] = _Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, item: Item) -> None:
        """Hand an item over; waits while `depth` others do."""
        try:
            self._queue.put(item)
        except _Closed:
            assert self._error is not None
            raise self._error from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._queue.finish()
        else:
            self._queue.close()
        _join(self._thread, self._queue)
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._queue:
                self._write(item)
        except _Closed:
            pass
        except BaseException as error:  # whatever it is, it is raised again in the thread that puts
            self._error = error
            self._queue.close()


def _join(thread: threading.Thread, queue: _Queue[Item] | None = None) -> None:
    """Wait for a thread, also when interrupted: what the caller closes next must not be in use any more."""
    try:
        thread.join()
    except BaseException:
        if queue is not None:
            queue.close()
        thread.join()
        raise
