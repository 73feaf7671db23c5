"""How topics fare, and which are stopped; what was learned from decisions.

A memory of its own (`flows.learning`). Each process knows the decisions of its own lanes: where a topic is stopped in
one cell, another stops it when it has seen as much itself.
"""

import logging
from collections import OrderedDict
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from flows.logs import about
from flows.memory import Memory
from flows.supervision.case import UNKNOWN, Health
from schemas.decision import Decision, Finding

log = logging.getLogger(__name__)

STATE_VERSION = 1
REMEMBERED = 1000
"""Results of a topic."""
MAX_TOPICS = 10_000
"""Topics are the users' to invent; do not remember them without bound."""

_MASK = (1 << REMEMBERED) - 1


class _Topic(Struct):
    name: str
    examined: int = 0
    """At most `REMEMBERED`."""
    rejected: str = "0"
    """One bit a result, in hex; the last result is the lowest bit."""
    stopped_until: float = 0.0
    why: str = ""


class _Counts:
    __slots__ = ("bits", "examined", "stopped_until", "why")

    def __init__(self) -> None:
        self.bits = self.examined = 0
        self.stopped_until = 0.0
        self.why = ""


class _State(Struct, frozen=True):
    next_offsets: dict[int, int]
    topics: list[_Topic]
    version: int = STATE_VERSION


class TopicRecord(Memory):
    """What is known of the topics of a cell; threads may share it."""

    name, version = "supervision", STATE_VERSION

    def __init__(self) -> None:
        super().__init__()
        self._topics: OrderedDict[str, _Counts] = OrderedDict()
        self._stopped: dict[str, _Counts] = {}

    def stopped(self, topic: str, now: float) -> str:
        """Say why a topic is stopped, and until when; "" where it is not."""
        if not self._stopped:
            return ""
        counts = self._stopped.get(topic)
        if counts is None or now >= counts.stopped_until:
            return ""
        return f"the topic {topic!r} is stopped until {_time(counts.stopped_until)}: {counts.why}"

    def health(self, topic: str, last: int) -> Health:
        """Tell how the last so many results fared; fewer are told of where fewer are known."""
        counts = self._topics.get(topic)
        if counts is None:
            return UNKNOWN
        return Health((counts.bits & ((1 << last) - 1)).bit_count(), min(last, counts.examined))

    def _take(self, decision: Decision) -> None:
        result = decision.result
        if result is None or result.answer is None:
            return
        counts = self._topics.get(decision.topic) or self._new_topic(decision.topic)
        rejected = 0
        for finding in result.findings:
            if finding.action == "reject":
                rejected = 1
            elif finding.action == "stop_topic":
                self._stop(decision, counts, finding)
                return
        counts.bits = (counts.bits << 1 | rejected) & _MASK
        counts.examined += counts.examined < REMEMBERED

    def _stop(self, decision: Decision, counts: _Counts, finding: Finding) -> None:
        until = decision.decided_at + finding.pause_s
        counts.bits = counts.examined = 0
        if until > counts.stopped_until:
            counts.stopped_until, counts.why = until, f"{finding.policy}: {finding.reason}"
            self._stopped[decision.topic] = counts
            told = decision.topic, _time(until), finding.policy  # its reason may quote an answer
            log.warning(
                "the topic %r is stopped until %s by %s; rounds.findings says why", *told, extra=about(decision)
            )

    def _new_topic(self, topic: str) -> _Counts:
        """Make a topic; the one that was first seen longest ago makes room for it."""
        if len(self._topics) >= MAX_TOPICS:
            gone, _ = self._topics.popitem(last=False)
            self._stopped.pop(gone, None)
        counts = self._topics[topic] = _Counts()
        return counts

    def encoded(self) -> bytes:
        """Write down what was learned."""
        with self._lock:
            topics = [
                _Topic(name, c.examined, f"{c.bits:x}", c.stopped_until, c.why) for name, c in self._topics.items()
            ]
            return msgspec.json.encode(_State(dict(self._next), topics))

    def restore(self, encoded: bytes) -> None:
        """Begin with what was learned before.

        Raises:
            ValueError: it is nothing that `encoded` wrote.
        """
        state = msgspec.json.decode(encoded, type=_State)
        with self._lock:
            self._next = dict(state.next_offsets)
            self._topics.clear()
            self._stopped.clear()
            for kept in state.topics[-MAX_TOPICS:]:
                counts = self._topics[kept.name] = _Counts()
                counts.bits, counts.examined = int(kept.rejected, 16) & _MASK, min(kept.examined, REMEMBERED)
                counts.stopped_until, counts.why = kept.stopped_until, kept.why
                if counts.stopped_until:
                    self._stopped[kept.name] = counts
            self.changes += 1


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
