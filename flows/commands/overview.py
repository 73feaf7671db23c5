"""The cluster at a glance, for `aureon top` and `aureon ui`: how it is, told by Kafka, and how it fared, by the lake.

    nodes.heartbeat ─► Pulse ─┐
    Kafka's offsets ──────────┴─► Cluster    cells, nodes, what waits: every second
    rounds, supervision ────────► Lake       throughput, convergence, affinities, alerts: every few seconds

What is made of all that is pure; `Observer`, at the end, asks.
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import duckdb
import msgspec
from confluent_kafka import KafkaException
from deltalake.exceptions import DeltaError
from msgspec import Struct

import one_lake
from connectors.heartbeats import HeartbeatReader
from connectors.kafka import client_config
from flows.cell import brokers_of
from flows.commands.figures import KafkaFigures, KafkaLook, Rate, reach
from flows.registry import SILENT_AFTER_S, Registry
from flows.settings import Settings
from schemas.errors import UNREADABLE, AureonError
from schemas.node import NodeHealth, NodeState
from schemas.supervision import Alert, CellState, Quarantine

X = TypeVar("X")

LAKE_EVERY_S = 5.0
LAKE_SHARE = 10.0
"""The lake is asked again after so many times as long as it took: a large one takes a tenth of a processor at most."""
REACH_S = 3.0
MAX_TOPICS = 100
"""Told one by one, those with the most rounds first."""
MAX_ALERTS = 30
MAX_LATEST = 20
SERIES = 6
"""Topics that a throughput tells apart; the others are one."""
NOTED_WITHIN_S = 7 * 86400.0
"""Older notes of the root are not looked for."""
ROOT_SILENT_AFTER_S = 180.0
"""It notes every minute what it knows."""
OTHERS = "(others)"


class Span(NamedTuple):
    """How far back the lake is asked for, and in which steps, in seconds; without either: all of it, in some sixty."""

    back_s: float | None
    step_s: float | None


SPANS = {
    "10m": Span(600.0, 10.0),
    "1h": Span(3600.0, 60.0),
    "24h": Span(86400.0, 1800.0),
    "all": Span(None, None),
}
ALL_OF_IT = "all"
STEPS = 60


# -- how it is -----------------------------------------------------------------------------------------------------


class CellView(Struct, frozen=True, kw_only=True):
    """A cell, as it said last."""

    cell: str
    process: str
    lanes: tuple[int, ...]
    under_way: int
    decided: int
    """Since its process began."""
    per_s: float | None
    """Decisions a second, over the last heartbeats; None where it is silent, or was heard only once."""
    heard_s: float
    """How many seconds ago that was."""
    silent: bool


class NodeView(Struct, frozen=True, kw_only=True):
    """A node, as a cell that uses it said last."""

    node: str
    cell: str
    health: NodeHealth
    active: int
    limit: int
    waiting: int
    """Calls that wait for a seat."""
    errors: float
    """Of the last calls, 0 to 1; those that timed out included."""
    timeouts: float
    latency_s: float
    """Median of the last calls that were answered."""
    tokens_per_s: float
    calls: int
    not_asked: tuple[str, ...]
    """Models whose circuit breaker is open."""
    silent: bool
    """No cell has said anything of it for a while."""


class Cluster(Struct, frozen=True, kw_only=True):
    """How the cluster is."""

    at: float
    """Seconds since the epoch."""
    broker: str | None = None
    broker_error: str | None = None
    """While the broker is away, cells and nodes are as they were."""
    kafka: KafkaFigures | None = None
    cells: list[CellView] = []
    """Silent ones first."""
    nodes: list[NodeView] = []
    """Those that are not well first."""

    @property
    def per_s(self) -> float:
        """Decisions a second, of all cells."""
        return sum(cell.per_s or 0.0 for cell in self.cells)

    @property
    def under_way(self) -> int:
        """Rounds whose calls are not all answered, in cells that are there."""
        return sum(cell.under_way for cell in self.cells if not cell.silent)


class Pulse:
    """What cells and nodes said last, and how fast each cell decides. Times are handed in."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._rates: dict[str, tuple[str, Rate, float | None]] = {}
        """By cell: its process, the rate of that, and what it told last."""

    def hear(self, states: Iterable[CellState | NodeState]) -> None:
        """Take heartbeats, in order."""
        for state in states:
            if isinstance(state, CellState):
                self._measure(state)
            self._registry.hear([state])

    def _measure(self, state: CellState) -> None:
        before = self._registry.cells.get(state.cell)
        if before is not None and before.at >= state.at:
            return
        process, rate, _ = self._rates.get(state.cell, ("", Rate(), None))
        if process != state.process:  # another life counts from 0
            self._rates[state.cell] = (state.process, rate := Rate(), None)
            rate.add(state.decided, state.at)
        else:
            self._rates[state.cell] = (process, rate, rate.add(state.decided, state.at))

    def look(self, now: float) -> tuple[list[CellView], list[NodeView]]:
        """Tell how cells and nodes are; who has been silent for an hour is forgotten.

        Args:
            now: seconds since the epoch.
        """
        self._registry.look(now)
        cells = [self._cell(state, now) for state in self._registry.cells.values()]
        for name in self._rates.keys() - self._registry.cells.keys():
            del self._rates[name]
        names = {state.process: state.cell for state in self._registry.cells.values()}
        by_node: dict[str, list[NodeState]] = defaultdict(list)
        for state in self._registry.nodes.values():
            by_node[state.node].append(state)
        nodes = []
        for states in by_node.values():
            # A process that has ended says nothing more: while another one does, its word is of no interest.
            fresh = [s for s in states if now - s.at < SILENT_AFTER_S]
            told = fresh or [max(states, key=lambda s: s.at)]
            nodes += [_node(s, names.get(s.cell, s.cell), silent=not fresh) for s in told]
        cells.sort(key=lambda c: (not c.silent, c.cell))
        return cells, sorted(nodes, key=lambda n: (not n.silent, _WELL.index(n.health), n.node, n.cell))

    def _cell(self, state: CellState, now: float) -> CellView:
        silent = now - state.at >= SILENT_AFTER_S
        return CellView(
            cell=state.cell,
            process=state.process,
            lanes=tuple(sorted(state.lanes)),
            under_way=state.under_way,
            decided=state.decided,
            per_s=None if silent else self._rates[state.cell][2],
            heard_s=max(0.0, now - state.at),
            silent=silent,
        )


_WELL = (NodeHealth.UNHEALTHY, NodeHealth.DEGRADED, NodeHealth.HEALTHY)


def _node(state: NodeState, cell: str, *, silent: bool) -> NodeView:
    return NodeView(
        node=state.node,
        cell=cell,
        health=state.health,
        active=state.active_calls,
        limit=state.limit,
        waiting=state.queue_depth,
        errors=state.error_rate,
        timeouts=state.timeout_rate,
        latency_s=state.latency_s,
        tokens_per_s=state.tokens_per_s,
        calls=state.calls,
        not_asked=state.open,
        silent=silent,
    )


# -- how it fared --------------------------------------------------------------------------------------------------


class TopicView(Struct, frozen=True):
    """The rounds of one topic that were decided within a span."""

    topic: str
    decided: int
    last_minute: int
    """Of these, as far as the lake has them by now."""
    converged: int
    forced: int
    """Of the converged."""
    dead: int
    cancelled: int
    calls: int
    cost: float


class RoundView(Struct, frozen=True):
    """All rounds of one number that were decided within a span."""

    round: int
    """From 1 on."""
    decided: int
    converged: int
    forced: int
    dead: int
    share: float
    """Of those decided, the ones that converged; 0 to 1."""
    by_then: float
    """Of all that converged within the span, those that had by this round; 0 to 1."""


class Throughput(Struct, frozen=True):
    """Rounds decided over time."""

    since: float
    """When the first step begins, in seconds since the epoch."""
    step_s: float
    topics: list[str]
    """Those with the most, and the others as one."""
    counts: list[list[int]]
    """Of each topic, by step."""


class Latest(Struct, frozen=True):
    """A round that was decided of late."""

    topic: str
    logical_id: str
    round_index: int
    kind: str
    at: float
    """Seconds since the epoch."""


class Affinity(Struct, frozen=True):
    """How well a node does on a topic."""

    node: str
    topic: str
    quality: float
    """The share of its answers that was right, 0 to 1."""
    outcomes: float
    """What that rests on; what was long ago counts less."""


class Notes(Struct, frozen=True, kw_only=True):
    """What the supervision root noted last."""

    noted_at: float | None = None
    """Seconds since the epoch; None where there is no note of the last week."""
    silent: bool = False
    """It should have noted something since."""
    cells: list[CellState] = []
    quarantines: list[Quarantine] = []
    affinities: list[Affinity] = []
    dying: list[str] = []
    """Topics whose tasks mostly end as dead letters of late."""
    alerts: list[Alert] = []
    """The newest first."""


class Lake(Struct, frozen=True, kw_only=True):
    """How the cluster fared within a span, by the lake."""

    at: float
    """Seconds since the epoch."""
    lake: str
    error: str | None = None
    """With it, all else is as it was when it could be read last."""
    topics: list[TopicView] = []
    left_out: int = 0
    """Further topics."""
    rounds: list[RoundView] = []
    throughput: Throughput | None = None
    latest: list[Latest] = []
    notes: Notes = Notes()


class _Counted(NamedTuple):
    """Of one topic and one round index: a row of `_COUNTS`."""

    topic: str
    round_index: int
    decided: int
    last_minute: int
    converged: int
    forced: int
    dead: int
    cancelled: int
    calls: int
    cost: float
    first_at: float


_COUNTS = """
SELECT
    topic, round_index, count(*),
    count(*) FILTER (decided_at >= to_timestamp($minute)),
    count(*) FILTER (kind = 'converged'),
    count(*) FILTER (kind = 'converged' AND forced),
    count(*) FILTER (kind = 'dead'),
    count(*) FILTER (kind = 'cancelled'),
    coalesce(sum(calls), 0)::BIGINT, coalesce(sum(cost), 0)::DOUBLE, epoch(min(decided_at))
FROM stored.rounds WHERE kind <> 'moved' AND decided_at >= to_timestamp($since) GROUP BY topic, round_index
"""
_OVER_TIME = """
SELECT topic, greatest(0, floor((epoch(decided_at) - $since) / $step))::BIGINT, count(*)
FROM stored.rounds WHERE kind <> 'moved' AND decided_at >= to_timestamp($since) GROUP BY ALL
"""
_LATEST = """
SELECT topic, logical_id, round_index, kind, epoch(decided_at)
FROM stored.rounds WHERE kind <> 'moved' AND decided_at >= to_timestamp($since)
ORDER BY decided_at DESC, lane, decision_offset DESC LIMIT $limit
"""
_NOTED = """
SELECT number, kind, subject, topic, state, detail FROM supervision
WHERE number = (SELECT max(number) FROM supervision WHERE number > $since) AND kind <> 'alert' AND kind <> 'node'
"""
_ALERTS = """
SELECT detail FROM supervision WHERE kind = 'alert' AND number > $since ORDER BY number DESC LIMIT $limit
"""


def topics_of(counted: Sequence[_Counted]) -> list[TopicView]:
    """Add the rounds of each topic up; the one with the most comes first."""
    by_topic: dict[str, list[_Counted]] = defaultdict(list)
    for row in counted:
        by_topic[row.topic].append(row)
    names = TopicView.__struct_fields__[1:]
    topics = [TopicView(t, *(sum(getattr(r, n) for r in rows) for n in names)) for t, rows in by_topic.items()]
    return sorted(topics, key=lambda t: (-t.decided, t.topic))


def rounds_of(counted: Sequence[_Counted]) -> list[RoundView]:
    """Tell how far tasks converged in their first round, the second, and so on; messages that are no tasks left out."""
    by_index: dict[int, list[_Counted]] = defaultdict(list)
    for row in counted:
        if row.topic:
            by_index[row.round_index].append(row)
    in_all = sum(row.converged for row in counted)
    found, so_far = [], 0
    for index, rows in sorted(by_index.items()):
        decided, converged = sum(r.decided for r in rows), sum(r.converged for r in rows)
        so_far += converged
        found.append(
            RoundView(
                index + 1,
                decided,
                converged,
                sum(r.forced for r in rows),
                sum(r.dead for r in rows),
                converged / decided,
                so_far / in_all if in_all else 0.0,
            )
        )
    return found


def steps_of(span: Span, first_at: float | None, now: float) -> tuple[float, float]:
    """When the first step of a throughput begins, in seconds since the epoch, and how long each is, in seconds.

    Args:
        span: what is asked for.
        first_at: when the first round was decided; None where there is none.
        now: seconds since the epoch.
    """
    if span.back_s is not None and span.step_s is not None:
        return math.floor((now - span.back_s) / span.step_s + 1) * span.step_s, span.step_s
    since = now if first_at is None else min(first_at, now)
    step = max(1.0, math.ceil((now - since) / (STEPS - 1)))
    return math.floor(since / step) * step, step


def throughput_of(rows: Iterable[tuple[str, int, int]], since: float, step_s: float, now: float) -> Throughput:
    """Make a series of each topic.

    Args:
        rows: topic, number of the step, rounds decided in it.
        since: when the first step begins, in seconds since the epoch.
        step_s: how long each is, in seconds.
        now: in the last of them.
    """
    steps = int((now - since) // step_s) + 1
    of_topic: dict[str, list[int]] = defaultdict(lambda: [0] * steps)
    for topic, step, count in rows:
        of_topic[topic][min(step, steps - 1)] += count  # other machines' clocks may be ahead
    most = sorted(of_topic, key=lambda t: (-sum(of_topic[t]), t))
    shown, others = (most, []) if len(most) <= SERIES else (most[: SERIES - 1], most[SERIES - 1 :])
    counts = [of_topic[t] for t in shown]
    if others:
        counts.append([sum(column) for column in zip(*(of_topic[t] for t in others), strict=True)])
    return Throughput(since, step_s, shown + [OTHERS] * bool(others), counts)


def notes_of(rows: Iterable[tuple[int, str, str, str, str, str]], alerts: Iterable[str], now: float) -> Notes:
    """Read what the root noted at its last look, and its alerts.

    Args:
        rows: number, kind, subject, topic, state and detail; all of one number.
        alerts: details, the newest first.
        now: seconds since the epoch.
    """
    noted_at: float | None = None
    cells, quarantines, affinities, dying = [], [], [], []
    for number, kind, subject, topic, state, detail in rows:
        noted_at = number / 1000
        if kind == "cell":
            cells.append(msgspec.json.decode(detail, type=CellState))
        elif kind == "quarantine":
            quarantines.append(msgspec.json.decode(detail, type=Quarantine))
        elif kind == "affinity":
            fared = msgspec.json.decode(detail, type=dict[str, float])
            affinities.append(Affinity(subject, topic, fared["quality"], fared["outcomes"]))
        elif state:
            dying.append(topic)
    return Notes(
        noted_at=noted_at,
        silent=noted_at is not None and now - noted_at > ROOT_SILENT_AFTER_S,
        cells=cells,
        quarantines=sorted(quarantines, key=lambda q: (q.node, q.topic)),
        affinities=sorted(affinities, key=lambda a: (a.topic, a.node)),
        dying=sorted(dying),
        alerts=[msgspec.json.decode(alert, type=Alert) for alert in alerts],
    )


# -- asking --------------------------------------------------------------------------------------------------------


class Kept(Generic[X]):
    """What a look gave, for a while: who asks meanwhile is told the same, and no two look at once.

    Args:
        look: asks.
        for_s: how many seconds that is good for.
        share: and for so many times as long as it took, if that is longer.
    """

    def __init__(self, look: Callable[[], X], for_s: float, share: float = 0.0) -> None:
        self._look = look
        self._for_s = for_s
        self._share = share
        self._lock = threading.Lock()
        self._found: X | None = None
        self._until = 0.0

    def __call__(self) -> X:
        """Look, where the last look is too old."""
        with self._lock:
            began = time.monotonic()
            if self._found is None or began >= self._until:
                self._found = self._look()
                ended = time.monotonic()
                self._until = ended + max(self._for_s, self._share * (ended - began))
            return self._found


class Observer:
    """Looks at the cluster; what does not answer is told as such, and looked at again. Threads may share it.

    Unit of parallelism: the process. Guarantee: none is needed; it writes nothing. Replay: begins anew.

    Args:
        settings: which cluster.
        every_s: Kafka is asked no more often, in seconds.

    Raises:
        RefusedError: the settings of Kafka are none.
    """

    def __init__(self, settings: Settings, every_s: float = 1.0) -> None:
        self._settings = settings
        self._properties = settings.kafka_properties
        self._pulse = Pulse()
        self._pulse_lock = threading.Lock()
        self._broker = ""
        self._kafka: KafkaLook | None = None
        self._heartbeats: HeartbeatReader | None = None
        self._cluster = Kept(self._look_at_cluster, 0.9 * every_s)
        self._lakes = {over: Kept(partial(self._look_at_lake, over), LAKE_EVERY_S, LAKE_SHARE) for over in SPANS}
        self._last: dict[str, Lake] = {}
        self._asked: set[duckdb.DuckDBPyConnection] = set()

    def cluster(self) -> Cluster:
        """Tell how the cluster is; takes some seconds where the broker does not answer."""
        return self._cluster()

    def lake(self, over: str = ALL_OF_IT) -> Lake:
        """Tell how it fared, as of some seconds ago.

        Args:
            over: one of `SPANS`.
        """
        return self._lakes[over]()

    def interrupt(self) -> None:
        """Ask the lake no further in what it is being asked; that look is an error then."""
        for lake in list(self._asked):
            lake.interrupt()

    def close(self) -> None:
        """Let go; nobody may be looking any more."""
        self._disconnect()

    def _look_at_cluster(self) -> Cluster:
        kafka, error = None, None
        try:
            look, heartbeats = self._connected()
            kafka = look.figures()
            # There are no heartbeats where there are none of Aureon's Kafka topics.
            heard = heartbeats.read() if kafka is not None else []
            with self._pulse_lock:
                self._pulse.hear(heard)
        except (AureonError, KafkaException) as failed:
            error = str(failed)
            self._disconnect()
        now = time.time()
        with self._pulse_lock:
            cells, nodes = self._pulse.look(now)
        broker = self._broker or None
        return Cluster(at=now, broker=broker, broker_error=error, kafka=kafka, cells=cells, nodes=nodes)

    def _connected(self) -> tuple[KafkaLook, HeartbeatReader]:
        brokers = brokers_of(self._settings)
        if brokers != self._broker:
            self._disconnect()
            self._broker = brokers
        if self._kafka is None or self._heartbeats is None:
            config = client_config(brokers, self._properties)
            reach(config, REACH_S)
            self._kafka, self._heartbeats = KafkaLook(config, self._settings.group), HeartbeatReader(config)
        return self._kafka, self._heartbeats

    def _disconnect(self) -> None:
        """A client that has lost its broker asks for it all the time; a new one is made when it may be back."""
        heartbeats, self._kafka, self._heartbeats = self._heartbeats, None, None
        if heartbeats is not None:
            heartbeats.close()

    def _look_at_lake(self, over: str) -> Lake:
        now = time.time()
        try:
            found = self._asked_lake(SPANS[over], now)
        except (AureonError, OSError, DeltaError, duckdb.Error, *UNREADABLE) as error:
            last = self._last.get(over) or Lake(at=now, lake=str(self._settings.lake_dir))
            return msgspec.structs.replace(last, error=" ".join(str(error).split()))
        with self._pulse_lock:
            # Of a cell that is gone there may be no heartbeat left among those that are read.
            self._pulse.hear(found.notes.cells)
        self._last[over] = found
        return found

    def _asked_lake(self, span: Span, now: float) -> Lake:
        settings = self._settings
        # A connection of its own each time: one that is kept would keep a part of every file.
        with one_lake.connect(settings.lake_dir, settings.blobs_url) as lake:
            self._asked.add(lake)
            try:
                lake.execute("SET threads = 1")
                lake.execute("SET parquet_metadata_cache = false")
                begin = 0.0 if span.back_s is None else now - span.back_s
                rows = lake.execute(_COUNTS, {"since": begin, "minute": now - 60.0}).fetchall()
                counted = [_Counted(*row) for row in rows]
                since, step = steps_of(span, min((c.first_at for c in counted), default=None), now)
                over_time = lake.execute(_OVER_TIME, {"since": since, "step": step}).fetchall()
                latest = lake.execute(_LATEST, {"since": begin, "limit": MAX_LATEST}).fetchall()
                noted_since = int((now - NOTED_WITHIN_S) * 1000)
                noted = lake.execute(_NOTED, {"since": noted_since}).fetchall()
                alerts = lake.execute(_ALERTS, {"since": noted_since, "limit": MAX_ALERTS}).fetchall()
            finally:
                self._asked.discard(lake)
        topics = topics_of(counted)
        return Lake(
            at=now,
            lake=str(settings.lake_dir),
            topics=topics[:MAX_TOPICS],
            left_out=max(0, len(topics) - MAX_TOPICS),
            rounds=rounds_of(counted),
            throughput=throughput_of(over_time, since, step, now),
            latest=[Latest(*row) for row in latest],
            notes=notes_of(noted, (detail for (detail,) in alerts), now),
        )
