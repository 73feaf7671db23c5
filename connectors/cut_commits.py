"""The cut of every lane on Kafka, beside the snapshots: the metadata of ordinary consumer-group commits."""

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.kafka import ASK_LIMIT_S, ClientConfig, Patience, name_of, new_consumer, patiently
from schemas.errors import TryAgainError

log = logging.getLogger(__name__)

MAX_COMMIT_METADATA_BYTES = 4000
"""A broker takes 4,096 bytes (`offset.metadata.max.bytes`); beyond that it refuses the commit."""
EVERY_S = 1.0
NOW_LIMIT_S = 30.0
AWAY_MS = 6000
"""How long a commit waits for a group's coordinator: librdkafka takes `session.timeout.ms` for it, which has no other
meaning in a group without members."""

Places = Mapping[TopicPartition, tuple[int, str]]
"""For each partition the offset, and the cut as text."""


class CutCommits:
    """Commits the newest cut of each lane, about once a second.

    The group is one without members, so that anybody may commit at any time; which lane is whose is another's affair.

    - **Unit of parallelism:** the process; a thread commits for all its lanes.
    - **Guarantee:** none for `keep`: a failure is logged, since an older cut is as good as a newer one. What `now` was
      given is on the broker when it returns.
    - **Replay:** commits an older cut over a newer one, which costs time when it is used and nothing else.

    Args:
        config: from `client_config`.
        group: the group.
    """

    def __init__(self, config: ClientConfig, group: str) -> None:
        self._consumer = new_consumer({**config, "session.timeout.ms": AWAY_MS}, group, committed_only=False)
        self._group = group
        self._newer: dict[int, Places] = {}
        """By lane, cuts that are not committed yet."""
        self._lock = threading.Lock()
        """Held while a commit is on its way: they arrive in the order in which they are sent."""
        self._over = threading.Event()
        self._away = Patience(self._over.is_set, float("inf"))
        self._thread = threading.Thread(target=self._run, name="aureon-cuts", daemon=True)
        self._thread.start()

    def keep(self, lane: int, places: Places) -> None:
        """Commit a lane's cut soon."""
        self._newer[lane] = self._fitting(places)

    def now(self, lane: int, places: Places) -> None:
        """Commit a cut, the first or the last one of a lane's life here, in the place of any that is to come.

        Raises:
            TryAgainError: the broker did not take it in time.
        """
        fitting = self._fitting(places)
        deadline = time.monotonic() + NOW_LIMIT_S
        while fitting:
            with self._lock:
                self._newer.pop(lane, None)
                error = self._commit(fitting)
            if error is None:
                return
            if time.monotonic() > deadline or self._over.is_set():
                raise TryAgainError(f"group {self._group}: {error.str()}")
            time.sleep(0.1)

    def forget(self, lane: int) -> None:
        """Commit nothing more of a lane."""
        self._newer.pop(lane, None)

    def committed_cut(
        self, places: Sequence[TopicPartition], timeout_s: float = ASK_LIMIT_S
    ) -> dict[TopicPartition, tuple[int, str]]:
        """Read back the last cuts of these partitions; one that has none is left out.

        Raises:
            TryAgainError: the broker does not answer in time.
        """
        asked = [TopicPartition(p.topic, p.partition) for p in places]
        try:
            found = patiently(lambda left: self._consumer.committed(asked, timeout=left), timeout_s)
        except KafkaException as error:
            raise TryAgainError(f"group {self._group}: {error.args[0].str()}") from None
        for place in found:
            if place.error is not None:
                raise TryAgainError(f"group {self._group}, {name_of(place)}: {place.error.str()}")
        return {TopicPartition(p.topic, p.partition): (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def close(self) -> None:
        """Commit nothing more."""
        self._over.set()
        self._thread.join(timeout=ASK_LIMIT_S)
        self._consumer.close()

    def _run(self) -> None:
        # a new client looks for its coordinator first, for which the first lane would have to wait
        with contextlib.suppress(KafkaException):
            self._consumer.committed([], timeout=ASK_LIMIT_S)
        while not self._over.wait(EVERY_S):
            with self._lock:
                # one at a time, since `forget` may take one away meanwhile
                newer = {lane: self._newer.pop(lane, {}) for lane in list(self._newer)}
                error = self._commit({place: cut for places in newer.values() for place, cut in places.items()})
            if error is not None:
                for lane, places in newer.items():
                    self._newer.setdefault(lane, places)
                self._away.goes_on(f"group {self._group}: the cuts were not committed: {error.str()}")

    def _commit(self, places: Places) -> KafkaError | None:
        """Commit, and wait for the answer; returns why it was not taken."""
        if not places:
            return None
        offsets = [TopicPartition(p.topic, p.partition, offset, text) for p, (offset, text) in places.items()]
        try:
            answered = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            failure: KafkaError = error.args[0]
            return failure
        return next((p.error for p in answered or () if p.error is not None), None)

    def _fitting(self, places: Places) -> Places:
        fitting = {}
        for place, (offset, metadata) in places.items():
            size = len(metadata.encode())
            if size > MAX_COMMIT_METADATA_BYTES:
                log.warning("%s: no backup of this cut, %d bytes are too many for a commit", name_of(place), size)
            else:
                fitting[place] = (offset, metadata)
        return fitting
