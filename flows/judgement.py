"""The judgement on a round: has its task converged, is there another round, or has it ended. Pure.

It is a function of the round's result, of what it was told of the rounds before, and of what there is left to spend; so
a replay can make it again.
"""

from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from msgspec import Struct

from flows.comparing.equivalence import comparison_for, group
from flows.policies import ConvergencePolicy, Outlook, Situation, Verdict
from flows.supervision import is_rejected, stops_topic, wants_more
from schemas.decision import Before, DecisionKind, RoundResult
from schemas.node import Answer
from schemas.task import Origin, PayloadView

NOT_ACCEPTED = "not_accepted"
"""The reason of a task whose rounds are spent, where the policy takes nothing less than what it asks for."""
REJECTED = "rejected"
BUDGET_SPENT = "budget_spent"
"""The reason of a task that ended because nothing was left to spend."""
NO_ANSWER = "no_answer"
NO_RESULT = RoundResult(answer=None, score=0.0, confidence=0.0, agreement=0.0, evidence="none")
"""That of a round in which nobody was asked."""
OTHERS_TOLD = 3
TOLD_CHARACTERS = 80


class Judgement(Struct, frozen=True, gc=False, kw_only=True):
    """What becomes of a task after a round, and why."""

    kind: DecisionKind
    reason: str
    detail: str = ""
    forced: bool = False
    result: RoundResult
    """That of the round; where nobody answered in the last one, with the answer of an earlier one."""


def judge(
    policy: ConvergencePolicy,
    result: RoundResult,
    situation: Situation,
    *,
    max_rounds: int,
    spent: str = "",
    before: Before | None = None,
) -> Judgement:
    """Judge a round.

    Args:
        policy: says when a task has converged.
        result: of the round, as supervision lets it pass.
        situation: what the policy may know besides.
        max_rounds: how many rounds there are.
        spent: which budget leaves nothing for another call, in words.
        before: what is known of the rounds before.
    """
    last = bool(spent) or situation.round_index + 1 >= max_rounds
    rejected = bool(result.findings) and is_rejected(result)
    if rejected:  # whatever the policy would say
        verdict = Verdict(converged=last or stops_topic(result), reason=REJECTED)
    else:
        verdict = _verdict(policy, result, situation, (spent or f"{max_rounds} rounds spent") if last else "")
    if verdict.exhausted:
        return Judgement(kind=DecisionKind.DEAD, reason=NOT_ACCEPTED, detail=verdict.reason, result=result)
    if not verdict.converged:
        return Judgement(kind=DecisionKind.NEXT_ROUND, reason=verdict.reason, result=result)
    if rejected:
        return Judgement(kind=DecisionKind.DEAD, reason=REJECTED, detail="; ".join(result.flags), result=result)
    if result.answer is None and before is not None and before.answer is not None:
        warning = f"no answer in round {situation.round_index}; the record has that of an earlier round"
        result = msgspec.structs.replace(
            result,
            answer=before.answer,
            score=before.score,
            confidence=before.confidence,
            evidence="self",
            warnings=(*result.warnings, warning),
        )
    if result.answer is None:
        return Judgement(
            kind=DecisionKind.DEAD,
            reason=BUDGET_SPENT if spent else NO_ANSWER,
            detail=spent or "every model abstained or failed",
            forced=verdict.forced,
            result=result,
        )
    return Judgement(kind=DecisionKind.CONVERGED, reason=verdict.reason, forced=verdict.forced, result=result)


def _verdict(policy: ConvergencePolicy, result: RoundResult, situation: Situation, spent: str) -> Verdict:
    """What the policy says, as far as there is something left to spend, and supervision wants no more reasoning."""
    verdict = policy.judge(result, situation)
    if spent and not verdict.converged and not verdict.exhausted:
        return Verdict(converged=True, reason=spent, forced=True)
    if verdict.converged and not verdict.forced and not spent and (more := wants_more(result)):
        return Verdict(converged=False, reason=more)
    return verdict


def has_failed(answers: Sequence[Answer]) -> bool:
    """Whether all calls of a round failed, so that there is nothing to judge."""
    for answer in answers:  # noqa: SIM110 - a loop: a generator costs more than all of this
        if answer.status != "failed":
            return False
    return True


def situation_of(
    round_index: int, view: PayloadView, result: RoundResult, before: Before | None, outlook: Outlook | None
) -> Situation:
    """What a policy may know of a round besides its result."""
    if before is None or before.answer is None:
        return Situation(round_index=round_index, outlook=outlook)
    return Situation(
        round_index=round_index,
        compare=partial(_is_same, view, before.answer, result.answer),
        outlook=outlook,
    )


def _is_same(view: PayloadView, before: str, answer: str | None) -> bool:
    return answer is not None and group(view.answer_kind, [before, answer], comparison_for(view)) == [0, 0]


def before_of(origin: Origin | None) -> Before | None:
    """What a message tells of the rounds before."""
    if origin is None:
        return None
    return Before(
        answer=origin.answer,
        score=origin.score,
        confidence=origin.confidence,
        calls=origin.calls,
        tokens=origin.tokens,
        cost=origin.cost,
    )


def carried(result: RoundResult | None, before: Before | None) -> Before:
    """What the next round or attempt is told of the best answer so far; nothing that was rejected."""
    before = before or Before()
    if result is None or result.answer is None or is_rejected(result):
        return before
    return msgspec.structs.replace(before, answer=result.answer, score=result.score, confidence=result.confidence)


def critique(result: RoundResult, may_quote: Callable[[str], bool] = lambda _text: True) -> str:
    """Say what was found wrong with the result of a round, for the models of the next one; a few hundred characters.

    Of a result that was rejected only the reasons are told, and no word of what is in it.

    Args:
        result: of the round.
        may_quote: whether a text may be put before other models.
    """
    if result.answer is None:
        return "Nobody gave an answer."
    if is_rejected(result):
        return " ".join([f"An answer was rejected: {flag}." for flag in result.flags])
    found = [f"It was flagged: {flag}." for flag in result.flags]
    if result.verified is False:
        found.append(f"The check {result.verifier!r} does not accept it.")
    given = [a for a in result.candidates if a.status == "ok"]
    others: dict[str, None] = {}
    for place, answer in enumerate(result.candidates):
        if (
            answer.status == "ok"
            and place not in result.leading
            and len(others) < OTHERS_TOLD
            and may_quote(answer.text)
        ):
            text = " ".join(answer.text.split())
            others[text if len(text) <= TOLD_CHARACTERS else text[:TOLD_CHARACTERS] + "…"] = None
    if len(result.leading) < len(given):
        found.append(f"{len(result.leading)} of {len(given)} answers say so.")
        if others:
            found.append(f"Others say: {'; '.join(others)}.")
    elif len(given) == 1:
        found.append("Only one model gave an answer, so nothing confirms it.")
    return " ".join(found)
