"""derive: the messages and rows that follow from one winning decision; a pure function of it and of its offset."""

from typing import Any

from msgspec import Raw, Struct

from connectors.lane_sinks import Outgoing
from connectors.topics import DEAD_LETTERS
from flows.judgement import before_of
from flows.lane import Sealer
from flows.steps.intake import Decided
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
from schemas.node import Answer
from schemas.one import BranchRow, DeadLetterRow, Record, RoundRow, Row, micros
from schemas.task import Ancestor, Cause, Origin, TaskHead, encode, read_head, with_cause

LABELS = "labels"
"""The entry of a task's metadata that names labels of its record, separated by commas."""


_NO_INPUTS = Inputs()


class Derived(Struct, frozen=True, gc=False):
    """What follows from a batch of decisions, in log order."""

    messages: list[Outgoing]
    rows: list[Row]
    lane: int
    begins: bool
    """The lane comes to this process with it."""


class Entry(Struct, frozen=True, gc=False):
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
        _rows(Entry(cluster, lane, offset, decision, decision_hash), rows)
    return Derived(messages, rows, lane, decided.begins)


def _message(
    lane: int, offset: int, index: int, decision: Decision, follow_up: FollowUp, sealer: Sealer, decision_hash: str
) -> Outgoing:
    place = follow_up.kafka_topic, follow_up.lane
    seal = sealer.seal((lane, offset, index), follow_up.task_id, *place, decision_hash)
    cause = Cause(lane, offset, index, seal, decision_hash)
    payload = decision.payload if follow_up.payload is NO_PAYLOAD else follow_up.payload
    logical_id = follow_up.task_id.rpartition(":r")[0]
    return Outgoing(*place, logical_id.encode(), with_cause(follow_up.task, payload, cause))


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


def _rows(entry: Entry, rows: list[Row]) -> None:
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


def _record(entry: Entry) -> Record:
    decision = entry.decision
    result, origin = decision.result, decision.origin
    if result is None:
        raise ValueError(f"decision {entry.lane}@{entry.offset} on {decision.task_id} converged without a result")
    winners = [result.candidates[i] for i in result.leading]
    origin = origin or Origin()
    itself = Ancestor(decision.topic, decision.logical_id)
    root, parent = (*origin.ancestors, itself)[0], (origin.ancestors or (None,))[-1]
    previous = _previous(decision)
    started_at = origin.started_at or decision.decided_at - decision.latency_s
    return Record(
        lane=entry.lane,
        decision_offset=entry.offset,
        topic=decision.topic,
        logical_id=decision.logical_id,
        generation=decision.generation,
        payload=_text(decision.payload),
        answer=result.answer,
        score=result.score,
        confidence=result.confidence,
        agreement=result.agreement,
        round_index=decision.round_index,
        attempt=decision.attempt,
        reason=decision.reason,
        forced=decision.forced,
        evidence=result.evidence,
        policy=decision.policy,
        models=[a.model for a in winners],
        nodes=sorted({a.node for a in winners}),
        calls=decision.calls + origin.calls,
        tokens=decision.tokens + origin.tokens,
        cost=decision.cost + origin.cost,
        metadata=encode(decision.metadata).decode(),
        started_at=micros(started_at),
        converged_at=micros(decision.decided_at),
        content_hash=decision.content_hash,
        parent_topic=parent.topic if parent is not None else None,
        parent_id=parent.logical_id if parent is not None else None,
        root_topic=root.topic,
        root_id=root.logical_id,
        depth=len(origin.ancestors),
        previous_lane=previous[0],
        previous_offset=previous[1],
        cluster=entry.cluster,
        labels=_labels(decision, origin.ancestors),
        sources=encode(decision.sources).decode() if decision.sources else None,
        provenance=encode(_provenance(decision, result)).decode(),
        decision_hash=entry.hash,
    )


def _labels(decision: Decision, ancestors: tuple[Ancestor, ...]) -> list[str]:
    given = (label.strip() for label in decision.metadata.get(LABELS, "").split(","))
    return list(dict.fromkeys([decision.topic, *[a.topic for a in ancestors], *filter(None, given)]))


def _provenance(decision: Decision, result: RoundResult) -> dict[str, Any]:
    """Of what a record was made; what is not known is left out."""
    told = {
        "software": decision.software,
        "policy": decision.policy,
        "supervision": decision.supervision,
        "verifier": result.verifier,
        "parameters": result.parameters,
        "prompt": decision.prompt_hash,
    }
    leading = frozenset(result.leading)
    models = [_model(answer, gave_it=place in leading) for place, answer in enumerate(result.candidates)]
    return {name: value for name, value in told.items() if value} | {"models": models}


def _model(answer: Answer, *, gave_it: bool) -> dict[str, Any]:
    version = {"version": answer.version} if answer.version else {}
    return {"node": answer.node, "model": answer.model, **version, "gave_it": gave_it}


def _branch(entry: Entry, index: int, follow_up: FollowUp) -> BranchRow:
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


def _dead_row(entry: Entry) -> DeadLetterRow:
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
    inputs = Inputs(seen=decision.seen or NOTHING_SEEN, before=before, checks=result.checks, groups=result.groups)
    return encode(inputs).decode() if inputs != _NO_INPUTS else None


def round_row(entry: Entry) -> RoundRow:
    """The row of `rounds` of a decision."""
    decision = entry.decision
    result, cause = decision.result, decision.cause
    previous = _previous(decision)
    return RoundRow(
        lane=entry.lane,
        decision_offset=entry.offset,
        kind=decision.kind,
        task_id=decision.task_id,
        topic=decision.topic,
        logical_id=decision.logical_id,
        generation=decision.generation,
        round_index=decision.round_index,
        attempt=decision.attempt,
        kafka_topic=decision.kafka_topic,
        message_offset=decision.offset,
        introduces=decision.introduces,
        payload_digest=decision.payload_digest,
        reason=decision.reason,
        detail=decision.detail,
        forced=decision.forced,
        policy=decision.policy,
        answer=result.answer if result is not None else None,
        score=result.score if result is not None else None,
        confidence=result.confidence if result is not None else None,
        agreement=result.agreement if result is not None else None,
        evidence=result.evidence if result is not None else None,
        candidates=encode(result.candidates).decode() if result is not None else "[]",
        flags=list(result.flags) if result is not None else [],
        warnings=list(result.warnings) if result is not None else [],
        cut_off=list(decision.cut_off),
        routing=decision.routing,
        calls=decision.calls,
        tokens=decision.tokens,
        cost=decision.cost,
        latency_s=decision.latency_s,
        decided_at=micros(decision.decided_at),
        previous_lane=previous[0],
        previous_offset=previous[1],
        cause_lane=cause.lane if cause is not None else None,
        cause_offset=cause.offset if cause is not None else None,
        effective_votes=result.effective_votes if result is not None else None,
        abstained=result.abstained if result is not None else None,
        dissent=encode(result.dissent).decode() if result is not None and result.dissent else None,
        z_score=result.z_score if result is not None else None,
        parameters=result.parameters or None if result is not None else None,
        findings=encode(result.findings).decode() if result is not None and result.findings else None,
        cluster=entry.cluster,
        prompt_hash=decision.prompt_hash or None,
        supervision=decision.supervision or None,
        software=decision.software or None,
        decision_hash=entry.hash,
        cause_hash=cause.hash or None if cause is not None else None,
        inputs=_inputs(decision),
    )
