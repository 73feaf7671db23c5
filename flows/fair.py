"""A queue in which topics take turns, so that one with little to do does not wait behind one with much.

Round robin, which is what fair queueing comes to where each item costs one turn and each topic has the same share. It
takes constant time and remembers nothing of a topic that has nothing here: none saves up turns while it is idle, and
between two turns of a topic that waits each of the others has one.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of several topics; those of one topic leave in the order in which they came."""

    __slots__ = ("_items", "_size", "_turns")

    def __init__(self) -> None:
        self._items: dict[str, deque[T]] = {}  # of topics that have some
        self._turns: deque[str] = deque()  # the same topics, the next one first
        self._size = 0

    def __len__(self) -> int:
        """How many items there are."""
        return self._size

    def put(self, topic: str, item: T) -> None:
        """Add an item; a topic that had none comes after those that wait already."""
        self._size += 1
        items = self._items.get(topic)
        if items is None:
            self._items[topic] = deque((item,))
            self._turns.append(topic)
        else:
            items.append(item)

    def take(self, may_go: Callable[[str], bool] | None = None) -> T | None:
        """Take the item whose turn it is; topics that may not go lose their turn. None if nothing may go."""
        turns = self._turns
        for _ in range(len(turns)):
            topic = turns.popleft()
            if may_go is not None and not may_go(topic):
                turns.append(topic)
                continue
            items = self._items[topic]
            item = items.popleft()
            self._size -= 1
            if items:
                turns.append(topic)
            else:
                del self._items[topic]
            return item
        return None

    def discard(self, topic: str, item: T) -> None:
        """Drop an item, where it is still here."""
        items = self._items.get(topic)
        if items is None:
            return
        try:
            items.remove(item)
        except ValueError:
            return
        self._size -= 1
        if not items:
            del self._items[topic]
            self._turns.remove(topic)

    def ahead(self, topic: str) -> int:
        """How many items would at most be taken before one of this topic that came now."""
        own = len(self._items.get(topic, ()))
        topics = len(self._items) + (not own)
        return min(self._size, (own + 1) * topics - 1)
