"""Votes: what agreement is worth, against what is known of juries; and that a confidence can be computed again."""

import math
import random

import msgspec
import pytest

from flows.affinity import Affinities
from flows.votes import Beside, ModelParameters, Parameters, Votes, read_parameters, weight_of
from schemas.node import Answer
from schemas.task import AnswerKind, PayloadView
from tests.flows.voters import (
    answers_of,
    correlated,
    independent,
    judged,
    rounds_of,
    taught_by,
    verdict_on,
)

ROUNDS = 3000
ERROR = 3 * math.sqrt(0.25 / ROUNDS)
"""Three standard errors of a share."""
MEMORY = 0.05
"""What the learned reliabilities are off by: a vote remembers some hundred outcomes."""


def condorcet(voters: int, right: float) -> float:
    """How often the majority of independent voters is right; a tie is decided by a coin (Condorcet 1785)."""
    chances = [math.comb(voters, k) * right**k * (1 - right) ** (voters - k) for k in range(voters + 1)]
    return sum(c * (1.0 if 2 * k > voters else 0.5 if 2 * k == voters else 0.0) for k, c in enumerate(chances))


def figures(votes: Votes, voters: object, asked: int) -> tuple[float, float]:
    """How often the leading answer of the first few is right, and the mean confidence."""
    right = confidence = 0.0
    for answers, _ in rounds_of(voters, ROUNDS, seed=2):  # type: ignore[arg-type]
        result = judged(answers[:asked], votes)
        right += result.answer == "yes"
        confidence += result.confidence
    return right / ROUNDS, confidence / ROUNDS


@pytest.mark.parametrize("asked", [1, 2, 3, 4, 5, 6])
def test_six_independent_voters_give_condorcets_curve(asked: int) -> None:
    """Within sampling error; and the confidence says so."""
    voters = independent(6, 0.6)
    right, confidence = figures(taught_by(voters, 600), voters, asked)
    assert right == pytest.approx(condorcet(asked, 0.6), abs=ERROR + 0.01)
    assert confidence == pytest.approx(right, abs=ERROR + MEMORY)


def test_six_correlated_voters_do_not() -> None:
    """They look at the same thing nine times of ten: six are hardly better than one, and the confidence knows it."""
    voters = correlated(6, 0.6, 0.95)
    votes = taught_by(voters, 600)
    right, confidence = figures(votes, voters, 6)
    assert right < condorcet(6, 0.6) - ERROR
    assert confidence == pytest.approx(right, abs=ERROR + MEMORY)
    assert judged(answers_of([True] * 6), votes).effective_votes < 2.0
    assert judged(answers_of([True] * 6), taught_by(independent(6, 0.6), 600)).effective_votes > 2.0


@pytest.mark.parametrize("right", [0.4, 0.6, 0.8, 0.95])
def test_two_models_that_copy_each_other_are_one(right: float) -> None:
    """Their agreement raises the confidence no more than one of them would."""
    copies = correlated(2, right, 1.0)
    votes = taught_by(lambda rng: [*copies(rng), rng.random() < 0.7], 300)
    alone, both, other = (judged(answers_of([True] * 3)[a:b], votes) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert both.confidence <= max(alone.confidence, other.confidence)
    assert both.effective_votes == pytest.approx(1.0, abs=0.15)
    assert judged(answers_of([True, True, True]), votes).effective_votes > both.effective_votes


def test_copies_are_soon_suspected() -> None:
    """After forty rounds the second adds less than half of what an independent one would."""
    effective = [
        judged(answers_of([True] * 2), taught_by(voters, 40)).effective_votes
        for voters in (correlated(2, 0.7, 1.0), independent(2, 0.7))
    ]
    assert effective[0] - 1.0 < (effective[1] - 1.0) / 2


def test_copies_are_found_without_a_verifier() -> None:
    """Where convergences alone teach: two that err alike add little to each other."""
    rng, affinities = random.Random(3), Affinities()
    decisions = []
    for i in range(400):
        wrong = str(rng.randrange(100, 999))
        copies = "42" if rng.random() < 0.6 else wrong
        texts = [copies, copies, "42", "42", "42"]
        answers = [Answer(node=f"n{k}", model="m", text=text) for k, text in enumerate(texts)]
        judgement = judged(answers, None, PayloadView(prompt="6*7", answer_kind=AnswerKind.NUMBER))
        decision = verdict_on(answers, [t == "42" for t in texts], msgspec.Raw(b'{"prompt":"6*7"}'))
        decisions.append((i, msgspec.structs.replace(decision, result=judgement)))
    affinities.learn(0, decisions)
    votes = affinities.votes("math", 100.0)
    assert votes is not None
    names = (("n0", "m"), ("n1", "m"))
    one, two = (votes.tally(names[:n], (0,) * n).chances[0] for n in (1, 2))
    assert two == pytest.approx(one, abs=0.02)


def test_a_vote_beside_another_adds_what_is_known_of_the_pair() -> None:
    """And all of its own where nothing is."""
    a, b, c = ("a", "m"), ("b", "m"), ("c", "m")
    models = tuple([ModelParameters(*name, weight_of(0.8)) for name in (a, b, c)])
    votes = Votes(Parameters(topic="math", models=models, beside=(Beside(*a, *b, 0.5),)))
    assert votes.shares([a, c])[0] == pytest.approx(2 * weight_of(0.8))
    total, shares = votes.shares([a, b])
    assert total == pytest.approx(weight_of(0.8) + 0.5)
    assert sum(shares.values()) == pytest.approx(1 + 0.5 / weight_of(0.8))


def test_another_sample_of_a_model_is_no_further_vote() -> None:
    """It may say what it likes as often as it likes."""
    votes = Votes(Parameters(topic="math", models=(ModelParameters("a", "m", 2.0),)))
    once, thrice = (votes.tally((("a", "m"),) * n, (0,) * n) for n in (1, 3))
    assert once == thrice


def test_a_confidence_is_computed_again_from_the_parameters_that_a_decision_names() -> None:
    """Byte for byte, whatever was learned since."""
    affinities = Affinities()
    decisions = []
    for i, (said, rights) in enumerate(rounds_of(independent(4, 0.7), 200, seed=1)):
        wrong = [{"sums": 2.0, "wrong_sums": float(not right)} for right in rights]
        answers = [msgspec.structs.replace(a, score=0.1 * (i % 7), signals=s) for a, s in zip(said, wrong, strict=True)]
        decisions.append(verdict_on(answers, rights))
    affinities.learn(0, enumerate(decisions))
    votes = affinities.votes("math", 100.0)
    assert votes is not None
    answers = [
        Answer(node=f"n{i}", model="m", text=t, score=0.3 * i, signals={"sums": 2.0, "wrong_sums": float(i == 1)})
        for i, t in enumerate(["yes", "no", "yes", "no"])
    ]
    first = judged(answers, votes)
    kept = bytes(votes.encoded)
    again = judged(answers, Votes(read_parameters(kept)))
    assert first.parameters == votes.version == Votes(read_parameters(kept)).version
    assert msgspec.json.encode(again) == msgspec.json.encode(first)
    assert read_parameters(kept).evidence


def test_scores_of_unlike_models_are_made_comparable() -> None:
    """One says .9 of everything, the other hardly ever more than .3: what counts is how far it is from usual."""
    rng, affinities = random.Random(4), Affinities()
    for i in range(200):
        boaster, doubter = (
            Answer(node="n0", model="m", text="yes", score=min(1.0, 0.9 + rng.gauss(0, 0.02))),
            Answer(node="n1", model="m", text="yes", score=max(0.0, 0.2 + rng.gauss(0, 0.1))),
        )
        affinities.learn(0, [(i, verdict_on([boaster, doubter], [True, True]))])
    votes = affinities.votes("math", 100.0)
    assert votes is not None
    z = [
        judged([Answer(node=n, model="m", text="yes", score=s)], votes).z_score for n, s in (("n0", 0.86), ("n1", 0.4))
    ]
    assert z[0] == pytest.approx(-2.0, abs=0.5)
    assert z[1] == pytest.approx(2.0, abs=0.5)
    assert judged([Answer(node="n0", model="m", text="yes")], votes).z_score is None
    assert judged([Answer(node="new", model="m", text="yes", score=0.9)], votes).z_score is None
