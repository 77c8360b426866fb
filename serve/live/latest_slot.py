"""A slot of one: the newest item wins, so that no queue can grow and no lag with it."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestSlot(Generic[Item]):
    """Holds at most one item for whoever takes it; an item that was not taken is replaced, and counted.

    Attributes:
        dropped: items that were replaced before anybody took them.
    """

    def __init__(self) -> None:
        self._item: Item | None = None
        self._lock = threading.Lock()
        self.dropped = 0

    def put(self, item: Item) -> bool:
        """Place an item; tells whether another was waiting and is lost."""
        with self._lock:
            lost, self._item = self._item is not None, item
            self.dropped += lost
            return lost

    def take(self) -> Item | None:
        """The item, which leaves the slot; None where there is none."""
        with self._lock:
            item, self._item = self._item, None
            return item

    def __bool__(self) -> bool:
        return self._item is not None
