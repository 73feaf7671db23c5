"""Votes: what agreement is worth, against what is known of juries; and that a confidence can be computed again."""

import math
import random
import re
from typing import Any

import msgspec
import pytest

from flows import votes
from flows.affinity import Affinities
from flows.votes import Beside, ModelParameters, Parameters, Tally, Votes, read_parameters, weight_of
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


# -- to the digit --------------------------------------------------------------------------------------------------

A, B, C, D = (("a", "m"), ("b", "m"), ("c", "m"), ("d", "m"))


def weighing(*weights: tuple[tuple[str, str], float], **fields: Any) -> Votes:
    """Votes of models of these weights; nearly nothing is left for what nobody gave."""
    models = tuple([ModelParameters(*name, weight) for name, weight in weights])
    return Votes(Parameters(**{"topic": "math", "models": models, "nobody": -50.0, **fields}))


def test_a_vote_counts_what_its_reliability_says_within_bounds() -> None:
    """Log(r·m / (1 - r)), with ten other answers where nothing else is known."""
    assert weight_of(0.6) == pytest.approx(math.log(15))
    assert weight_of(0.8, 1.0) == pytest.approx(math.log(4))
    assert weight_of(0.0) == weight_of(0.02) == pytest.approx(math.log(0.2 / 0.98))
    assert weight_of(0.03) > weight_of(0.02)
    assert weight_of(1.0) == weight_of(0.98) == pytest.approx(math.log(490))
    assert weight_of(0.97) < weight_of(0.98)


def test_what_nobody_gave_weighs_as_many_answers_as_are_left() -> None:
    """And hardly anything where more were given than there are thought to be."""
    votes = Votes(Parameters(topic="math"))
    assert votes.nobody(1) == pytest.approx(math.log(10))
    assert votes.nobody(10) == pytest.approx(0.0)
    assert votes.nobody(11) == votes.nobody(12) == pytest.approx(math.log(0.05))
    assert Votes(Parameters(topic="math", alternatives=1.0)).nobody(1) == pytest.approx(0.0)


def test_parameters_that_say_nothing_are_a_plain_vote() -> None:
    """Also those that were written long ago."""
    votes = Votes(read_parameters(b'{"topic":"math"}'))
    assert votes.parameters.format == 1
    assert votes.tally((A, B), (0, 0)) == Tally((0.957447,), (2.0,), 0)
    assert votes.tally((A, B, C), (0, 1, 0)).chances == (0.903614, 0.060241)
    plain = Votes(read_parameters(b'{"topic":"math","models":[["a","m",2.0]]}'))
    assert plain.parameters.models[0] == ModelParameters("a", "m", 2.0, 0.0, 0.0, 0.0)
    assert plain.z_score(A, 0.5) is None
    with pytest.raises(ValueError, match="topic"):
        read_parameters(b"{}")
    with pytest.raises(ValueError, match="they have version 9, and this software reads 1"):
        read_parameters(b'{"topic":"math","format":9}')


def test_the_version_of_parameters_does_not_depend_on_the_order_of_their_evidence() -> None:
    """It is that of what they say."""
    one, other = (Votes(Parameters(topic="math", evidence=e)) for e in ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}))
    assert one.version == other.version
    assert re.fullmatch("sha256-[0-9a-f]{64}", one.version)
    assert one.version != Votes(Parameters(topic="logic", evidence={"a": 1.0, "b": 2.0})).version
    assert Votes(one.parameters, 3.0).made_at == 3.0


def test_a_chance_is_a_share_of_all_scores() -> None:
    """Each with its temperature, what verdicts add to its models, and what its answers say."""
    models = (ModelParameters("a", "m", 2.0, 0.5), ModelParameters("b", "m", 1.0, -0.25))
    fields: dict[str, Any] = {
        "models": models,
        "temperature": 0.5,
        "nobody": 0.75,
        "evidence": {"sums": 2.0, "z": -1.0},
    }
    votes = Votes(Parameters(topic="math", **fields))
    evidence = [{"sums": 0.5, "z": 0.25}, {"sums": 0.0, "z": 1.0}]
    first = 0.5 * (2.0 + weight_of(0.6)) + 0.5 + 2.0 * 0.5 - 0.25
    second = 0.5 * 1.0 - 0.25 - 1.0
    nobody = 0.5 * math.log(9) + 0.75
    whole = math.exp(first) + math.exp(second) + math.exp(nobody)
    tally = votes.tally((A, B, C), (0, 1, 0), evidence)
    assert tally.chances == (round(math.exp(first) / whole, 6), round(math.exp(second) / whole, 6))
    assert tally.effective == (2.0, 1.0)
    without = votes.tally((A, B, C), (0, 1, 0))
    assert without.chances != tally.chances
    assert votes.tally((A, B, C), (0, 1, 0), [{"sums": 0.0, "z": 0.0}] * 2).chances == without.chances
    assert votes.tally((A, B, C), (0, 1, 0)) == without
    assert votes.tally((A, B, C), (0, 1, 1)) != without


def test_the_weightiest_vote_is_no_more_than_certain() -> None:
    """However much it weighs."""
    assert weighing((A, 800.0), (B, -800.0)).tally((A, B), (0, 1)).chances == (1.0, 0.0)
    assert weighing((A, -800.0), nobody=800.0).tally((A,), (0,)).chances == (0.0,)


def test_of_several_votes_that_were_given_before_the_one_that_tells_most_of_it_counts() -> None:
    """The weightiest vote goes first; what another adds to it is told by the pair, in that order."""
    beside = (Beside(*B, *A, 0.1), Beside(*C, *A, -0.5), Beside(*C, *B, 0.1), Beside(*A, *B, 9.0))
    votes = weighing((A, 3.0), (B, 2.0), (C, 1.0), beside=beside)
    total, shares = votes.shares([C, A, B, A])
    assert shares == {A: 1.0, B: pytest.approx(0.05), C: pytest.approx(0.1)}
    assert total == pytest.approx(3.2)
    third = weighing((A, 3.0), (B, 3.0), beside=(Beside(*A, *B, 1.0), Beside(*B, *A, 1.0)))
    assert third.tally((A, B), (0, 0)).effective == (1.333,)
    assert weighing((A, 0.0)).shares([A]) == (0.0, {A: 1.0})
    assert votes.tally((A, B, C), (0, 0, 0)).effective == (1.15,)


def test_a_models_score_is_compared_with_what_it_usually_gives() -> None:
    """In its own standard deviations."""
    votes = Votes(Parameters(topic="math", models=(ModelParameters("a", "m", 1.0, 0.0, 0.5, 0.2),)))
    assert votes.z_score(A, 0.9) == pytest.approx(2.0)
    assert votes.z_score(A, 0.4) == pytest.approx(-0.5)
    assert votes.z_score(B, 0.9) is None


@pytest.mark.parametrize(
    "best,second,third,leading",
    [
        (4.0, 2.4, 2.4, 1),  # twice as likely as the answer of the best
        (4.0, 3.0, 3.0, 0),  # seven times
        (4.0, 3.5, 0.9, 1),  # it is the best by as much as it takes
        (3.9, 3.5, 0.9, 0),  # and here by less
        (4.0, 2.0, 2.0 + math.log(3), 1),  # three times as likely, and not more
        (4.0, 1.0, 1.0, 1),  # it is the likeliest itself
    ],
)
def test_a_model_that_clearly_does_best_is_deferred_to(best: float, second: float, third: float, leading: int) -> None:
    """Unless another answer is more than three times as likely as its own."""
    votes = weighing((A, best), (B, second), (C, third))
    assert votes.tally((B, C, A), (0, 0, 1)).leading == leading


def test_how_well_a_model_does_is_what_its_vote_counts_by_itself() -> None:
    """With its temperature, and what verdicts add; one model, or one answer, is nobody to choose among."""
    models = (ModelParameters("a", "m", 2.0, 1.5), ModelParameters("b", "m", 4.0), ModelParameters("c", "m", 3.4))
    votes = Votes(Parameters(topic="math", models=models, temperature=0.5, nobody=-50.0))
    assert (
        votes.tally((B, C, A), (0, 0, 1)).leading == 0
    )  # 2.0, 1.7 and 2.5: by 0.5; 3.7 to 2.5 is more than three times
    assert votes.tally((B, A), (0, 1)).leading == 1
    assert votes.tally((C, B), (0, 1)).leading == 1
    for weight, leading in ((3.5, 1), (3.0, 0)):  # beside 2.7 of a model of which nothing is known
        known = weighing((A, weight), evidence={"doubt": -1.0})
        assert known.tally((D, A), (0, 1), [{"doubt": 0.0}, {"doubt": 1.0}]).leading == leading
    two = weighing((A, 4.0), (B, 3.4), evidence={"doubt": -1.0})
    assert two.tally((B, A), (0, 1), [{"doubt": 0.0}, {"doubt": 1.0}]).leading == 1
    assert weighing((A, 1.0)).tally((A, A, A), (0, 1, 1)).leading == 0
    assert weighing((A, 4.0), (B, 1.0)).tally((A, B), (0, 0)).leading == 0
    assert weighing().tally((A, B), (0, 1)).leading == 0
    assert weighing((A, 4.0)).tally((A, B, A), (0, 1, 1)).leading == 1


def test_sums_without_number_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for which there is none are the same each time."""
    monkeypatch.setattr(votes, "MAX_TALLIES", 1)
    asked = taught_by(independent(3, 0.8), 50)
    names = tuple(sorted((p.node, p.model) for p in asked.parameters.models))
    first, second = asked.tally(names, (0, 0, 1)), asked.tally(names, (0, 1, 1))
    assert asked.tally(names, (0, 0, 1)) is first
    assert asked.tally(names, (0, 1, 1)) is not second
    assert asked.tally(names, (0, 1, 1)).chances == second.chances
