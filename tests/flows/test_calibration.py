"""Calibration: verdicts correct what the votes claim, and a few of them do little."""

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.affinity import Affinities
from flows.calibration import FEWEST, Calibration, Example, Group, calibrate
from flows.evidence import EVIDENCE
from flows.votes import ModelParameters, Parameters, Votes, weight_of
from tests.flows.voters import answers_of, independent, judged, rounds_of, taught_by, verdict_on

A, B = ("a", "m"), ("b", "m")
PLAIN = Votes(Parameters(topic="t", models=(ModelParameters(*A, weight_of(0.8)), ModelParameters(*B, weight_of(0.8)))))
NOTHING = (0.0,) * len(EVIDENCE)


def told(right: int, *groups: tuple[tuple[str, str], ...], **evidence: float) -> Example:
    """A round with its verdict; the evidence is of the first group."""
    first = tuple([evidence.get(what, 0.0) for what in EVIDENCE])
    return Example(tuple([Group(g, NOTHING if i else first) for i, g in enumerate(groups)]), right)


def test_without_verdicts_the_votes_stay_what_they_are() -> None:
    """And with fewer than a handful."""
    assert calibrate([], PLAIN) == Calibration()
    assert calibrate([told(0, (A,))] * (FEWEST - 1), PLAIN) == Calibration()


def test_a_model_that_verdicts_bear_out_counts_more() -> None:
    """Than the vote says by itself."""
    fitted = calibrate([told(0, (A,), (B,))] * 60, PLAIN)
    assert fitted.deviations[A] > 0.5
    assert fitted.deviations[B] < -0.5


def test_where_nobody_is_right_the_sum_of_all_other_answers_gains() -> None:
    """However many agree."""
    assert calibrate([told(-1, (A, B))] * 40, PLAIN).nobody > 0.5


def test_evidence_counts_as_verdicts_say() -> None:
    """A sum that does not come out goes with a wrong answer; a number that is not whole tells nothing."""
    rng = random.Random(1)
    rounds = []
    for _ in range(300):
        wrong_sum, not_whole = rng.random() < 0.3, rng.random() < 0.5
        right = rng.random() < (0.1 if wrong_sum else 0.8)
        rounds.append(told(0 if right else -1, (A,), (B,), wrong_sums=float(wrong_sum), not_whole=float(not_whole)))
    worth = calibrate(rounds, PLAIN).evidence
    assert worth["wrong_sums"] < -1.5
    assert abs(worth["not_whole"]) < 0.8


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from([A, B, ("c", "m"), ("d", "m")]), min_size=1),
            st.integers(-1, 0),
            st.lists(st.floats(-4, 4), min_size=len(EVIDENCE), max_size=len(EVIDENCE)),
        ),
        max_size=40,
    )
)
def test_a_fit_always_ends_in_finite_numbers(rounds: list[tuple[set[tuple[str, str]], int, list[float]]]) -> None:
    """Though a column is the same all over, or parts right and wrong cleanly."""
    examples = [Example((Group(tuple(sorted(m)), tuple(e)),), right) for m, right, e in rounds]
    fitted = calibrate(examples, PLAIN)
    numbers = [fitted.temperature, fitted.nobody, *fitted.deviations.values(), *fitted.evidence.values()]
    assert np.isfinite(numbers).all()
    assert max(map(abs, numbers)) < 60.0


@pytest.mark.parametrize("rounds, off", [(600, 0.04), (60, 0.12), (20, 0.16)])
def test_confidence_is_how_often_the_answer_is_right(rounds: int, off: float) -> None:
    """Whatever it is learned from, it is close; and after few verdicts it errs on the side of doubt."""
    voters = independent(3, 0.8)
    votes = taught_by(voters, rounds)
    confidences, rights = [], []
    for answers, _ in rounds_of(voters, 3000, seed=9):
        result = judged(answers, votes)
        confidences.append(result.confidence)
        rights.append(result.answer == "yes")
    assert np.mean(confidences) == pytest.approx(np.mean(rights), abs=off)
    sure = np.array(confidences) >= 0.95
    if sure.any():
        assert np.array(rights)[sure].mean() >= 0.93


def test_what_was_calibrated_survives_a_restart() -> None:
    """The rounds with verdicts are kept with all else."""
    affinities = Affinities()
    affinities.learn(0, enumerate(verdict_on(a, r) for a, r in rounds_of(independent(3, 0.8), 100, seed=1)))
    again = Affinities()
    again.restore(affinities.encoded())
    first, second = affinities.votes("math", 5000.0), again.votes("math", 5000.0)
    assert first is not None
    assert second is not None
    assert first.parameters == second.parameters
    assert first.parameters.temperature != 1.0


def test_what_a_fit_takes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many models there are, and answers: the last rounds do, and a handful in any case."""
    before, last = [told(0, (A,), (B,))] * 100, [told(1, (A,), (B,))] * 40
    numbers = 2 * 3 * (2 + 2 + len(EVIDENCE))
    monkeypatch.setattr("flows.calibration.MAX_NUMBERS", 40 * numbers)
    assert calibrate([*before, *last], PLAIN) == calibrate(last, PLAIN)
    monkeypatch.setattr("flows.calibration.MAX_NUMBERS", 1)
    assert calibrate([*before, *last], PLAIN) == calibrate(last[:FEWEST], PLAIN)


def test_rounds_with_verdicts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topic that was seen longest ago gives up its own first."""
    monkeypatch.setattr("flows.affinity.MAX_EXAMPLES_IN_ALL", 25)
    affinities = Affinities()
    for place, topic in enumerate("abc"):
        decisions = [
            msgspec.structs.replace(verdict_on(answers_of([True, False]), [True, False]), topic=topic)
            for _ in range(10)
        ]
        affinities.learn(0, enumerate(decisions, place * 10))
    assert [len(t.examples) for t in affinities.state().topics] == [0, 10, 10]
