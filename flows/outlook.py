"""The outlook: what one more round, or one more answer, is expected to bring. Pure.

What a round brings is told by those that were: by how much the probability that the answer is right rose from the
round before to this one. That probability is the confidence; as far as it is calibrated, the mean of the difference is
the mean gain in right answers, whether the answer changed or not, and may be below 0. It is counted by topic, by which
round it was, and by how high the confidence was before; what was long ago counts less.

What one more answer brings within a round follows from the votes: the value of information (Howard 1966) that a model
of known reliability adds before its answer is known.
"""

import zlib
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from flows.memory import Memory
from flows.policies import Outlook
from schemas.decision import Decision
from schemas.task import TaskDescriptor

STATE_VERSION = 1
PRIOR_SHARE = 0.4
"""Of what is missing to certainty, a round is expected to bring so much before anything is known: rather too much, so
that it is tried."""
PRIOR_WEIGHT = 3.0
"""So many rounds weighs that."""
MEMORY = 0.98
"""What each round leaves of those before it."""
TRIED = 25
"""One task in so many goes on though it is not worth it, so that a round which has become worth it is noticed."""
BOUNDS = (0.5, 0.7, 0.85, 0.95)
"""Of the confidence before."""
LATER = 3
"""Rounds from the third further one on are counted together."""
MAX_TOPICS = 1000


class Gains(Struct, kw_only=True, gc=False):
    """Rounds of one topic that began alike."""

    topic: str
    round_index: int
    bin: int
    rounds: float = 0.0
    gain: float = 0.0
    """Sum, as are the next two."""
    calls: float = 0.0
    cost: float = 0.0


class OutlookState(Struct, kw_only=True):
    """What was learned, and the log that it stands for."""

    version: int = STATE_VERSION
    next_offsets: dict[int, int] = {}
    gains: list[Gains] = []
    """Those of the topics seen longest ago first."""


class Outlooks(Memory):
    """What further rounds brought, of all topics; threads may share it."""

    name, version = "outlook", STATE_VERSION

    def __init__(self) -> None:
        super().__init__()
        self._topics: OrderedDict[str, dict[tuple[int, int], Gains]] = OrderedDict()

    def _take(self, decision: Decision) -> None:
        if decision.round_index and decision.result is not None and decision.origin is not None:
            self._teach(decision, decision.origin.confidence, decision.result.confidence)

    def _teach(self, decision: Decision, before: float, after: float) -> None:
        topic = self._topics.get(decision.topic)
        if topic is None:
            if len(self._topics) >= MAX_TOPICS:
                self._topics.popitem(last=False)
            topic = self._topics[decision.topic] = {}
        self._topics.move_to_end(decision.topic)
        key = min(decision.round_index, LATER), _bin(before)
        gains = topic.get(key)
        if gains is None:
            gains = topic[key] = Gains(topic=decision.topic, round_index=key[0], bin=key[1])
        gains.rounds = gains.rounds * MEMORY + 1.0
        gains.gain = gains.gain * MEMORY + after - before
        gains.calls = gains.calls * MEMORY + decision.calls
        gains.cost = gains.cost * MEMORY + decision.cost

    def outlook(self, task: TaskDescriptor, confidence: float, calls: int, cost: float) -> Outlook:
        """Tell what one more round is expected to bring.

        Args:
            task: in the round that is judged.
            confidence: of that round's result.
            calls: that it took.
            cost: money that it took.
        """
        prior = PRIOR_SHARE * (1.0 - confidence)
        key = min(task.round_index + 1, LATER), _bin(confidence)
        topic = self._topics.get(task.topic)
        known = topic.get(key) if topic is not None else None
        if known is None:
            return Outlook(prior, float(calls), cost)
        weight = known.rounds + PRIOR_WEIGHT
        gain = (known.gain + PRIOR_WEIGHT * prior) / weight
        if gain < prior and not zlib.crc32(task.task_id.encode()) % TRIED:
            gain = 1.0 - confidence
        took_calls = (known.calls + PRIOR_WEIGHT * calls) / weight
        return Outlook(gain, took_calls, (known.cost + PRIOR_WEIGHT * cost) / weight)

    def encoded(self) -> bytes:
        """Write down what was learned."""
        with self._lock:
            gains = [msgspec.structs.replace(g) for topic in self._topics.values() for g in topic.values()]
            return msgspec.json.encode(OutlookState(next_offsets=dict(self._next), gains=gains))

    def restore(self, encoded: bytes) -> None:
        """Begin with what was learned before.

        Raises:
            ValueError: it is nothing that `encoded` wrote.
        """
        state = msgspec.json.decode(encoded, type=OutlookState)
        with self._lock:
            self._next = dict(state.next_offsets)
            self._topics.clear()
            for gains in state.gains:
                self._topics.setdefault(gains.topic, {})[gains.round_index, gains.bin] = gains
            self.changes += 1


def gain_of_answers(chances: Sequence[float], reliabilities: Sequence[float], alternatives: float) -> float:
    """Tell by how much more answers are expected to raise the probability that the leading one is right.

    A second opinion by itself seldom changes the first; two more may, so it takes looking that far ahead.

    Args:
        chances: of each answer given so far that it is right; the rest is that of all others.
        reliabilities: how often each model that would be asked is right; one or two of them.
        alternatives: how many wrong answers there are to choose among.

    Returns:
        E[max of the chances after their answers] - max of the chances now; 0 or more.
    """
    alternatives = max(1.0, alternatives, len(chances) - 1.0)
    best = max(chances, default=0.0)
    nobody, unseen = max(0.0, 1.0 - sum(chances)), max(0.0, alternatives + 1.0 - len(chances))
    expected = _expected_best(tuple(chances), nobody, unseen, tuple(reliabilities), alternatives)
    return min(max(0.0, expected - best), 1.0 - best)


def _expected_best(
    weights: tuple[float, ...], nobody: float, unseen: float, reliabilities: tuple[float, ...], alternatives: float
) -> float:
    """Sum, over all that may be said, the probability that it is and the answer that leads then is right."""
    if not reliabilities:
        return max(weights, default=0.0)
    right, later = reliabilities[0], reliabilities[1:]
    errs = (1.0 - right) / alternatives
    found = 0.0
    for said in range(len(weights)):
        after = tuple([w * (right if place == said else errs) for place, w in enumerate(weights)])
        found += _expected_best(after, nobody * errs, unseen, later, alternatives)
    if unseen > 0.0:  # each of them alike
        share = nobody / max(1.0, unseen)
        after = (*[w * errs for w in weights], share * right)
        found += unseen * _expected_best(after, (nobody - share) * errs, max(0.0, unseen - 1.0), later, alternatives)
    return found


def _bin(confidence: float) -> int:
    return sum(confidence >= bound for bound in BOUNDS)
