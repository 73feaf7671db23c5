"""The cluster at a glance, for `aureon top` and `aureon ui`: how it is, told by Kafka, and how it fared, by the lake.

    nodes.heartbeat ─► Pulse ─┐
    Kafka's offsets ──────────┴─► Cluster    cells, nodes, what waits: every second
    rounds, supervision ────────► Lake       throughput, convergence, affinities, alerts: every few seconds

What is made of what they say is in `overview_cluster` and `overview_lake`; here they are asked.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

import duckdb
import msgspec
from confluent_kafka import KafkaException
from deltalake.exceptions import DeltaError

import one_lake
from connectors.heartbeats import HeartbeatReader
from connectors.kafka import client_config
from flows.cluster import brokers_of
from flows.commands.overview_cluster import Cluster, Pulse
from flows.commands.overview_lake import ALL_OF_IT, SPANS, Lake, Span, lake_within
from flows.commands.task_tree import Tree, find_tree
from flows.figures import KafkaLook, reach
from flows.settings import Settings
from schemas.errors import UNREADABLE, AureonError, TryAgainError

X = TypeVar("X")

LAKE_EVERY_S = 5.0
LAKE_SHARE = 10.0
"""The lake is asked again after so many times as long as it took: a large one takes a tenth of a processor at most."""
REACH_S = 3.0
END_S = 10.0
"""For what the lake is being asked at the end."""


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
        self._questions = 0
        """How many are being asked of the lake, those that still open it included."""
        self._asked: set[duckdb.DuckDBPyConnection] = set()
        self._over = False
        self._lock = threading.Lock()
        """Of the three above."""

    def cluster(self) -> Cluster:
        """Tell how the cluster is; takes some seconds where the broker does not answer."""
        return self._cluster()

    def lake(self, over: str = ALL_OF_IT) -> Lake:
        """Tell how it fared, as of some seconds ago.

        Args:
            over: one of `SPANS`.
        """
        return self._lakes[over]()

    def tree(self, topic: str, logical_id: str) -> Tree | None:
        """Look a task up in the lake, as `find_tree` does.

        Raises:
            TryAgainError: this has ended.
        """
        with self._asking() as lake:
            return find_tree(lake, topic, logical_id)

    def end(self) -> None:
        """Ask the lake no further, and wait until nobody does: a process that ends with a thread in DuckDB is aborted.

        What it is being asked is an error then, and so is what comes later.
        """
        limit = time.monotonic() + END_S
        while True:
            with self._lock:
                self._over = True
                for lake in self._asked:  # again and again: an interrupt that comes between two queries is forgotten
                    lake.interrupt()
                if not self._questions or time.monotonic() > limit:
                    return
            time.sleep(0.01)

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
        with self._asking() as lake:
            return lake_within(span, lake, str(self._settings.lake_dir), now)

    @contextmanager
    def _asking(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Connect to the lake for one question: a connection that is kept would keep a part of every file."""
        with self._lock:
            if self._over:
                raise TryAgainError("the lake is asked no more: this process ends")
            self._questions += 1
        try:
            with one_lake.connect(self._settings.lake_dir, self._settings.blobs_url) as lake:
                with self._lock:
                    self._asked.add(lake)
                try:
                    lake.execute("SET threads = 1")
                    lake.execute("SET parquet_metadata_cache = false")
                    yield lake
                finally:
                    with self._lock:
                        self._asked.remove(lake)
        finally:
            with self._lock:
                self._questions -= 1
