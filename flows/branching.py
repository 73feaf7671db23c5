"""Branching: which follow-up tasks a converged result spawns. Pure.

    meta.branches of the leading answer ─┬─► proposals ─► no doubles ─► depth, budget, number ─► branches
    a planner, which reads the record ───┘                    └──────────────┴─► cut off, each with the reason

Two proposals are one where topic and payload are the same: of one result, of the task itself, and of what was branched
or answered before, as far as this process knows.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args

import msgspec
from msgspec import Meta, Raw, Struct

from connectors.toml_file import about_fields, parse_toml, place_and_problem
from flows.patterns import Pattern
from flows.prompts import template
from flows.settings import Settings, import_object, make_object
from schemas.decision import RoundResult
from schemas.errors import BadRecordError, RefusedError
from schemas.ids import digest_of
from schemas.task import (
    DEFAULT_PRIORITY,
    AnswerKind,
    BranchProposal,
    EvidenceKind,
    PayloadView,
    Priority,
    TaskDescriptor,
    Topic,
    encode,
    read_payload,
)

MAX_PROPOSALS = 1000
MATCHED = 10_000
"""Characters of an answer in which a file's regular expression is looked for."""


class ConvergedRecord(Struct, frozen=True, gc=False, kw_only=True):
    """What a planner may know of a task that has converged."""

    topic: str
    logical_id: str
    question: str
    answer: str
    answer_kind: AnswerKind
    confidence: float
    evidence: EvidenceKind
    depth: int
    """How many branchings it came of."""
    metadata: Mapping[str, str] = {}


class BranchPlanner(Protocol):
    """Proposes follow-up tasks; pure, so that a replay can ask it again."""

    @property
    def name(self) -> str:
        """The planner, as warnings name it."""
        ...

    def propose(self, record: ConvergedRecord) -> Sequence[BranchProposal]:
        """Read a record that was not forced, and say what should follow from it."""
        ...


Known = Callable[[str, str], str | None]
"""(topic, digest of a payload) -> what has that content already, in words; None where nothing is known to."""


class Branching:
    """Gathers the proposals of results and sorts doubles out.

    Args:
        planner: reads each converged record; none if left out.
        known: what has a content already.
    """

    def __init__(self, planner: BranchPlanner | None = None, known: Known = lambda _topic, _digest: None) -> None:
        self._planner = planner
        self._known = known

    def proposals(
        self, task: TaskDescriptor, view: PayloadView, result: RoundResult, *, forced: bool
    ) -> tuple[list[BranchProposal], list[str], list[str]]:
        """Gather what is proposed of a converged result.

        Returns:
            The proposals, those that are cut off as doubles, each with the reason, and what was wrong with others.
        """
        proposed, warnings = _of_result(result)
        if self._planner is not None and not forced:
            planned, more = self._planned(self._planner, task, view, result)
            proposed += planned
            warnings += more
        if not proposed:
            return [], [], warnings
        distinct, cut_off = self._distinct(task, proposed)
        return distinct, cut_off, warnings

    def _planned(
        self, planner: BranchPlanner, task: TaskDescriptor, view: PayloadView, result: RoundResult
    ) -> tuple[list[BranchProposal], list[str]]:
        record = ConvergedRecord(
            topic=task.topic,
            logical_id=task.logical_id,
            question=view.text,
            answer=result.answer or "",
            answer_kind=view.answer_kind,
            confidence=result.confidence,
            evidence=result.evidence,
            depth=len(task.origin.ancestors) if task.origin is not None else 0,
            metadata=task.metadata,
        )
        try:
            found = list(planner.propose(record))
        except Exception as error:  # noqa: BLE001 - a user's own; the record converges all the same
            return [], [f"planner {planner.name}: {type(error).__name__}: {error}"[:300]]
        return _checked(found, f"planner {planner.name}")

    def _distinct(
        self, task: TaskDescriptor, proposed: Sequence[BranchProposal]
    ) -> tuple[list[BranchProposal], list[str]]:
        """Leave one of each content, the first."""
        seen = {(task.topic, digest_of(bytes(task.payload))): "it is the task itself"}
        distinct, cut_off = [], []
        for proposal in proposed:
            key = proposal.topic, digest_of(bytes(proposal.payload))
            why = seen.get(key)
            if why is None and not task.generation:  # another life of a task does it all again
                why = self._known(*key)
            if not key[1]:  # what has no digest is like nothing else
                why = None
            if why is not None:
                cut_off.append(f"{proposal.topic}: {why}")
                continue
            seen[key] = "it is proposed twice"
            distinct.append(proposal)
        return distinct, cut_off


def _of_result(result: RoundResult) -> tuple[list[BranchProposal], list[str]]:
    """Read `meta.branches` of the first candidate that gave the leading answer and has any."""
    branches: object = None
    for place, answer in enumerate(result.candidates):
        if answer.meta and place in result.leading and (branches := answer.meta.get("branches")) is not None:
            break
    if branches is None:
        return [], []
    if not isinstance(branches, list):
        return [], [f"meta.branches is {type(branches).__name__}, not a list; left out"]
    return _checked(branches, "meta.branches")


def _checked(branches: Sequence[Any], what: str) -> tuple[list[BranchProposal], list[str]]:
    proposed, warnings = [], []
    for index, branch in enumerate(branches[:MAX_PROPOSALS]):
        try:
            proposal = msgspec.json.decode(encode(branch), type=BranchProposal)
            read_payload(bytes(proposal.payload))
        except (msgspec.MsgspecError, TypeError, ValueError, BadRecordError) as error:
            warnings.append(f"{what}[{index}]: {error}; left out"[:300])
        else:
            # a copy: what was decoded is a view into a buffer of the whole
            proposed.append(msgspec.structs.replace(proposal, payload=Raw(bytes(proposal.payload))))
    if len(branches) > MAX_PROPOSALS:
        warnings.append(f"{what} has {len(branches):,} entries; those after {MAX_PROPOSALS:,} are left out")
    return proposed, warnings


# -- declared affinities between topics ----------------------------------------------------------------------------


class When(Struct, frozen=True, forbid_unknown_fields=True):
    """What a record has to be; what is left out does not matter."""

    min_confidence: Annotated[float, Meta(ge=0, le=1)] = 0.0
    evidence: tuple[EvidenceKind, ...] = ()
    matches: str = ""
    """A regular expression that is found in the answer."""


class FollowUpRule(Struct, frozen=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """One `[[follow_up]]` of the file."""

    source: Topic
    to: Topic
    prompt: Annotated[str, Meta(min_length=1)]
    when: When = When()
    answer_kind: AnswerKind = AnswerKind.TEXT
    priority: Priority = DEFAULT_PRIORITY
    score: Annotated[float, Meta(ge=-1e9, le=1e9)] = 0.0


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    follow_up: tuple[FollowUpRule, ...]


_WHICH = re.compile(r"follow_up\[(\d+)\]\.?(.*)")
_VALUES = {"answer_kind": ", ".join(AnswerKind), "evidence": ", ".join(get_args(EvidenceKind))}


def parse_branching(text: bytes) -> tuple[FollowUpRule, ...]:
    """Read the text of a file.

    Raises:
        RefusedError: something in it is wrong; names the rule and the field.
    """
    document = parse_toml(text)
    if not document.get("follow_up"):
        raise RefusedError("declares nothing; each rule is a table [[follow_up]], with at least from, to and prompt")
    try:
        return msgspec.convert(document, _File).follow_up
    except msgspec.ValidationError as error:
        path, problem = place_and_problem(error)
    which = _WHICH.fullmatch(path)
    field = which[2] if which is not None else ""
    known = When.__struct_fields__ if field == "when" else FollowUpRule.__struct_encode_fields__
    told = about_fields(problem, known, _VALUES.get(re.split(r"[.\[]", field.removeprefix("when."))[0], ""))
    place = [f"follow_up {int(which[1]) + 1}", field] if which is not None else [path]
    raise RefusedError(": ".join([*filter(None, place), told]))


class DeclaredAffinities:
    """Proposes what a file declares: records of one topic are followed up on another.

    Args:
        text: that of the file, `branching.toml`.
        name: of the file.

    Raises:
        RefusedError: something in it is wrong; says where, and what there is.
    """

    def __init__(self, text: bytes, name: str) -> None:
        self.name = name
        self._rules: dict[str, list[tuple[FollowUpRule, str, Pattern | None]]] = {}
        for number, rule in enumerate(parse_branching(text), 1):
            place = f"follow_up {number} ({rule.source} to {rule.to})"
            try:
                pattern = Pattern(rule.when.matches) if rule.when.matches else None
            except ValueError as error:
                raise RefusedError(f"{place}: when.matches: {error}") from None
            prompt = template(rule.prompt, f"{place}: prompt", frozenset({"question", "answer"}))
            self._rules.setdefault(rule.source, []).append((rule, prompt, pattern))

    def propose(self, record: ConvergedRecord) -> list[BranchProposal]:
        """Apply the rules of its topic, in their order."""
        return list(self._apply(record))

    def _apply(self, record: ConvergedRecord) -> Iterable[BranchProposal]:
        for rule, prompt, pattern in self._rules.get(record.topic, ()):
            when = rule.when
            if record.confidence < when.min_confidence or (when.evidence and record.evidence not in when.evidence):
                continue
            if pattern is not None and not pattern.fits(record.answer[:MATCHED]):
                continue
            payload = {
                "prompt": prompt % {"question": record.question, "answer": record.answer},
                "answer_kind": rule.answer_kind.value,
            }
            yield BranchProposal(rule.to, Raw(encode(payload)), rule.priority, rule.score)


def make_planner(settings: Settings) -> BranchPlanner | None:
    """Make the planner that the settings name, if any.

    Raises:
        RefusedError: there is none of that name, or its file is wrong.
    """
    text = settings.branching
    if not text:
        return None
    if text.endswith(".toml"):
        path = Path(text)
        try:
            return DeclaredAffinities(path.read_bytes(), path.name)
        except OSError as error:
            raise RefusedError(f"{path}: {error.strerror or error}; AUREON_BRANCHING names it") from None
        except RefusedError as error:
            raise RefusedError(f"{path}: {error}") from None
    planner: BranchPlanner = make_object(
        import_object(text, "AUREON_BRANCHING"), f"AUREON_BRANCHING={text!r}", "propose", settings
    )
    return planner
