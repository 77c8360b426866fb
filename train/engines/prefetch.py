"""Make batches ahead of the step that takes them, in one thread beside the training.

What a step draws follows from its number alone, so the next ones can be made before anybody asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """The items of steps, in order; at the end of the context its thread is gone.

    Args:
        make: the number of a step -> its item; with a depth it is called by the thread alone.
        steps: numbers of the steps.
        depth: items made ahead; 0: each is made when it is taken, and there is no thread.
    """

    def __init__(self, make: Callable[[int], Item], steps: range, depth: int) -> None:
        self._make, self._left, self._depth = make, iter(steps), depth
        self._waiting: deque[Future[Item]] = deque()
        self._thread = ThreadPoolExecutor(1, "prefetch") if depth else None

    def __enter__(self) -> Prefetch[Item]:
        self._order()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def ready(self) -> int:
        """Return how many items are made and not yet taken."""
        return sum(item.done() for item in self._waiting)

    def take(self) -> Item:
        """Return the next item; raises what making it raised."""
        if self._thread is None:
            return self._make(next(self._left))
        item = self._waiting.popleft()
        self._order()
        return item.result()

    def _order(self) -> None:
        while self._thread is not None and len(self._waiting) < self._depth:
            step = next(self._left, None)
            if step is None:
                break
            self._waiting.append(self._thread.submit(self._make, step))
