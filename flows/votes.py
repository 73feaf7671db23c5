"""What each model's vote counts on one topic: how probable each answer is, given who gave it. Pure.

An answer's score is the sum of its votes, and the chances are the scores' exponentials in proportion, beside all
answers that nobody gave, log(m + 1 - answers given) (a naive Bayes vote with m alternatives to the right answer):

    the first vote     log(r·m / (1 - r))                        r: how often the model is right
    each further one   log(P(says so | the other is right) / P(says so | the other is wrong))

of the vote beside which the second tells least. Models that copy each other add nothing to each other, and independent
ones add all of their own. Where verifiers have told what was right, the sum is corrected by `flows.calibration`: by a
temperature, by model, and by what the answers themselves say (`flows.evidence`).

All of that is in the `Parameters`; a decision names their version, and from them its confidence can be computed again.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec
from msgspec import Struct

RELIABILITY = 0.6
"""How often a model is right that nothing is known of."""
ALTERNATIVES = 10.0
"""Wrong answers that a model chooses among, where nothing is known of a topic."""
FEW = 0.05
"""What is left of the alternatives where more answers were given than there are thought to be."""
LEAST, MOST = 0.02, 0.98
"""No vote counts for less or for more."""
DEFERENCE = 3.0
BEST_BY = 0.5
"""Against a model that clearly does best (by so much in what its vote counts) another answer leads only where it is so
many times as likely: of all that was learned, how well the best model does is known best, and what a rare agreement of
others against it is worth is known worst."""
MAX_TALLIES = 2000
FORMAT = 1

Name = tuple[str, str]
"""A model by node and name."""


class ModelParameters(Struct, frozen=True, gc=False, array_like=True):
    """One model."""

    node: str
    model: str
    weight: float
    """The logarithm of what its vote, as the first, multiplies an answer's odds by."""
    deviation: float = 0.0
    """What verdicts add to that."""
    score_mean: float = 0.0
    score_deviation: float = 0.0
    """Mean and standard deviation of its own scores of late; a deviation of 0 says that it has none to compare."""


class Beside(Struct, frozen=True, gc=False, array_like=True):
    """What one vote adds to another for the same answer, where that is less than all of its own."""

    node: str
    model: str
    other_node: str
    other_model: str
    adds: float


class Parameters(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was learned of one topic, as of a place in the log."""

    format: int = 1
    """Left out where it is 1; whoever makes them says `FORMAT`."""
    topic: str
    alternatives: float = ALTERNATIVES
    """How many wrong answers there are to choose among: 1 where the answer is yes or no."""
    models: tuple[ModelParameters, ...] = ()
    """In the order of their names."""
    beside: tuple[Beside, ...] = ()
    temperature: float = 1.0
    nobody: float = 0.0
    """What verdicts add to the score of all answers that nobody gave."""
    evidence: dict[str, float] = {}
    """What verdicts add for what the answers say, by the names of `flows.evidence`."""


class Tally(Struct, frozen=True, gc=False):
    """What the votes come to, by group of equivalent answers."""

    chances: tuple[float, ...]
    """The probability that it is right, 0 to 1."""
    effective: tuple[float, ...]
    """How many independent models would tell as much."""
    leading: int
    """The group to take: the likeliest, but see `DEFERENCE`."""


class Votes:
    """What the votes count, as of a moment; never changed, so threads may share it.

    Args:
        parameters: what was learned.
        made_at: in seconds since the epoch.
    """

    def __init__(self, parameters: Parameters, made_at: float = 0.0) -> None:
        self.parameters = parameters
        self.made_at = made_at
        self._models = {(m.node, m.model): m for m in parameters.models}
        self._adds = {((b.node, b.model), (b.other_node, b.other_model)): b.adds for b in parameters.beside}
        self._unknown = weight_of(RELIABILITY, parameters.alternatives)
        self._tallies: dict[tuple[tuple[Name, ...], tuple[int, ...]], Tally] = {}

    @cached_property
    def encoded(self) -> bytes:
        """The parameters in canonical JSON."""
        return msgspec.json.encode(self.parameters, order="sorted")

    @cached_property
    def version(self) -> str:
        """The parameters' version: `sha256-` and the sha256 of `encoded`, in hex."""
        return f"sha256-{hashlib.sha256(self.encoded).hexdigest()}"

    def tally(
        self,
        names: tuple[Name, ...],
        groups: tuple[int, ...],
        evidence: Sequence[Mapping[str, float]] | None = None,
    ) -> Tally:
        """Tell how probable each group's answer is.

        Args:
            names: who answered.
            groups: the group of each answer, numbered from 0 in order of appearance.
            evidence: by group, what its answers say, where `parameters.evidence` asks for it.
        """
        if evidence is not None:
            return self._count(names, groups, evidence)
        key = (names, groups)
        found = self._tallies.get(key)
        if found is None:
            found = self._count(names, groups, None)
            if len(self._tallies) < MAX_TALLIES:
                self._tallies[key] = found
        return found

    def shares(self, members: Sequence[Name]) -> tuple[float, dict[Name, float]]:
        """Add up the votes for one answer, the weightiest first.

        Returns:
            The sum, and for each model what share of its own weight it adds, 0 to 1.
        """
        # another sample of a model confirms nothing that it has not said already
        ranked = sorted([(self._weight(name), name) for name in set(members)], reverse=True)
        total, shares = 0.0, dict[Name, float]()
        before: list[Name] = []
        for weight, name in ranked:
            adds = weight
            if before and self._adds:
                adds = min([self._adds.get((name, other), weight) for other in before], key=abs)
            total += adds
            shares[name] = adds / weight if weight else 1.0
            before.append(name)
        return total, shares

    def z_score(self, name: Name, score: float) -> float | None:
        """Compare a model's own score with what it usually gives; None where that is not known."""
        found = self._models.get(name)
        if found is None or not found.score_deviation:
            return None
        return (score - found.score_mean) / found.score_deviation

    def _weight(self, name: Name) -> float:
        found = self._models.get(name)
        return found.weight if found is not None else self._unknown

    def nobody(self, answers: int) -> float:
        """The score of all answers that nobody gave, uncalibrated, where so many were given."""
        return math.log(max(FEW, self.parameters.alternatives + 1.0 - answers))

    def _count(
        self, names: Sequence[Name], groups: Sequence[int], evidence: Sequence[Mapping[str, float]] | None
    ) -> Tally:
        members: list[list[Name]] = [[] for _ in range(max(groups) + 1)]
        for name, g in zip(names, groups, strict=True):
            members[g].append(name)
        known = self.parameters
        scores, effective = [], []
        for g, voters in enumerate(members):
            total, shares = self.shares(voters)
            score = known.temperature * total
            for name, share in shares.items():
                model = self._models.get(name)
                if model is not None:
                    score += share * model.deviation
            if evidence is not None:
                score += math.fsum([worth * evidence[g][what] for what, worth in known.evidence.items()])
            scores.append(score)
            effective.append(round(math.fsum(shares.values()), 3))
        nobody = known.temperature * self.nobody(len(scores)) + known.nobody
        top = max(*scores, nobody)
        whole = math.fsum([math.exp(nobody - top), *[math.exp(s - top) for s in scores]])
        chances = tuple([round(math.exp(s - top) / whole, 6) for s in scores])
        return Tally(chances, tuple(effective), self._leading(names, groups, chances))

    def _leading(self, names: Sequence[Name], groups: Sequence[int], chances: Sequence[float]) -> int:
        likeliest = max(range(len(chances)), key=lambda g: (chances[g], -g))  # of equals, the first that was given
        alone = {name: self._alone(name) for name in names}
        if len(alone) < 2 or len(chances) < 2:
            return likeliest
        second, best = sorted(alone, key=lambda name: alone[name])[-2:]
        if alone[best] - alone[second] < BEST_BY:
            return likeliest
        of_best = groups[names.index(best)]
        return likeliest if chances[likeliest] > DEFERENCE * chances[of_best] else of_best

    def _alone(self, name: Name) -> float:
        """What a vote counts by itself."""
        found = self._models.get(name)
        return self.parameters.temperature * self._weight(name) + (found.deviation if found is not None else 0.0)


def weight_of(reliability: float, alternatives: float = ALTERNATIVES) -> float:
    """Tell what the vote of a model counts that is right so often and errs independently of all others."""
    reliability = min(max(reliability, LEAST), MOST)
    return math.log(reliability * alternatives / (1 - reliability))


def read_parameters(encoded: bytes) -> Parameters:
    """Read what `Votes.encoded` wrote.

    Raises:
        ValueError: it is something else, or a newer Aureon wrote it.
    """
    parameters = msgspec.json.decode(encoded, type=Parameters)
    if parameters.format > FORMAT:
        raise ValueError(f"they have version {parameters.format}, and this software reads {FORMAT}")
    return parameters
