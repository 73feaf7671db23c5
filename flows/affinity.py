"""Affinity: how well each model does on a topic, learned from what became of the tasks.

    winning decisions ─► learn ─┬─► quality       right / (right + wrong + none), of late: whom to ask
                                └─► reliability   right / (right + wrong), over long: what its vote counts

A decision teaches where it says who was right: a verifier's verdict, or a convergence, not forced, in which several
models agreed; then it also says who was right in the rounds before. One model's own word teaches nothing, and a call
that failed or abstained counts as none. Quality forgets within some fifteen outcomes, so that a change shows soon; a
vote has to be known better than that, and forgets within a hundred. Without any outcome both drift back to the prior,
by half a day for day.

Models that err alike are no two witnesses. How often two of them gave the same answer when both were outvoted tells
how much the second adds to the first. Everything here is pure: times are handed in, and lanes in log order.
"""

import math
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import msgspec
from msgspec import Struct

from flows.steps.equivalence import comparison_for, group
from schemas.decision import Decision, DecisionKind, RoundResult
from schemas.errors import BadRecordError
from schemas.node import Answer, NodeCapabilities
from schemas.task import AWAY, FORM_CHECKS, AnswerKind, PayloadView, read_payload

RELIABILITY = 0.6
"""Of a model that nothing is known of."""
ALTERNATIVES = 10
"""Answers that a wrong model chooses among, where nothing is known of how it errs."""
LEAST, MOST = 0.02, 0.98
"""No vote counts for less or for more."""
QUALITY_WEIGHT = 2.0
VOTE_WEIGHT = 10.0
"""So many outcomes weighs the prior."""
QUALITY_MEMORY = 0.93
VOTE_MEMORY = 0.99
"""What each outcome leaves of those before it."""
HALF_LIFE_S = 86_400.0
DECAY_EVERY_S = 60.0
"""Time is looked at in steps of a minute."""
ALIKE = 0.25
ALIKE_WEIGHT = 20.0
"""How often two models that were outvoted together are expected to err alike, and how many cases that weighs."""
REFRESH_S = 0.2
"""So much older than the last that was learned votes may be: made anew for each batch they cost more than they tell."""
MAX_TAUGHT_PER_S = 1000
"""Rounds of a topic that teach. Where there are more, a share of the tasks does, with all of their rounds."""
MAX_TOPICS = 1000
MAX_MODELS = 256
"""Of one topic. Topics are the users' to invent, and nodes come and go: the topic that was not seen for longest is
forgotten, and the model that was first seen longest ago."""
MAX_TALLIES = 2000
MAX_EARLIER_TASKS = 4096
MAX_EARLIER = 64
MAX_EARLIER_CHARACTERS = 200
"""Of rounds that went on: how many tasks, answers of one, and characters of an answer are kept till it converges."""

Name = tuple[str, str]
"""A model by node and name."""

_UNKNOWN = math.log(RELIABILITY * ALTERNATIVES / (1 - RELIABILITY))


_Task = tuple[str, str, int]
_Said = tuple[Name, str]


class ModelCounts(Struct, kw_only=True, gc=False):
    """Outcomes of one model on one topic, each counting less the longer ago it was."""

    node: str
    model: str
    right: float = 0.0
    wrong: float = 0.0
    none: float = 0.0
    vote_right: float = 0.0
    vote_wrong: float = 0.0
    """As `right` and `wrong`, with the longer memory."""

    def outcome(self, right: float) -> None:
        """An answer was right (1) or wrong (0)."""
        self.right = self.right * QUALITY_MEMORY + right
        self.wrong = self.wrong * QUALITY_MEMORY + 1.0 - right
        self.none *= QUALITY_MEMORY
        self.vote_right = self.vote_right * VOTE_MEMORY + right
        self.vote_wrong = self.vote_wrong * VOTE_MEMORY + 1.0 - right

    def failed(self, answer: Answer) -> None:
        """There was no answer."""
        if not answer.tries:  # a budget, or a node that was taken away, kept it from being asked
            return
        self.right *= QUALITY_MEMORY
        self.wrong *= QUALITY_MEMORY
        self.none = self.none * QUALITY_MEMORY + 1.0


class PairCounts(Struct, kw_only=True, gc=False):
    """How two models of one topic erred together."""

    first: Name
    second: Name
    alike: float = 0.0
    both: float = 0.0


class TopicCounts(Struct, kw_only=True):
    """What is known of one topic."""

    topic: str
    at: float
    """When time was last taken into account, in seconds since the epoch."""
    seen: int = 0
    """Rounds that had answers."""
    models: list[ModelCounts] = []
    pairs: list[PairCounts] = []


class AffinityState(Struct, kw_only=True):
    """What was learned, and the log that it stands for."""

    version: int = 1
    next_offsets: dict[int, int] = {}
    """By lane: the first decision that was not learned from yet."""
    topics: list[TopicCounts] = []
    """Those seen longest ago first."""


class Figures(Struct, frozen=True, gc=False):
    """One model on one topic, for whoever wants to look."""

    node: str
    model: str
    quality: float
    reliability: float
    outcomes: float
    """What the quality rests on besides the prior."""


class Votes:
    """What each model's vote counts on one topic, as of a moment; never changed, so threads may share it.

    Args:
        weights: by model, the logarithm of what its vote multiplies an answer's odds by.
        discounts: by pair of models, in order, what the second's weight loses beside the first.
        made_at: in seconds since the epoch.
    """

    __slots__ = ("_discounts", "_tallies", "_weights", "made_at")

    def __init__(
        self, weights: Mapping[Name, float], discounts: Mapping[tuple[Name, Name], float], made_at: float
    ) -> None:
        self._weights = weights
        self._discounts = discounts
        self.made_at = made_at
        self._tallies: dict[tuple[tuple[Name, ...], tuple[int, ...]], tuple[float, ...]] = {}

    def tally(self, names: tuple[Name, ...], groups: tuple[int, ...]) -> tuple[float, ...]:
        """Tell how probable each group's answer is.

        Args:
            names: who answered.
            groups: the group of each answer, numbered from 0 in order of appearance.
        """
        key = (names, groups)
        found = self._tallies.get(key)
        if found is None:
            found = self._count(names, groups)
            if len(self._tallies) < MAX_TALLIES:
                self._tallies[key] = found
        return found

    def _count(self, names: Sequence[Name], groups: Sequence[int]) -> tuple[float, ...]:
        members: list[list[tuple[float, Name]]] = [[] for _ in range(max(groups) + 1)]
        for name, g in zip(names, groups, strict=True):
            members[g].append((self._weights.get(name, _UNKNOWN), name))
        totals = [self._weigh(sorted(m, reverse=True)) for m in members]
        top = max(totals)
        # all answers that nobody gave, together: m of them at weight 0, prior to any vote
        whole = math.fsum([ALTERNATIVES * math.exp(-top), *[math.exp(t - top) for t in totals]])
        return tuple([round(math.exp(t - top) / whole, 6) for t in totals])

    def _weigh(self, members: list[tuple[float, Name]]) -> float:
        """Add up the votes for one answer, the weightiest first, each less what it shares with one before."""
        total = 0.0
        before: list[Name] = []
        for weight, name in members:
            if before and self._discounts:
                lost = max([self._discounts.get(_pair(name, other), 0.0) for other in before])
                total += max(0.0, weight - lost) if lost else weight
            else:
                total += weight
            before.append(name)
        return total


class _Topic:
    """What is known of one topic, for working with."""

    __slots__ = ("at", "learned", "models", "pairs", "seen", "seen_before", "share", "until", "votes")

    def __init__(self, at: float, seen: int = 0) -> None:
        self.at = at
        self.seen = seen
        self.models: dict[Name, ModelCounts] = {}
        self.pairs: dict[tuple[Name, Name], PairCounts] = {}
        self.votes: Votes | None = None
        self.learned = False
        """Something, since the votes were made."""
        self.until = 0.0
        """When rounds are to be counted anew, in seconds since the epoch."""
        self.seen_before = seen
        self.share = 1
        """One task in so many teaches."""

    def teaches(self, decision: Decision) -> bool:
        """Count a round, and tell whether it is one to learn from."""
        self.seen += 1
        if decision.decided_at >= self.until:
            self._count_anew(decision.decided_at)
        return self.share == 1 or not zlib.crc32(decision.logical_id.encode()) & (self.share - 1)

    def _count_anew(self, now: float) -> None:
        """A second is over: as many rounds as were in it, or by its rate in those since, are expected in the next."""
        passed = max(1.0, now - self.until + 1.0)
        rounds, self.seen_before, self.until = self.seen - self.seen_before, self.seen, now + 1.0
        # a power of two, so that tasks that teach now are among those that did, or will be
        self.share = 1 << int(rounds / passed / MAX_TAUGHT_PER_S).bit_length()

    def counts(self, name: Name) -> ModelCounts:
        found = self.models.get(name)
        if found is None:
            if len(self.models) >= MAX_MODELS:
                del self.models[next(iter(self.models))]
            found = self.models[name] = ModelCounts(node=name[0], model=name[1])
        return found

    def pair(self, pair: tuple[Name, Name]) -> PairCounts:
        found = self.pairs.get(pair)
        if found is None:
            if len(self.pairs) >= MAX_MODELS * 8:
                del self.pairs[next(iter(self.pairs))]
            found = self.pairs[pair] = PairCounts(first=pair[0], second=pair[1])
        return found

    def age(self, now: float) -> None:
        """Let time pass."""
        left = _left(now - self.at)
        if left == 1.0:
            return
        self.at = now
        for c in self.models.values():
            c.right, c.wrong, c.none = c.right * left, c.wrong * left, c.none * left
            c.vote_right, c.vote_wrong = c.vote_right * left, c.vote_wrong * left
        for p in self.pairs.values():
            p.alike, p.both = p.alike * left, p.both * left


class Affinities:
    """What is known of all models on all topics; threads may share it.

    Args:
        dearest: the prior of the dearest node of a topic, where its file declares none and nodes differ in price. A
            cascade rests on dearer models being better, and then says so here.
    """

    name = "affinities"

    def __init__(self, dearest: float = RELIABILITY) -> None:
        self._dearest = dearest
        self._lock = threading.Lock()
        self._topics: OrderedDict[str, _Topic] = OrderedDict()
        self._next: dict[int, int] = {}
        self._earlier: OrderedDict[_Task, tuple[_Said, ...]] = OrderedDict()
        """Answers of rounds that went on, by task; those of one whose last round is long in coming are forgotten."""
        self._nodes: dict[str, NodeCapabilities] = {}
        self._plain = True
        self._unlearned: dict[str, Votes] = {}
        self.changes = 0
        """Rises with all that is learned."""

    def declare(self, nodes: Iterable[NodeCapabilities]) -> None:
        """Take the priors from what the nodes declare; again, when they change."""
        with self._lock:
            self._nodes = {n.node: n for n in nodes}
            uneven = len({_price(n) for n in self._nodes.values()}) > 1 and self._dearest != RELIABILITY
            self._plain = not uneven and not any(n.affinity for n in self._nodes.values())
            self._unlearned.clear()
            for topic in self._topics.values():
                topic.votes = None

    # -- learning --------------------------------------------------------------------------------------------------

    def learn(self, lane: int, decisions: Iterable[tuple[int, Decision]]) -> None:
        """Learn from winning decisions as read back, in log order; what was learned from before is skipped."""
        with self._lock:
            following = first = self._next.get(lane, 0)
            for offset, decision in decisions:
                if offset >= following:
                    following = offset + 1
                    result = decision.result
                    if result is not None and result.candidates:
                        topic = self._topics.get(decision.topic) or self._new_topic(decision)
                        if topic.teaches(decision):
                            self._teach(topic, decision, result)
            if following > first:
                self._next[lane] = following
                self.changes += 1

    def _teach(self, topic: _Topic, decision: Decision, result: RoundResult) -> None:
        self._topics.move_to_end(decision.topic)
        if decision.decided_at - topic.at > DECAY_EVERY_S:
            topic.age(decision.decided_at)
        topic.learned = True
        leading, others = _outcome(decision, result)
        outvoted = []
        for place, answer in enumerate(result.candidates):
            counts = topic.models.get((answer.node, answer.model)) or topic.counts((answer.node, answer.model))
            leads = place in result.leading
            right = leading if leads else others
            if answer.status != "ok":
                counts.failed(answer)
            elif right is not None:
                counts.outcome(right)
                if not leads:
                    outvoted.append(answer)
        if len(outvoted) > 1:
            _teach_pairs(topic, _view(decision), outvoted)
        if decision.kind is DecisionKind.NEXT_ROUND:
            self._remember(decision, result, leading)
        elif self._earlier:
            earlier = self._earlier.pop(_task_of(decision), ())
            if earlier and leading and result.answer is not None:
                _teach_late(topic, _view(decision), result.answer, earlier, others)

    def _remember(self, decision: Decision, result: RoundResult, leading: float | None) -> None:
        """Keep what was said in a round that went on: the one that converges tells who was right."""
        if leading is not None:
            return  # its verifier has told
        task = _task_of(decision)
        given = [a for a in result.candidates if a.status == "ok" and len(a.text) <= MAX_EARLIER_CHARACTERS]
        said = tuple([((a.node, a.model), a.text) for a in given])
        self._earlier[task] = (*self._earlier.pop(task, ()), *said)[-MAX_EARLIER:]
        if len(self._earlier) > MAX_EARLIER_TASKS:
            self._earlier.popitem(last=False)

    def _new_topic(self, decision: Decision) -> _Topic:
        """Make a topic, as of the decision; the one seen longest ago makes room for it."""
        if len(self._topics) >= MAX_TOPICS:
            self._topics.popitem(last=False)
        topic = self._topics[decision.topic] = _Topic(decision.decided_at)
        return topic

    # -- what is known ---------------------------------------------------------------------------------------------

    def votes(self, topic: str, now: float) -> Votes | None:
        """Tell what the votes count on a topic; None where nothing is known, and all count the same."""
        found = self._topics.get(topic)
        if found is None and self._plain:
            return None
        votes = found.votes if found is not None else self._unlearned.get(topic)
        if votes is not None:
            age_s = now - votes.made_at
            if age_s <= DECAY_EVERY_S and (found is None or not found.learned or 0.0 <= age_s < REFRESH_S):
                return votes
        with self._lock:
            if found is None:
                votes = Votes({(n, m): _weight(p) for (n, m), p in self._priors(topic).items()}, {}, now)
                if len(self._unlearned) < MAX_TOPICS:
                    self._unlearned[topic] = votes
                return votes
            found.learned = False
            found.votes = votes = self._votes(found, topic, now)
            return votes

    def _votes(self, known: _Topic, topic: str, now: float) -> Votes:
        left = _left(now - known.at)
        weights = {name: _weight(prior) for name, prior in self._priors(topic).items()}
        for name, counts in known.models.items():
            prior = self._prior(topic, name[0])
            right, wrong = counts.vote_right * left, counts.vote_wrong * left
            weights[name] = _weight((right + VOTE_WEIGHT * prior) / (right + wrong + VOTE_WEIGHT))
        discounts = {}
        for pair, p in known.pairs.items():
            share = (p.alike * left + ALIKE_WEIGHT * ALIKE) / (p.both * left + ALIKE_WEIGHT)
            if share * ALTERNATIVES > 1.0:
                discounts[pair] = math.log(share * ALTERNATIVES)
        return Votes(weights, discounts, now)

    def chances(self, topic: str, names: Iterable[Name], now: float) -> list[tuple[float, float]]:
        """Tell for each model the two parameters of a Beta distribution of its quality."""
        with self._lock:
            known = self._topics.get(topic)
            left = _left(now - known.at) if known is not None else 1.0
            found = []
            for name in names:
                prior = self._prior(topic, name[0])
                right, wrong = QUALITY_WEIGHT * prior, QUALITY_WEIGHT * (1 - prior)
                counts = known.models.get(name) if known is not None else None
                if counts is not None:
                    right += counts.right * left
                    wrong += (counts.wrong + counts.none) * left
                found.append((max(right, 1e-3), max(wrong, 1e-3)))
            return found

    def seen(self, topic: str) -> int:
        """Tell how many rounds of a topic had answers."""
        known = self._topics.get(topic)
        return known.seen if known is not None else 0

    def figures(self, topic: str, now: float) -> list[Figures]:
        """Tell what is known of each model on a topic."""
        with self._lock:
            known = self._topics.get(topic)
            counted = [msgspec.structs.replace(c) for c in known.models.values()] if known is not None else []
            left = _left(now - known.at) if known is not None else 1.0
        found = []
        for c in counted:
            prior = self._prior(topic, c.node)
            of_late, votes = (c.right + c.wrong + c.none) * left, (c.vote_right + c.vote_wrong) * left
            quality = (c.right * left + QUALITY_WEIGHT * prior) / (of_late + QUALITY_WEIGHT)
            reliability = (c.vote_right * left + VOTE_WEIGHT * prior) / (votes + VOTE_WEIGHT)
            found.append(Figures(c.node, c.model, round(quality, 4), round(reliability, 4), round(of_late, 2)))
        return found

    def topics(self) -> list[str]:
        """Name the topics of which something is known, those seen longest ago first."""
        with self._lock:
            return list(self._topics)

    def _priors(self, topic: str) -> dict[Name, float]:
        serving = [n for n in self._nodes.values() if n.serves(topic)]
        return {(n.node, model): self._prior(topic, n.node) for n in serving for model in n.models}

    def _prior(self, topic: str, node: str) -> float:
        found = self._nodes.get(node)
        if found is None:
            return RELIABILITY
        declared = found.affinity.get(topic, found.affinity.get("*")) if found.affinity else None
        if declared is not None:
            return declared
        if self._dearest != RELIABILITY:
            prices = {_price(n) for n in self._nodes.values() if n.serves(topic)}
            if len(prices) > 1 and _price(found) == max(prices):
                return self._dearest
        return RELIABILITY

    # -- keeping it ------------------------------------------------------------------------------------------------

    def encoded(self) -> bytes:
        """Write down what was learned."""
        return msgspec.json.encode(self.state())

    def state(self) -> AffinityState:
        """Copy out what was learned."""
        with self._lock:
            topics = [
                TopicCounts(
                    topic=name,
                    at=t.at,
                    seen=t.seen,
                    models=[msgspec.structs.replace(c) for c in t.models.values()],
                    pairs=[msgspec.structs.replace(p) for p in t.pairs.values()],
                )
                for name, t in self._topics.items()
            ]
            return AffinityState(next_offsets=dict(self._next), topics=topics)

    def restore(self, encoded: bytes) -> None:
        """Begin with what was learned before.

        Raises:
            ValueError: it is nothing that `encoded` wrote.
        """
        state = msgspec.json.decode(encoded, type=AffinityState)
        with self._lock:
            self._next = dict(state.next_offsets)
            self._topics.clear()
            for kept in state.topics[-MAX_TOPICS:]:
                topic = self._topics[kept.topic] = _Topic(kept.at, kept.seen)
                topic.models = {(c.node, c.model): msgspec.structs.replace(c) for c in kept.models[-MAX_MODELS:]}
                topic.pairs = {_pair(p.first, p.second): msgspec.structs.replace(p) for p in kept.pairs}
            self.changes += 1


def _outcome(decision: Decision, result: RoundResult) -> tuple[float | None, float | None]:
    """Were the leading candidates right, and were the others; None where nobody can tell."""
    if result.verified is False:
        return 0.0, None
    formal = result.verifier in FORM_CHECKS
    if result.verified and not formal:
        # a question may have many good programs and texts, of which the verifier saw the first
        one_answer = len(result.leading) == len(result.candidates) or _view(decision).answer_kind not in _MANY_ANSWERS
        return 1.0, 0.0 if one_answer else None
    agreed = result.evidence == "cross-model" or (formal and len(result.leading) > 1)
    converged = decision.kind is DecisionKind.CONVERGED and not decision.forced
    if converged and agreed and result.leading and not _one_model(result):
        return 1.0, 0.0
    return None, None


def _teach_pairs(topic: _Topic, view: PayloadView, outvoted: Sequence[Answer]) -> None:
    """Note which of those that were outvoted gave the same answer."""
    names = [(a.node, a.model) for a in outvoted]
    groups = group(view.answer_kind, [a.text for a in outvoted], comparison_for(view))
    for (a, of_a), (b, of_b) in combinations(zip(names, groups, strict=True), 2):
        pair = topic.pair(_pair(a, b))
        pair.alike = pair.alike * VOTE_MEMORY + (of_a == of_b)
        pair.both = pair.both * VOTE_MEMORY + 1.0


def _teach_late(topic: _Topic, view: PayloadView, answer: str, earlier: Sequence[_Said], others: float | None) -> None:
    """Tell of answers in earlier rounds whether they were that of the one that converged."""
    groups = group(view.answer_kind, [answer, *[text for _, text in earlier]], comparison_for(view))
    for (name, _), of_group in zip(earlier, groups[1:], strict=True):
        right = 1.0 if of_group == groups[0] else others
        if right is not None:
            topic.counts(name).outcome(right)


def _task_of(decision: Decision) -> _Task:
    return decision.topic, decision.logical_id, decision.generation


_MANY_ANSWERS = frozenset({AnswerKind.CODE, AnswerKind.TEXT})


def _one_model(result: RoundResult) -> bool:
    """Tell whether all who agreed are samples of one model."""
    first = result.candidates[result.leading[0]]
    return all(
        result.candidates[i].model == first.model and result.candidates[i].node == first.node for i in result.leading
    )


def view_of(payload: bytes) -> PayloadView:
    """How answers to a payload are compared; by words where it does not tell, or is a reference to where it is."""
    try:
        return read_payload(payload) if payload else AWAY
    except BadRecordError:
        return AWAY


def verifier_of(payload: bytes) -> str | None:
    """Which verifier a payload names."""
    try:
        return read_payload(payload).verifier
    except BadRecordError:
        return None


def _view(decision: Decision) -> PayloadView:
    return view_of(bytes(decision.payload))


def _pair(a: Any, b: Any) -> tuple[Name, Name]:
    a, b = tuple(a), tuple(b)
    return (a, b) if a <= b else (b, a)


def _price(node: NodeCapabilities) -> float:
    return node.price_in + node.price_out


def _left(seconds: float) -> float:
    """What so long a time leaves of an outcome."""
    return 0.5 ** (seconds / HALF_LIFE_S) if seconds > DECAY_EVERY_S else 1.0


def _weight(reliability: float) -> float:
    reliability = min(max(reliability, LEAST), MOST)
    return math.log(reliability * ALTERNATIVES / (1 - reliability))
