"""A memory of a cell: it learns from each winning decision once, and can be put into a file.

It names the place in each lane's log up to which it goes, so a replay teaches it nothing twice.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from schemas.decision import Decision


class Memory(ABC):
    """What all memories have in common; threads may share one."""

    name: ClassVar[str]
    """Of its file, without the ending."""
    version: ClassVar[int]
    """Of what `encoded` writes; a file with another number is left alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[int, int] = {}
        """By lane: the first decision that was not learned from yet."""
        self.changes = 0
        """Rises with all that is learned."""

    def learn(self, lane: int, decisions: Iterable[tuple[int, Decision]]) -> None:
        """Learn from winning decisions as read back, in log order; what was learned from before is skipped."""
        with self._lock:
            following = first = self._next.get(lane, 0)
            for offset, decision in decisions:
                if offset >= following:
                    following = offset + 1
                    self._take(decision)
            if following > first:
                self._next[lane] = following
                self.changes += 1

    @abstractmethod
    def _take(self, decision: Decision) -> None:
        """Learn from one decision; the lock is held."""

    @abstractmethod
    def encoded(self) -> bytes:
        """Write down what was learned, and the place in each lane's log that it stands for."""

    @abstractmethod
    def restore(self, encoded: bytes) -> None:
        """Begin with what was learned before.

        Raises:
            ValueError: it is nothing that `encoded` wrote.
        """
