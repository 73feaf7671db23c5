"""Directives: a compacted Kafka topic, read to its end before anything is handed out, and followed."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from connectors.checked_producer import CheckedProducer
from connectors.lane_reader import LaneReader
from connectors.topics import DIRECTIVES
from schemas.errors import UNREADABLE

log = logging.getLogger(__name__)

QUARANTINE_KEY = b"quarantine/"
AFFINITY_KEY = b"affinity/"
FOLLOW_EVERY_S = 0.1
READ_BATCH = 500


def publish_directives(producer: CheckedProducer, directives: Iterable[tuple[bytes, bytes]]) -> None:
    """Write directives, each by its key; they are on their way when this returns.

    Raises:
        OutcomeUnknownError: an earlier message failed.
    """
    keys, values = [], []
    for key, value in directives:
        keys.append(key)
        values.append(value)
    producer.send(DIRECTIVES, 0, values, keys)


class Directives:
    """Hands each directive to whom it is for.

    Unit of parallelism: the process. Guarantee: what was on the topic when this was made has been handed on; what comes
    later is, within a second. Replay: reads the topic from its beginning.

    Args:
        reader: of the topic's only partition, from its beginning.
        takers: by the beginning of the key, what takes the value.
        settled: called when a batch has been handed on.

    Raises:
        TryAgainError: the broker does not answer.
    """

    def __init__(
        self,
        reader: LaneReader,
        takers: Mapping[bytes, Callable[[bytes], None]],
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._takers = takers
        self._settled = settled
        self._failed: Exception | None = None
        end = reader.end_offset()
        while reader.position < end:
            if not self._read():
                time.sleep(0.005)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="aureon-directives", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See whether they are followed.

        Raises:
            Exception: what ended it; without it tasks would go on that are cancelled by now.
        """
        if self._failed is not None:
            raise self._failed

    def close(self) -> None:
        """Follow no more."""
        self._over.set()
        self._thread.join(timeout=10)
        self._reader.close()

    def _follow(self) -> None:
        while not self._over.wait(FOLLOW_EVERY_S):
            try:
                while self._read():
                    pass
            except Exception as error:
                log.exception("%s cannot be read any more", DIRECTIVES)
                self._failed = error
                return

    def _read(self) -> bool:
        """Hand on what is there; tell whether there was anything."""
        records = self._reader.poll(READ_BATCH)
        for record in records:
            key, value = record.key() or b"", record.value()
            taker = self._takers.get(key.partition(b"/")[0] + b"/")
            if taker is None or value is None:
                continue
            try:
                taker(value)
            except UNREADABLE as error:
                log.warning("%s@%s: %s; ignored", DIRECTIVES, record.offset(), error)
        if records:
            self._settled()
        return bool(records)
