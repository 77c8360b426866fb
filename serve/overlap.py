"""Read, reenact and write at the same time: three workers, two bounded queues, results in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

DEPTH = 4  # items that may wait between two workers: enough to overlap, too few to fill the memory


class _Closed(Exception):
    """The other end has gone."""


class _Queue(Generic[Item]):
    """A bounded queue whose two ends can leave, so that nobody waits for a worker that has failed."""

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
        """Items until the queue is finished. Raises: `_Closed` when it was closed instead."""
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
        """Nothing more will be put."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Something failed: whoever waits, or comes, is sent away."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def overlap(
    read: Callable[[], Iterator[Item]],
    work: Callable[[Item], Result],
    write: Callable[[Result], None],
    depth: int = DEPTH,
) -> int:
    """Run `write(work(item))` for each item of `read()`, each of the three in a worker of its own.

    `work` runs in the calling thread, so that an interrupt reaches it. When one fails, the others stop at their next
    item, the iterator of `read` is closed, and the error that came first is raised.

    Returns:
        The number of items.
    """
    items: _Queue[Item] = _Queue(depth)
    results: _Queue[Result] = _Queue(depth)
    errors: list[BaseException] = []

    def guarded(part: Callable[[], None]) -> None:
        try:
            part()
        except _Closed:
            pass
        except BaseException as error:  # whatever it is, it is raised again below
            errors.append(error)
            items.close()
            results.close()

    def reader() -> None:
        source = read()
        try:
            for item in source:
                items.put(item)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
        items.finish()

    def writer() -> None:
        for result in results:
            write(result)

    count = 0

    def worker() -> None:
        nonlocal count
        for item in items:
            results.put(work(item))
            count += 1
        results.finish()

    threads = [threading.Thread(target=guarded, args=(part,), daemon=True) for part in (reader, writer)]
    try:
        for thread in threads:
            thread.start()
        guarded(worker)
        for thread in threads:
            thread.join()
    except BaseException:
        # Interrupted while waiting: what the caller closes next must not be in use any more.
        items.close()
        results.close()
        for thread in threads:
            if thread.is_alive():
                thread.join()
        raise
    if errors:
        raise errors[0]
    return count
