"""The client with which the loss audit reads Kafka."""

import time
from collections.abc import Mapping, Sequence

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, TopicPartition

from connectors.kafka import client_config, watermarks_of

Place = tuple[str, int]
"""(Kafka topic, lane)."""
READ_LIMIT_S = 5.0
PATIENCE_S = 20.0
"""Where nothing at all came within the limit it is doubled, up to this: after a broker was away, on a busy machine, a
client may take longer to find all partitions again, and would begin anew each time."""


class LogReader:
    """Reads what has come since.

    Args:
        brokers: where.
    """

    def __init__(self, brokers: str) -> None:
        self._config = {
            **client_config(brokers),
            "group.id": "chaos-audit",
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
        self._consumer = Consumer(self._config)
        self._limit_s = READ_LIMIT_S

    def ends(self, places: Sequence[Place]) -> list[int]:
        """Where the next message of each will be."""
        return [watermarks_of(self._consumer, *place, 30.0)[1] for place in places]

    def read(self, positions: Mapping[Place, int]) -> list[tuple[str, int, int, float, bytes]]:
        """Read from given offsets to the ends, or for some seconds where those do not come.

        Between two calls nothing is fetched: the embedded broker would keep a core busy, and this process another one,
        with telling that there is nothing.

        Returns:
            Of each message the Kafka topic, the lane, the offset, when the broker appended it or, where it does not
            say, when it was read, in seconds since the epoch, and the value.
        """
        self._consumer.assign([TopicPartition(*place, position) for place, position in positions.items()])
        deadline = time.monotonic() + self._limit_s
        unread = set(positions)
        found = []
        while unread and time.monotonic() < deadline:
            for message in self._consumer.consume(2000, 0.02):
                place = str(message.topic()), int(message.partition() or 0)
                error = message.error()
                if error is None:
                    unread.add(place)
                    kind, stamp = message.timestamp()
                    at = stamp / 1000 if kind == TIMESTAMP_LOG_APPEND_TIME else time.time()
                    found.append((*place, int(message.offset() or 0), at, message.value() or b""))
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(place)
        self._consumer.unassign()
        if unread:  # for good, it may be: after a broker was away, one client read nothing more for the rest of an hour
            self._consumer.close()
            self._consumer = Consumer(self._config)
        self._limit_s = min(PATIENCE_S, 2 * self._limit_s) if unread and not found else READ_LIMIT_S
        return found
