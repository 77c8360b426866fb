"""A queue of length one in which the newest item replaces an older one, so that no backlog and no lag can grow."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestSlot(Generic[Item]):
    """Hold at most one item until it is taken; a newer one replaces it, which is counted.

    Attributes:
        dropped: how many items were replaced before anybody took them.
    """

    def __init__(self) -> None:
        self._item: Item | None = None
        self._lock = threading.Lock()
        self.dropped = 0

    def put(self, item: Item) -> bool:
        """Put an item in; return whether it replaced one that nobody had taken."""
        with self._lock:
            replaces, self._item = self._item is not None, item
            self.dropped += replaces
            return replaces

    def put_back(self, item: Item) -> bool:
        """Put an item in again that was taken; return whether a newer one had replaced it, which stays."""
        with self._lock:
            is_replaced = self._item is not None
            self._item = self._item if is_replaced else item
            self.dropped += is_replaced
            return is_replaced

    def take(self) -> Item | None:
        """Take the item out of the slot and return it; None where the slot is empty."""
        with self._lock:
            item, self._item = self._item, None
            return item

    def __bool__(self) -> bool:
        return self._item is not None
