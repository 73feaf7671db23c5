"""The one place that turns Settings into what the supervision root is made of: its connections, and what it knew."""

import logging
import time
from functools import cached_property
from pathlib import Path

import msgspec

from connectors.checked_producer import CheckedProducer
from connectors.directives import AFFINITY_KEY, QUARANTINE_KEY
from connectors.kafka import preflight, read_to_end
from connectors.lane_reader import LaneReader, Watermarks
from connectors.topics import DIRECTIVES, HEARTBEATS, Topics, ensure_topics
from flows.clock import ClockGuard
from flows.cluster import config_of
from flows.counts import TopicCounts
from flows.root import Root
from flows.settings import Settings
from flows.stopping import Stopping
from one_lake.notes import last_number
from schemas.errors import UNREADABLE
from schemas.supervision import Quarantine

log = logging.getLogger(__name__)


class RootParts:
    """The connections of the root; nothing is opened before it is used.

    Args:
        settings: what to connect to.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = Stopping(settings.drain_s)
        self.root_now: Root | None = None
        """The root, once the flow has it; for those who only look."""
        self.turned_at = 0.0
        """When the flow last had a turn, by `time.monotonic`."""
        self.waited_at = 0.0
        """When it last waited for the broker."""

    @property
    def state_dir(self) -> Path:
        """The root's own folder."""
        return Path(self.settings.state or Path(self.settings.home) / "root")

    @cached_property
    def config(self) -> dict[str, object]:
        """Of all clients.

        Raises:
            TryAgainError: no broker answers.
        """
        config = config_of(self.settings)
        preflight(config)
        return config

    @cached_property
    def topics(self) -> Topics:
        """Aureon's Kafka topics."""
        return ensure_topics(self.config, self.settings.lanes, self.settings.replication)

    @cached_property
    def _watermarks(self) -> Watermarks:
        return Watermarks(self.config)

    @cached_property
    def producer(self) -> CheckedProducer:
        """Writes directives."""
        return CheckedProducer(self.config, self._stops_waiting, idempotent=self.topics.committed_only)

    def _stops_waiting(self) -> bool:
        self.waited_at = time.monotonic()
        return self.stopping.drained

    def reader(self, kafka_topic: str, partition: int, offset: int) -> LaneReader:
        """Open one partition for reading."""
        committed = self.topics.committed_only
        return LaneReader(
            self.config,
            kafka_topic,
            partition,
            offset,
            self._watermarks,
            committed_only=committed,
            sleep_after_s=0.1 if committed else 0.0,
        )

    @property
    def read(self) -> list[str]:
        """What the root reads, by name: the heartbeats and the lanes."""
        return [HEARTBEATS, *[f"{lane:04d}" for lane in range(self.topics.lanes)]]

    def root(self, state: bytes | None) -> Root:
        """The root as it was, or with what is known on Kafka; and with the orders that stand."""
        self._clock = ClockGuard().start()
        standing, known = self._standing()
        self.root_now = Root(state, standing, known, self._last_noted(), self.read)
        return self.root_now

    def _last_noted(self) -> int:
        try:
            return last_number(self.settings.lake_dir)
        except OSError as error:
            log.warning("%s; what is noted may be left out, if it was ahead of the clock", error)
            return 0

    def _standing(self) -> tuple[list[Quarantine], list[TopicCounts]]:
        orders: dict[bytes, Quarantine] = {}
        known: dict[bytes, TopicCounts] = {}
        for message in read_to_end(self.config, DIRECTIVES):
            key, value = message.key() or b"", message.value() or b""
            try:
                if key.startswith(QUARANTINE_KEY):
                    orders[key] = msgspec.json.decode(value, type=Quarantine)
                elif key.startswith(AFFINITY_KEY):
                    known[key] = msgspec.json.decode(value, type=TopicCounts)
            except UNREADABLE as error:
                log.warning("%s@%s: %s; ignored", DIRECTIVES, message.offset(), error)
        return list(orders.values()), list(known.values())

    def close(self) -> None:
        """Let go of Kafka."""
        for name in ("_clock", "_watermarks", "producer"):
            if name in vars(self):
                getattr(self, name).close()
