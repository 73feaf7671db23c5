"""Ask again: the questions of past tasks, to the present models, by the present rules.

    past task ─► route ─► infer ─► validate ─► supervise ─► plan ─► ended? ─► the rounds of the run
                   ▲                                          │
                   └──────────────── next round ──────────────┘

Each answer is in a call ledger of the run's own before anything acts on it, so a run that is killed pays for no
finished call twice. What was learned of the models is as it was when the run began. No branch is followed.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Raw, Struct

from connectors.blobs import BlobStore
from connectors.ledger import CallLedger
from connectors.nodes.registry import NodeRegistry
from connectors.topics import TASKS
from flows.branching import Branching
from flows.budget import Budgets, is_unlimited
from flows.calls import CallRunner, RunnerParts
from flows.items import Answered, Supervised, Work
from flows.lane import Message
from flows.learning import Learning, Memories
from flows.overflow import Overflow
from flows.prompts import Prompts
from flows.replays.parts import Done, Past, as_file, empty_row
from flows.replays.redecide import IMPOSSIBLE
from flows.rules import Rules
from flows.settings import Settings, import_object
from flows.steps.derive import LoggedDecision, round_row
from flows.steps.plan import Limits
from flows.steps.route import Router
from flows.steps.validate import validate
from flows.tries import RetryPolicy
from one_lake.encode import values_of
from one_lake.runs import Asked
from schemas.blob import reference_in
from schemas.decision import NO_PAYLOAD, Decision, DecisionKind, read_decision
from schemas.errors import BadRecordError
from schemas.ids import RQMLRoundId
from schemas.node import NodeCapabilities
from schemas.one import RunRow
from schemas.task import TaskDescriptor, read_head, read_payload

ASKED = "asked"
PARTS_OPEN = 2
"""So that one is begun while the last tasks of the one before wait."""
LOOK_S = 0.005
LEDGER_AGE_S = 90 * 86400.0
LEDGER_BYTES = 1 << 32


class _Named(NamedTuple):
    """A task as the lake names it."""

    lane: int
    decision_offset: int
    cluster: str | None
    topic: str
    logical_id: str
    generation: int
    policy: str
    payload: str | None


TASKS_ASKED = Asked(
    tuple(f"r.{name}" for name in _Named._fields if name != "payload"),
    "r.round_index = 0 AND r.attempt = 0 AND r.kind <> 'moved'",
)
"""One row a task is enough."""


class _Task(Struct):
    """A task that is being asked."""

    named: _Named
    part: "_Part"
    rows: list[RunRow] = []


class _Part(Struct):
    number: int
    tasks: list[_Task] = []
    open: int = 0


class Reasking:
    """Asks the tasks of parts again.

    Args:
        settings: the nodes, the routing, the rules, the budgets.
        folder: of the run.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._rules = Rules(settings)
        self._store = BlobStore(settings.blobs_url)
        overflow = Overflow(self._store, settings.blob_bytes)
        self._registry = NodeRegistry(settings.nodes, import_object, Prompts)
        self._budgets = Budgets(task=settings.budget("task_budget"), root=settings.budget("root_budget"))
        memories = self._rules.memories()
        (folder / "learned").mkdir(exist_ok=True)
        Learning(memories, folder / "learned", settings.lake_dir, None).close()  # which keeps it for when this goes on
        self._affinities = memories.affinities
        self._supervision = self._rules.supervision(memories)
        self._nodes = [node.capabilities for node in self._registry.nodes.values()]
        self._router = self._router_of(memories)
        escalation = self._rules.escalation(memories, self._present)
        limits = Limits(1, settings.max_attempts, settings.max_depth, 0, max_rounds=settings.max_rounds)
        self._planner = self._rules.planner(limits, self._budgets, overflow, memories, Branching())
        self._overflow = overflow
        self._runner = CallRunner(
            RunnerParts(
                nodes=lambda: self._registry,
                retry=RetryPolicy(settings.call_tries, settings.call_backoff_s),
                ledger=lambda: CallLedger(folder / "calls.sqlite", LEDGER_BYTES, LEDGER_AGE_S),
                budgets=lambda: self._budgets,
                enough=escalation.enough,
                check=escalation.check,
                check_s=settings.verifier_s,
                silence_s=settings.node_silence_s,
            )
        )
        self._lane = self._runner.new_lane()
        self._parts: deque[_Part] = deque()
        self._tasks: dict[int, _Task] = {}
        self._numbered = 0
        self._delayed: deque[tuple[float, _Task, TaskDescriptor]] = deque()
        self._retry_delay_s = settings.retry_delay_s

    def _present(self) -> tuple[int, Sequence[NodeCapabilities]]:
        return 1, self._nodes

    def _router_of(self, memories: Memories) -> Router:
        return Router(
            self._present,
            self._rules.verifiers,
            memories.affinities,
            self._rules.strategy,
            render=self._registry.present.prompts.messages,
        )

    @property
    def reused(self) -> int:
        """Finished calls of a life before that did not have to be paid again."""
        return self._runner.told_twice()[0]

    def close(self) -> None:
        """Let go of the nodes."""
        self._runner.close()
        self._rules.close()

    asked = TASKS_ASKED

    # -- parts in, parts out -----------------------------------------------------------------------------------------

    def take(self, parts: Iterable[Past]) -> Iterator[Done]:
        """Ask parts again; gives those that are done by now, in order. Waits where too many are under way.

        Raises:
            TryAgainError: answers cannot be made durable.
        """
        for past in parts:
            while len(self._parts) >= PARTS_OPEN:
                yield from self._drain()
            self._begin(past)
        yield from self._drain()

    def rest(self) -> Iterator[Done]:
        """Wait for all others."""
        while self._parts:
            yield from self._drain()

    def _begin(self, past: Past) -> None:
        part = _Part(past.part)
        self._parts.append(part)
        seen = set()
        for values in values_of(past.rounds, _Named._fields):
            named = _Named(*values)
            key = named.cluster, named.topic, named.logical_id, named.generation
            if key in seen:
                continue
            seen.add(key)
            task = _Task(named, part)
            part.tasks.append(task)
            try:
                descriptor = self._descriptor(named)
            except BadRecordError as error:
                task.rows.append(_impossible(named, str(error)))
                continue
            part.open += 1
            self._ask(task, descriptor)

    def _descriptor(self, named: _Named) -> TaskDescriptor:
        if named.payload is None:
            raise BadRecordError("the lake has no payload of this task: it has not ended")
        payload = named.payload.encode()
        reference = reference_in(named.payload)
        if reference is not None:
            payload = self._store.get(reference)
        read_payload(payload)
        return TaskDescriptor(
            topic=named.topic,
            logical_id=named.logical_id,
            task_id=str(RQMLRoundId(named.logical_id, 0)),
            generation=named.generation,
            payload=Raw(payload),
        )

    def _ask(self, task: _Task, descriptor: TaskDescriptor) -> None:
        self._numbered += 1
        self._tasks[self._numbered] = task
        message = Message(
            kafka_topic=TASKS,
            offset=self._numbered,
            task_id=descriptor.task_id,
            priority=descriptor.priority,
            body=Work(descriptor, read_payload(bytes(descriptor.payload))),
        )
        allowance = self._budgets.of_round(descriptor)
        routed = self._router.route(message, time.time(), None if is_unlimited(allowance) else allowance)
        if routed.calls:
            self._runner.submit(self._lane, [routed])
        else:
            self._lane.outbox.append(Answered(routed, ()))

    def _drain(self) -> Iterator[Done]:
        """Go on with what has been answered; a moment later where nothing has."""
        self._runner.check()
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            _, task, descriptor = self._delayed.popleft()
            self._ask(task, descriptor)
        if not self._lane.outbox:
            time.sleep(LOOK_S)
        while self._lane.outbox:
            self._decide(self._lane.outbox.popleft())
        while self._parts and not self._parts[0].open:
            part = self._parts.popleft()
            rows = [row for task in part.tasks for row in task.rows]
            yield Done(part.number, as_file(rows))

    def _decide(self, answered: Answered) -> None:
        message = answered.routed.message
        task = self._tasks.pop(message.offset)
        work: Work = message.body
        judged = Supervised(answered, None)
        if answered.answers:
            known = self._affinities.votes(work.task.topic, time.time())
            if known is not None:
                self._overflow.keep(known.encoded)
            rules = self._rules
            result = validate(work.view, answered.answers, rules.verifiers, known, rules.comparison, answered.checks)
            judged = self._supervision.supervise(answered, result)
        decision = read_decision(self._planner.plan(0, judged, time.time()))
        task.rows.append(_row(task.named, decision))
        if decision.kind is DecisionKind.NEXT_ROUND:
            self._ask(task, self._next(work.task, decision))
        elif decision.kind is DecisionKind.RETRY:
            due_at = time.monotonic() + self._retry_delay_s
            self._delayed.append((due_at, task, self._next(work.task, decision)))
        else:
            task.part.open -= 1

    def _next(self, task: TaskDescriptor, decision: Decision) -> TaskDescriptor:
        """The message that a decision spells out, as intake would read it."""
        (follow_up,) = decision.follow_ups
        head = read_head(follow_up.task)
        payload = task.payload if follow_up.payload is NO_PAYLOAD else follow_up.payload
        told: dict[str, Any] = {name: getattr(head, name) for name in head.__struct_fields__}
        descriptor = TaskDescriptor(**told, payload=payload)
        whole, _ = self._overflow.task_back(descriptor, read_payload(bytes(payload)))
        return whole


def _row(named: _Named, decision: Decision) -> RunRow:
    row = round_row(LoggedDecision(named.cluster or "", named.lane, named.decision_offset, decision, ""))
    told = {name: getattr(row, name) for name in RunRow.__struct_fields__ if hasattr(row, name)}
    return RunRow(**{**told, "cluster": named.cluster}, outcome=ASKED, note="")


def _impossible(named: _Named, why: str) -> RunRow:
    return empty_row(named, outcome=IMPOSSIBLE, note=why)
