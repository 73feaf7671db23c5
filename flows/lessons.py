"""What a winning decision teaches: who was right, as far as it tells. Pure.

    a verifier's verdict                                        of all that it saw
    a convergence, not forced, in which several models agreed   they were right, and the others wrong

One model's own word teaches nothing; a check of the form alone can only tell who was wrong.
"""

from collections.abc import Sequence

from msgspec import Struct

from flows.calibration import Example, Group
from flows.comparing.equivalence import as_one, comparison_for, group
from flows.evidence import EVIDENCE, evidence_of
from flows.votes import Votes
from schemas.decision import Decision, DecisionKind, RoundResult
from schemas.errors import BadRecordError
from schemas.node import Answer
from schemas.task import AWAY, FORM_CHECKS, AnswerKind, PayloadView, read_payload

MANY_ANSWERS = frozenset({AnswerKind.CODE, AnswerKind.TEXT})
"""Kinds of which several different answers may be right."""


class Lesson(Struct, frozen=True, gc=False):
    """Who was right in a round."""

    rights: tuple[bool | None, ...]
    """By candidate; None where nobody can tell."""
    others: bool | None
    """Of an answer that is none of those that lead."""
    is_verdict: bool
    """A verifier has told."""


def lesson_of(decision: Decision, result: RoundResult) -> Lesson:
    """Tell who was right in a round."""
    formal = result.verifier in FORM_CHECKS
    if result.verified is not None and not (formal and result.verified):
        return _verdict(decision, result)
    agreed = result.evidence == "cross-model" or (formal and len(result.leading) > 1)
    converged = decision.kind is DecisionKind.CONVERGED and not decision.forced
    if converged and agreed and result.leading and not _one_model(result):
        leading = set(result.leading)
        return Lesson(tuple([i in leading for i in range(len(result.candidates))]), others=False, is_verdict=False)
    return Lesson((None,) * len(result.candidates), others=None, is_verdict=False)


def _verdict(decision: Decision, result: RoundResult) -> Lesson:
    accepted = bool(result.verified)
    # a question may have many good programs and texts, of which the verifier saw the first
    one_answer = view_of(bytes(decision.payload)).answer_kind not in MANY_ANSWERS
    others = False if accepted and one_answer else None
    leading = set(result.leading)
    rights = []
    for place in range(len(result.candidates)):
        told = result.checks[place] if place < len(result.checks) else None
        rights.append(accepted if place in leading else others if told is None else told)
    return Lesson(tuple(rights), others, is_verdict=result.verifier not in FORM_CHECKS)


def example_of(decision: Decision, result: RoundResult, lesson: Lesson, votes: Votes | None) -> Example | None:
    """Make of a round with a verdict an example to calibrate by; None where the verdict is not whole."""
    places = [i for i, a in enumerate(result.candidates) if a.status == "ok"]
    if not places or any(lesson.rights[i] is None for i in places):
        return None
    view = view_of(bytes(decision.payload))
    if view is AWAY:
        return None
    answers = [result.candidates[i] for i in places]
    groups = group(view.answer_kind, [a.text for a in answers], comparison_for(view))
    groups = as_one(groups, [lesson.rights[i] for i in places])
    evidence = evidence_of(view, answers, groups, votes)
    right = next((g for g, i in zip(groups, places, strict=True) if lesson.rights[i]), -1)
    return Example(tuple([_group(answers, groups, g, evidence[g]) for g in range(max(groups) + 1)]), right)


def _group(answers: Sequence[Answer], groups: Sequence[int], wanted: int, evidence: dict[str, float]) -> Group:
    members = [(a.node, a.model) for a, g in zip(answers, groups, strict=True) if g == wanted]
    return Group(tuple(members), tuple([evidence[what] for what in EVIDENCE]))


def _one_model(result: RoundResult) -> bool:
    """Tell whether all who agreed are samples of one model."""
    first = result.candidates[result.leading[0]]
    return all(
        result.candidates[i].model == first.model and result.candidates[i].node == first.node for i in result.leading
    )


def view_of(payload: bytes) -> PayloadView:
    """What Aureon reads of a payload; `AWAY` where there is none, or it is a reference to where it is."""
    try:
        return read_payload(payload) if payload else AWAY
    except BadRecordError:
        return AWAY
