"""validate: do the candidates agree, which one leads, with what confidence.

The confidence is the posterior of the leading answer when every model is right with its reliability r, independently
of the others, and errs uniformly over m other answers (a naive Bayes vote): each candidate for an answer multiplies
its odds by r·m / (1 - r). Where nothing is known of the models, r is the same for all; what was learned of them, and
of how alike they err, is in the `Votes` of `flows.affinity`.
"""

import ast
import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from flows.checks import Checks
from flows.comparing.equivalence import EXACT, Comparison, as_one, comparison_for, group, number
from flows.evidence import evidence_of
from flows.votes import ALTERNATIVES, FEW, RELIABILITY, Votes, weight_of
from schemas.decision import Dissent, RoundResult
from schemas.node import Answer
from schemas.task import AnswerKind, EvidenceKind, PayloadView

VERIFIED = 0.99
"""The confidence of an answer that its verifier accepted."""

Verifier = Callable[[PayloadView, str], Any]
"""A registered check: (payload, answer) -> is the answer right. All of the payload, the user's own fields too, is in
`payload.fields`. What it returns is taken for true or false, and where it is false and no plain bool, its text tells
why. It may raise; that counts as no verdict."""

MAX_DISSENT = 5
MAX_DISSENT_CHARACTERS = 200
_VOTE = weight_of(RELIABILITY)


def validate(
    view: PayloadView,
    answers: Sequence[Answer],
    verifiers: Mapping[str, Verifier],
    known: Votes | None = None,
    by: Comparison = EXACT,
    checks: Checks | None = None,
    groups: Sequence[int] = (),
) -> RoundResult:
    """Judge one round.

    Args:
        view: the payload, as Aureon reads it.
        answers: one per call, failures and abstentions included.
        verifiers: the registered checks by name.
        known: what each model's vote counts on this topic; None where all count the same.
        by: how answers are compared; the question's own tolerance is added to it.
        checks: what the verifier said already; then it is not asked, and an answer that it was not asked about has no
            verdict.
        groups: which answers are equivalent, where they were compared before; as `RoundResult.groups` has it.

    Returns:
        The leading answer (that of the largest group, or of the weightiest where votes differ; the verifier's choice
        where there is one) with its confidence, in [0, 1], which is also its score here.
    """
    warnings: list[str] = []
    candidates = tuple([_cleaned(a, warnings) for a in answers])
    places = [i for i, a in enumerate(candidates) if a.status == "ok"]
    given = [candidates[i] for i in places]
    if not given:
        return RoundResult(
            answer=None,
            score=0.0,
            confidence=0.0,
            agreement=0.0,
            evidence="none",
            candidates=candidates,
            abstained=len(candidates),
            warnings=tuple(warnings),
        )
    if view.tolerance is not None:
        by = comparison_for(view, by)
    takes_proof = by.proof is not None and view.answer_kind is AnswerKind.EXPRESSION and len(given) > 1
    if len(groups) != len(given):
        groups = group(view.answer_kind, [a.text for a in given], by)
    compared = tuple(groups) if takes_proof else ()
    if checks is not None and view.answer_kind is AnswerKind.CODE:
        groups = as_one(groups, [checks.verdicts.get(a.text) is True for a in given])
    sizes: dict[int, int] = {}
    for g in groups:
        sizes[g] = sizes.get(g, 0) + 1
    chances, effective, leading = _weigh(view, given, groups, sizes, known)
    verified: bool | None = None
    check = _find(view, verifiers, warnings)
    if checks is not None and check is not None:
        warnings.extend(checks.warnings)
        check = _recalled(checks)
    checked: tuple[bool | None, ...] = ()
    if check is not None:
        leading, verified, verdicts = _verify(check, view, given, groups, chances, leading, warnings)
        of_group = dict(zip(places, groups, strict=True))
        checked = tuple([verdicts.get(of_group.get(i, -1)) for i in range(len(candidates))])
    answer = given[groups.index(leading)].text
    votes = sizes[leading]
    confidence = chances[leading]
    evidence: EvidenceKind = "cross-model" if votes > 1 else "self"
    if verified is not None:
        confidence = VERIFIED if verified else min(confidence, 1 - VERIFIED)
        evidence = "verifier"
    # its values in their order: by name they take five times as long
    return RoundResult(
        answer,
        confidence,  # the score
        confidence,
        votes / len(given),
        evidence,
        view.verifier if check is not None else None,
        verified,
        candidates,
        tuple([i for i, g in zip(places, groups, strict=True) if g == leading]),
        compared,
        checked,
        len(candidates) - len(given),
        effective[leading],
        _dissent(given, groups, sizes, chances, leading) if len(sizes) > 1 else (),
        _z_score(known, given, groups, leading) if known is not None else None,
        known.version if known is not None else "",
        (),  # supervision's flags
        (),  # and findings
        tuple(warnings),
    )


def _dissent(
    given: Sequence[Answer],
    groups: Sequence[int],
    sizes: Mapping[int, int],
    chances: Mapping[int, float],
    leading: int,
) -> tuple[Dissent, ...]:
    others = sorted([g for g in sizes if g != leading], key=lambda g: -chances[g])[:MAX_DISSENT]
    texts = {g: given[groups.index(g)].text[:MAX_DISSENT_CHARACTERS] for g in others}
    return tuple([Dissent(answer=texts[g], confidence=chances[g], votes=sizes[g]) for g in others])


def _weigh(
    view: PayloadView, given: Sequence[Answer], groups: Sequence[int], sizes: Mapping[int, int], known: Votes | None
) -> tuple[Mapping[int, float], Mapping[int, float], int]:
    """Tell of each group how probable its answer is, and how many independent votes it has; and which one leads."""
    if known is not None:
        said = evidence_of(view, given, groups, known) if known.parameters.evidence else None
        tally = known.tally(tuple([(a.node, a.model) for a in given]), tuple(groups), said)
        return dict(enumerate(tally.chances)), dict(enumerate(tally.effective)), tally.leading
    counts = tuple(sizes.values())
    if len(counts) == 1:
        return {0: posterior(counts, counts[0])}, sizes, 0
    leading = max(sizes, key=lambda g: (sizes[g], -g))  # of equals, the first that was given
    return {g: posterior(counts, size) for g, size in sizes.items()}, sizes, leading


def _z_score(known: Votes, given: Sequence[Answer], groups: Sequence[int], leading: int) -> float | None:
    scored = [a for a, g in zip(given, groups, strict=True) if g == leading]
    scores = [known.z_score((a.node, a.model), a.score) for a in scored if a.score is not None]
    found = [z for z in scores if z is not None]
    return round(math.fsum(found) / len(found), 4) if found else None


@lru_cache(maxsize=4096)
def posterior(sizes: tuple[int, ...], votes: int) -> float:
    """The probability that the answer with `votes` candidates is right, given the sizes of all groups."""
    scale = votes * _VOTE
    # all answers that nobody gave, together, at weight 0
    total = max(FEW, ALTERNATIVES + 1.0 - len(sizes)) * math.exp(-scale)
    for size in sizes:
        total += math.exp(size * _VOTE - scale)
    return round(1.0 / total, 6)


def _cleaned(answer: Answer, warnings: list[str]) -> Answer:
    """Take out what cannot be a score; JSON has no NaN, and nothing that follows may stumble over it."""
    score = answer.score
    if score is None or 0.0 <= score <= 1.0:
        return answer
    warnings.append(f"{answer.node}/{answer.model}: score {score!r} is not between 0 and 1; left out")
    return msgspec.structs.replace(answer, score=None)


class _NoVerdictError(Exception):
    """There is none, and whoever asked has been told why."""


def _recalled(checks: Checks) -> Verifier:
    def recall(_view: PayloadView, answer: str) -> bool:
        verdict = checks.verdicts.get(answer)
        if verdict is None:
            raise _NoVerdictError
        return verdict

    return recall


def ask_verifier(
    view: PayloadView,
    answers: Sequence[Answer],
    verifiers: Mapping[str, Verifier],
    known: Votes | None = None,
    by: Comparison = EXACT,
    before: Checks | None = None,
) -> Checks:
    """Ask the verifier of a round about its answers, the likeliest first, until it accepts one; it may take its time.

    Args:
        view: the payload; it names a registered verifier.
        answers: one per call.
        verifiers: the registered checks by name.
        known: what each model's vote counts on this topic.
        by: how answers are compared.
        before: what it said already of answers of the round.
    """
    verifier = verifiers[view.verifier or ""]
    verdicts: dict[str, bool | None] = dict(before.verdicts) if before is not None else {}
    told: list[str] = list(before.warnings) if before is not None else []

    def ask(view: PayloadView, answer: str) -> bool:
        if answer not in verdicts:
            verdicts[answer] = None
            try:
                said = verifier(view, answer)
                verdicts[answer] = bool(said)
                if not said and not isinstance(said, bool):  # it can tell why
                    told.append(f"verifier {view.verifier!r}: {said}"[:300])
            except Exception as error:  # noqa: BLE001 - a user's function; its failure is no verdict
                told.append(f"verifier {view.verifier!r}: {type(error).__name__}: {error}"[:300])
        verdict = verdicts[answer]
        if verdict is None:
            raise _NoVerdictError
        return verdict

    if view.answer_kind is AnswerKind.CODE:  # all of them, since those that pass are one answer
        for answer in answers:
            with contextlib.suppress(_NoVerdictError):
                if answer.status == "ok":
                    ask(view, answer.text)
    validate(view, answers, {**verifiers, view.verifier or "": ask}, known, by)
    return Checks(verdicts, tuple(told))


def _find(view: PayloadView, verifiers: Mapping[str, Verifier], warnings: list[str]) -> Verifier | None:
    if view.verifier is None:
        return None
    check = verifiers.get(view.verifier)
    if check is None:
        warnings.append(f"verifier {view.verifier!r} is not registered; AUREON_VERIFIERS names them")
    return check


def _verify(
    check: Verifier,
    view: PayloadView,
    given: Sequence[Answer],
    groups: Sequence[int],
    chances: Mapping[int, float],
    leading: int,
    warnings: list[str],
) -> tuple[int, bool | None, dict[int, bool]]:
    """Ask the verifier about one answer of each group, the likeliest first; the first that it accepts leads.

    Returns:
        The group that leads, whether it was accepted, and the verdicts by group.
    """
    verdicts: dict[int, bool] = {}
    for g in sorted(chances, key=lambda g: -chances[g]):
        text = next(a.text for a, in_group in zip(given, groups, strict=True) if in_group == g)
        try:
            accepted = bool(check(view, text))
        except _NoVerdictError:
            continue
        except Exception as error:  # noqa: BLE001 - a user's function; its failure is no verdict
            warnings.append(f"verifier {view.verifier!r}: {type(error).__name__}: {error}"[:300])
            continue
        verdicts[g] = accepted
        if accepted:
            return g, True, verdicts
    return leading, verdicts.get(leading), verdicts


def built_in_verifiers() -> dict[str, Verifier]:
    """The checks that are always registered."""
    return {"json": _is_json, "number": _is_number, "python": _is_python}


def _is_json(_view: PayloadView, answer: str) -> bool:
    try:
        json.loads(answer)
    except ValueError:
        return False
    return True


def _is_number(_view: PayloadView, answer: str) -> bool:
    return number(answer) is not None


def _is_python(_view: PayloadView, answer: str) -> bool:
    try:
        ast.parse(answer)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
