"""plan: the decision on one message, with all that follows from it spelled out, encoded and measured.

What has many fields is made of its values in their order: by name they take ten times as long, since each name is
looked for among all the others.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct

from connectors.topics import RETRY, TASKS_NEXT, input_topic
from flows.branching import Branching
from flows.budget import Budgets, after, is_unlimited, spent_up, split
from flows.items import Answered, Rejected, Supervised, Work
from flows.judgement import (
    BUDGET_SPENT,
    NO_RESULT,
    before_of,
    carried,
    critique,
    has_failed,
    judge,
    situation_of,
)
from flows.overflow import Overflow
from flows.policies import ConvergencePolicy, Outlook, Situation
from schemas.decision import (
    NOTHING_SEEN,
    WIRE_VERSION,
    Before,
    Decision,
    DecisionKind,
    FollowUp,
    RoundResult,
    Seen,
)
from schemas.ids import RQMLRoundId, branch_id, content_hash, home_lane
from schemas.node import Answer, Call
from schemas.software import software_version
from schemas.task import (
    Allowance,
    Ancestor,
    Origin,
    PayloadView,
    PromptMessage,
    TaskDescriptor,
    TaskHead,
    encode,
)

MAX_DECISION_BYTES = 24 << 20
"""Everything that follows from a decision is a part of it, plus less than a kilobyte; Kafka takes 32 MiB."""
_POISON = "the process ended uncleanly each time that this task was under way, at last with nothing beside it"
_NO_ORIGIN = Origin()


class Limits(Struct, frozen=True, gc=False):
    """What bounds recursion and retries."""

    lanes: int
    max_attempts: int
    max_depth: int
    max_branches: int
    max_decision_bytes: int = MAX_DECISION_BYTES
    """Less where the broker takes less."""
    max_rounds: int = 3
    """After so many, what supervision rejects is dead, and what it would have reasoned more passes."""


class Planner:
    """Turns supervised rounds into decisions.

    Args:
        policy: says when a task has converged.
        limits: what bounds recursion and retries.
        budgets: what may be spent; without limit if left out.
        overflow: where what is large goes; it stays if left out.
        outlook: what one more round is expected to bring: (task, confidence, and what the round took in calls, in
            money); left out where the policy does not look at it.
        may_quote: whether the next round may be told of a text that a model wrote: (topic, text).
        branching: what follows from a result; only what the result itself proposes if left out.
        supervision: the version of the list of supervision policies, for decisions on what they saw.
    """

    def __init__(
        self,
        policy: ConvergencePolicy,
        limits: Limits,
        budgets: Budgets | None = None,
        overflow: Overflow | None = None,
        outlook: Callable[[TaskDescriptor, float, int, float], Outlook] | None = None,
        may_quote: Callable[[str, str], bool] = lambda _topic, _text: True,
        branching: Branching | None = None,
        supervision: str = "",
    ) -> None:
        self._supervision = supervision
        self._out = overflow.decision_out if overflow is not None else _as_it_is
        self._policy = policy
        self._outlook = outlook
        self._may_quote = may_quote
        self._branching = branching or Branching()
        self._limits = limits
        self._budgets = budgets or Budgets()

    def plan(self, lane: int, round_: Supervised, now: float) -> bytes:
        """Decide, and write the decision down; what cannot be carried out is decided dead instead.

        Args:
            lane: where the message is.
            round_: the message with what became of it.
            now: seconds since the epoch.

        Raises:
            TryAgainError: the blob store cannot be reached.
        """
        try:
            encoded = encode(self._out(self._decide(lane, round_, now)))
        except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            problem = f"the decision cannot be written: {error}"
        else:
            if len(encoded) <= self._limits.max_decision_bytes:
                return encoded
            problem = f"the decision has {len(encoded):,} bytes, more than {self._limits.max_decision_bytes:,}"
        return encode(self._out(_decision(round_.answered, now, DecisionKind.DEAD, "too_large", detail=problem)))

    def _decide(self, lane: int, round_: Supervised, now: float) -> Decision:
        answered = round_.answered
        message, refusal = answered.routed.message, answered.routed.refusal
        if message.verdict == "moved":
            return self._moved(answered, now)
        if message.verdict is not None or answered.cancelled:
            return _unasked(lane, answered, now)
        if refusal is not None and refusal[0] != BUDGET_SPENT:
            reason, detail = refusal
            return _decision(answered, now, DecisionKind.DEAD, reason, detail=detail)
        left = after(self._budgets.of_root(_task_of(answered)), answered.spent)
        spent = refusal[1] if refusal is not None else answered.exceeded or self._spent_up(answered, left)
        result = round_.result
        if not spent and (result is None or has_failed(answered.answers)):
            return self._failed(lane, answered, result, now, left)
        seen, allowance = round_.seen, answered.routed.allowance
        if spent or allowance is not None:
            seen = msgspec.structs.replace(seen, spent=spent, allowance=allowance)
        return self._judged(lane, answered, result or NO_RESULT, now, left, seen)

    def _spent_up(self, answered: Answered, left: Allowance) -> str:
        """Say which budget leaves nothing for another call; empty where there is something left."""
        routed = answered.routed
        if routed.allowance is None:
            return ""
        what = spent_up(left) or spent_up(after(routed.allowance, answered.spent))
        return f"the budget is spent: {what}" if what else ""

    # -- without an answer -----------------------------------------------------------------------------------------

    def _moved(self, answered: Answered, now: float) -> Decision:
        task, message = _task_of(answered), answered.routed.message
        home = home_lane(task.logical_id, self._limits.lanes)
        head = _head(task, task.task_id, Origin(introduces=True), 0, 0)
        follow_up = FollowUp(kafka_topic=message.kafka_topic, lane=home, task_id=task.task_id, task=head)
        return _decision(
            answered,
            now,
            DecisionKind.MOVED,
            "home",
            detail=f"its home is lane {home}",
            follow_ups=(follow_up,),
        )

    def _failed(
        self, lane: int, answered: Answered, result: RoundResult | None, now: float, left: Allowance
    ) -> Decision:
        task = _task_of(answered)
        errors = [f"{a.node}/{a.model}: {a.error} ({a.tries} tries)" for a in answered.answers]
        history = (*_history(task), f"round {task.round_index}, attempt {task.attempt}: " + "; ".join(errors)[:2000])
        if task.attempt + 1 >= self._limits.max_attempts:
            return _decision(answered, now, DecisionKind.DEAD, "attempts_spent", detail=history[-1], result=result)
        before = before_of(task.origin)
        origin = msgspec.structs.replace(self._carried(task, answered, None, left, before), errors=history)
        again = _follow_up(task, RETRY, lane, origin, task.round_index, task.attempt + 1)
        return _decision(
            answered,
            now,
            DecisionKind.RETRY,
            "all calls failed",
            detail=history[-1],
            result=result,
            follow_ups=(again,),
        )

    # -- with a result ---------------------------------------------------------------------------------------------

    def _judged(
        self,
        lane: int,
        answered: Answered,
        result: RoundResult,
        now: float,
        left: Allowance,
        round_seen: Seen,
    ) -> Decision:
        task = _task_of(answered)
        view: PayloadView = answered.routed.message.body.view
        before = before_of(task.origin)
        situation = self._situation(answered, result, before)
        seen = _with_outlook(round_seen, situation.outlook)
        judged = judge(
            self._policy,
            result,
            situation,
            max_rounds=self._limits.max_rounds,
            spent=seen.spent,
            before=before,
        )
        told: dict[str, Any] = {
            "detail": judged.detail,
            "forced": judged.forced,
            "policy": self._policy.name,
            "supervision": self._supervision,
            "seen": seen if seen != NOTHING_SEEN else None,
        }
        lean = _lean(judged.result)
        if judged.kind is DecisionKind.NEXT_ROUND:
            origin = self._carried(task, answered, result, left, before)
            again = (_follow_up(task, TASKS_NEXT, lane, origin, task.round_index + 1, 0),)
            return _decision(answered, now, judged.kind, judged.reason, result=lean, follow_ups=again, **told)
        if judged.kind is DecisionKind.DEAD:
            return _decision(answered, now, judged.kind, judged.reason, result=lean, **told)
        follow_ups, cut_off, warnings = self._branches(task, view, judged.result, left, forced=judged.forced)
        if warnings:
            lean = msgspec.structs.replace(lean, warnings=(*lean.warnings, *warnings))
        asked = task.topic, task.logical_id, task.generation, bytes(task.payload)
        return _decision(
            answered,
            now,
            judged.kind,
            judged.reason,
            result=lean,
            content_hash=content_hash(*asked, lean.answer),
            follow_ups=follow_ups,
            cut_off=cut_off,
            **told,
        )

    def _situation(self, answered: Answered, result: RoundResult, before: Before | None) -> Situation:
        work: Work = answered.routed.message.body
        task = work.task
        outlook, spent = None, answered.spent
        if self._outlook is not None:
            outlook = self._outlook(task, result.confidence, spent.calls, spent.cost)
        return situation_of(task.round_index, work.view, result, before, outlook)

    def _carried(
        self,
        task: TaskDescriptor,
        answered: Answered,
        result: RoundResult | None,
        left: Allowance,
        before: Before | None,
    ) -> Origin:
        """What the next round or attempt is told of this one; nothing that was rejected comes before a model again."""
        old = task.origin or _NO_ORIGIN
        best = carried(result, before)
        return Origin(
            False,  # its id was introduced by the first message
            old.ancestors,
            old.branches_left if old.ancestors else self._limits.max_branches,
            None if is_unlimited(left) else left,
            best.answer,
            best.score,
            best.confidence,
            critique(result, partial(self._may_quote, task.topic)) if result is not None else old.critique,
            old.calls + answered.spent.calls,
            old.tokens + answered.spent.tokens,
            old.cost + answered.spent.cost,
            old.started_at or answered.routed.handed_at,
            old.errors,
        )

    def _branches(
        self, task: TaskDescriptor, view: PayloadView, result: RoundResult, allowance: Allowance, *, forced: bool
    ) -> tuple[tuple[FollowUp, ...], tuple[str, ...], tuple[str, ...]]:
        """The branches that are proposed: taken, cut off, and what was wrong with them."""
        proposed, doubles, warnings = self._branching.proposals(task, view, result, forced=forced)
        if not proposed:
            return (), tuple(doubles), tuple(warnings)
        old = task.origin or _NO_ORIGIN
        depth = len(old.ancestors)
        left = old.branches_left if old.ancestors else self._limits.max_branches
        cut_off: list[str] = []
        if depth >= self._limits.max_depth:
            cut_off = [f"{p.topic}: depth {depth} is the deepest" for p in proposed]
            proposed = []
        elif nothing_left := spent_up(allowance):
            cut_off = [f"{p.topic}: the budget is spent: {nothing_left}" for p in proposed]
            proposed = []
        elif len(proposed) > (most := left if allowance.calls is None else min(left, allowance.calls)):
            proposed = sorted(proposed, key=lambda p: (-p.score, p.priority))
            why = "the root task has no more branches left" if most == left else "the budget has no more calls left"
            cut_off = [f"{p.topic}: {why}" for p in proposed[most:]]
            proposed = proposed[:most]
        limited = not is_unlimited(allowance)
        allowances = split(allowance, len(proposed)) if limited and proposed else None
        share = (left - len(proposed)) // len(proposed) if proposed else 0
        follow_ups = []
        for index, proposal in enumerate(proposed):
            logical_id = branch_id(task.logical_id, index)
            task_id = str(RQMLRoundId(logical_id, 0))
            branch = TaskHead(
                topic=proposal.topic,
                logical_id=logical_id,
                task_id=task_id,
                priority=proposal.priority,
                origin=Origin(
                    introduces=True,  # tasks with one id in two topics may both branch to a third
                    ancestors=(*old.ancestors, Ancestor(task.topic, task.logical_id)),
                    branches_left=share,
                    allowance=allowances[index] if allowances is not None else None,
                ),
            )
            follow_ups.append(
                FollowUp(
                    kafka_topic=input_topic(proposal.priority),
                    lane=home_lane(logical_id, self._limits.lanes),
                    task_id=task_id,
                    task=Raw(encode(branch)),
                    payload=proposal.payload,
                    score=proposal.score,
                )
            )
        return tuple(follow_ups), (*doubles, *cut_off), tuple(warnings)


def _as_it_is(decision: Decision) -> Decision:
    return decision


def prompt_hash(call: Call) -> str:
    """Digest the chat that the models of a round are asked with: sha256, in hex, over its messages as JSON."""
    return hashlib.sha256(encode(call.messages or (PromptMessage("user", call.prompt),))).hexdigest()


def _lean(result: RoundResult) -> RoundResult:
    """Take the branches out of the candidates; those taken are spelled out in the decision itself."""
    for answer in result.candidates:
        if answer.meta is not None:
            return msgspec.structs.replace(result, candidates=tuple([_without_branches(a) for a in result.candidates]))
    return result


def _without_branches(answer: Answer) -> Answer:
    meta = {k: v for k, v in answer.meta.items() if k != "branches"} if answer.meta else None
    return msgspec.structs.replace(answer, meta=meta or None)


def _unasked(lane: int, answered: Answered, now: float) -> Decision:
    """Cancelled, bad input, an id with two payloads, a message that brought its process down."""
    message = answered.routed.message
    body = message.body
    if message.verdict == "cancelled" or answered.cancelled:
        return _decision(answered, now, DecisionKind.CANCELLED, "cancelled")
    if isinstance(body, Rejected) and body.task is not None:
        return _decision(answered, now, DecisionKind.DEAD, "bad_input", detail=body.error)
    if isinstance(body, Rejected):
        return Decision(
            kind=DecisionKind.DEAD,
            kafka_topic=message.kafka_topic,
            offset=message.offset,
            task_id=message.task_id,
            reason="bad_input",
            detail=body.error,
            raw=body.raw,
            software=software_version(),
            decided_at=now,
            version=WIRE_VERSION,
        )
    if message.verdict == "id_conflict":
        detail = (
            f"{message.kafka_topic}[{lane}]@{message.offset}: the id {body.task.logical_id!r} of topic "
            f"{body.task.topic!r} is taken by a task with another payload - at `$.logical_id`"
        )
        return _decision(answered, now, DecisionKind.DEAD, "id_conflict", detail=detail)
    return _decision(answered, now, DecisionKind.DEAD, "poison", detail=_POISON)


def _decision(
    answered: Answered,
    now: float,
    kind: DecisionKind,
    reason: str,
    *,
    detail: str = "",
    policy: str = "",
    supervision: str = "",
    forced: bool = False,
    seen: Seen | None = None,
    result: RoundResult | None = None,
    content_hash: str = "",
    follow_ups: tuple[FollowUp, ...] = (),
    cut_off: tuple[str, ...] = (),
) -> Decision:
    """The decision on a task, with all that it takes over from its message."""
    routed = answered.routed
    message = routed.message
    task: TaskDescriptor = message.body.task
    return Decision(
        kind,
        message.kafka_topic,
        message.offset,
        message.task_id,
        # one that conflicts with the owner of its id never owns it
        message.key is not None and message.verdict != "id_conflict",
        task.topic,
        task.logical_id,
        task.generation,
        task.round_index,
        task.attempt,
        task.priority,
        task.payload,
        message.digest,
        task.metadata,
        task.budget,
        task.sources,
        task.origin,
        task.cause,
        reason,
        detail,
        forced,
        policy,
        result,
        content_hash,
        routed.routing,
        prompt_hash(routed.calls[0]) if answered.answers and routed.calls else "",
        supervision,
        software_version(),
        seen,
        answered.spent.calls,
        answered.spent.tokens,
        answered.spent.cost,
        now,
        round(now - routed.handed_at, 6) if answered.answers else 0.0,
        follow_ups,
        cut_off,
        version=WIRE_VERSION,
    )


def _follow_up(
    task: TaskDescriptor, kafka_topic: str, lane: int, origin: Origin, round_index: int, attempt: int
) -> FollowUp:
    """The next round or attempt of a task."""
    task_id = str(RQMLRoundId(task.logical_id, round_index))
    head = _head(task, task_id, origin, round_index, attempt)
    return FollowUp(kafka_topic=kafka_topic, lane=lane, task_id=task_id, task=head)


def _head(task: TaskDescriptor, task_id: str, origin: Origin, round_index: int, attempt: int) -> Raw:
    return Raw(
        encode(
            TaskHead(
                task.topic,
                task.logical_id,
                task_id,
                task.priority,
                round_index,
                attempt,
                task.generation,
                task.metadata,
                task.budget,
                task.sources,
                origin,
            )
        )
    )


def _task_of(answered: Answered) -> TaskDescriptor:
    work: Work = answered.routed.message.body
    return work.task


def _history(task: TaskDescriptor) -> tuple[str, ...]:
    return task.origin.errors if task.origin is not None else ()


def _with_outlook(seen: Seen, outlook: Outlook | None) -> Seen:
    if outlook is None:
        return seen
    return msgspec.structs.replace(seen, outlook=(outlook.gain, outlook.calls, outlook.cost))
