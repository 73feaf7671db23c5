"""A task with all that came of it, from the lake: its rounds with their answers, and its branches with theirs."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import duckdb
import msgspec
from msgspec import Struct

from schemas.blob import REFERENCE_START
from schemas.errors import UNREADABLE
from schemas.node import Answer

MAX_TASKS = 500
MAX_ROUNDS = 2000
"""Of a family that has more, the others are left out, and that is told."""
MAX_TEXT = 4000
"""Characters of a text that are shown."""

_BRANCHED = re.compile(r"(:branch-\d+)+\Z")

Name = tuple[str, str]
"""Topic and logical id."""


class AnswerView(Struct, frozen=True, kw_only=True):
    """What a model said."""

    node: str
    model: str
    status: str
    text: str
    error: str
    gave_it: bool | None
    """Whether this is the record's answer; None where the round has no record."""
    score: float | None
    latency_s: float
    cost: float


class RoundOfTask(Struct, frozen=True, kw_only=True):
    """A round, and what was decided."""

    generation: int
    round_index: int
    attempt: int
    kind: str
    reason: str
    forced: bool
    answer: str | None
    confidence: float | None
    agreement: float | None
    score: float | None
    evidence: str | None
    flags: list[str]
    calls: int
    tokens: int
    cost: float
    latency_s: float
    decided_at: float
    """Seconds since the epoch."""
    answers: list[AnswerView]


class TaskOfTree(Struct, frozen=True, kw_only=True):
    """A task in its family."""

    topic: str
    logical_id: str
    status: str
    """converged, dead, cancelled or pending"""
    question: str | None
    answer: str | None
    asked_for: bool
    rounds: list[RoundOfTask]
    branches: list["TaskOfTree"]


class Tree(Struct, frozen=True, kw_only=True):
    """A family, from its root on."""

    root: TaskOfTree
    tasks: int
    cut: bool
    """It has more tasks or rounds than are told."""


class Member(NamedTuple):
    """One of a family: a row of the lake's `lineage`."""

    topic: str
    logical_id: str
    parent_topic: str | None
    parent_id: str | None
    status: str
    answer: str | None


# What a lake sorted by logical id can look up: the root, and all that has its id with `:branch-` behind it.
_FAMILY = "(logical_id = $root OR logical_id >= $root || ':branch-' AND logical_id < $root || ':branch.')"

_MEMBERS = """
SELECT topic, logical_id, parent_topic, parent_id, status, answer FROM lineage($root) LIMIT $limit
"""
_VALUES = (
    *("generation", "round_index", "attempt", "kind", "reason", "forced", "confidence", "agreement", "score"),
    *("evidence", "flags", "calls", "tokens", "cost", "latency_s", "decided_at"),
)
"""Of a round, as it is told."""
_ROUNDS = f"""
SELECT topic, logical_id, candidates, answer, {", ".join(_VALUES).replace("decided_at", "epoch(decided_at)")}
FROM rounds WHERE {_FAMILY} AND kind <> 'moved' ORDER BY decided_at, decision_offset LIMIT $limit
"""  # noqa: S608
_ASKED = f"""
SELECT topic, logical_id, payload, generation, provenance FROM records WHERE {_FAMILY}
UNION ALL SELECT topic, logical_id, payload, generation, NULL FROM dead_letters WHERE {_FAMILY}
UNION ALL SELECT topic, logical_id, payload, generation, NULL FROM branches WHERE {_FAMILY}
"""  # noqa: S608


def find_tree(lake: duckdb.DuckDBPyConnection, topic: str, logical_id: str) -> Tree | None:
    """Look a task up, with all of its family; None where the lake has no such task.

    Args:
        lake: as `one_lake.connect` gives it.
        topic: of the task.
        logical_id: of the task, which may be a branch.

    Raises:
        duckdb.Error: it cannot be read.
    """
    root = _BRANCHED.sub("", logical_id)
    found = lake.execute(_MEMBERS, {"root": root, "limit": MAX_TASKS + 1}).fetchall()
    members = [Member(*row) for row in found]
    if not any((m.topic, m.logical_id) == (topic, logical_id) for m in members):
        return None
    rows = lake.execute(_ROUNDS, {"root": root, "limit": MAX_ROUNDS + 1}).fetchall()
    questions: dict[Name, str | None] = {}
    gave: dict[tuple[str, str, int], list[bool | None]] = {}
    for of_topic, of_id, payload, generation, provenance in lake.execute(_ASKED, {"root": root}).fetchall():
        questions.setdefault((of_topic, of_id), question_in(payload or ""))
        if provenance is not None:
            gave[of_topic, of_id, generation] = gave_in(provenance)
    rounds: dict[Name, list[RoundOfTask]] = defaultdict(list)
    whole = _whole(lake)
    for name, told in (_round(row, gave, whole) for row in rows[:MAX_ROUNDS]):
        rounds[name].append(told)
    cut = len(members) > MAX_TASKS or len(rows) > MAX_ROUNDS
    return tree_of(members[:MAX_TASKS], rounds, questions, (topic, logical_id), cut=cut)


def tree_of(
    members: Sequence[Member],
    rounds: Mapping[Name, list[RoundOfTask]],
    questions: Mapping[Name, str | None],
    asked_for: Name,
    *,
    cut: bool,
) -> Tree:
    """Put a family together.

    Args:
        members: the family, and maybe others of the same id on other topics.
        rounds: by task, in order.
        questions: by task.
        asked_for: which of the members is looked for.
        cut: some are missing.
    """
    by_name = {(m.topic, m.logical_id): m for m in members}
    branches: dict[Name, list[Name]] = defaultdict(list)
    for name, member in by_name.items():
        if (parent := _parent(member)) in by_name:
            branches[parent].append(name)
    seen: set[Name] = set()
    top = asked_for
    while (parent := _parent(by_name[top])) in by_name and parent not in seen:
        seen.add(parent)
        top = parent
    placed: set[Name] = set()

    def task_of(name: Name) -> TaskOfTree:
        placed.add(name)
        member = by_name[name]
        return TaskOfTree(
            topic=member.topic,
            logical_id=member.logical_id,
            status=member.status,
            question=questions.get(name),
            answer=None if member.answer is None else shortened(member.answer),
            asked_for=name == asked_for,
            rounds=rounds.get(name, []),
            branches=[task_of(b) for b in sorted(branches[name], key=_in_order) if b not in placed],
        )

    root = task_of(top)
    return Tree(root=root, tasks=len(placed), cut=cut)


def _parent(member: Member) -> Name:
    return member.parent_topic or "", member.parent_id or ""


def _in_order(name: Name) -> tuple[int, str, str]:
    """The tenth branch after the ninth."""
    topic, logical_id = name
    return len(logical_id), logical_id, topic


def question_in(payload: str) -> str | None:
    """The question of a payload, or of the chat in it what was said last; None where there is none."""
    try:
        found = msgspec.json.decode(payload)
    except UNREADABLE:
        return None
    if not isinstance(found, dict):
        return None
    messages = found.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        found = {"prompt": messages[-1].get("content")}
    prompt = found.get("prompt")
    return shortened(prompt) if isinstance(prompt, str) else None


def gave_in(provenance: str) -> list[bool | None]:
    """Of a record's provenance: which of its candidates gave its answer, in order."""
    try:
        models = msgspec.json.decode(provenance)["models"]
        return [model.get("gave_it") for model in models]
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        return []


def shortened(text: str) -> str:
    """A text, up to a limit."""
    more = len(text) - MAX_TEXT
    return text if more <= 0 else f"{text[:MAX_TEXT]}… ({more:,} characters more)"


def _whole(lake: duckdb.DuckDBPyConnection) -> Callable[[str], str]:
    """Exchange a reference to the blob store for what it stands for."""

    def whole(text: str) -> str:
        if not text.startswith(REFERENCE_START):
            return text
        ((found,),) = lake.execute("SELECT whole($text)", {"text": text}).fetchall()
        return str(found)

    return whole


def _round(
    row: Sequence[Any], gave: Mapping[tuple[str, str, int], list[bool | None]], whole: Callable[[str], str]
) -> tuple[Name, RoundOfTask]:
    topic, logical_id, candidates, answer, *others = row
    values = dict(zip(_VALUES, others, strict=True))
    of_record = gave.get((topic, logical_id, values["generation"]), []) if values["kind"] == "converged" else []
    told = RoundOfTask(
        **values,
        answer=None if answer is None else shortened(answer),
        answers=list(_answers(candidates, of_record, whole)),
    )
    return (topic, logical_id), told


def _answers(candidates: str, gave: Sequence[bool | None], whole: Callable[[str], str]) -> Iterable[AnswerView]:
    try:
        said = msgspec.json.decode(candidates, type=list[Answer])
    except UNREADABLE:  # of another version of Aureon
        return
    for place, answer in enumerate(said):
        yield AnswerView(
            node=answer.node,
            model=answer.model,
            status=answer.status,
            text=shortened(whole(answer.text)),
            error=shortened(answer.error),
            gave_it=gave[place] if place < len(gave) else None,
            score=answer.score,
            latency_s=answer.latency_s,
            cost=answer.cost,
        )
