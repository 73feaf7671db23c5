"""What else was accepted, what a round took, how the topic fares."""

import msgspec
import pytest

from flows.accepted import Accepted
from flows.budget import Spent
from flows.supervision.case import Health
from flows.supervision.course import Budget, Contradiction, TopicHealth
from schemas.decision import Finding, FindingAction, RoundResult
from schemas.task import Allowance, AnswerKind
from tests.flows.supervision.cases import case


@pytest.mark.parametrize(
    "kind,record,answer,contradicts",
    [
        (AnswerKind.NUMBER, "42", "41", True),
        (AnswerKind.NUMBER, "42", "42.0", False),
        (AnswerKind.CHOICE, "(B)", "c", True),
        (AnswerKind.CHOICE, "(B)", "b.", False),
        (AnswerKind.TEXT, "a poem", "another poem", False),
        (AnswerKind.NUMBER, None, "41", False),
        (AnswerKind.NUMBER, "nan", "nan", False),
        (AnswerKind.EXPRESSION, "x+1", "x+2", True),
        (AnswerKind.CODE, "x = 1", "x = 2", False),
    ],
)
def test_another_answer_than_the_record_is_a_contradiction(
    kind: AnswerKind, record: str | None, answer: str, *, contradicts: bool
) -> None:
    """Another spelling is none; nor is another text, nor what is too long to be remembered."""
    known = Accepted("first", record, "cross-model")
    found = Contradiction().examine(case(answer, kind, look_up=lambda: known))
    assert (found is not None) is contradicts
    assert found is None or (found.action, found.evidence) == ("flag", f"first: {record}")


def test_without_a_record_nothing_is_contradicted() -> None:
    """Most questions are asked once."""
    assert Contradiction().examine(case("41", AnswerKind.NUMBER)) is None


@pytest.mark.parametrize(
    "spent,allowance,what",
    [
        (Spent(calls=3), Allowance(calls=5), "calls"),
        (Spent(calls=3, tokens=600), Allowance(calls=9, tokens=1000), "tokens"),
        (Spent(cost=0.6), Allowance(cost=1.0), "funds"),
        (Spent(calls=3), Allowance(calls=6), ""),
        (Spent(tokens=500), Allowance(tokens=1000), ""),
        (Spent(tokens=501), Allowance(tokens=1000), "tokens"),
        (Spent(cost=0.5), Allowance(cost=1.0), ""),
        (Spent(cost=3.0), Allowance(cost=4.0), "funds"),
        (Spent(cost=1.0), Allowance(cost=4.0), ""),
        (Spent(calls=3, tokens=600, cost=9.0), Allowance(), ""),
    ],
)
def test_a_round_that_took_most_of_what_there_was_is_noted(spent: Spent, allowance: Allowance, what: str) -> None:
    """Another one like it would not be paid."""
    found = Budget(share=0.5).examine(case("42", spent=spent, allowance=allowance))
    assert (found.reason if found is not None else "") == (
        f"the round took more than 50% of the {what} that were left" if what else ""
    )


def test_a_share_and_a_number_of_results_have_bounds() -> None:
    """More than nothing, and no more than all; what is remembered of a topic is the most."""
    rules: tuple[type[Budget | TopicHealth], ...] = (Budget, TopicHealth)
    for rule in rules:
        for share in (0.0, -0.1, 1.1):
            with pytest.raises(msgspec.ValidationError, match="share"):
                msgspec.convert({"share": share}, rule)
        assert msgspec.convert({"share": 1.0}, rule).share == 1.0
    assert (Budget().share, TopicHealth().share, TopicHealth().last) == (0.5, 0.5, 20)
    for last in (0, 1001):
        with pytest.raises(msgspec.ValidationError, match="last"):
            msgspec.convert({"last": last}, TopicHealth)
    assert [msgspec.convert({"last": last}, TopicHealth).last for last in (1, 1000)] == [1, 1000]


def rejected(*, before: Health, by: FindingAction = "reject") -> Finding | None:
    """What is said of a result that an earlier policy has judged."""
    finding = Finding(policy="mine", action=by, reason="so")
    result = RoundResult(answer="42", score=0.0, confidence=0.9, agreement=1.0, evidence="self", findings=(finding,))
    return TopicHealth(last=10, share=0.5, pause_s=60).examine(
        case("42", result=result, get_health=lambda _topic, _last: before)
    )


def test_a_topic_is_stopped_when_most_of_its_results_are_rejected() -> None:
    """For as long as the file says."""
    found = rejected(before=Health(rejected=5, examined=9))
    assert found is not None
    assert (found.action, found.pause_s) == ("stop_topic", 60.0)
    assert found.reason == "of the last 10 results of the topic 6 were rejected"
    asked: list[tuple[str, int]] = []

    def health(topic: str, last: int) -> Health:
        asked.append((topic, last))
        return Health(0, last)

    finding = Finding(policy="mine", action="stop_topic", reason="so")
    result = msgspec.structs.replace(case("42").result, findings=(finding,))
    first = case("42", result=result, get_health=health)
    for last, stops in ((10, False), (2, False), (1, True)):
        assert (TopicHealth(last=last).examine(first) is not None) is stops
    assert TopicHealth(last=1, share=1.0).examine(first) is not None
    assert TopicHealth(last=2, share=0.4).examine(first) is not None
    assert asked == [("math", 9), ("math", 1), ("math", 0), ("math", 0), ("math", 1)]
    assert found.policy == "topic_health(share=0.5, last=10, pause_s=60, stop_topic)"


def test_a_topic_goes_on_while_few_are_rejected_or_little_is_known() -> None:
    """Nor is one stopped by a good result."""
    assert rejected(before=Health(rejected=4, examined=9)) is None
    assert rejected(before=Health(rejected=8, examined=8)) is None
    assert rejected(before=Health(rejected=9, examined=9), by="flag") is None
    assert TopicHealth().examine(case("42", get_health=lambda _topic, _last: Health(19, 19))) is None
