"""plan: the decision on one message, with all that follows from it spelled out, encoded and measured."""

import hashlib
from typing import Any

import msgspec
from msgspec import Raw, Struct

from connectors.topics import RETRY, TASKS, TASKS_HIGH, TASKS_NEXT
from flows.lane import Message
from flows.policies import ConvergencePolicy
from flows.steps.infer import Answered
from flows.steps.intake import Rejected, Work
from flows.steps.supervise import Supervised
from schemas.decision import Decision, DecisionKind, FollowUp, RoundResult
from schemas.errors import BadRecordError
from schemas.ids import RQMLRoundId, branch_id, home_lane
from schemas.node import Answer
from schemas.task import URGENT_PRIORITY, BranchProposal, Cause, Origin, TaskDescriptor, encode, read_payload

MAX_DECISION_BYTES = 24 << 20
"""Everything that follows from a decision is a part of it, plus less than a kilobyte; Kafka takes 32 MiB."""
MAX_PROPOSALS = 1000
_UNSEALED = Cause(-1, -1, 0, "")
"""Stands for the cause until the decision has its offset on the log."""
_POISON = "the process ended uncleanly each time that this task was under way, at last with nothing beside it"
_NO_ORIGIN = Origin(cause=_UNSEALED)


def input_topic(priority: int) -> str:
    """The Kafka topic on which a task of this priority goes in."""
    return TASKS_HIGH if priority <= URGENT_PRIORITY else TASKS


class Limits(Struct, frozen=True, gc=False):
    """What bounds recursion and retries."""

    lanes: int
    max_attempts: int
    max_depth: int
    max_branches: int
    max_decision_bytes: int = MAX_DECISION_BYTES
    """Less where the broker takes less."""


class Planner:
    """Turns supervised rounds into decisions.

    Args:
        policy: says when a task has converged.
        limits: what bounds recursion and retries.
    """

    def __init__(self, policy: ConvergencePolicy, limits: Limits) -> None:
        self._policy = policy
        self._limits = limits

    def plan(self, lane: int, round_: Supervised, now: float) -> bytes:
        """Decide, and write the decision down; what cannot be carried out is decided dead instead.

        Args:
            lane: where the message is.
            round_: the message with what became of it.
            now: seconds since the epoch.
        """
        try:
            encoded = encode(self._decide(lane, round_, now))
        except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            problem = f"the decision cannot be written: {error}"
        else:
            if len(encoded) <= self._limits.max_decision_bytes:
                return encoded
            problem = f"the decision has {len(encoded):,} bytes, more than {self._limits.max_decision_bytes:,}"
        return encode(_dead(round_.answered, now, "too_large", problem))

    def _decide(self, lane: int, round_: Supervised, now: float) -> Decision:
        answered = round_.answered
        message, refusal = answered.routed.message, answered.routed.refusal
        if message.verdict == "moved":
            return self._moved(message, now)
        if message.verdict is not None:
            return _unasked(lane, answered, now)
        if refusal is not None:
            return _dead(answered, now, *refusal)
        result = round_.result
        if result is None or all(a.status == "failed" for a in answered.answers):
            return self._failed(lane, answered, result, now)
        return self._judged(lane, answered, result, now)

    # -- without an answer -----------------------------------------------------------------------------------------

    def _moved(self, message: Message, now: float) -> Decision:
        work: Work = message.body
        task = work.task
        home = home_lane(task.logical_id, self._limits.lanes)
        follow_up = FollowUp(
            kafka_topic=message.kafka_topic,
            lane=home,
            topic=task.topic,
            logical_id=task.logical_id,
            task_id=task.task_id,
            priority=task.priority,
            metadata=task.metadata,
            origin=Origin(cause=_UNSEALED, introduces=True),
        )
        return Decision(
            kind=DecisionKind.MOVED,
            reason="home",
            detail=f"its home is lane {home}",
            decided_at=now,
            follow_ups=(follow_up,),
            **_naming(message, task),
        )

    def _failed(self, lane: int, answered: Answered, result: RoundResult | None, now: float) -> Decision:
        task = _task_of(answered)
        errors = [f"{a.node}/{a.model}: {a.error} ({a.tries} tries)" for a in answered.answers]
        history = (*_history(task), f"round {task.round_index}, attempt {task.attempt}: " + "; ".join(errors)[:2000])
        common: dict[str, Any] = dict(result=result, **_spent(answered, now), **_naming(answered.routed.message, task))
        if task.attempt + 1 >= self._limits.max_attempts:
            return Decision(
                kind=DecisionKind.DEAD,
                reason="attempts_spent",
                detail=history[-1],
                **common,
            )
        origin = msgspec.structs.replace(self._carried(task, answered, None), errors=history)
        follow_up = _follow_up(task, RETRY, lane, origin, task.round_index, task.attempt + 1)
        return Decision(
            kind=DecisionKind.RETRY, reason="all calls failed", detail=history[-1], follow_ups=(follow_up,), **common
        )

    # -- with a result ---------------------------------------------------------------------------------------------

    def _judged(self, lane: int, answered: Answered, result: RoundResult, now: float) -> Decision:
        task = _task_of(answered)
        verdict = self._policy.judge(result, task.round_index)
        common: dict[str, Any] = dict(
            reason=verdict.reason,
            forced=verdict.forced,
            policy=self._policy.name,
            **_spent(answered, now),
            **_naming(answered.routed.message, task),
        )
        if not verdict.converged:
            origin = self._carried(task, answered, result)
            follow_up = _follow_up(task, TASKS_NEXT, lane, origin, task.round_index + 1, 0)
            return Decision(kind=DecisionKind.NEXT_ROUND, result=_lean(result), follow_ups=(follow_up,), **common)
        if result.answer is None and task.origin is not None and task.origin.answer is not None:
            warning = f"no answer in round {task.round_index}; the record has that of an earlier round"
            result = msgspec.structs.replace(
                result,
                answer=task.origin.answer,
                score=task.origin.score,
                evidence="self",
                warnings=(*result.warnings, warning),
            )
        if result.answer is None or result.flags:
            detail = "; ".join(result.flags) or "every model abstained or failed"
            reason = "rejected" if result.flags else "no_answer"
            return Decision(kind=DecisionKind.DEAD, result=_lean(result), detail=detail, **{**common, "reason": reason})
        follow_ups, cut_off, warnings = self._branches(task, result)
        result = msgspec.structs.replace(_lean(result), warnings=(*result.warnings, *warnings))
        return Decision(
            kind=DecisionKind.CONVERGED,
            result=result,
            content_hash=content_hash(task, result.answer),
            follow_ups=follow_ups,
            cut_off=cut_off,
            **common,
        )

    def _carried(self, task: TaskDescriptor, answered: Answered, result: RoundResult | None) -> Origin:
        """What the next round or attempt is told of this one."""
        before = task.origin
        is_root = before is None or not before.root_id
        old = before or _NO_ORIGIN
        answered_now = result is not None and result.answer is not None
        return Origin(
            cause=_UNSEALED,
            root_id=task.logical_id if is_root else old.root_id,
            root_topic=task.topic if is_root else old.root_topic,
            parent_id=old.parent_id,
            parent_topic=old.parent_topic,
            depth=old.depth,
            branches_left=self._limits.max_branches if is_root else old.branches_left,
            answer=result.answer if result is not None and answered_now else old.answer,
            score=result.score if result is not None and answered_now else old.score,
            calls=old.calls + len(answered.answers),
            cost=old.cost + sum([a.cost for a in answered.answers]),
            started_at=old.started_at or answered.routed.handed_at,
            errors=old.errors,
        )

    def _branches(
        self, task: TaskDescriptor, result: RoundResult
    ) -> tuple[tuple[FollowUp, ...], tuple[str, ...], tuple[str, ...]]:
        """The branches that the leading answer proposes: taken, cut off, and what was wrong with them."""
        proposed, warnings = _proposals(result)
        if not proposed:
            return (), (), tuple(warnings)
        origin = task.origin
        is_root = origin is None or not origin.root_id
        depth = 0 if origin is None else origin.depth
        left = self._limits.max_branches if origin is None or is_root else origin.branches_left
        cut_off = []
        if depth >= self._limits.max_depth:
            cut_off = [f"{p.topic}: depth {depth} is the deepest" for p in proposed]
            proposed = []
        elif len(proposed) > left:
            proposed = sorted(proposed, key=lambda p: (-p.score, p.priority))
            cut_off = [f"{p.topic}: the root task has no more branches left" for p in proposed[left:]]
            proposed = proposed[:left]
        share = (left - len(proposed)) // len(proposed) if proposed else 0
        follow_ups = []
        for index, proposal in enumerate(proposed):
            logical_id = branch_id(task.logical_id, index)
            follow_ups.append(
                FollowUp(
                    kafka_topic=input_topic(proposal.priority),
                    lane=home_lane(logical_id, self._limits.lanes),
                    topic=proposal.topic,
                    logical_id=logical_id,
                    task_id=str(RQMLRoundId(logical_id, 0)),
                    priority=proposal.priority,
                    generation=task.generation,
                    payload=proposal.payload,
                    score=proposal.score,
                    origin=Origin(
                        cause=_UNSEALED,
                        introduces=True,  # tasks with one id in two topics may both branch to a third
                        root_id=task.logical_id if is_root or origin is None else origin.root_id,
                        root_topic=task.topic if is_root or origin is None else origin.root_topic,
                        parent_id=task.logical_id,
                        parent_topic=task.topic,
                        depth=depth + 1,
                        branches_left=share,
                    ),
                )
            )
        return tuple(follow_ups), tuple(cut_off), tuple(warnings)


def content_hash(task: TaskDescriptor, answer: str | None) -> str:
    """Digest what was asked and what was answered: sha256, in hex, over canonical JSON."""
    told = [task.topic, task.logical_id, task.generation, msgspec.json.decode(bytes(task.payload)), answer]
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()


def _proposals(result: RoundResult) -> tuple[list[BranchProposal], list[str]]:
    """Read `meta.branches` of the first candidate that gave the leading answer and has any."""
    meta = next((a.meta for i, a in enumerate(result.candidates) if i in result.leading and a.meta), None)
    branches = meta.get("branches") if meta else None
    if branches is None:
        return [], []
    if not isinstance(branches, list):
        return [], [f"meta.branches is {type(branches).__name__}, not a list; left out"]
    proposed, warnings = [], []
    for index, branch in enumerate(branches[:MAX_PROPOSALS]):
        try:
            proposal = msgspec.json.decode(encode(branch), type=BranchProposal)
            read_payload(bytes(proposal.payload))
        except (msgspec.MsgspecError, TypeError, ValueError, BadRecordError) as error:
            warnings.append(f"meta.branches[{index}]: {error}; left out"[:300])
        else:
            # a copy: what was decoded is a view into a buffer of the whole
            proposed.append(msgspec.structs.replace(proposal, payload=Raw(bytes(proposal.payload))))
    if len(branches) > MAX_PROPOSALS:
        warnings.append(f"meta.branches has {len(branches):,} entries; those after {MAX_PROPOSALS:,} are left out")
    return proposed, warnings


def _lean(result: RoundResult) -> RoundResult:
    """Take the branches out of the candidates; those taken are spelled out in the decision itself."""
    if all(a.meta is None for a in result.candidates):
        return result
    return msgspec.structs.replace(result, candidates=tuple([_without_branches(a) for a in result.candidates]))


def _without_branches(answer: Answer) -> Answer:
    meta = {k: v for k, v in answer.meta.items() if k != "branches"} if answer.meta else None
    return msgspec.structs.replace(answer, meta=meta or None)


def _unasked(lane: int, answered: Answered, now: float) -> Decision:
    """Bad input, an id with two payloads, a message that brought its process down."""
    message = answered.routed.message
    body = message.body
    if isinstance(body, Rejected):
        return Decision(
            kind=DecisionKind.DEAD,
            kafka_topic=message.kafka_topic,
            offset=message.offset,
            task_id=message.task_id,
            reason="bad_input",
            detail=body.error,
            raw=body.raw,
            decided_at=now,
        )
    if message.verdict == "id_conflict":
        detail = (
            f"{message.kafka_topic}[{lane}]@{message.offset}: the id {body.task.logical_id!r} of topic "
            f"{body.task.topic!r} is taken by a task with another payload - at `$.logical_id`"
        )
        return _dead(answered, now, "id_conflict", detail)
    return _dead(answered, now, "poison", _POISON)


def _dead(answered: Answered, now: float, reason: str, detail: str) -> Decision:
    message = answered.routed.message
    naming = _naming(message, _task_of(answered))
    return Decision(kind=DecisionKind.DEAD, reason=reason, detail=detail, decided_at=now, **naming)


def _naming(message: Message, task: TaskDescriptor) -> dict[str, Any]:
    return {
        "kafka_topic": message.kafka_topic,
        "offset": message.offset,
        "task_id": message.task_id,
        # one that conflicts with the owner of its id never owns it
        "introduces": message.key is not None and message.verdict != "id_conflict",
        "payload_digest": message.digest,
        "topic": task.topic,
        "logical_id": task.logical_id,
        "generation": task.generation,
        "round_index": task.round_index,
        "attempt": task.attempt,
        "priority": task.priority,
        "payload": task.payload,
        "metadata": task.metadata,
        "origin": task.origin,
    }


def _spent(answered: Answered, now: float) -> dict[str, Any]:
    return {
        "calls": len(answered.answers),
        "cost": sum([a.cost for a in answered.answers]),
        "decided_at": now,
        "latency_s": round(now - answered.routed.handed_at, 6),
    }


def _follow_up(
    task: TaskDescriptor, kafka_topic: str, lane: int, origin: Origin, round_index: int, attempt: int
) -> FollowUp:
    return FollowUp(
        kafka_topic=kafka_topic,
        lane=lane,
        topic=task.topic,
        logical_id=task.logical_id,
        task_id=f"{task.logical_id}:r{round_index}",
        priority=task.priority,
        round_index=round_index,
        attempt=attempt,
        generation=task.generation,
        metadata=task.metadata,
        origin=origin,
    )


def _task_of(answered: Answered) -> TaskDescriptor:
    work: Work = answered.routed.message.body
    return work.task


def _history(task: TaskDescriptor) -> tuple[str, ...]:
    return task.origin.errors if task.origin is not None else ()
