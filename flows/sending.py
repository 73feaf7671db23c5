"""Tasks on their way to Kafka: checked, and sent to their home lanes."""

from typing import Self

import msgspec

from connectors.checked_producer import CheckedProducer
from connectors.kafka import ClientConfig
from connectors.topics import input_topic
from flows.overflow import Overflow
from schemas.errors import BadRecordError
from schemas.ids import home_lane
from schemas.task import AWAY, encode, read_task

BATCH_MESSAGES = 1000
BATCH_BYTES = 1 << 20
QUEUE_KBYTES = 32_768
"""The library holds so much for the broker, and no more: a file of any size passes through."""


class TaskSender:
    """Checks tasks and sends them to their home lanes, in batches.

    Args:
        config: from `client_config`.
        lanes: the number of lanes.
        max_task_bytes: a larger message would be a dead letter.
        batch: tasks are sent by so many.
        overflow: where large payloads go; None where they stay.
    """

    def __init__(
        self,
        config: ClientConfig,
        lanes: int,
        max_task_bytes: int,
        batch: int = BATCH_MESSAGES,
        overflow: Overflow | None = None,
    ) -> None:
        self._overflow = overflow
        self._producer = CheckedProducer({**config, "queue.buffering.max.kbytes": QUEUE_KBYTES})
        self._lanes = lanes
        self._max_task_bytes = max_task_bytes
        self._batch = batch
        self._batches: dict[tuple[str, int], tuple[list[bytes], list[bytes]]] = {}
        self._messages = self._bytes = 0
        self.sent = 0
        """Tasks taken so far; `flush` confirms them."""

    def add(self, document: bytes) -> tuple[str, str]:
        """Take one task.

        Returns:
            Its topic and its logical id.

        Raises:
            BadRecordError: it is none, or refers to a blob that is not there; says why.
            OutcomeUnknownError: an earlier one was not delivered.
            TryAgainError: the blob store cannot be reached.
        """
        if len(document) > self._max_task_bytes:
            raise too_large(len(document), self._max_task_bytes)
        task, view = read_task(document)
        if task.cause is not None:
            raise BadRecordError("Aureon's own; leave it out - at `$.cause`")
        if task.redrive is not None:
            raise BadRecordError("Aureon's own; leave it out - at `$.redrive`")
        if self._overflow is not None:
            if view is AWAY:
                task, _ = self._overflow.task_back(task, view)
            task = msgspec.structs.replace(task, payload=self._overflow.payload_out(task.payload))
        message = encode(task)
        if len(message) > self._max_task_bytes:  # with its ids filled in
            raise too_large(len(message), self._max_task_bytes)
        place = (input_topic(task.priority), home_lane(task.logical_id, self._lanes))
        keys, messages = self._batches.setdefault(place, ([], []))
        keys.append(task.logical_id.encode())
        messages.append(message)
        self._messages += 1
        self._bytes += len(message)
        self.sent += 1
        if self._messages >= self._batch or self._bytes >= BATCH_BYTES:
            self._send()
        return task.topic, task.logical_id

    def _send(self) -> None:
        for (kafka_topic, lane), (keys, messages) in self._batches.items():
            self._producer.send(kafka_topic, lane, messages, keys)
        self._batches.clear()
        self._messages = self._bytes = 0

    def flush(self) -> None:
        """Wait until the broker has confirmed all.

        Raises:
            OutcomeUnknownError: it has not; sending them again is harmless.
        """
        self._send()
        self._producer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close()


def too_large(size: int, limit: int) -> BadRecordError:
    """Say that a task is too large, and what to do."""
    return BadRecordError(f"{size:,} bytes; a task may have {limit:,} (AUREON_MAX_TASK_BYTES): refer to what is large")
