"""Which tasks are cancelled: a compacted Kafka topic, read to its end before anything is handed out, and followed."""

import logging
import threading
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from connectors.kafka import CheckedProducer, ClientConfig
from connectors.lane_reader import LaneReader
from connectors.topics import DIRECTIVES
from schemas.task import TaskDescriptor

log = logging.getLogger(__name__)

CANCEL_KEY = b"cancel/"
FOLLOW_EVERY_S = 0.1
READ_BATCH = 500
CONFIRM_LIMIT_S = 30.0


class Cancel(Struct, frozen=True, gc=False):
    """The order to end a task with all that comes of it."""

    topic: str
    logical_id: str
    at: float
    """Seconds since the epoch."""


def cancel_key(topic: str, logical_id: str) -> bytes:
    """The key of a record: the newest one for each task is kept for good."""
    return CANCEL_KEY + msgspec.json.encode([topic, logical_id])


def send_cancel(config: ClientConfig, cancel: Cancel) -> None:
    """Write an order, and wait until the broker has it.

    Raises:
        OutcomeUnknownError: it was not confirmed; sending it again is harmless.
    """
    producer = CheckedProducer(config)
    try:
        key = cancel_key(cancel.topic, cancel.logical_id)
        producer.send(DIRECTIVES, 0, [msgspec.json.encode(cancel)], [key])
        producer.flush(CONFIRM_LIMIT_S)
    finally:
        producer.close()


class Cancels:
    """The cancelled tasks, as one process knows them.

    Unit of parallelism: the process. Guarantee: what was on the topic when this was made is known; what comes later is
    known soon. Replay: reads the topic from its beginning.

    Args:
        reader: of the topic's only partition, from its beginning.

    Raises:
        TryAgainError: the broker does not answer.
    """

    def __init__(self, reader: LaneReader) -> None:
        self._reader = reader
        self.on_change: Callable[[], None] = lambda: None
        """Called, in a thread of its own, when more tasks were cancelled."""
        self._cancelled: frozenset[tuple[str, str]] = frozenset()
        self._failed: Exception | None = None
        end = reader.end_offset()
        while reader.position < end:
            if not self._read():
                time.sleep(0.005)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="aureon-cancels", daemon=True)
        self._thread.start()

    def covers(self, task: TaskDescriptor) -> bool:
        """Tell whether a task, or one that it came of, is cancelled.

        Raises:
            Exception: what ended the following; without it tasks would go on that are cancelled by now.
        """
        if self._failed is not None:
            raise self._failed
        cancelled = self._cancelled
        if not cancelled:
            return False
        if (task.topic, task.logical_id) in cancelled:
            return True
        ancestors = task.origin.ancestors if task.origin is not None else ()
        return any((a.topic, a.logical_id) in cancelled for a in ancestors)

    def close(self) -> None:
        """Follow no more."""
        self._over.set()
        self._thread.join(timeout=10)
        self._reader.close()

    def _follow(self) -> None:
        while not self._over.wait(FOLLOW_EVERY_S):
            try:
                before = self._cancelled
                while self._read():
                    pass
                if self._cancelled is not before:
                    self.on_change()
            except Exception as error:
                log.exception("%s cannot be read any more", DIRECTIVES)
                self._failed = error
                return

    def _read(self) -> bool:
        """Take in what is there; tell whether there was anything."""
        records = self._reader.poll(READ_BATCH)
        found = set()
        for record in records:
            key, value = record.key() or b"", record.value()
            if not key.startswith(CANCEL_KEY) or value is None:
                continue
            try:
                cancel = msgspec.json.decode(value, type=Cancel)
            except msgspec.DecodeError as error:
                log.warning("%s@%s: no cancel: %s; ignored", DIRECTIVES, record.offset(), error)
                continue
            found.add((cancel.topic, cancel.logical_id))
        if found - self._cancelled:
            self._cancelled |= found
        return bool(records)
