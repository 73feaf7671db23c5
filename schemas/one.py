"""The rows of ONE, the lake: one structure a table, from which its Arrow schema derives.

Times are microseconds since the epoch, UTC. What was added to a table later comes last and may be null, as it is in
rows from before; so a row is written as the same line of JSON whichever version of Aureon reads it.
"""

import functools
import types
import typing
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa
from msgspec import Meta, Struct

from schemas.task import EvidenceKind

Timestamp = Annotated[int, "timestamp"]
Json = Annotated[str, "json"]
# What the quality gate expects of a column; a row is written as it is, whatever it holds.
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0.0)]
Name = Annotated[str, Meta(min_length=1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

QUALITY_GATE = "quality_gate"
"""The reason of a dead letter that is a record which the quality gate refused."""

ROW_HASH = "row_hash"
"""The column that the lake's writer fills in: sha256, in hex, of the row as a line of JSON without it."""


class Record(Struct, frozen=True, gc=False, omit_defaults=True):
    """Table `records`: what a logical task converged to."""

    lane: Count
    decision_offset: Count
    topic: Name
    logical_id: Name
    generation: Count
    payload: Json
    answer: str | None
    score: Share
    confidence: Share
    agreement: Share
    round_index: Count
    attempt: Count
    reason: str
    forced: bool
    evidence: EvidenceKind
    policy: str
    models: list[str]
    """Those whose answer is equivalent to the record's."""
    nodes: list[str]
    calls: Count
    tokens: Count
    cost: Amount
    metadata: Json
    started_at: Timestamp
    converged_at: Timestamp
    content_hash: Digest
    """sha256 over topic, logical id, generation, payload and answer in canonical JSON."""
    parent_topic: str | None
    parent_id: str | None
    root_topic: Name
    root_id: Name
    depth: Count
    previous_lane: int | None
    previous_offset: int | None
    """The decision on the round before."""
    # added later
    cluster: str | None = None
    """The cluster whose log has the decision; together with lane and decision offset it names the row."""
    labels: list[str] | None = None
    """The topics that it belongs to: its own, those of the tasks it came of, and those that its user gave."""
    sources: Json | None = None
    """The records that its task was made from; null where there are none."""
    provenance: Json | None = None
    """Of what it was made: models with their versions, the prompt's hash, policies, software."""
    decision_hash: Digest | None = None
    row_hash: str | None = None


class AskedModel(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A model that was asked in the round that a record comes of."""

    node: str
    model: str
    version: str = ""
    """Which one answered under the model's name, where its server says more than that."""
    gave_it: bool
    """Its answer is equivalent to the record's."""


class Provenance(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Of what a record was made, as it is in the column of that name; what is not known is left out."""

    software: str = ""
    policy: str = ""
    supervision: str = ""
    verifier: str = ""
    parameters: str = ""
    prompt: str = ""
    models: list[AskedModel]


class RoundRow(Struct, frozen=True, gc=False, omit_defaults=True):
    """Table `rounds`: every winning decision, with its evidence; written last of all tables."""

    lane: int
    decision_offset: int
    kind: str
    task_id: str
    topic: str
    logical_id: str
    generation: int
    round_index: int
    attempt: int
    kafka_topic: str
    message_offset: int
    introduces: bool
    payload_digest: str
    reason: str
    detail: str
    forced: bool
    policy: str
    answer: str | None
    score: float | None
    confidence: float | None
    agreement: float | None
    evidence: str | None
    candidates: Json
    flags: list[str]
    warnings: list[str]
    cut_off: list[str]
    routing: str
    """Which models were asked, and why these."""
    calls: int
    tokens: int
    cost: float
    latency_s: float
    decided_at: Timestamp
    previous_lane: int | None
    previous_offset: int | None
    cause_lane: int | None
    cause_offset: int | None
    # added later
    effective_votes: float | None = None
    """How many independent models would tell as much as those who gave the answer."""
    abstained: int | None = None
    dissent: Json | None = None
    """The other answers; null where there are none."""
    z_score: float | None = None
    parameters: str | None = None
    """The version of what was learned that the confidence rests on."""
    findings: Json | None = None
    """What supervision found, with its evidence; null where that is nothing."""
    cluster: str | None = None
    prompt_hash: str | None = None
    """sha256, in hex, of the chat that the models were asked with, as JSON; null where none was asked."""
    supervision: str | None = None
    """The blob that lists the supervision policies with their parameters; null where none was asked."""
    software: str | None = None
    """The version of Aureon that decided."""
    decision_hash: str | None = None
    """sha256, in hex, of the decision as it is on the log. It has its cause's hash in it: so they are a chain."""
    cause_hash: str | None = None
    """The hash of the decision that its message follows from; null where that is a user's."""
    row_hash: str | None = None
    inputs: Json | None = None
    """What else than question and candidates it was decided from, `schemas.decision.Inputs`; null where nothing."""


class BranchRow(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Table `branches`: every task that a converged one spawned."""

    lane: int
    decision_offset: int
    index: int
    topic: str
    logical_id: str
    generation: int
    parent_topic: str
    parent_id: str
    root_topic: str
    root_id: str
    depth: int
    priority: int
    score: float
    payload: Json
    spawned_at: Timestamp
    # added later
    cluster: str | None = None
    decision_hash: str | None = None
    row_hash: str | None = None


class DeadLetterRow(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Table `dead_letters`: every message that ended without a record, and why."""

    lane: int
    decision_offset: int
    task_id: str
    topic: str
    logical_id: str
    generation: int
    round_index: int
    attempt: int
    reason: str
    detail: str
    kafka_topic: str
    message_offset: int
    payload: Json | None
    raw: str
    """Of a message that is no task: its bytes, in base64, up to a limit."""
    history: list[str]
    died_at: Timestamp
    # added later
    cluster: str | None = None
    decision_hash: str | None = None
    row_hash: str | None = None
    task: Json | None = None
    """The task but for its payload, as it can be sent again: `schemas.task.TaskHead`; null where it is none."""


class RunRow(Struct, frozen=True, gc=False, omit_defaults=True):
    """A row of a run: a round of a replay, as it would have been; as in `rounds`, but for what no rule can change."""

    lane: int
    decision_offset: int
    cluster: str | None
    topic: str
    logical_id: str
    generation: int
    round_index: int
    attempt: int
    kind: str
    reason: str
    detail: str
    forced: bool
    policy: str
    supervision: str | None
    answer: str | None
    score: float | None
    confidence: float | None
    agreement: float | None
    evidence: str | None
    flags: list[str]
    warnings: list[str]
    cut_off: list[str]
    effective_votes: float | None
    abstained: int | None
    dissent: Json | None
    z_score: float | None
    findings: Json | None
    calls: int
    tokens: int
    cost: float
    decided_at: Timestamp
    outcome: str
    note: str
    original_hash: str | None = None
    """Of the row of `rounds` that it was; null where it is none of those."""
    candidates: Json | None = None
    """Where models were asked again."""


Row = Record | RoundRow | BranchRow | DeadLetterRow

TABLES: dict[str, type[Struct]] = {
    "records": Record,
    "branches": BranchRow,
    "dead_letters": DeadLetterRow,
    "rounds": RoundRow,
}
"""Every table that cells write, in the order in which they are committed: `rounds` last."""

SUPERSEDED = "superseded"
"""The table of records that gave way to another of the same id when two lakes were merged; only such a lake has it."""

ALL_TABLES: dict[str, type[Struct]] = {SUPERSEDED: Record, **TABLES}
"""Every table that there may be, in the order in which they are committed."""

AT_FIRST: dict[str, dict[str, int | str]] = {"records": {"tokens": 0}, "rounds": {"routing": "", "tokens": 0}}
"""By table, the columns that may not be null and that the first published version had not yet, with what its rows have
in them."""


def micros(seconds: float) -> int:
    """Turn seconds since the epoch into what rows have."""
    return round(seconds * 1e6)


@functools.cache
def arrow_schema(struct: type[Struct]) -> pa.Schema:
    """Derive the Arrow schema of a table from its structure."""
    hints = typing.get_type_hints(struct, include_extras=True)
    return pa.schema([_arrow_field(f.name, hints[f.name]) for f in msgspec.structs.fields(struct)])


def _arrow_field(name: str, hint: Any) -> pa.Field:
    nullable = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        nullable = True
        (hint,) = (a for a in typing.get_args(hint) if a is not type(None))
    return pa.field(name, _arrow_type(hint), nullable=nullable)


def _arrow_type(hint: Any) -> pa.DataType:
    if typing.get_origin(hint) is Literal:
        return pa.string()
    if any(isinstance(m, Meta) for m in getattr(hint, "__metadata__", ())):
        hint = typing.get_args(hint)[0]
    if hint == Timestamp:
        return pa.timestamp("us", tz="UTC")
    if hint == Json:
        return pa.string()
    if typing.get_origin(hint) is list:
        return pa.list_(pa.field("element", pa.string(), nullable=False))
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}[hint]
