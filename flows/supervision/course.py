"""Policies that look at the course of things: what else was accepted, what it costs, how the topic fares."""

from typing import Annotated, ClassVar

from msgspec import Meta

from flows.budget import Spent
from flows.comparing.equivalence import group
from flows.supervision.case import Case, Rule
from flows.supervision.health import REMEMBERED
from schemas.decision import Finding, FindingAction
from schemas.task import Allowance, AnswerKind

Share = Annotated[float, Meta(gt=0, le=1)]

_COMPARABLE = frozenset({AnswerKind.NUMBER, AnswerKind.CHOICE, AnswerKind.EXPRESSION})


class Contradiction(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same question, on the same topic, has a record with another answer.

    Only numbers, choices and expressions are compared: two good texts or programs need not be alike.
    """

    USE: ClassVar[str] = "contradiction"

    def examine(self, case: Case) -> Finding | None:
        """Compare with the record."""
        if case.view.answer_kind not in _COMPARABLE:
            return None
        accepted = case.look_up()
        if accepted is None or accepted.answer is None or accepted.answer == case.result.answer:
            return None
        if group(case.view.answer_kind, [accepted.answer, case.answer]) == [0, 0]:
            return None
        told = f"{accepted.logical_id}: {accepted.answer}"
        return self.finding("the same question has a record with another answer", told)


class Budget(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A round that took more than a share of what the task might spend in it.

    With the action `accept`, what comes after it in the list is not asked, so that `more_reasoning` costs nothing then.
    """

    USE: ClassVar[str] = "budget"

    share: Share = 0.5

    def examine(self, case: Case) -> Finding | None:
        """Compare what the round took with what it might."""
        what = _exceeds(case.spent, case.allowance, self.share)
        return self.finding(f"the round took more than {self.share:.0%} of the {what} that were left") if what else None


def _exceeds(spent: Spent, allowance: Allowance, share: float) -> str:
    if allowance.calls is not None and spent.calls > share * allowance.calls:
        return "calls"
    if allowance.tokens is not None and spent.tokens > share * allowance.tokens:
        return "tokens"
    return "funds" if allowance.cost is not None and spent.cost > share * allowance.cost else ""


class TopicHealth(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the last results of the topic more than a share were rejected, as this one is; put it last in the list.

    It begins to count anew when the topic goes on.
    """

    USE: ClassVar[str] = "topic_health"

    action: FindingAction = "stop_topic"
    share: Share = 0.5
    last: Annotated[int, Meta(ge=1, le=REMEMBERED, description="Results that are looked at, this one included.")] = 20

    def examine(self, case: Case) -> Finding | None:
        """Count those that were rejected, where this one is."""
        if not any(f.action in ("reject", "stop_topic") for f in case.result.findings):
            return None
        health = case.get_health(case.topic, self.last - 1)
        if health.examined < self.last - 1:
            return None
        rejected = health.rejected + 1
        if rejected <= self.share * self.last and self.last > 1:
            return None
        return self.finding(f"of the last {self.last} results of the topic {rejected} were rejected")
