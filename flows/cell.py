"""The one place that turns Settings into connections: to Kafka, to the lake, to the nodes, to the state folder."""

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import msgspec
from confluent_kafka import TopicPartition

from connectors.blobs import BlobStore
from connectors.cancels import CANCEL_KEY, Cancels
from connectors.cut_commits import CutCommits, Places
from connectors.directives import AFFINITY_KEY, QUARANTINE_KEY, Directives
from connectors.embedded import EmbeddedBroker
from connectors.heads import publish_head
from connectors.heartbeats import HeartbeatWriter
from connectors.kafka import CheckedProducer, client_config, preflight
from connectors.lane_group import FixedLanes, LaneGroup
from connectors.lane_reader import LaneReader, Watermarks
from connectors.ledger import CallLedger
from connectors.nodes.registry import NodeRegistry
from connectors.owner_index import OwnerIndex
from connectors.topics import (
    DIRECTIVES,
    RESULTS,
    RETRY,
    TASKS,
    TASKS_HIGH,
    TASKS_NEXT,
    ClusterRecord,
    Topics,
    ensure_topics,
    establish_cluster,
)
from connectors.whole_files import ANYBODY, make_once
from flows.accepted import AcceptedRecords
from flows.affinity import Affinities
from flows.beat import Beat
from flows.branched import BranchedContents
from flows.branching import Branching, make_planner
from flows.budget import Budgets
from flows.calls import CallRunner, RetryPolicy, RunnerParts
from flows.clock import ClockGuard
from flows.cut import Cut, joined, pieces_of
from flows.lane import Owner, Sealer, id_key
from flows.lane_source import LanePartition, LaneParts
from flows.learning import Learning, Memories
from flows.logs import JsonLines
from flows.orders import Orders
from flows.outlook import Outlooks
from flows.overflow import Overflow
from flows.policies import SimpleThresholdPolicy, value_of
from flows.prompts import Prompts
from flows.rules import Rules
from flows.settings import Settings, import_object
from flows.steps.equivalence import Comparison
from flows.steps.intake import Reading
from flows.steps.plan import MAX_DECISION_BYTES, Limits, Planner
from flows.steps.route import PRESUMED_BEST, Router, Strategy, read_strategy
from flows.steps.supervise import Supervision
from flows.stopping import Stopping
from flows.supervision.health import TopicRecord
from flows.tally import DecisionTally
from flows.traces import spans_of
from flows.votes import RELIABILITY
from one_lake.gate import QualityGate, configurations_of
from one_lake.keys import signing_key
from one_lake.sink import LakeWriter, LaneVersions
from one_lake.tables import owners_copy
from schemas.decision import Decision
from schemas.errors import UNREADABLE, OutcomeUnknownError, RefusedError
from schemas.head import Head
from schemas.node import NodeCapabilities, NodeState
from schemas.supervision import CellState
from schemas.task import PayloadView, PromptMessage, TaskDescriptor

log = logging.getLogger(__name__)

INPUTS: Mapping[str, int] = {TASKS_HIGH: 8, TASKS_NEXT: 4, RETRY: 2, TASKS: 1}
"""The inputs of a lane with the share of turns each gets while all have something; none is ever starved."""

FAR_BEHIND = 20_000
"""So many entries of its log a lane reads in a second or two; beyond, the lake fills its index of ids faster."""

MEMBERS = "-cells"
"""The group whose members are the cells is named like that of the cuts, with this behind it."""

NO_FOLDER = FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError
"""What is raised where a folder cannot be made at its place."""

_BUDGETS = ("task_budget", "root_budget", "day_budget")
_NO_STATES: Mapping[str, NodeState] = {}


class Traces(Protocol):
    """Takes winning decisions, each with its offset; never waits."""

    sent: int
    dropped: int

    def offer(self, items: Sequence[tuple[int, Decision]]) -> None:
        """Hand them over."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


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
        self._connected: _Connected | None = None
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
        self.traces: Traces | None = None
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
        _ = self.rules.policy, self.rules.supervisor, self.rules.verifiers
        for name in _BUDGETS:
            settings.budget(name)
        self._strategy()
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
            drop=self._drop,
            inputs=INPUTS,
            results_topic=RESULTS,
            stopping=self.stopping,
            span=settings.span,
            in_flight=settings.in_flight,
            window_bytes=settings.window_bytes,
            rows_held=self._rows_held,
            places=self.places,
        )

    def _rows_held(self, lane: int) -> int:
        return self._lane_versions.held(lane) if self.writer is None else self.writer.held(lane)

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
    def connected(self) -> "_Connected | None":
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
            if self._beat is None:
                self._beat = Beat(self._state, connected.heartbeats.publish).start()
                self._clock = ClockGuard().start()
            return connected.ownership

    def _state(self) -> CellState:
        connected, runner = self.connect(), self._runner
        ownership = connected.ownership
        return CellState(
            cell=connected.member,
            process=cell_name(),
            lanes=tuple([lane for lane in range(connected.topics.lanes) if ownership.tenure(lane)]),
            under_way=runner.open_rounds if runner is not None else 0,
            decided=self.decided,
            at=round(time.time(), 3),
        )

    def _drop(self, lane: int) -> None:
        if self._runner is not None:
            self._runner.drop(lane)

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
                self._runner = CallRunner(
                    RunnerParts(
                        nodes=lambda: self.nodes,
                        retry=RetryPolicy(settings.call_tries, settings.call_backoff_s),
                        ledger=lambda: CallLedger(
                            settings.state_dir / "calls.sqlite", settings.ledger_bytes, settings.ledger_age_s
                        ),
                        budgets=self.budgets,
                        enough=self.router().enough,
                        check=self.router().check,
                        check_s=settings.verifier_s,
                        is_cancelled=connected.is_cancelled,
                        may_ask=lambda: connected.ownership.is_sure,
                        publish=connected.heartbeats.publish,
                        cell=cell_name(),
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
                value = value_of(self.rules.policy)
                self._router = Router(
                    self.present_nodes,
                    self.rules.verifiers,
                    self.learning().memories.affinities,
                    self._strategy(),
                    states=self._node_states,
                    render=self._messages,
                    pays=value.pays if value is not None else None,
                    by=Comparison(alike=self.rules.comparison.alike),  # without proofs: calls must not wait for them
                    stopped=self.learning().memories.supervision.stopped,
                    orders=self.connect().orders,
                )
            return self._router

    def _strategy(self) -> Strategy:
        settings = self.settings
        agree = max(settings.cascade_agree, settings.score_threshold)
        return read_strategy(settings.routing, settings.cascade_first, agree)

    def learning(self) -> Learning:
        """What was learned of the models; one a process."""
        with self._lock:
            if self._learning is None:
                settings = self.settings
                self.connect()  # which makes the state folder, or refuses another cluster's
                dearest = PRESUMED_BEST if settings.routing == "cascade" else RELIABILITY
                memories = Memories(
                    affinities=Affinities(dearest),
                    outlooks=Outlooks(),
                    supervision=TopicRecord(),
                    accepted=AcceptedRecords(),
                    branched=BranchedContents(),
                )
                self._learning = Learning(memories, settings.state_dir, settings.lake_dir)
                self.connect().orders.on_affinity(memories.affinities.adopt)
            return self._learning

    def supervision(self) -> Supervision:
        """Lays results before the policies, with what was learned of their topics."""
        memories = self.learning().memories
        return Supervision(self.rules.supervisor, self.settings.max_rounds, memories.supervision, memories.accepted)

    def _node_states(self) -> Mapping[str, NodeState]:
        return self._runner.states if self._runner is not None else _NO_STATES

    def planner(self) -> Planner:
        """Knows the policy and the limits."""
        settings = self.settings
        policy = self.rules.policy
        topics = self.connect().topics
        limits = Limits(
            topics.lanes,
            settings.max_attempts,
            settings.max_depth,
            settings.max_branches,
            min(MAX_DECISION_BYTES, topics.max_message_bytes * 3 // 4),
            settings.max_rounds,
        )
        plain = isinstance(policy, SimpleThresholdPolicy)  # which does not look at it, in each of thousands a second
        outlook = None if plain else self.learning().memories.outlooks.outlook
        supervisor = self.rules.supervisor
        self.overflow.keep(supervisor.encoded)  # before any decision names it
        return Planner(
            policy,
            limits,
            self.budgets(),
            self.overflow,
            outlook,
            supervisor.may_quote,
            self.branching(),
            supervisor.version,
        )

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
            return f"it has a record already, that of {record.logical_id}" if record is not None else None

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

    def connect(self) -> "_Connected":
        """Connect to Kafka, once in a process.

        Raises:
            TryAgainError: no broker answers.
            RefusedError: what is there does not fit; says what to change.
        """
        with self._lock:
            if self._connected is None:
                self._connected = _Connected(self.settings, self._stops_waiting)
                JsonLines.cell = self._connected.member
                self.traces = self._open_traces(self._connected)
            return self._connected

    def _open_traces(self, connected: "_Connected") -> "Traces | None":
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
        with self._lock, contextlib.ExitStack() as parts:  # one that cannot be closed keeps none of the others open
            beside = self._beat, self._clock
            for part in (self.traces, self.rules, self._connected, self._learning, self._runner, *beside):
                if part is not None:
                    parts.callback(part.close)
            self._runner = self._router = self._learning = self._connected = None
            self._beat = self._clock = self.traces = None


class _Connected:
    """Kafka and the state folder, as the lanes of this process share them."""

    def __init__(self, settings: Settings, should_stop: Callable[[], bool]) -> None:
        self._settings = settings
        self.config = client_config(brokers_of(settings), settings.kafka_properties)
        preflight(self.config)
        self.topics: Topics = ensure_topics(self.config, lanes_asked(settings), settings.replication)
        key = cluster_key(settings.key_path)
        self.sealer = Sealer(key)
        self.cluster: ClusterRecord = establish_cluster(self.config, self.topics, fingerprint(key))
        belongs_to(settings.state_dir, self.cluster.cluster_id, "state folder", "AUREON_STATE")
        belongs_to(settings.lake_dir, self.cluster.cluster_id, "lake", "AUREON_LAKE")
        self._signing_key = signing_key(settings.state_dir)
        self.producer = CheckedProducer(self.config, should_stop, idempotent=self.topics.committed_only)
        self._watermarks = Watermarks(self.config)
        self._commits = CutCommits(self.config, settings.group)
        self.heartbeats = HeartbeatWriter(self.config)
        self.cancels, self.orders = Cancels(), Orders()
        takers = {
            CANCEL_KEY: self.cancels.take,
            QUARANTINE_KEY: self.orders.take_quarantine,
            AFFINITY_KEY: self.orders.take_affinity,
        }
        self._directives = Directives(self.reader(DIRECTIVES, 0, 0), takers, self.cancels.settle)

    def reader(self, kafka_topic: str, lane: int, offset: int) -> LaneReader:
        """Open one partition for reading."""
        return LaneReader(
            self.config,
            kafka_topic,
            lane,
            offset,
            self._watermarks,
            committed_only=self.topics.committed_only,
            # the embedded broker answers an empty fetch at once: a dozen readers at their ends keep two cores busy
            sleep_after_s=1.0 if self.topics.committed_only else 0.0,
        )

    @cached_property
    def member(self) -> str:
        """The name of this cell."""
        return member_name(self._settings.state_dir)

    @cached_property
    def ownership(self) -> LaneGroup | FixedLanes:
        """Which lanes this cell has: those that the group hands out, unless they are fixed, by hand or on the embedded
        broker, which does not notice when a member dies.
        """
        settings = self._settings
        share, shares = settings.cell_share
        if not settings.cell and self.topics.committed_only:
            return LaneGroup(self.config, settings.group + MEMBERS, self.member, RESULTS, settings.drain_s)
        mine = [lane for lane in range(self.topics.lanes) if lane % shares == share - 1]
        return FixedLanes(mine)

    def owners(self, lane: int, resume_from: int) -> OwnerIndex:
        """Open the index of ids of a lane; one that is new, or far behind, goes on with the copy that was left last,
        and takes from the lake's rows what is lacking then.
        """
        path, copy = self._settings.state_dir / f"lane-{lane:04d}.sqlite", owners_copy(self._settings.lake_dir, lane)
        index = OwnerIndex(path, copy)
        if resume_from > index.next_offset + (0 if index.is_new else FAR_BEHIND):
            try:
                self._catch_up(index, lane)
            except BaseException:
                index.close()
                raise
        return index

    def lake_writer(self, gate: QualityGate | None = None) -> LakeWriter:
        """Opens the lake for writing."""
        return LakeWriter(self._settings.lake_dir, self._signing_key, self.cluster.cluster_id, gate)

    def _catch_up(self, index: OwnerIndex, lane: int) -> None:
        lake = self.lake_writer()
        try:
            version, first = lake.version(lane), index.next_offset
            if version < first:
                return
            log.info("lane %d: its index of ids takes from the lake offsets %d to %d", lane, first, version)

            def known() -> Iterator[tuple[bytes, Owner]]:
                for batch in lake.owners(lane, first):
                    for o in batch:
                        owner = Owner(o.kafka_topic, o.message_offset, o.payload_digest)
                        yield id_key(o.topic, o.logical_id, o.generation), owner

            index.catch_up(known(), version + 1)
        finally:
            lake.close()

    def committed_cut(self, lane: int) -> Cut | None:
        """The cut that was committed last, by whichever cell."""
        places = {name: TopicPartition(name, lane) for name in (RESULTS, *INPUTS)}
        found = self._commits.committed_cut(list(places.values()))
        texts = {name: found.get(place, (0, ""))[1] for name, place in places.items()}
        common = texts.pop(RESULTS)
        return joined(common, texts) if common else None

    def commit_cut(self, cut: Cut) -> None:
        """Commit a cut soon."""
        self._commits.keep(cut.lane, _places(cut))

    def commit_now(self, cut: Cut) -> None:
        """Commit a cut, and wait until the broker has it."""
        self._commits.now(cut.lane, _places(cut))

    def forget_cut(self, lane: int) -> None:
        """Commit nothing more of a lane."""
        self._commits.forget(lane)

    def is_cancelled(self, task: TaskDescriptor) -> bool:
        """Tell whether a task, or one that it came of, is cancelled.

        Raises:
            Exception: nobody can tell any more.
        """
        self._directives.check()
        return self.cancels.covers(task)

    def flush(self) -> None:
        """Wait until all that was sent has arrived."""
        self.producer.flush()

    def close(self) -> None:
        """Let go of Kafka."""
        self._directives.close()
        self.heartbeats.close()
        self._watermarks.close()
        self.producer.close()
        if "ownership" in vars(self):
            self.ownership.close()
        self._commits.close()


def _places(cut: Cut) -> Places:
    """What to commit of a cut: its low-waters are the group's offsets, so that the usual tools show the lag."""
    common, pieces = pieces_of(cut)
    places = {TopicPartition(name, cut.lane): (cut.topics[name].low, piece) for name, piece in pieces.items()}
    places[TopicPartition(RESULTS, cut.lane)] = (cut.resume_from, common)
    return places


def member_name(state_dir: Path) -> str:
    """Name this cell for good: the same in every life, and another one for every state folder."""
    path = state_dir / "cell.name"
    make_once(path, f"{socket.gethostname()}-{secrets.token_hex(4)}\n".encode(), ANYBODY)
    return path.read_text().strip()


def cell_name() -> str:
    """Name this process, for whoever reads its heartbeats."""
    return f"{socket.gethostname()}:{os.getpid()}"


def brokers_of(settings: Settings) -> str:
    """The address of the broker: the user's, or that of the embedded one, which has to be running.

    Raises:
        RefusedError: there is none.
    """
    if settings.brokers:
        return settings.brokers
    embedded = EmbeddedBroker(settings.broker_dir)
    if not embedded.is_running():
        raise RefusedError(
            "no broker: set AUREON_BROKERS to the address of yours, or start the embedded one with "
            f"`aureon broker --home {settings.home}` (`aureon run` starts it itself)"
        )
    return embedded.brokers


def lanes_asked(settings: Settings) -> int | None:
    """How many lanes to insist on: those that the user named, or none in particular."""
    return settings.lanes or None


def cluster_key(path: Path) -> bytes:
    """Read the cluster's key, or make one; several processes may do so at once.

    Raises:
        RefusedError: the file holds something else.
    """
    make_once(path, f"{secrets.token_hex(32)}\n".encode())
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (ValueError, UnicodeDecodeError):
        key = b""
    if len(key) != 32:  # 256 bits
        raise RefusedError(f"{path}: expected a key of 64 hex digits; copy it from another cell of this cluster")
    return key


def fingerprint(key: bytes) -> str:
    """Tell keys apart without telling them."""
    return hashlib.blake2b(b"fingerprint", key=key, digest_size=8).hexdigest()


def belongs_to(folder: Path, cluster_id: str, what: str, variable: str) -> None:
    """Check that a folder is of this cluster; a folder without a word of it is taken.

    Raises:
        RefusedError: it is another cluster's.
    """
    path = folder / "cluster.json"
    try:
        make_once(path, msgspec.json.encode({"cluster_id": cluster_id}), ANYBODY)
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, str]).get("cluster_id")
    except NO_FOLDER as error:
        raise RefusedError(f"the {what} {folder} cannot be made: {error.strerror}; set {variable} to another") from None
    except UNREADABLE as error:
        raise RefusedError(
            f'{path}: {error}; is this {what} Aureon\'s? Where it is, put back {{"cluster_id":"{cluster_id}"}}'
        ) from None
    if known != cluster_id:
        raise RefusedError(
            f"the {what} {folder} belongs to the cluster {known}, but the broker to {cluster_id}: set AUREON_BROKERS "
            f"to the broker it was made with, or {variable} to another folder"
        )
