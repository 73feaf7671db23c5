"""The rows of ONE, the lake: one structure a table, from which its Arrow schema derives.

Times are seconds since the epoch, UTC, and become microsecond timestamps in the lake.
"""

import types
import typing
from typing import Annotated, Any

import msgspec
import pyarrow as pa
from msgspec import Struct

Timestamp = Annotated[float, "timestamp"]
Json = Annotated[str, "json"]


class Record(Struct, frozen=True, gc=False, kw_only=True):
    """Table `records`: what a logical task converged to."""

    lane: int
    decision_offset: int
    topic: str
    logical_id: str
    generation: int
    payload: Json
    answer: str | None
    score: float
    confidence: float
    agreement: float
    round_index: int
    attempt: int
    reason: str
    forced: bool
    evidence: str
    policy: str
    models: list[str]
    """Those whose answer is equivalent to the record's."""
    nodes: list[str]
    calls: int
    tokens: int
    cost: float
    metadata: Json
    started_at: Timestamp
    converged_at: Timestamp
    content_hash: str
    """sha256 over topic, logical id, generation, payload and answer in canonical JSON."""
    parent_topic: str | None
    parent_id: str | None
    root_topic: str
    root_id: str
    depth: int
    previous_lane: int | None
    previous_offset: int | None
    """The decision on the round before."""


class RoundRow(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
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
    # added later: they come last, and may be null, as they are in rows from before
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


class BranchRow(Struct, frozen=True, gc=False, kw_only=True):
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


class DeadLetterRow(Struct, frozen=True, gc=False, kw_only=True):
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


Row = Record | RoundRow | BranchRow | DeadLetterRow

TABLES: dict[str, type[Struct]] = {
    "records": Record,
    "branches": BranchRow,
    "dead_letters": DeadLetterRow,
    "rounds": RoundRow,
}
"""Every table, in the order in which they are committed: `rounds` last."""


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
    if hint == Timestamp:
        return pa.timestamp("us", tz="UTC")
    if hint == Json:
        return pa.string()
    if typing.get_origin(hint) is list:
        return pa.list_(pa.field("element", pa.string(), nullable=False))
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}[hint]
