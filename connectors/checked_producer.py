"""A producer of Kafka that never skips a message: it delivers all, in order, or says that it does not know."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from connectors.kafka import MAX_MESSAGE_BYTES, ClientConfig, Patience, new_producer
from schemas.errors import BadRecordError, OutcomeUnknownError

MESSAGE_OVERHEAD_BYTES = 512
"""More than what a record and its batch add to key and value."""

FLUSH_LIMIT_S = 600.0
"""A broker that restarts, or a cluster that elects, is waited for; after this long a person should look."""


class CheckedProducer:
    """A producer that delivers everything in order or says so.

    - **Unit of parallelism:** one a process; any partition.
    - **Guarantee:** within one life, what is sent to a partition arrives once and in the order of `send`. While the
      broker is away it waits. After an error on any message nothing more is sent, and every further call raises.
    - **Replay:** sends again what followed from the same decisions; readers drop it by its cause.

    Args:
        config: from `client_config`.
        should_stop: asked while waiting; once true, waiting ends with OutcomeUnknownError.
        idempotent: the broker remembers its producers over a restart.
    """

    def __init__(
        self, config: ClientConfig, should_stop: Callable[[], bool] = lambda: False, *, idempotent: bool = True
    ) -> None:
        self._brokers = config["bootstrap.servers"]
        self._should_stop = should_stop
        self._error: str | None = None
        self._producer = new_producer(
            config, idempotent=idempotent, on_delivery=self._on_delivery, error_cb=self._on_error
        )

    def send(
        self, kafka_topic: str, partition: int, messages: Sequence[bytes], keys: Sequence[bytes] | None = None
    ) -> None:
        """Hand messages over, in order. Returns when they are queued; `flush` tells that they have arrived.

        Raises:
            BadRecordError: one of them is larger than any broker of this cluster takes; none of them was sent.
            OutcomeUnknownError: an earlier message failed, or it was asked to stop while the queue was full.
        """
        self._check_sizes(kafka_topic, partition, messages, keys)
        if keys is None:
            batch = [{"value": m} for m in messages]
        else:
            batch = [{"value": m, "key": k} for m, k in zip(messages, keys, strict=True)]
        wait = Patience(self._should_stop, float("inf"))
        while True:
            self.check()
            with self._fatal_remembered():
                sent = self._producer.produce_batch(kafka_topic, batch, partition=partition)
            if sent == len(batch):
                break
            batch = self._unsent(batch, sent, f"{kafka_topic}[{partition}]")
            if not wait.goes_on(f"the queue to {self._brokers} is full, waiting; {len(self)} messages unconfirmed"):
                raise OutcomeUnknownError(f"stopped while {len(self)} messages to {self._brokers} were unconfirmed")
            self._serve(0.05)
        self._serve(0)

    def check(self) -> None:
        """Raise if any message so far was not delivered.

        Raises:
            OutcomeUnknownError: says which, and why.
        """
        if self._error is not None:
            raise OutcomeUnknownError(self._error)

    def flush(self, limit_s: float = FLUSH_LIMIT_S) -> None:
        """Wait until every message handed over is acknowledged.

        Raises:
            OutcomeUnknownError: one failed, the limit passed, or it was asked to stop; those unconfirmed may yet
                arrive.
        """
        wait = Patience(self._should_stop, limit_s)
        while True:
            with self._fatal_remembered():
                left = self._producer.flush(0.2)
            self.check()
            if left == 0:
                return
            if not wait.goes_on(f"waiting for {self._brokers}: {left} messages unconfirmed"):
                raise OutcomeUnknownError(
                    f"{left} messages to {self._brokers} are unconfirmed after {wait.waited_s:.0f} s; "
                    "they may or may not have arrived"
                )

    def close(self) -> None:
        """Let go of the broker. What was not flushed is dropped; after a good `flush` that is nothing."""
        self._producer.purge()
        # What is purged on its way is a fatal error of an idempotent producer, and each call may raise it once more.
        with contextlib.suppress(KafkaException):
            self._producer.poll(0)
        with contextlib.suppress(KafkaException):
            self._producer.close()

    def __len__(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self._producer)

    def _check_sizes(
        self, kafka_topic: str, partition: int, messages: Sequence[bytes], keys: Sequence[bytes] | None
    ) -> None:
        # The library would refuse the large one and send those behind it.
        largest = max(map(len, messages), default=0) + max(map(len, keys or ()), default=0)
        if largest > MAX_MESSAGE_BYTES - MESSAGE_OVERHEAD_BYTES:
            raise BadRecordError(
                f"{kafka_topic}[{partition}]: a message of {largest:,} bytes; at most {MAX_MESSAGE_BYTES:,} fit"
            )

    def _unsent(self, batch: list[dict[str, Any]], sent: int, name: str) -> list[dict[str, Any]]:
        rest = batch[sent:]
        for message in rest:
            error: KafkaError | None = message.pop("_error", None)
            if error is None:
                # A hole in the batch: some were refused, and later ones went.
                self._error = f"{name}: the library sent messages out of order"
            elif error.code() != KafkaError._QUEUE_FULL:
                self._error = self._error or f"{name}: not sent: {error.str()}"
        self.check()
        return rest

    def _serve(self, timeout_s: float) -> None:
        with self._fatal_remembered():
            self._producer.poll(timeout_s)

    @contextlib.contextmanager
    def _fatal_remembered(self) -> Iterator[None]:
        """Turn what the library raises after a fatal error into ours, now and on every later call."""
        try:
            yield
        except KafkaException as error:
            self._error = self._error or f"the producer to {self._brokers} stopped: {error.args[0].str()}"
            raise OutcomeUnknownError(self._error) from None

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._error is None:
            self._error = f"{message.topic()}[{message.partition()}]: a message was not delivered: {error.str()}"

    def _on_error(self, error: KafkaError) -> None:
        # All others the library mends itself, and logs.
        if error.fatal():
            self._error = self._error or f"the producer to {self._brokers} stopped: {error.str()}"
