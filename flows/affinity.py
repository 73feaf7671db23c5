"""Affinity: how well each model does on a topic, learned from what became of the tasks.

    winning decisions ─► learn ─┬─► quality       right / (right + wrong + none), of late: whom to ask
                                ├─► reliability   right / (right + wrong), over long: what its vote counts
                                └─► calibration   rounds with a verdict: how sure the votes may be

A decision teaches where it says who was right: a verifier's verdict, or a convergence, not forced, in which several
models agreed; then it also says who was right in the rounds before. One model's own word teaches nothing, and a call
that failed or abstained counts as none. Quality forgets within some fifteen outcomes, so that a change shows soon; a
vote has to be known better than that, and forgets within a hundred. Without any outcome both drift back to the prior,
by half a day for day.

Models that err alike are no two witnesses: how often two of them said the same, where the first was right and where it
was wrong, tells how much the second adds to it. What the votes count is in `flows.votes`, and made anew as more is
learned. Everything here is pure: times are handed in, and lanes in log order.
"""

import operator
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import msgspec
from msgspec import Struct

from flows.calibration import Example
from flows.comparing.equivalence import comparison_for, group
from flows.counts import (
    DECAY_EVERY_S,
    MAX_EXAMPLES,
    MAX_MODELS,
    Topic,
    TopicCounts,
    left_after,
)
from flows.lessons import Lesson, example_of, lesson_of, view_of
from flows.memory import Memory
from flows.votes import FORMAT, RELIABILITY, ModelParameters, Name, Parameters, Votes, weight_of
from schemas.decision import Decision, DecisionKind, RoundResult
from schemas.node import Answer, NodeCapabilities
from schemas.task import PayloadView

STATE_VERSION = 2
QUALITY_WEIGHT = 2.0
"""So many outcomes weighs the prior."""
STALE_AFTER_S = 3600.0
"""Votes of a topic on which nothing was learned for so long are made anew: time takes its share."""
OLDER_S = 300.0
"""What the cluster knows of a topic counts for nothing where it is so much older than what is known here: nobody has
kept it since. That of a root that runs is some seconds behind, and both take time into account by the minute."""
ENOUGH_TAUGHT = 500
"""Nor where fewer rounds have taught than half of those that taught here, and fewer than so many, which are as good as
more: a root that has lost its memory begins with the last decisions alone, and rare topics have few of them."""
MAX_EXAMPLES_IN_ALL = 20_000
MAX_TOPICS = 1000
"""Topics are the users' to invent: the one that was not seen for longest is forgotten."""
MAX_EARLIER_TASKS = 4096
MAX_EARLIER = 64
MAX_EARLIER_CHARACTERS = 200
"""Of rounds that went on: how many tasks, answers of one, and characters of an answer are kept till it converges."""

_Task = tuple[str, str, int]
_Said = tuple[Name, str]


class AffinityState(Struct, kw_only=True):
    """What was learned, and the log that it stands for."""

    version: int = STATE_VERSION
    next_offsets: dict[int, int] = {}
    """By lane: the first decision that was not learned from yet."""
    topics: list[TopicCounts] = []
    """Those seen longest ago first."""


class Affinities(Memory):
    """What is known of all models on all topics; threads may share it.

    Args:
        dearest: the prior of the dearest node of a topic, where its file declares none and nodes differ in price. A
            cascade rests on dearer models being better, and then says so here.
    """

    name, version = "affinities", STATE_VERSION

    def __init__(self, dearest: float = RELIABILITY) -> None:
        super().__init__()
        self._dearest = dearest
        self._topics: OrderedDict[str, Topic] = OrderedDict()
        self._earlier: OrderedDict[_Task, tuple[_Said, ...]] = OrderedDict()
        """Answers of rounds that went on, by task; those of one whose last round is long in coming are forgotten."""
        self._examples = 0
        """Those of all topics together."""
        self._nodes: dict[str, NodeCapabilities] = {}
        self._plain = True
        self._unlearned: dict[str, Votes] = {}

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

    def _take(self, decision: Decision) -> None:
        result = decision.result
        if result is not None and result.candidates:
            topic = self._topics.get(decision.topic) or self._new_topic(decision)
            if topic.teaches(decision):
                self._teach(topic, decision, result)

    def _teach(self, topic: Topic, decision: Decision, result: RoundResult) -> None:
        self._topics.move_to_end(decision.topic)
        now = decision.decided_at
        if now - topic.at > DECAY_EVERY_S:
            topic.age(now)
        lesson = lesson_of(decision, result)
        told = _teach_models(topic, result, lesson)
        if len(told) > 1:
            _teach_pairs(topic, view_of(bytes(decision.payload)), told)
        if lesson.is_verdict:
            self._keep_example(topic, example_of(decision, result, lesson, topic.votes))
        if decision.kind is DecisionKind.NEXT_ROUND:
            self._remember(decision, result, lesson)
        elif self._earlier:
            earlier = self._earlier.pop(_task_of(decision), ())
            leads = result.leading and lesson.rights[result.leading[0]]
            if earlier and leads and result.answer is not None:
                _teach_late(topic, view_of(bytes(decision.payload)), result.answer, earlier, lesson.others)
        if told:
            topic.taught += 1
            topic.fresh += 1
            if topic.is_stale(now):
                self._make_votes(topic, decision.topic, now)

    def _keep_example(self, topic: Topic, example: Example | None) -> None:
        if example is None:
            return
        self._examples += len(topic.examples) < MAX_EXAMPLES
        topic.examples.append(example)
        if self._examples > MAX_EXAMPLES_IN_ALL:  # the topic seen longest ago gives up all of its own
            oldest = next(t for t in self._topics.values() if t.examples)
            self._examples -= len(oldest.examples)
            oldest.examples.clear()

    def _remember(self, decision: Decision, result: RoundResult, lesson: Lesson) -> None:
        """Keep what was said in a round that went on: the one that converges tells who was right."""
        if lesson.is_verdict or any(right is not None for right in lesson.rights):
            return  # its verifier has told
        task = _task_of(decision)
        given = [a for a in result.candidates if a.status == "ok" and len(a.text) <= MAX_EARLIER_CHARACTERS]
        said = tuple([((a.node, a.model), a.text) for a in given])
        self._earlier[task] = (*self._earlier.pop(task, ()), *said)[-MAX_EARLIER:]
        if len(self._earlier) > MAX_EARLIER_TASKS:
            self._earlier.popitem(last=False)

    def _new_topic(self, decision: Decision) -> Topic:
        """Make a topic, as of the decision; the one seen longest ago makes room for it."""
        if len(self._topics) >= MAX_TOPICS:
            self._examples -= len(self._topics.popitem(last=False)[1].examples)
        topic = self._topics[decision.topic] = Topic(decision.decided_at)
        return topic

    def adopt(self, counts: TopicCounts) -> None:
        """Take over what the whole cluster knows of a topic, where it is up to date; each cell has its own examples."""
        with self._lock:
            topic = self._topics.get(counts.topic)
            if topic is not None and (
                topic.at - counts.at > OLDER_S or counts.taught < min(topic.taught / 2, ENOUGH_TAUGHT)
            ):
                return
            if topic is None:
                if len(self._topics) >= MAX_TOPICS:
                    self._examples -= len(self._topics.popitem(last=False)[1].examples)
                topic = self._topics[counts.topic] = Topic(counts.at)
            self._topics.move_to_end(counts.topic)
            topic.at = counts.at
            topic.models = {(c.node, c.model): c for c in counts.models[-MAX_MODELS:]}
            topic.pairs = {_pair(p.first, p.second): p for p in counts.pairs}
            topic.seen = max(topic.seen, counts.seen)
            topic.fresh += max(0, counts.taught - topic.taught)
            topic.taught = max(topic.taught, counts.taught)
            if topic.is_stale(counts.at):
                self._make_votes(topic, counts.topic, counts.at)
            self.changes += 1

    # -- what is known ---------------------------------------------------------------------------------------------

    def votes(self, topic: str, now: float) -> Votes | None:
        """Tell what the votes count on a topic; None where nothing is known, and all count the same."""
        found = self._topics.get(topic)
        if found is None and self._plain:
            return None
        votes = found.votes if found is not None else self._unlearned.get(topic)
        if votes is not None and now - votes.made_at <= STALE_AFTER_S:
            return votes
        with self._lock:
            if found is not None:
                return self._make_votes(found, topic, now)
            models = [ModelParameters(*name, weight_of(p)) for name, p in sorted(self._priors(topic).items())]
            votes = Votes(Parameters(format=FORMAT, topic=topic, models=tuple(models)), now)
            if len(self._unlearned) < MAX_TOPICS:
                self._unlearned[topic] = votes
            return votes

    def renew(self, now: float) -> None:
        """Make the votes of all topics anew, of all that was learned."""
        with self._lock:
            for topic, known in self._topics.items():
                self._make_votes(known, topic, now)

    def _make_votes(self, known: Topic, topic: str, now: float) -> Votes:
        return known.make_votes(topic, lambda node: self._prior(topic, node), self._priors(topic), now)

    def chances(self, topic: str, names: Iterable[Name], now: float) -> list[tuple[float, float]]:
        """Tell for each model the two parameters of a Beta distribution of its quality."""
        with self._lock:
            known = self._topics.get(topic)
            left = left_after(now - known.at) if known is not None else 1.0
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
                    examples=list(t.examples),
                    taught=t.taught,
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
                topic = self._topics[kept.topic] = Topic(kept.at, kept.seen, kept.taught)
                topic.models = {(c.node, c.model): msgspec.structs.replace(c) for c in kept.models[-MAX_MODELS:]}
                topic.pairs = {_pair(p.first, p.second): msgspec.structs.replace(p) for p in kept.pairs}
                topic.examples.extend(kept.examples)
            self._examples = sum(len(t.examples) for t in self._topics.values())
            self.changes += 1


def _teach_models(topic: Topic, result: RoundResult, lesson: Lesson) -> list[tuple[Answer, bool]]:
    """Count who was right; gives the answers of which that is known."""
    told = []
    for answer, right in zip(result.candidates, lesson.rights, strict=True):
        counts = topic.models.get((answer.node, answer.model)) or topic.counts((answer.node, answer.model))
        if answer.status != "ok":
            counts.failed(answer)
            continue
        if answer.score is not None:
            counts.scored(answer.score)
        if right is not None:
            counts.outcome(1.0 if right else 0.0)
            told.append((answer, right))
    return told


def _teach_pairs(topic: Topic, view: PayloadView, told: Sequence[tuple[Answer, bool]]) -> None:
    """Note how each two of those fared of whom it is known."""
    wrong = [a.text for a, right in told if not right]
    if not wrong:
        for first, second in combinations(sorted([(a.node, a.model) for a, _ in told]), 2):
            (topic.pairs.get((first, second)) or topic.pair((first, second))).add_both_right()
        return
    group_of_wrong = iter(group(view.answer_kind, wrong, comparison_for(view)) if len(wrong) > 1 else [0] * len(wrong))
    # (model, whether it was right, which of the wrong answers it gave)
    fared = [((a.node, a.model), right, -1 if right else next(group_of_wrong)) for a, right in told]
    fared.sort(key=operator.itemgetter(0))
    for (first, first_right, said), (second, second_right, also) in combinations(fared, 2):
        pair = topic.pairs.get((first, second)) or topic.pair((first, second))
        pair.add(first_right, second_right, said == also)


def _teach_late(topic: Topic, view: PayloadView, answer: str, earlier: Sequence[_Said], others: float | None) -> None:
    """Tell of answers in earlier rounds whether they were that of the one that converged."""
    groups = group(view.answer_kind, [answer, *[text for _, text in earlier]], comparison_for(view))
    for (name, _), of_group in zip(earlier, groups[1:], strict=True):
        right = 1.0 if of_group == groups[0] else others
        if right is not None:
            topic.counts(name).outcome(right)


def _task_of(decision: Decision) -> _Task:
    return decision.topic, decision.logical_id, decision.generation


def _pair(a: Any, b: Any) -> tuple[Name, Name]:
    a, b = tuple(a), tuple(b)
    return (a, b) if a <= b else (b, a)


def _price(node: NodeCapabilities) -> float:
    return node.price_in + node.price_out
