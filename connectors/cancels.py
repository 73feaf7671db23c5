"""Which tasks are cancelled: one kind of directive."""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from connectors.checked_producer import CheckedProducer
from connectors.kafka import ClientConfig
from connectors.topics import DIRECTIVES
from schemas.task import TaskDescriptor

CANCEL_KEY = b"cancel/"
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
    """The cancelled tasks, as one process knows them from the directives."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called, in a thread of its own, when more tasks were cancelled."""
        self._cancelled: frozenset[tuple[str, str]] = frozenset()
        self._more: set[tuple[str, str]] = set()

    def take(self, value: bytes) -> None:
        """Take in an order.

        Raises:
            msgspec.DecodeError: it is none.
        """
        cancel = msgspec.json.decode(value, type=Cancel)
        self._more.add((cancel.topic, cancel.logical_id))

    def settle(self) -> None:
        """Have what was taken in count."""
        more, self._more = self._more, set()
        if more - self._cancelled:
            self._cancelled |= more
            self.on_change()

    def covers(self, task: TaskDescriptor) -> bool:
        """Tell whether a task, or one that it came of, is cancelled."""
        cancelled = self._cancelled
        if not cancelled:
            return False
        if (task.topic, task.logical_id) in cancelled:
            return True
        ancestors = task.origin.ancestors if task.origin is not None else ()
        return any((a.topic, a.logical_id) in cancelled for a in ancestors)
