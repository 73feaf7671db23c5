"""What the supervision root has ordered, as one process knows it; while the root is down, that stays as it is."""

import threading
from collections.abc import Callable, Mapping

import msgspec

from flows.counts import TopicCounts
from schemas.supervision import Quarantine, Stage

_NOBODY: Mapping[str, Quarantine] = {}


class Orders:
    """Takes directives in one thread, and tells of them in any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_topic: dict[str, dict[str, Quarantine]] = {}
        self._affinities: dict[str, TopicCounts] = {}
        self._adopt: Callable[[TopicCounts], None] | None = None
        self.version = 0
        """Rises with each quarantine that begins or ends."""

    def quarantined(self, topic: str) -> Mapping[str, Quarantine]:
        """Tell which nodes are kept out of a topic, by name."""
        return self._by_topic.get(topic, _NOBODY)

    def take_quarantine(self, value: bytes) -> None:
        """Take in an order about a node.

        Raises:
            msgspec.DecodeError: it is none.
        """
        order = msgspec.json.decode(value, type=Quarantine)
        nodes = dict(self._by_topic.get(order.topic, _NOBODY))
        nodes.pop(order.node, None)
        if order.stage is Stage.QUARANTINED:
            nodes[order.node] = order
        self._by_topic[order.topic] = nodes
        self.version += 1

    def take_affinity(self, value: bytes) -> None:
        """Take in what is known of a topic in the whole cluster.

        Raises:
            msgspec.DecodeError: it is nothing of the kind.
        """
        counts = msgspec.json.decode(value, type=TopicCounts)
        with self._lock:
            if self._adopt is None:
                self._affinities[counts.topic] = counts
            else:
                self._adopt(counts)

    def on_affinity(self, adopt: Callable[[TopicCounts], None]) -> None:
        """Have affinities adopted: those that there are, and each that comes."""
        with self._lock:
            for counts in self._affinities.values():
                adopt(counts)
            self._affinities.clear()
            self._adopt = adopt
