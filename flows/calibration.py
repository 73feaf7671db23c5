"""Calibration: what verdicts tell of how sure votes may be. Pure.

A verdict that does not come from the votes themselves (a verifier's) says which of a round's answers was right, or
that none was. From such rounds of a topic a conditional logit model is fitted (McFadden 1974): the choice is among the
groups of equivalent answers and "none of these", and the score of a group is

    temperature · its votes  +  Σ share of a member's vote · the member's deviation  +  Σ evidence · what that is worth

By maximum a posteriori with Gaussian priors, whose means are the votes as they are, so that a few verdicts change
little. The fit is Newton's, with a step that is halved until it helps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from flows.evidence import EVIDENCE
from flows.votes import Name, Votes

FEWEST = 8
"""Verdicts below which nothing is fitted."""
TEMPERATURE_WEIGHT = 20.0
DEVIATION_WEIGHT = 0.3
NOBODY_WEIGHT = 1.0
EVIDENCE_WEIGHT = 0.1
"""How firm each prior is: the inverse of its variance."""
CAUTION = 0.93
"""What a fitted score is multiplied by: what fits the rounds that it was fitted to is a little too sure of others."""
MAX_STEPS = 30
MAX_NUMBERS = 1 << 22
"""Of the features; where many models give many answers it takes fewer rounds to know as much, and the last ones do."""
ENOUGH = 1e-5

_Array = Any


class Group(Struct, frozen=True, gc=False, array_like=True):
    """Equivalent answers of one round."""

    members: tuple[Name, ...]
    evidence: tuple[float, ...]
    """In the order of `EVIDENCE`."""


class Example(Struct, frozen=True, gc=False, array_like=True):
    """A round of which a verdict is known."""

    groups: tuple[Group, ...]
    right: int
    """Which group was right; -1 for none."""


class Calibration(Struct, frozen=True, kw_only=True):
    """What was fitted; added to the votes by `flows.votes`."""

    temperature: float = 1.0
    nobody: float = 0.0
    deviations: dict[Name, float] = {}
    evidence: dict[str, float] = {}


def calibrate(examples: Sequence[Example], votes: Votes) -> Calibration:
    """Fit the model to rounds with verdicts.

    Args:
        examples: in any order.
        votes: what each vote counts, uncalibrated.
    """
    if len(examples) < FEWEST:
        return Calibration()
    names = sorted({name for example in examples for g in example.groups for name in g.members})
    widest = max(len(example.groups) for example in examples)
    most = MAX_NUMBERS // (2 * (widest + 1) * (2 + len(names) + len(EVIDENCE)))
    examples = list(examples)[-max(FEWEST, most) :]
    examples = [*examples, *filter(None, map(_asked_fewer, range(len(examples)), examples))]
    place = {name: 1 + i for i, name in enumerate(names)}
    nobody = 1 + len(names)
    features, right, missing = _features(examples, votes, place, nobody)
    # a column that is the same all over would only be held by its prior
    mean = np.zeros(features.shape[2])
    mean[0] = 1.0
    firm = np.full(features.shape[2], EVIDENCE_WEIGHT)
    firm[0], firm[1:nobody], firm[nobody] = TEMPERATURE_WEIGHT, DEVIATION_WEIGHT, NOBODY_WEIGHT
    fitted = [round(CAUTION * float(x), 4) for x in _newton(features, right, missing, mean, firm)]
    evidence = dict(zip(EVIDENCE, fitted[nobody + 1 :], strict=True))
    return Calibration(
        temperature=fitted[0],
        nobody=fitted[nobody],
        deviations={name: fitted[i] for name, i in place.items()},
        evidence={what: worth for what, worth in evidence.items() if worth},
    )


def _asked_fewer(number: int, example: Example) -> Example | None:
    """Make of a round one in which fewer were asked: what all together tell must hold for a few of them as well.

    Which ones goes round with the number of the example.
    """
    members = sorted({name for g in example.groups for name in g.members})
    if len(members) < 2:
        return None
    count = 1 + number % (len(members) - 1)
    first = number // (len(members) - 1) % len(members)
    asked = {members[(first + i) % len(members)] for i in range(count)}
    left = [(place, [n for n in g.members if n in asked]) for place, g in enumerate(example.groups)]
    places = [place for place, names in left if names]
    groups = [Group(tuple(names), example.groups[place].evidence) for place, names in left if names]
    return Example(tuple(groups), places.index(example.right) if example.right in places else -1)


def _features(
    examples: Sequence[Example], votes: Votes, place: dict[Name, int], nobody: int
) -> tuple[_Array, _Array, _Array]:
    """Write the rounds as arrays: features of shape (rounds, choices, features), the right choice, which are none."""
    widest = max(len(e.groups) for e in examples)
    features = np.zeros((len(examples), widest + 1, nobody + 1 + len(EVIDENCE)))
    right = np.full(len(examples), widest)
    missing = np.zeros((len(examples), widest + 1), dtype=bool)
    shares_of: dict[tuple[Name, ...], tuple[float, dict[Name, float]]] = {}
    for i, example in enumerate(examples):
        for g, group in enumerate(example.groups):
            counted = shares_of.get(group.members)
            if counted is None:
                counted = shares_of[group.members] = votes.shares(group.members)
            total, shares = counted
            row = features[i, g]
            row[0] = total
            for name, share in shares.items():
                row[place[name]] = share
            row[nobody + 1 :] = group.evidence
        features[i, widest, 0] = votes.nobody(len(example.groups))
        features[i, widest, nobody] = 1.0
        missing[i, len(example.groups) : widest] = True
        if example.right >= 0:
            right[i] = example.right
    return features, right, missing


def _newton(features: _Array, right: _Array, missing: _Array, mean: _Array, firm: _Array) -> _Array:
    rows = np.arange(len(right))
    chosen = features[rows, right].sum(axis=0)

    def objective(at: _Array) -> tuple[float, _Array]:
        scores = features @ at
        scores[missing] = -np.inf
        scores -= scores.max(axis=1, keepdims=True)
        chances = np.exp(scores)
        chances /= chances.sum(axis=1, keepdims=True)
        fit = np.log(np.maximum(chances[rows, right], 1e-300)).sum() - 0.5 * (firm * (at - mean) ** 2).sum()
        return float(fit), chances

    at = mean.copy()
    value, chances = objective(at)
    for _ in range(MAX_STEPS):
        expected = np.einsum("ic,icf->if", chances, features)
        slope = chosen - expected.sum(axis=0) - firm * (at - mean)
        weighted = (features * chances[:, :, None]).reshape(-1, features.shape[2])
        curve = weighted.T @ features.reshape(-1, features.shape[2]) - expected.T @ expected + np.diag(firm)
        step = np.linalg.solve(curve, slope)
        new_value, new_chances = objective(at + step)
        while new_value <= value and float(np.abs(step).max()) >= ENOUGH:
            step = step / 2
            new_value, new_chances = objective(at + step)
        if new_value <= value:
            break
        at, value, chances = at + step, new_value, new_chances
    return at
