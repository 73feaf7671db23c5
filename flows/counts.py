"""Outcomes of models on a topic, counted with forgetting, and the votes that they make. Pure."""

import math
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from flows.calibration import Example, calibrate
from flows.votes import ALTERNATIVES, FORMAT, LEAST, MOST, Beside, ModelParameters, Name, Parameters, Votes, weight_of
from schemas.decision import Decision
from schemas.node import Answer
from schemas.task import Moment, Whole

VOTE_WEIGHT = 10.0
"""So many outcomes weighs the prior."""
QUALITY_MEMORY = 0.93
VOTE_MEMORY = 0.99
PAIR_MEMORY = 0.998
"""What each outcome leaves of those before it."""
HALF_LIFE_S = 86_400.0
DECAY_EVERY_S = 60.0
"""Time is looked at in steps of a minute."""
PAIR_WEIGHT = 8.0
"""How many cases it weighs that two models are expected to be independent."""
DOUBT = 0.05
"""What is taken off all that a vote adds to another: what is not known to be independent is not taken for it."""
FEWEST_SCORES = 5.0
NARROWEST = 0.01
"""How many own scores of a model make a mean, and what standard deviation makes them worth comparing."""
REFRESH_SHARE = 20
REFRESH_ROUNDS = 1000
REFRESH_S = 60.0
"""Votes are made anew when a twentieth more was learned, of a thousand rounds at most, and not sooner than a thousandth
of a second for each of them, a minute at most: each version of them is kept for good."""
MAX_TAUGHT_PER_S = 1000
"""Rounds of a topic that teach. Where there are more, a share of the tasks does, with all of their rounds."""
MAX_MODELS = 256
"""Of one topic. Nodes come and go: the model that was first seen longest ago is forgotten."""
MAX_EXAMPLES = 600
"""Rounds with a verdict that are kept of one topic: the last ones."""


Count = Annotated[float, Meta(ge=0, le=1e9)]
Mean = Annotated[float, Meta(ge=-1e9, le=1e9)]


class ModelCounts(Struct, kw_only=True, gc=False):
    """Outcomes of one model on one topic, each counting less the longer ago it was."""

    node: str
    model: str
    right: Count = 0.0
    wrong: Count = 0.0
    none: Count = 0.0
    vote_right: Count = 0.0
    vote_wrong: Count = 0.0
    """As `right` and `wrong`, with the longer memory."""
    scores: Count = 0.0
    score_mean: Mean = 0.0
    score_variance: Mean = 0.0
    """Of its own scores: how many, with the longer memory, and what they were like."""

    def outcome(self, right: float) -> None:
        """An answer was right (1) or wrong (0)."""
        self.right = self.right * QUALITY_MEMORY + right
        self.wrong = self.wrong * QUALITY_MEMORY + 1.0 - right
        self.none *= QUALITY_MEMORY
        self.vote_right = self.vote_right * VOTE_MEMORY + right
        self.vote_wrong = self.vote_wrong * VOTE_MEMORY + 1.0 - right

    def scored(self, score: float) -> None:
        """It gave an answer a score of its own; mean and variance as West (1979) has them, with forgetting."""
        self.scores = self.scores * VOTE_MEMORY + 1.0
        off = score - self.score_mean
        self.score_mean += off / self.scores
        self.score_variance += (off * (score - self.score_mean) - self.score_variance) / self.scores

    def failed(self, answer: Answer) -> None:
        """There was no answer."""
        if not answer.tries:  # a budget, or a node that was taken away, kept it from being asked
            return
        self.right *= QUALITY_MEMORY
        self.wrong *= QUALITY_MEMORY
        self.none = self.none * QUALITY_MEMORY + 1.0


class PairCounts(Struct, kw_only=True, gc=False):
    """How two models of one topic fared where both answered."""

    first: Name
    second: Name
    both_right: Count = 0.0
    first_right: Count = 0.0
    """And the second wrong."""
    second_right: Count = 0.0
    alike: Count = 0.0
    """Both wrong, with the same answer."""
    apart: Count = 0.0

    def add_both_right(self) -> None:
        """Both were right once more."""
        self.both_right = self.both_right * PAIR_MEMORY + 1.0
        self.first_right *= PAIR_MEMORY
        self.second_right *= PAIR_MEMORY
        self.alike *= PAIR_MEMORY
        self.apart *= PAIR_MEMORY

    def add(self, first_right: bool, second_right: bool, alike: bool) -> None:  # noqa: FBT001 - they are a pair's
        """Both answered once more."""
        self.both_right *= PAIR_MEMORY
        self.first_right *= PAIR_MEMORY
        self.second_right *= PAIR_MEMORY
        self.alike *= PAIR_MEMORY
        self.apart *= PAIR_MEMORY
        if first_right:
            if second_right:
                self.both_right += 1.0
            else:
                self.first_right += 1.0
        elif second_right:
            self.second_right += 1.0
        elif alike:
            self.alike += 1.0
        else:
            self.apart += 1.0

    def age(self, left: float) -> None:
        """Let time pass, which leaves so much of each case."""
        self.both_right *= left
        self.first_right *= left
        self.second_right *= left
        self.alike *= left
        self.apart *= left


class TopicCounts(Struct, kw_only=True):
    """What is known of one topic."""

    topic: str
    at: Moment
    """When time was last taken into account, in seconds since the epoch."""
    seen: Whole = 0
    """Rounds that had answers."""
    models: list[ModelCounts] = []
    pairs: list[PairCounts] = []
    examples: list[Example] = []
    taught: Whole = 0
    """Rounds that taught."""


class Topic:
    """What is known of one topic, for working with."""

    __slots__ = (
        "at",
        "examples",
        "fresh",
        "models",
        "pairs",
        "seen",
        "seen_before",
        "share",
        "taught",
        "until",
        "votes",
    )

    def __init__(self, at: float, seen: int = 0, taught: int = 0) -> None:
        self.at = at
        self.seen = seen
        self.taught = taught
        self.fresh = 0
        """Rounds that taught since the votes were made."""
        self.examples: deque[Example] = deque(maxlen=MAX_EXAMPLES)
        self.models: dict[Name, ModelCounts] = {}
        self.pairs: dict[tuple[Name, Name], PairCounts] = {}
        self.votes: Votes | None = None
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
        """Give the outcomes of one model, from now on."""
        found = self.models.get(name)
        if found is None:
            if len(self.models) >= MAX_MODELS:
                del self.models[next(iter(self.models))]
            found = self.models[name] = ModelCounts(node=name[0], model=name[1])
        return found

    def pair(self, pair: tuple[Name, Name]) -> PairCounts:
        """Give how two models, in the order of their names, fared together, from now on."""
        found = self.pairs.get(pair)
        if found is None:
            if len(self.pairs) >= MAX_MODELS * 8:
                del self.pairs[next(iter(self.pairs))]
            found = self.pairs[pair] = PairCounts(first=pair[0], second=pair[1])
        return found

    def age(self, now: float) -> None:
        """Let time pass."""
        left = left_after(now - self.at)
        if left == 1.0:
            return
        self.at = now
        for c in self.models.values():
            c.right, c.wrong, c.none = c.right * left, c.wrong * left, c.none * left
            c.vote_right, c.vote_wrong = c.vote_right * left, c.vote_wrong * left
        for p in self.pairs.values():
            p.age(left)

    def is_stale(self, now: float) -> bool:
        """Tell whether enough was learned for other votes."""
        if self.votes is None:
            return False  # nobody has asked for them
        if self.fresh * REFRESH_SHARE < min(self.taught, REFRESH_ROUNDS):
            return False
        return abs(now - self.votes.made_at) >= min(REFRESH_S, self.taught / 1000)

    def make_votes(self, topic: str, prior: Callable[[str], float], names: Mapping[Name, float], now: float) -> Votes:
        """Make the votes of what is known now.

        Args:
            topic: its name.
            prior: gives how reliable a node's models are before anything is learned.
            names: the models that are there, whether or not anything is known of them.
            now: seconds since the epoch.
        """
        left = left_after(now - self.at)
        reliabilities = dict(names)
        for name, c in self.models.items():
            right, wrong = c.vote_right * left, c.vote_wrong * left
            reliabilities[name] = (right + VOTE_WEIGHT * prior(name[0])) / (right + wrong + VOTE_WEIGHT)
        alternatives = self._alternatives(left)
        beside = [b for pair in self.pairs.values() for b in _beside(pair, reliabilities, alternatives, left)]
        plain = Parameters(
            format=FORMAT,
            topic=topic,
            alternatives=alternatives,
            models=tuple([self._model(name, weight_of(r, alternatives)) for name, r in sorted(reliabilities.items())]),
            beside=tuple(sorted(beside, key=msgspec.structs.astuple)),
        )
        made = Votes(plain, now)
        if self.examples:
            fitted = calibrate(self.examples, made)
            models = [
                msgspec.structs.replace(m, deviation=fitted.deviations.get((m.node, m.model), 0.0))
                for m in plain.models
            ]
            made = Votes(
                msgspec.structs.replace(
                    plain,
                    models=tuple(models),
                    temperature=fitted.temperature,
                    nobody=fitted.nobody,
                    evidence=fitted.evidence,
                ),
                now,
            )
        self.fresh = 0
        self.votes = made
        return made

    def _alternatives(self, left: float) -> float:
        """Estimate how many wrong answers there are: one in so many times do two models err alike that are independent.

        Of all pairs the one that errs alike least often is taken for that.
        """
        shares = [
            (p.alike * left + PAIR_WEIGHT / ALTERNATIVES) / ((p.alike + p.apart) * left + PAIR_WEIGHT)
            for p in self.pairs.values()
            if p.alike or p.apart
        ]
        return round(max(1.0, 1.0 / min(shares)), 2) if shares else ALTERNATIVES

    def _model(self, name: Name, weight: float) -> ModelParameters:
        c = self.models.get(name)
        mean = deviation = 0.0
        if c is not None and c.scores >= FEWEST_SCORES and c.score_variance > NARROWEST**2:
            mean, deviation = round(c.score_mean, 4), round(math.sqrt(c.score_variance), 4)
        return ModelParameters(*name, round(weight, 4), 0.0, mean, deviation)


def left_after(seconds: float) -> float:
    """Tell what so long a time leaves of an outcome."""
    return 0.5 ** (seconds / HALF_LIFE_S) if seconds > DECAY_EVERY_S else 1.0


def _beside(pair: PairCounts, reliabilities: Mapping[Name, float], alternatives: float, left: float) -> list[Beside]:
    """Tell what each of two models adds beside the other, where that is less than all of its own."""
    found = []
    both, alike, apart = pair.both_right * left, pair.alike * left, pair.apart * left
    first, second = pair.first_right * left, pair.second_right * left
    for name, other, other_alone, name_alone in (
        (pair.second, pair.first, first, second),
        (pair.first, pair.second, second, first),
    ):
        r = min(max(reliabilities.get(name, 0.0), LEAST), MOST)
        says_so_right = (both + PAIR_WEIGHT * r) / (both + other_alone + PAIR_WEIGHT)
        wrong = PAIR_WEIGHT * (1.0 - r) / alternatives
        says_so_wrong = (alike + wrong) / (name_alone + alike + apart + PAIR_WEIGHT)
        tells, weight = math.log(says_so_right / says_so_wrong), weight_of(r, alternatives)
        adds = max(0.0, tells - DOUBT) if weight > 0.0 else min(0.0, tells + DOUBT)
        if abs(adds) < abs(weight):
            found.append(Beside(*name, *other, round(adds, 4)))
    return found
