"""What becomes of a task after a round."""

from typing import Any

import msgspec
import pytest

from flows.judgement import (
    NO_RESULT,
    Judgement,
    before_of,
    carried,
    critique,
    has_failed,
    judge,
    situation_of,
)
from flows.policies import Outlook, Situation, Verdict
from schemas.decision import Before, DecisionKind, Finding, FindingAction, RoundResult
from schemas.node import Answer
from schemas.task import AnswerKind, Origin, PayloadView

ACCEPTS = Verdict(converged=True, reason="good")
GOES_ON = Verdict(converged=False, reason="not good")
FORCED = Verdict(converged=True, reason="3 rounds spent", forced=True)
EXHAUSTED = Verdict(converged=False, reason="not verified", exhausted=True)
RESULT = RoundResult(answer="42", score=0.5, confidence=0.6, agreement=1.0, evidence="cross-model")
BEFORE = Before(answer="7", score=0.3, confidence=0.4, calls=3, tokens=5, cost=0.1)


class Says:
    """A policy that says this."""

    name = "says"

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def judge(self, result: RoundResult, situation: Situation) -> Verdict:
        """Say it."""
        del result, situation
        return self._verdict


def judged(verdict: Verdict, result: RoundResult = RESULT, round_index: int = 0, **options: Any) -> Judgement:
    """The judgement, of three rounds."""
    return judge(Says(verdict), result, Situation(round_index=round_index), max_rounds=3, **options)


def found(*actions: FindingAction) -> RoundResult:
    """A result of which supervision found this."""
    findings = tuple([Finding(policy="mine", action=a, reason=f"to {a}") for a in actions])
    return msgspec.structs.replace(RESULT, findings=findings, flags=("one", "two"))


def test_what_the_policy_says_is_done() -> None:
    """Where nothing else speaks."""
    assert judged(ACCEPTS) == Judgement(kind=DecisionKind.CONVERGED, reason="good", result=RESULT)
    assert judged(GOES_ON) == Judgement(kind=DecisionKind.NEXT_ROUND, reason="not good", result=RESULT)
    assert judged(FORCED) == Judgement(kind=DecisionKind.CONVERGED, reason="3 rounds spent", forced=True, result=RESULT)
    assert judged(EXHAUSTED) == Judgement(
        kind=DecisionKind.DEAD, reason="not_accepted", detail="not verified", result=RESULT
    )


def test_a_rejected_result_never_converges() -> None:
    """It takes another round, and in the last one, or where its topic is stopped, it is dead with what was found."""
    rejected = found("flag", "reject")
    for round_index in (0, 1):
        again = judged(ACCEPTS, rejected, round_index)
        assert (again.kind, again.reason, again.detail) == (DecisionKind.NEXT_ROUND, "rejected", "")
    for dead in (
        judged(ACCEPTS, rejected, 2),
        judged(ACCEPTS, rejected, spent="calls spent"),
        judged(GOES_ON, found("stop_topic")),
    ):
        assert (dead.kind, dead.reason, dead.detail) == (DecisionKind.DEAD, "rejected", "one; two")
        assert not dead.forced
    assert judged(ACCEPTS, found("flag")).kind is DecisionKind.CONVERGED


def test_more_reasoning_is_another_round_unless_there_is_none() -> None:
    """Nor where the policy only takes it because the rounds are spent."""
    wanted = found("more_reasoning")
    assert judged(ACCEPTS, wanted, 1) == Judgement(
        kind=DecisionKind.NEXT_ROUND, reason="to more_reasoning", result=wanted
    )
    assert judged(ACCEPTS, wanted, 2).kind is DecisionKind.CONVERGED
    assert judged(ACCEPTS, wanted, spent="calls spent").kind is DecisionKind.CONVERGED
    assert judged(FORCED, wanted).kind is DecisionKind.CONVERGED
    assert judged(GOES_ON, wanted).reason == "not good"


def test_a_spent_budget_forces_what_there_is() -> None:
    """Unless the policy takes it anyway, or takes nothing less."""
    spent = judged(GOES_ON, spent="calls spent")
    assert (spent.kind, spent.reason, spent.forced) == (DecisionKind.CONVERGED, "calls spent", True)
    assert not judged(ACCEPTS, spent="calls spent").forced
    assert judged(ACCEPTS, spent="calls spent").reason == "good"
    assert judged(EXHAUSTED, spent="calls spent").reason == "not_accepted"


def test_no_policy_goes_on_when_the_rounds_are_spent() -> None:
    """One of the user's own that is never content would ask for ever."""
    assert judged(GOES_ON, round_index=1).kind is DecisionKind.NEXT_ROUND
    assert judged(GOES_ON, round_index=2) == judged(FORCED, round_index=2)


def test_where_nobody_answers_in_the_end_an_earlier_answer_counts() -> None:
    """Said by nobody else, and with a warning; without one the task is dead."""
    taken = judged(FORCED, NO_RESULT, 2, before=BEFORE)
    assert (taken.kind, taken.forced) == (DecisionKind.CONVERGED, True)
    assert (taken.result.answer, taken.result.score, taken.result.evidence) == ("7", 0.3, "self")
    assert taken.result.confidence == BEFORE.confidence
    assert taken.result.warnings == ("no answer in round 2; the record has that of an earlier round",)
    warned = msgspec.structs.replace(NO_RESULT, warnings=("first",))
    assert judged(FORCED, warned, 2, before=BEFORE).result.warnings[0] == "first"
    for before in (None, Before()):
        dead = judged(FORCED, NO_RESULT, 2, before=before)
        assert (dead.kind, dead.reason, dead.detail, dead.forced) == (
            DecisionKind.DEAD,
            "no_answer",
            "every model abstained or failed",
            True,
        )
        assert dead.result == NO_RESULT
    assert (NO_RESULT.score, NO_RESULT.confidence, NO_RESULT.agreement) == (0.0, 0.0, 0.0)
    spent = judged(GOES_ON, NO_RESULT, spent="calls spent")
    assert (spent.kind, spent.reason, spent.detail) == (DecisionKind.DEAD, "budget_spent", "calls spent")
    assert judged(ACCEPTS, RESULT, before=BEFORE).result.answer == "42"


def test_a_round_has_failed_when_all_of_its_calls_have() -> None:
    """One that abstained has said something."""
    failed, silent = (Answer(node="a", model="m", status=s) for s in ("failed", "abstained"))
    assert has_failed([failed, failed])
    assert not has_failed([failed, silent])
    assert not has_failed([silent, failed])


@pytest.mark.parametrize("answer,stable", [("42", True), ("42.0", True), ("41", False), (None, False), ("43", False)])
def test_a_policy_is_told_of_the_round_before(answer: str | None, stable: bool) -> None:  # noqa: FBT001
    """Whether its answer was equivalent, as the question compares."""
    view = PayloadView(prompt="6*7", answer_kind=AnswerKind.NUMBER)
    outlook = Outlook(0.1, 1.0, 0.0)
    result = msgspec.structs.replace(RESULT, answer=answer)
    before = msgspec.structs.replace(BEFORE, answer="42")
    situation = situation_of(1, view, result, before, outlook)
    assert situation.round_index == 1
    assert situation.outlook is outlook
    assert situation.is_stable is stable
    near = msgspec.structs.replace(view, tolerance=0.05)
    assert situation_of(1, near, result, before, None).is_stable is (answer is not None)
    for nothing in (None, Before()):
        first = situation_of(1, view, result, nothing, outlook)
        assert (first.round_index, first.outlook, first.is_stable) == (1, outlook, False)


def test_what_is_no_answer_is_never_stable() -> None:
    """It is equivalent to nothing, not even to itself."""
    view = PayloadView(prompt="6*7", answer_kind=AnswerKind.NUMBER)
    result = msgspec.structs.replace(RESULT, answer="nan")
    before = msgspec.structs.replace(BEFORE, answer="nan")
    assert not situation_of(1, view, result, before, None).is_stable


def test_a_message_tells_of_the_rounds_before() -> None:
    """All of it; the first one has none."""
    origin = Origin(answer="7", score=0.3, confidence=0.4, calls=3, tokens=5, cost=0.1)
    assert before_of(origin) == BEFORE
    assert before_of(None) is None


def test_the_next_round_is_told_of_the_best_answer_so_far() -> None:
    """Never of a rejected one; what was spent stays."""
    assert carried(RESULT, BEFORE) == Before(answer="42", score=0.5, confidence=0.6, calls=3, tokens=5, cost=0.1)
    for nothing in (None, NO_RESULT, found("reject")):
        assert carried(nothing, BEFORE) == BEFORE
    assert carried(NO_RESULT, None) == Before()
    assert carried(RESULT, None) == Before(answer="42", score=0.5, confidence=0.6)


def said(text: str, **fields: Any) -> Answer:
    """One answer."""
    return Answer(node="n", model="m", text=text, **fields)


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"answer": None}, "Nobody gave an answer."),
        ({"flags": ("it is short", "it is late")}, "It was flagged: it is short. It was flagged: it is late."),
        ({"verified": False, "verifier": "sums"}, "The check 'sums' does not accept it."),
        ({"verified": True, "verifier": "sums"}, ""),
        ({"candidates": (said("42"),), "leading": (0,)}, "Only one model gave an answer, so nothing confirms it."),
        ({"candidates": (said("42"), said("42")), "leading": (0, 1)}, ""),
        (
            {
                "candidates": (said("7"), said("42"), said("", status="abstained"), said("no", status="failed")),
                "leading": (1,),
            },
            "1 of 2 answers say so. Others say: 7.",
        ),
        (
            {"candidates": (said("42"), *map(said, ("1", "2\n 2", "1", "3", "4"))), "leading": (0,)},
            "1 of 6 answers say so. Others say: 1; 2 2; 3.",
        ),
        (
            {"candidates": (said("42"), said("x" * 80), said("y" * 81)), "leading": (0,)},
            f"1 of 3 answers say so. Others say: {'x' * 80}; {'y' * 80}….",
        ),
    ],
)
def test_the_next_round_is_told_what_was_found_wrong(fields: dict[str, Any], told: str) -> None:
    """At most three other answers, each cut; nothing of who failed or abstained."""
    assert critique(msgspec.structs.replace(RESULT, **fields)) == told


def test_what_may_not_be_quoted_is_counted_and_not_told() -> None:
    """Nor does it take the place of one that may be."""
    result = msgspec.structs.replace(RESULT, candidates=tuple(map(said, ("42", "bad", "1", "2", "3"))), leading=(0,))
    assert critique(result, lambda text: text != "bad") == "1 of 5 answers say so. Others say: 1; 2; 3."
    assert critique(result, lambda _text: False) == "1 of 5 answers say so."
