"""Decide again: the judgement on past rounds, from their recorded answers, by other rules. No model is asked.

    past round ─► validate ─► supervise ─► judge ─► the round as it would have been

By the rules that a round was decided by, it comes out as it was, byte for byte: what it was decided from besides its
question and its candidates is in its `inputs`.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import Struct

from connectors.blobs import BlobStore
from flows.accepted import Accepted
from flows.budget import NOTHING, UNLIMITED, Spent
from flows.checks import Checks
from flows.judgement import NO_RESULT, carried, judge, situation_of
from flows.policies import Outlook
from flows.rules import Rules
from flows.steps.validate import ask_verifier, validate
from flows.supervision import Case, Health
from flows.votes import Votes, read_parameters
from one_lake.encode import values_of
from one_lake.runs import Asked
from schemas.blob import REFERENCE_START, reference_in
from schemas.decision import NO_OWNERS, Before, DecisionKind, Inputs, RoundResult
from schemas.errors import BadRecordError
from schemas.node import Answer
from schemas.one import RunRow
from schemas.task import PayloadView, encode, read_payload

KEPT_VOTES = 256
"""Versions of what was learned that are kept at hand."""

IDENTICAL = "identical"
"""As it was, byte for byte."""
SAME = "same"
"""The same decision on the same answer, by other rules."""
CHANGED = "changed"
"""Another decision, or another answer."""
CARRIED = "carried"
"""Nothing to decide again: a message that moved, was cancelled, or had no answer to judge."""
NOT_REACHED = "not_reached"
"""The task would have ended before."""
IMPOSSIBLE = "impossible"
"""What it was decided from is not there; the note says what."""

_OF_RUN = ("outcome", "note", "original_hash", "candidates")
_read_candidates = msgspec.json.Decoder(tuple[Answer, ...]).decode
_read_inputs = msgspec.json.Decoder(Inputs).decode
_NO_INPUTS = Inputs()
_NOTHING_BEFORE = Before()
_DECIDED = frozenset({"converged", "dead", "cancelled"})


class Options(Struct, frozen=True):
    """What is asked again besides the rules."""

    verifiers: bool = False
    """Ask them again, and do not take their recorded word."""
    comparisons: bool = False
    """Compare answers again also where that took a proof."""


def named(rules: Rules, options: Options) -> dict[str, str]:
    """What tells rules from others."""
    settings = rules.settings
    return {
        "policy": rules.policy.name,
        "supervision": rules.supervisor.version,
        "max_rounds": str(settings.max_rounds),
        "symbolic_s": f"{settings.symbolic_s:g}",
        "text_similarity": f"{settings.text_similarity:g}",
        "verifiers": ",".join(sorted(rules.verifiers)),
        "asks_verifiers": str(options.verifiers).lower(),
        "compares_again": str(options.comparisons).lower(),
    }


class PastRound(Struct, frozen=True, gc=False):
    """A round as it was."""

    row: RunRow
    candidates: str
    inputs: str | None
    parameters: str | None
    row_hash: str | None
    payload: str | None
    """Of its task; None where the lake has none."""


_row: Callable[..., RunRow] = RunRow
_OF_ROW = tuple(name for name in RunRow.__struct_fields__ if name not in _OF_RUN)
COLUMNS = (*_OF_ROW, *(name for name in PastRound.__struct_fields__ if name not in ("row", "payload")))
"""Of `rounds`: what is read of a round."""
ROUNDS = Asked(tuple(f"r.{name}" for name in COLUMNS))


def past_rounds_of(rows: pa.Table) -> Iterator[PastRound]:
    """Take rounds from rows with `COLUMNS` and `payload`."""
    known = len(_OF_ROW)
    for told in values_of(rows, (*COLUMNS, "payload")):
        yield PastRound(_row(*told[:known], "", ""), *told[known:])


class Redecider:
    """Decides the rounds of tasks again, each task by itself.

    Args:
        rules: by what.
        options: what else is asked again.
        store: where large payloads and answers are, and what was learned of the models.
    """

    def __init__(self, rules: Rules, options: Options, store: BlobStore) -> None:
        self._rules = rules
        self._options = options
        self._max_rounds = rules.settings.max_rounds
        self._store = store
        self._view = lru_cache(1)(_read_view)  # the rounds of a task have one question
        self._votes: Callable[[str], Votes] = lru_cache(KEPT_VOTES)(self._read_votes)

    def task(self, rounds: Iterable[PastRound]) -> Iterator[RunRow]:
        """Decide the rounds of one task again, in order."""
        ended = False
        before: Before | None = None
        for past in rounds:
            row, note = past.row, ""
            if ended:
                outcome = NOT_REACHED
            elif not row.policy:
                outcome = CARRIED
            else:
                try:
                    changes, before = self._round(past, before)
                except BadRecordError as error:
                    outcome, note, before = IMPOSSIBLE, str(error), None
                else:
                    row = msgspec.structs.replace(row, **changes)
                    outcome = _outcome(past.row, row)
            ended = ended or (row.kind in _DECIDED and row.reason not in NO_OWNERS)
            yield msgspec.structs.replace(row, outcome=outcome, note=note, original_hash=past.row_hash)

    def _round(self, past: PastRound, before: Before | None) -> tuple[dict[str, Any], Before]:
        """Decide one round again; also tells what the next one is told."""
        row, inputs = past.row, _read_inputs(past.inputs) if past.inputs is not None else _NO_INPUTS
        if past.payload is None:
            raise BadRecordError("the lake has no payload of this task: it has not ended")
        texts = _Texts(self._store)
        view = self._view(texts.whole(past.payload))
        answers = tuple([_with_text(a, texts) for a in _read_candidates(past.candidates)])
        told = inputs.before
        if told is not None and told.answer is not None:
            told = msgspec.structs.replace(told, answer=texts.whole(told.answer))
        if before is not None:  # the best answer so far may be another one now
            now = {"answer": before.answer, "score": before.score, "confidence": before.confidence}
            told = msgspec.structs.replace(told or _NOTHING_BEFORE, **now)
        result = self._supervised(past, view, answers, inputs, told) if answers else NO_RESULT
        rules, seen = self._rules, inputs.seen
        outlook = Outlook(*seen.outlook) if seen.outlook is not None else None
        situation = situation_of(row.round_index, view, result, told, outlook)
        judged = judge(rules.policy, result, situation, max_rounds=self._max_rounds, spent=seen.spent, before=told)
        final = judged.result
        changes: dict[str, Any] = {
            "kind": judged.kind.value,
            "reason": judged.reason,
            "detail": judged.detail,
            "forced": judged.forced,
            "policy": rules.policy.name,
            "supervision": rules.supervisor.version,
            "answer": None if final.answer is None else texts.as_kept(final.answer),
            # as floats, which they are when they come from the log
            "score": float(final.score),
            "confidence": float(final.confidence),
            "agreement": float(final.agreement),
            "evidence": final.evidence,
            "flags": list(final.flags),
            # those of the answers as they came, and of branches, are known from then alone
            "warnings": list(dict.fromkeys([*row.warnings, *final.warnings])) if final.warnings else row.warnings,
            "effective_votes": float(final.effective_votes),
            "abstained": final.abstained,
            "dissent": encode(final.dissent).decode() if final.dissent else None,
            "z_score": final.z_score,
            "findings": encode(final.findings).decode() if final.findings else None,
        }
        if judged.kind is not DecisionKind.CONVERGED:
            changes["cut_off"] = []
        return changes, carried(result, told)

    def _supervised(
        self, past: PastRound, view: PayloadView, answers: tuple[Answer, ...], inputs: Inputs, told: Before | None
    ) -> RoundResult:
        rules, seen, row = self._rules, inputs.seen, past.row
        votes = self._votes(past.parameters) if past.parameters else None
        checks: Checks | None = None
        if view.verifier in rules.verifiers:
            if self._options.verifiers:
                checks = ask_verifier(view, answers, rules.verifiers, votes, rules.comparison)
            else:
                said = {a.text: v for a, v in zip(answers, inputs.checks, strict=False) if v is not None}
                checks = Checks(said)
        groups = () if self._options.comparisons else inputs.groups
        result = validate(view, answers, rules.verifiers, votes, rules.comparison, checks, groups)
        accepted = Accepted(*seen.accepted) if seen.accepted is not None else None
        return rules.supervisor.examine(
            Case(
                result=result,
                topic=row.topic,
                logical_id=row.logical_id,
                generation=row.generation,
                round_index=row.round_index,
                attempt=row.attempt,
                max_rounds=self._max_rounds,
                view=view,
                answers=answers,
                spent=Spent(row.calls, row.tokens, row.cost),
                spent_before=Spent(told.calls, told.tokens, told.cost) if told is not None else NOTHING,
                allowance=seen.allowance or UNLIMITED,
                look_up=lambda: accepted,
                get_health=lambda _topic, last: Health(*seen.health.get(last, (0, 0))),
            )
        )

    def _read_votes(self, version: str) -> Votes:
        try:
            return Votes(read_parameters(self._store.read(version)))
        except ValueError as error:
            raise BadRecordError(f"blob {version}: no parameters of votes: {error}") from None


class _Texts:
    """Texts as they are, and as they are kept: those that are large, as references."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._kept: dict[str, str] = {}

    def whole(self, text: str) -> str:
        if not text.startswith(REFERENCE_START):
            return text
        reference = reference_in(text)
        if reference is None:
            return text
        whole = self._store.get(reference).decode()
        self._kept[whole] = text
        return whole

    def as_kept(self, text: str) -> str:
        return self._kept.get(text, text)


def _read_view(payload: str) -> PayloadView:
    return read_payload(payload.encode())


def _with_text(answer: Answer, texts: _Texts) -> Answer:
    whole = texts.whole(answer.text)
    return answer if whole is answer.text else msgspec.structs.replace(answer, text=whole)


def _outcome(row: RunRow, again: RunRow) -> str:
    """Compare a round as it would have been with itself; all that is not told here is the same anyway."""
    if row == again:
        return IDENTICAL
    is_same = (row.kind, row.answer, row.forced) == (again.kind, again.answer, again.forced)
    return SAME if is_same else CHANGED
