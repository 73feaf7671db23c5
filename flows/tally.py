"""What is counted where the work is done, for operators: cheap to add to, and read whole by another thread."""

from bisect import bisect_left
from collections.abc import Iterable

from schemas.decision import Decision, DecisionKind

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds, in seconds: a solver answers in milliseconds, a round may take minutes."""
MAX_TOPICS = 100
OTHER = "other"
"""Topics are the users' to invent, and each one is a series for good: those beyond the first hundred are one."""


class Histogram:
    """How many durations were at most as long as each bound; one thread adds to it."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        """By the first bound that is not below; the last one of those above all."""
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Take in one."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def merge(self, other: "Histogram") -> None:
        """Take in all of another one."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.total_s += other.total_s


class TopicTally:
    """What was decided of one topic."""

    __slots__ = ("calls", "cost", "forced", "kinds", "tokens")

    def __init__(self) -> None:
        self.kinds: dict[str, int] = dict.fromkeys((kind.value for kind in DecisionKind), 0)
        self.forced = self.calls = self.tokens = 0
        self.cost = 0.0

    def merge(self, other: "TopicTally") -> None:
        """Take in all of another one."""
        for kind, count in other.kinds.items():
            self.kinds[kind] += count
        self.forced += other.forced
        self.calls += other.calls
        self.tokens += other.tokens
        self.cost += other.cost


class Topics:
    """Gives each topic its name among the metrics: its own to the first hundred, one in common to all others."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def name(self, topic: str) -> str:
        """Of a topic; it never changes."""
        if topic in self._known:
            return topic
        if len(self._known) >= MAX_TOPICS:
            return OTHER
        self._known.add(topic)
        return topic


class DecisionTally:
    """What was decided in one lane, as read back since this process began; one thread adds to it."""

    def __init__(self) -> None:
        self.topics: dict[str, TopicTally] = {}
        self.seconds = Histogram()
        """From handing a message out to its decision."""

    def add(self, decisions: Iterable[tuple[int, Decision]]) -> None:
        """Take in winning decisions."""
        topics, seconds = self.topics, self.seconds
        for _, decision in decisions:
            tally = topics.get(decision.topic)
            if tally is None:
                name = decision.topic if len(topics) < MAX_TOPICS else OTHER
                tally = topics.setdefault(name, TopicTally())
            tally.kinds[decision.kind] += 1
            if decision.forced:
                tally.forced += 1
            tally.calls += decision.calls
            tally.tokens += decision.tokens
            tally.cost += decision.cost
            seconds.add(decision.latency_s)
