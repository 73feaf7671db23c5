"""derive: the messages and rows that follow from one winning decision; a pure function of it and of its offset.

Rows are made of their values in the order of their fields: by name they take ten to twenty times as long, since each
name is looked for among all the others.
"""

from msgspec import Raw, Struct

from connectors.lane_sinks import Outgoing
from connectors.topics import DEAD_LETTERS
from flows.items import Decided
from flows.judgement import before_of
from flows.lane import Sealer
from schemas.decision import (
    NO_PAYLOAD,
    NOTHING_SEEN,
    DeadLetter,
    Decision,
    DecisionKind,
    FollowUp,
    Inputs,
    RoundResult,
)
from schemas.ids import logical_id_of
from schemas.one import AskedModel, BranchRow, DeadLetterRow, Provenance, Record, RoundRow, Row, micros
from schemas.task import Ancestor, Cause, Origin, TaskHead, encode, read_head, with_cause

LABELS = "labels"
"""The entry of a task's metadata that names labels of its record, separated by commas."""


_NO_ORIGIN = Origin()


class Derived(Struct, frozen=True, gc=False):
    """What follows from a batch of decisions, in log order."""

    messages: list[Outgoing]
    rows: list[Row]
    lane: int
    begins: bool
    """The lane comes to this process with it."""


class LoggedDecision(Struct, frozen=True, gc=False):
    """A winning decision, and where it is on the log."""

    cluster: str
    lane: int
    offset: int
    decision: Decision
    hash: str


def derive(decided: Decided, sealer: Sealer, cluster: str) -> Derived:
    """Carry out decisions, as read back from the log of a cluster."""
    messages: list[Outgoing] = []
    rows: list[Row] = []
    lane = decided.lane
    for (offset, decision), decision_hash in zip(decided.decisions, decided.hashes, strict=True):
        for index, follow_up in enumerate(decision.follow_ups):
            messages.append(_message(lane, offset, index, decision, follow_up, sealer, decision_hash))
        if decision.kind is DecisionKind.DEAD:
            messages.append(_dead_letter(lane, offset, decision))
        _rows(LoggedDecision(cluster, lane, offset, decision, decision_hash), rows)
    return Derived(messages, rows, lane, decided.begins)


def _message(
    lane: int, offset: int, index: int, decision: Decision, follow_up: FollowUp, sealer: Sealer, decision_hash: str
) -> Outgoing:
    place = follow_up.kafka_topic, follow_up.lane
    seal = sealer.seal((lane, offset, index), follow_up.task_id, *place, decision_hash)
    cause = Cause(lane, offset, index, seal, decision_hash)
    payload = decision.payload if follow_up.payload is NO_PAYLOAD else follow_up.payload
    return Outgoing(*place, logical_id_of(follow_up.task_id).encode(), with_cause(follow_up.task, payload, cause))


def _dead_letter(lane: int, offset: int, decision: Decision) -> Outgoing:
    letter = DeadLetter(
        task_id=decision.task_id,
        topic=decision.topic,
        logical_id=decision.logical_id,
        generation=decision.generation,
        reason=decision.reason,
        detail=decision.detail,
        kafka_topic=decision.kafka_topic,
        lane=lane,
        offset=decision.offset,
        decision_offset=offset,
        payload=decision.payload,
        raw=decision.raw,
        metadata=decision.metadata,
        history=_history(decision),
        died_at=decision.decided_at,
    )
    return Outgoing(DEAD_LETTERS, lane, decision.logical_id.encode(), encode(letter))


def _history(decision: Decision) -> tuple[str, ...]:
    before = decision.origin.errors if decision.origin is not None else ()
    return (*before, decision.detail) if decision.reason == "attempts_spent" else before


def _rows(entry: LoggedDecision, rows: list[Row]) -> None:
    """Which table a row goes to depends on the decision alone; `rounds` gets one of every decision."""
    decision = entry.decision
    if decision.kind is DecisionKind.CONVERGED:
        rows.append(_record(entry))
        for index, follow_up in enumerate(decision.follow_ups):
            rows.append(_branch(entry, index, follow_up))
    elif decision.kind is DecisionKind.DEAD:
        rows.append(_dead_row(entry))
    rows.append(round_row(entry))


def _text(payload: Raw) -> str:
    return bytes(payload).decode()


def _previous(decision: Decision) -> tuple[int | None, int | None]:
    """The decision on the round or attempt before is the cause of this one's message."""
    if decision.cause is None or not (decision.round_index or decision.attempt):
        return None, None
    return decision.cause.lane, decision.cause.offset


def _record(entry: LoggedDecision) -> Record:
    decision = entry.decision
    result, origin = decision.result, decision.origin
    if result is None:
        raise ValueError(f"decision {entry.lane}@{entry.offset} on {decision.task_id} converged without a result")
    winners = [result.candidates[i] for i in result.leading]
    origin = origin or _NO_ORIGIN
    parent = origin.ancestors[-1] if origin.ancestors else None
    root = origin.ancestors[0] if origin.ancestors else decision
    started_at = origin.started_at or decision.decided_at - decision.latency_s
    return Record(
        entry.lane,
        entry.offset,
        decision.topic,
        decision.logical_id,
        decision.generation,
        _text(decision.payload),
        result.answer,
        result.score,
        result.confidence,
        result.agreement,
        decision.round_index,
        decision.attempt,
        decision.reason,
        decision.forced,
        result.evidence,
        decision.policy,
        [a.model for a in winners],
        sorted({a.node for a in winners}),
        decision.calls + origin.calls,
        decision.tokens + origin.tokens,
        decision.cost + origin.cost,
        encode(decision.metadata).decode(),
        micros(started_at),
        micros(decision.decided_at),
        decision.content_hash,
        parent.topic if parent is not None else None,
        parent.logical_id if parent is not None else None,
        root.topic,
        root.logical_id,
        len(origin.ancestors),
        *_previous(decision),
        entry.cluster,
        _labels(decision, origin.ancestors),
        encode(decision.sources).decode() if decision.sources else None,
        encode(_provenance(decision, result)).decode(),
        entry.hash,
        None,  # row_hash: the lake's writer fills it in
    )


def _labels(decision: Decision, ancestors: tuple[Ancestor, ...]) -> list[str]:
    if not ancestors and LABELS not in decision.metadata:
        return [decision.topic]
    given = (label.strip() for label in decision.metadata.get(LABELS, "").split(","))
    return list(dict.fromkeys([decision.topic, *[a.topic for a in ancestors], *filter(None, given)]))


def _provenance(decision: Decision, result: RoundResult) -> Provenance:
    leading = result.leading
    return Provenance(
        software=decision.software,
        policy=decision.policy,
        supervision=decision.supervision,
        verifier=result.verifier or "",
        parameters=result.parameters,
        prompt=decision.prompt_hash,
        models=[
            AskedModel(node=a.node, model=a.model, version=a.version, gave_it=place in leading)
            for place, a in enumerate(result.candidates)
        ],
    )


def _branch(entry: LoggedDecision, index: int, follow_up: FollowUp) -> BranchRow:
    decision = entry.decision
    branch = read_head(follow_up.task)
    ancestors = branch.origin.ancestors if branch.origin is not None else ()
    root = ancestors[0] if ancestors else Ancestor(decision.topic, decision.logical_id)
    return BranchRow(
        lane=entry.lane,
        decision_offset=entry.offset,
        index=index,
        topic=branch.topic,
        logical_id=branch.logical_id,
        generation=branch.generation,
        parent_topic=decision.topic,
        parent_id=decision.logical_id,
        root_topic=root.topic,
        root_id=root.logical_id,
        depth=len(ancestors),
        priority=branch.priority,
        score=follow_up.score,
        payload=_text(follow_up.payload),
        spawned_at=micros(decision.decided_at),
        cluster=entry.cluster,
        decision_hash=entry.hash,
    )


def _dead_row(entry: LoggedDecision) -> DeadLetterRow:
    decision = entry.decision
    return DeadLetterRow(
        lane=entry.lane,
        decision_offset=entry.offset,
        task_id=decision.task_id,
        topic=decision.topic,
        logical_id=decision.logical_id,
        generation=decision.generation,
        round_index=decision.round_index,
        attempt=decision.attempt,
        reason=decision.reason,
        detail=decision.detail,
        kafka_topic=decision.kafka_topic,
        message_offset=decision.offset,
        payload=_text(decision.payload) or None,
        raw=decision.raw,
        history=list(_history(decision)),
        died_at=micros(decision.decided_at),
        cluster=entry.cluster,
        decision_hash=entry.hash,
        task=_again(decision),
    )


def _again(decision: Decision) -> str | None:
    """The task as it can be sent again: from its first round on, where it stood among its ancestors."""
    if not decision.topic:
        return None
    origin = decision.origin
    head = TaskHead(
        topic=decision.topic,
        logical_id=decision.logical_id,
        priority=decision.priority,
        generation=decision.generation,
        metadata=decision.metadata,
        budget=decision.budget,
        sources=decision.sources,
        origin=Origin(ancestors=origin.ancestors, branches_left=origin.branches_left)
        if origin is not None and origin.ancestors
        else None,
    )
    return encode(head).decode()


def _inputs(decision: Decision) -> str | None:
    """What a judgement was made from besides question and candidates."""
    result, origin = decision.result, decision.origin
    if not decision.policy or result is None:
        return None
    tells = origin is not None and (origin.answer is not None or origin.calls)
    before = before_of(origin) if tells else None
    if before is None and decision.seen is None and not result.checks and not result.groups:
        return None
    inputs = Inputs(seen=decision.seen or NOTHING_SEEN, before=before, checks=result.checks, groups=result.groups)
    return encode(inputs).decode()


def round_row(entry: LoggedDecision) -> RoundRow:
    """The row of `rounds` of a decision."""
    decision = entry.decision
    result, cause = decision.result, decision.cause
    return RoundRow(
        entry.lane,
        entry.offset,
        decision.kind,
        decision.task_id,
        decision.topic,
        decision.logical_id,
        decision.generation,
        decision.round_index,
        decision.attempt,
        decision.kafka_topic,
        decision.offset,
        decision.introduces,
        decision.payload_digest,
        decision.reason,
        decision.detail,
        decision.forced,
        decision.policy,
        result.answer if result is not None else None,
        result.score if result is not None else None,
        result.confidence if result is not None else None,
        result.agreement if result is not None else None,
        result.evidence if result is not None else None,
        encode(result.candidates).decode() if result is not None else "[]",
        list(result.flags) if result is not None else [],
        list(result.warnings) if result is not None else [],
        list(decision.cut_off),
        decision.routing,
        decision.calls,
        decision.tokens,
        decision.cost,
        decision.latency_s,
        micros(decision.decided_at),
        *_previous(decision),
        cause.lane if cause is not None else None,
        cause.offset if cause is not None else None,
        result.effective_votes if result is not None else None,
        result.abstained if result is not None else None,
        encode(result.dissent).decode() if result is not None and result.dissent else None,
        result.z_score if result is not None else None,
        result.parameters or None if result is not None else None,
        encode(result.findings).decode() if result is not None and result.findings else None,
        entry.cluster,
        decision.prompt_hash or None,
        decision.supervision or None,
        decision.software or None,
        entry.hash,
        cause.hash or None if cause is not None else None,
        None,  # row_hash: the lake's writer fills it in
        _inputs(decision),
    )
