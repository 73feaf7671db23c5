"""The outlook: what further rounds brought, and what one more answer would."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.outlook import PRIOR_SHARE, TRIED, Outlooks, gain_of_answers
from schemas.decision import Decision, DecisionKind, RoundResult
from schemas.task import Origin, TaskDescriptor

PAYLOAD = msgspec.Raw(b'{"prompt":"?"}')


def round_of(before: float, after: float, index: int = 1, topic: str = "math", calls: int = 2) -> Decision:
    """A further round as read back."""
    result = RoundResult(answer="42", score=after, confidence=after, agreement=1.0, evidence="self")
    return Decision(
        kind=DecisionKind.CONVERGED,
        kafka_topic="tasks.results",
        offset=0,
        task_id=f"t:r{index}",
        topic=topic,
        logical_id="t",
        round_index=index,
        origin=Origin(confidence=before, answer="42"),
        result=result,
        calls=calls,
        cost=0.5,
    )


def task(number: int = 0, topic: str = "math", round_index: int = 0) -> TaskDescriptor:
    """A task that is judged."""
    task_id = f"t{number}:r{round_index}"
    return TaskDescriptor(topic=topic, payload=PAYLOAD, logical_id="t", task_id=task_id, round_index=round_index)


def taught(*decisions: Decision) -> Outlooks:
    """What is known after these."""
    outlooks = Outlooks()
    outlooks.learn(0, enumerate(decisions))
    return outlooks


def gain(outlooks: Outlooks, confidence: float, round_index: int = 0) -> float:
    """The expected gain, but for tasks that go on to try it."""
    found = [outlooks.outlook(task(n, round_index=round_index), confidence, 2, 0.5).gain for n in range(TRIED)]
    return sorted(found)[TRIED // 2]


def test_before_anything_is_known_a_round_is_expected_to_be_worth_trying() -> None:
    """It takes what this one took."""
    outlook = Outlooks().outlook(task(), 0.6, 3, 0.25)
    assert outlook.gain == pytest.approx(PRIOR_SHARE * 0.4)
    assert (outlook.calls, outlook.cost, outlook.price) == (3.0, 0.25, 0.25)


def test_rounds_that_brought_nothing_are_expected_to_bring_nothing() -> None:
    """And those that brought something, something; where they began alike."""
    outlooks = taught(*[round_of(0.6, 0.6)] * 100, *[round_of(0.4, 0.9)] * 100)
    assert gain(outlooks, 0.6) < 0.02
    assert gain(outlooks, 0.3) > 0.4
    assert gain(outlooks, 0.9) == pytest.approx(PRIOR_SHARE * 0.1)
    assert gain(outlooks, 0.6, round_index=1) == pytest.approx(PRIOR_SHARE * 0.4)


def test_a_round_that_does_harm_is_expected_to() -> None:
    """The later answer is the one that counts."""
    assert gain(taught(*[round_of(0.9, 0.5)] * 100), 0.9) < -0.3


def test_what_rounds_take_is_learned() -> None:
    """In calls and in money."""
    outlook = taught(*[round_of(0.6, 0.7, calls=10)] * 100).outlook(task(), 0.6, 1, 0.1)
    assert outlook.calls == pytest.approx(10, abs=0.6)
    assert outlook.cost == pytest.approx(0.5, abs=0.05)


def test_one_task_in_some_goes_on_all_the_same() -> None:
    """The same ones each time; so it is found out when rounds become worth it."""
    outlooks = taught(*[round_of(0.6, 0.6)] * 100)
    tried = [n for n in range(2000) if outlooks.outlook(task(n), 0.6, 2, 0.0).gain == pytest.approx(0.4)]
    assert len(tried) == pytest.approx(2000 / TRIED, rel=0.4)
    assert tried == [n for n in range(2000) if outlooks.outlook(task(n), 0.6, 2, 0.0).gain == pytest.approx(0.4)]


def test_first_rounds_and_a_replay_teach_nothing() -> None:
    """What was learned from before is skipped."""
    once = taught(*[round_of(0.6, 0.6)] * 5)
    again = taught(*[round_of(0.6, 0.6)] * 5)
    again.learn(0, enumerate([round_of(0.6, 0.9)] * 5))
    assert again.encoded() == once.encoded()
    assert gain(taught(*[round_of(0.6, 0.6, index=0)] * 50), 0.6) == pytest.approx(PRIOR_SHARE * 0.4)


def test_what_was_learned_survives_a_restart() -> None:
    """To the last digit."""
    first = taught(*[round_of(0.6, 0.7)] * 9, *[round_of(0.6, 0.7, topic="logic", index=5)] * 9)
    again = Outlooks()
    again.restore(first.encoded())
    assert again.encoded() == first.encoded()
    with pytest.raises(ValueError, match="Expected"):
        again.restore(b'{"gains": 3}')


def test_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one seen longest ago is forgotten."""
    monkeypatch.setattr("flows.outlook.MAX_TOPICS", 2)
    outlooks = taught(*[round_of(0.6, 0.6, topic=t) for t in ("a", "b", "a", "c")])
    assert b'"topic":"b"' not in outlooks.encoded()
    assert b'"topic":"a"' in outlooks.encoded()


@pytest.mark.parametrize(
    "chances, reliability, expected",
    [
        ([1.0], 0.9, 0.0),  # nothing is missing
        ([0.5, 0.5], 1.0, 0.5),  # one that knows decides between two
        ([0.9], 0.0909, 0.0),  # one that guesses
        ([0.6], 1.0, 0.4),  # one that knows finds the other answer too
    ],
)
def test_what_one_more_answer_brings(chances: list[float], reliability: float, expected: float) -> None:
    """By hand, with ten alternatives."""
    assert gain_of_answers(chances, [reliability], 10.0) == pytest.approx(expected, abs=1e-3)


@given(st.lists(st.floats(0, 1), max_size=4), st.floats(0, 1), st.floats(1, 20))
def test_one_more_answer_never_does_harm_and_never_brings_more_than_is_missing(
    weights: list[float], reliability: float, alternatives: float
) -> None:
    """Who expects harm may leave it aside."""
    whole = sum(weights) + 1.0
    chances = [w / whole for w in weights]
    gained = gain_of_answers(chances, [reliability], alternatives)
    assert 0.0 <= gained <= 1.0 - max(chances, default=0.0) + 1e-9


def test_the_expected_gain_is_what_comes_out() -> None:
    """A simulation of voters agrees with the formula."""
    rng = random.Random(1)
    chances, reliability, alternatives = [0.5, 0.3], 0.8, 4
    right = 0
    for _ in range(40_000):
        draw = rng.random()
        truth = 0 if draw < 0.5 else 1 if draw < 0.8 else rng.randrange(2, 5)
        others = [a for a in range(5) if a != truth]
        says = truth if rng.random() < reliability else rng.choice(others)
        prior = [0.5, 0.3, 0.2 / 3, 0.2 / 3, 0.2 / 3]
        after = [p * (reliability if a == says else (1 - reliability) / alternatives) for a, p in enumerate(prior)]
        right += after.index(max(after)) == truth
    assert right / 40_000 - 0.5 == pytest.approx(gain_of_answers(chances, [reliability], alternatives), abs=0.01)


def test_a_second_opinion_brings_nothing_that_a_third_does_not_decide() -> None:
    """Of equals: two are no better than one, as of an even jury and the odd one before it; three are."""
    one, two = (gain_of_answers([0.6], [0.6] * count, 10.0) for count in (1, 2))
    assert one == pytest.approx(0.0)
    assert two > 0.1
