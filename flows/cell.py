"""The one place that turns Settings into what a cell is made of: its steps, what it has learned, its connections."""

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from connectors.blobs import BlobStore
from connectors.heads import publish_head
from connectors.lane_group import FixedLanes, LaneGroup
from connectors.ledger import CallLedger
from connectors.nodes.registry import NodeRegistry
from connectors.topics import RESULTS, RETRY
from flows.beat import Beat
from flows.branching import Branching, make_planner
from flows.budget import Budgets
from flows.calls import CallRunner, RunnerParts
from flows.charges import day_of
from flows.clock import ClockGuard
from flows.cluster import INPUTS
from flows.connections import Connections
from flows.lane_source import LanePartition, LaneParts
from flows.learning import Learning
from flows.logs import JsonLines
from flows.overflow import Overflow
from flows.prompts import Prompts
from flows.rules import Rules
from flows.settings import Settings, import_object
from flows.steps.intake import Reading
from flows.steps.plan import MAX_DECISION_BYTES, Limits, Planner
from flows.steps.route import Router
from flows.steps.supervise import Supervision
from flows.stopping import Stopping
from flows.tally import DecisionTally
from flows.traces import spans_of
from flows.tries import RetryPolicy
from one_lake.gate import QualityGate, configurations_of
from one_lake.lanes import LaneVersions
from one_lake.writer import LakeWriter
from schemas.decision import Decision
from schemas.errors import OutcomeUnknownError, TryAgainError
from schemas.head import Head
from schemas.node import NodeCapabilities, NodeState
from schemas.supervision import CellState
from schemas.task import PayloadView, PromptMessage

if TYPE_CHECKING:  # it needs an extra
    from connectors.otlp import SpanExport

_BUDGETS = ("task_budget", "root_budget", "day_budget")
_NO_STATES: Mapping[str, NodeState] = {}


class Cell:
    """The connections of one process; nothing is opened before it is used.

    Args:
        settings: what to connect to.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules = Rules(settings)
        self.stopping = Stopping(settings.drain_s)
        self._lock = threading.RLock()
        self._is_closed = False
        self._connected: Connections | None = None
        self._runner: CallRunner | None = None
        self._router: Router | None = None
        self._learning: Learning | None = None
        self._beat: Beat | None = None
        self._clock: ClockGuard | None = None
        self.decided = 0
        """Decisions that this process has read back."""
        self.tallies: dict[int, DecisionTally] = {}
        """What they were, by lane."""
        self.places: dict[int, LanePartition] = {}
        """The lanes that have a place in this process, open or not."""
        self.writer: LakeWriter | None = None
        """The lake's, once the flow has opened it; none where another process of this Bytewax cluster has the sink."""
        self.traces: SpanExport[tuple[int, Decision]] | None = None
        """Where winning decisions go to become spans, if anywhere."""
        self.waited_at = 0.0
        """When the flow last waited for the broker, by `time.monotonic`."""
        self._capabilities: tuple[int, Sequence[NodeCapabilities]] = (0, ())

    def check(self) -> None:
        """See that what the settings name is there, as far as that takes no broker: a wrong one ends the start.

        Raises:
            RefusedError: something is not; says what to change.
        """
        settings = self.settings
        _ = settings.cell_share, settings.traces_url, settings.kafka_properties, self.nodes
        _ = self.rules.policy, self.rules.supervisor, self.rules.verifiers, self.rules.strategy
        for name in _BUDGETS:
            settings.budget(name)
        make_planner(settings)
        configurations_of(settings.gate)

    # -- what the flow is built from -------------------------------------------------------------------------------

    def lane_parts(self) -> LaneParts:
        """What the source needs."""
        settings = self.settings
        return LaneParts(
            lanes=lambda: self.connect().topics.lanes,
            connections=self.connect,
            ownership=self._ownership,
            reading=self._reading,
            opened=self._opened,
            drop=self._drop,
            stuck=self._stuck,
            inputs=INPUTS,
            results_topic=RESULTS,
            stopping=self.stopping,
            span=settings.span,
            in_flight=settings.in_flight,
            window_bytes=settings.window_bytes,
            rows_held=self._rows_held,
            keep_learned=self._keep_learned,
            places=self.places,
        )

    def _rows_held(self, lane: int) -> int:
        return self._lane_versions.held(lane) if self.writer is None else self.writer.held(lane)

    def _keep_learned(self) -> None:
        self.learning().keep(time.time())

    @cached_property
    def _lane_versions(self) -> LaneVersions:
        return LaneVersions(self.settings.lake_dir, self.connect().cluster.cluster_id)

    def tally(self, lane: int) -> DecisionTally:
        """Where the decisions of a lane are counted."""
        tally = self.tallies.get(lane)
        if tally is None:
            tally = self.tallies[lane] = DecisionTally()
        return tally

    @property
    def connected(self) -> Connections | None:
        """The connections, where there are any yet; for those who only look."""
        return self._connected

    @property
    def running(self) -> CallRunner | None:
        """Where the calls run, once there was one; for those who only look."""
        return self._runner

    def _reading(self, lane: int) -> Reading:
        connected = self.connect()
        return Reading(
            lane=lane,
            lanes=connected.topics.lanes,
            sealer=connected.sealer,
            max_task_bytes=self.settings.max_task_bytes,
            retry_topic=RETRY,
            retry_delay_s=self.settings.retry_delay_s,
            overflow=self.overflow,
        )

    def _ownership(self) -> LaneGroup | FixedLanes:
        """Which lanes this cell has; from now on it says how it is."""
        with self._lock:
            connected = self.connect()
            ownership = connected.ownership
            if self._beat is None:
                self._beat = Beat(self._state, connected.heartbeats.publish, lambda: self.stopping.asked).start()
                self._clock = ClockGuard().start()
                self.learning()  # read while the group hands out the lanes
            return ownership

    def _state(self) -> CellState:
        connected, runner = self.connect(), self._runner
        ownership = connected.ownership
        return CellState(
            cell=connected.member,
            process=process_name(),
            lanes=tuple([lane for lane in range(connected.topics.lanes) if ownership.tenure(lane)]),
            under_way=runner.open_rounds if runner is not None else 0,
            decided=self.decided,
            at=round(time.time(), 3),
        )

    def _opened(self, lane: int) -> None:
        if self.settings.day_budget:
            now = time.time()
            self.runner().know_spent(lane, day_of(now), self.connect().spent_of_day(lane, now))

    def _drop(self, lane: int) -> None:
        if self._runner is not None:
            self._runner.drop(lane)

    def _stuck(self, lane: int) -> int:
        return self._runner.stuck(lane) if self._runner is not None else 0

    @cached_property
    def overflow(self) -> Overflow:
        """Where large payloads and answers go. The store is made once: one that is gone later is not made anew, empty.

        Raises:
            TryAgainError: it cannot be reached, or is gone.
        """
        url = self.settings.blobs_url
        store, note = BlobStore(url), self.settings.state_dir / "blobs.sha256"
        named = hashlib.sha256(url.encode()).hexdigest()
        if note.exists() and note.read_text() == named:
            store.check()
        else:
            store.create()
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(named)
        return Overflow(store, self.settings.blob_bytes)

    @cached_property
    def nodes(self) -> NodeRegistry[Prompts]:
        """The nodes that the settings name."""
        return NodeRegistry(self.settings.nodes, import_object, Prompts)

    def runner(self) -> CallRunner:
        """Where the calls run; one a process."""
        with self._lock:
            if self._runner is None:
                settings, connected = self.settings, self.connect()
                escalation = self.rules.escalation(self.learning().memories, self.present_nodes)
                self._runner = CallRunner(
                    RunnerParts(
                        nodes=lambda: self.nodes,
                        retry=RetryPolicy(settings.call_tries, settings.call_backoff_s),
                        ledger=lambda: CallLedger(
                            settings.state_dir / "calls.sqlite", settings.ledger_bytes, settings.ledger_age_s
                        ),
                        budgets=self.budgets,
                        enough=escalation.enough,
                        check=escalation.check,
                        check_s=settings.verifier_s,
                        is_cancelled=connected.is_cancelled,
                        may_ask=lambda: connected.ownership.is_sure and not self.stopping.asked,
                        publish=connected.heartbeats.publish,
                        cell=process_name(),
                        silence_s=settings.node_silence_s,
                    )
                )
                connected.cancels.on_change = self._runner.cancel
            return self._runner

    def budgets(self) -> Budgets:
        """What may be spent."""
        settings = self.settings
        task, root, day = map(settings.budget, _BUDGETS)
        return Budgets(task=task, root=root, day=day, lanes=self.connect().topics.lanes)

    def present_nodes(self) -> tuple[int, Sequence[NodeCapabilities]]:
        """What the nodes that there are now can do, with a number that rises when they change."""
        present = self.nodes.present
        if present.version != self._capabilities[0]:
            self._capabilities = present.version, tuple([node.capabilities for node in present.nodes.values()])
        return self._capabilities

    def _messages(
        self, topic: str, view: PayloadView, previous_answer: str | None, critique: str
    ) -> tuple[PromptMessage, ...]:
        return self.nodes.prompts.messages(topic, view, previous_answer, critique)

    def router(self) -> Router:
        """Knows the nodes, and how well they do; one a process."""
        with self._lock:
            if self._router is None:
                self._router = Router(
                    self.present_nodes,
                    self.rules.verifiers,
                    self.learning().memories.affinities,
                    self.rules.strategy,
                    states=self._node_states,
                    render=self._messages,
                    stopped=self.learning().memories.supervision.stopped,
                    orders=self.connect().orders,
                )
            return self._router

    def learning(self) -> Learning:
        """What was learned of the models; one a process."""
        with self._lock:
            if self._learning is None:
                settings = self.settings
                connected = self.connect()  # which makes the state folder, or refuses another cluster's
                memories = self.rules.memories()
                cluster = connected.cluster.cluster_id
                self._learning = Learning(memories, settings.state_dir, settings.lake_dir, cluster)
                connected.orders.on_affinity(memories.affinities.adopt)
            return self._learning

    def supervision(self) -> Supervision:
        """Lays results before the policies, with what was learned of their topics."""
        return self.rules.supervision(self.learning().memories)

    def _node_states(self) -> Mapping[str, NodeState]:
        return self._runner.states if self._runner is not None else _NO_STATES

    def planner(self) -> Planner:
        """Knows the policy and the limits."""
        settings = self.settings
        topics = self.connect().topics
        limits = Limits(
            topics.lanes,
            settings.max_attempts,
            settings.max_depth,
            settings.max_branches,
            min(MAX_DECISION_BYTES, topics.max_message_bytes * 3 // 4),
            settings.max_rounds,
        )
        return self.rules.planner(limits, self.budgets(), self.overflow, self.learning().memories, self.branching())

    def branching(self) -> Branching:
        """What follows from records, with what was branched or answered before.

        Raises:
            RefusedError: the settings name no planner, or its file is wrong.
        """
        memories = self.learning().memories

        def known(topic: str, digest: str) -> str | None:
            branch = memories.branched.branch_of(topic, digest)
            if branch is not None:
                return f"it was branched already, as {branch}"
            record = memories.accepted.record_of(topic, digest)
            return f"it was answered already, as {record.logical_id}" if record is not None else None

        return Branching(make_planner(self.settings), known)

    def lake_writer(self) -> LakeWriter:
        """Opens the lake for writing."""
        configurations = configurations_of(self.settings.gate)
        gate = QualityGate(configurations) if configurations is not None else None
        self.writer = self.connect().lake_writer(gate)
        return self.writer

    def publish_head(self, head: Head) -> None:
        """Tell of the lake's head."""
        producer = self.connect().producer
        publish_head(producer, head)
        with contextlib.suppress(OutcomeUnknownError):  # a lane that needs it says so itself
            producer.flush(1.0)

    # -- connecting ------------------------------------------------------------------------------------------------

    def connect(self) -> Connections:
        """Connect to Kafka, once in a process.

        Raises:
            TryAgainError: no broker answers, or the cell is closed.
            RefusedError: what is there does not fit; says what to change.
        """
        with self._lock:
            if self._is_closed:
                raise TryAgainError("the cell is closed")
            if self._connected is None:
                self._connected = Connections(self.settings, self._stops_waiting)
                JsonLines.cell = self._connected.member
                self.traces = self._open_traces(self._connected)
            return self._connected

    def _open_traces(self, connected: Connections) -> "SpanExport[tuple[int, Decision]] | None":
        if not (url := self.settings.traces_url):
            return None
        from connectors.otlp import SpanExport  # noqa: PLC0415 - it needs an extra

        cluster = connected.cluster.cluster_id
        return SpanExport(url, connected.member, lambda entry: spans_of(cluster, entry[1]))

    def _stops_waiting(self) -> bool:
        """Asked again and again while the flow waits for the broker."""
        self.waited_at = time.monotonic()
        return self.stopping.drained

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:  # and not while they are closed: their threads may wait for it
            beside = self._beat, self._clock
            made = self.traces, self.rules, self._connected, self._learning, self._runner, *beside
            self._is_closed = True
            self._runner = self._router = self._learning = self._connected = None
            self._beat = self._clock = self.traces = None
        with contextlib.ExitStack() as parts:  # one that cannot be closed keeps none of the others open
            for part in made:
                if part is not None:
                    parts.callback(part.close)


def process_name() -> str:
    """Name this process, for whoever reads its heartbeats."""
    return f"{socket.gethostname()}:{os.getpid()}"
