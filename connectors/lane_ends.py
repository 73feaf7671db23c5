"""Where partitions end, asked now and then: how much waits there, and whether the broker answers at all."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Self

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.kafka import ClientConfig, admin_client

log = logging.getLogger(__name__)

ASK_EVERY_S = 2.0
ANSWER_LIMIT_S = 2.0

Place = tuple[str, int]
"""Kafka topic, partition."""


class LaneEnds:
    """A thread that asks the broker where some partitions end, for operators alone: nothing waits for it.

    Unit of parallelism: one a process, with a connection of its own. Guarantee: none; what is not known is left out.
    Replay: asks again.

    Args:
        config: from `client_config`; None as long as nothing is known of the broker.
        places: which partitions are of interest now.
    """

    def __init__(self, config: Callable[[], ClientConfig | None], places: Callable[[], Iterable[Place]]) -> None:
        self._config = config
        self._places = places
        self._client: AdminClient | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aureon-ends", daemon=True)
        self.ends: Mapping[Place, int] = {}
        """As of the last answer; a new mapping each time."""
        self.lacks = "the broker was not asked yet"
        """Why there is no answer; empty where the last question had one."""

    def start(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End."""
        self._over.set()
        self._thread.join(timeout=2 * ANSWER_LIMIT_S)

    def _run(self) -> None:
        while True:
            try:
                self._ask()
            except KafkaException as error:
                self._fail(error.args[0].str())
            except TimeoutError:
                self._fail("no answer in time")
            except Exception as error:
                log.exception("where the lanes end")
                self._fail(type(error).__name__)
            if self._over.wait(ASK_EVERY_S):
                return

    def _fail(self, why: str) -> None:
        self.ends, self.lacks = {}, why
        self._client = None  # it would go on asking the broker that led a partition; a new one learns who does now

    def _ask(self) -> None:
        config, places = self._config(), list(self._places())
        if config is None or not places:
            return
        if self._client is None:
            self._client = admin_client(config)
        asked = {TopicPartition(*place): OffsetSpec.latest() for place in places}
        found = self._client.list_offsets(asked, request_timeout=ANSWER_LIMIT_S)
        deadline = time.monotonic() + 2 * ANSWER_LIMIT_S
        ends = {
            (place.topic, place.partition): future.result(max(0.0, deadline - time.monotonic())).offset
            for place, future in found.items()
        }
        self.ends, self.lacks = ends, ""
