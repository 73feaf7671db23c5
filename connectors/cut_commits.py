"""The cut of every lane on Kafka, beside the snapshots: the metadata of ordinary consumer-group commits."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka import ASK_LIMIT_S, Patience, patiently
from schemas.errors import TryAgainError

log = logging.getLogger(__name__)

MAX_COMMIT_METADATA_BYTES = 4000
"""A broker takes 4,096 bytes (`offset.metadata.max.bytes`); beyond that it refuses the commit."""
EVERY_S = 1.0
NOW_LIMIT_S = 30.0
_BETWEEN = frozenset({KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS})
"""The group is changing; its coordinator answers, and has not thrown this member out."""

_HAS_MEMBERS = (
    "; it has members: either all cells have their lanes by hand (`--cell`), or none has. One that has just ended is a "
    "member for some seconds more"
)

Places = Mapping[TopicPartition, tuple[int, str]]
"""For each partition the offset, and the cut as text."""


class CutCommits:
    """Commits the newest cut of each lane, about once a second.

    - **Unit of parallelism:** the process; a thread commits for all its lanes.
    - **Guarantee:** none for `keep`: a failure is logged, since an older cut is as good as a newer one. What `begin`
      and `end` were given is on the broker when they return.
    - **Replay:** commits an older cut over a newer one, which costs time when it is used and nothing else.

    Args:
        consumer: commits for its group; as a member, or for a group without any. It stays the caller's.
        group: its name, for messages.
        renews: commit something every time, so that `confirmed_at` stays young.
    """

    def __init__(self, consumer: Consumer, group: str, *, renews: bool) -> None:
        self._consumer = consumer
        self._group = group
        self._renews = renews
        self.confirmed_at = -float("inf")
        """The newest time, by `time.monotonic`, at which the coordinator is known to have counted this process in."""
        self._kept: dict[int, Places] = {}
        self._fresh: set[int] = set()
        """Lanes with a newer cut than was committed."""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._away = Patience(self._over.is_set, float("inf"))
        self._thread = threading.Thread(target=self._run, name="aureon-cuts", daemon=True)
        self._thread.start()

    def keep(self, lane: int, places: Places) -> None:
        """Commit a lane's cut soon."""
        self._kept[lane] = self._fitting(places)
        self._fresh.add(lane)

    def begin(self, lane: int, places: Places) -> None:
        """Commit the first cut of a lane that this process has from now on.

        Raises:
            TryAgainError: the broker did not take it in time, or counts this process out.
        """
        self._now(self._fitting(places))
        self._kept[lane] = self._fitting(places)

    def forget(self, lane: int) -> None:
        """Commit nothing more of a lane; what is on its way has arrived when this returns."""
        with self._lock:
            self._kept.pop(lane, None)
            self._fresh.discard(lane)

    def end(self, lane: int, places: Places) -> None:
        """Commit the last cut of a lane that this process lets go of.

        Raises:
            TryAgainError: as `begin`.
        """
        self.forget(lane)
        self._now(self._fitting(places))

    def _now(self, fitting: Places, limit_s: float = NOW_LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while fitting:
            error = self._commit(fitting)
            if error is None:
                return
            if error.code() not in _BETWEEN or time.monotonic() > deadline or self._over.is_set():
                hint = _HAS_MEMBERS if error.code() == KafkaError.UNKNOWN_MEMBER_ID and not self._renews else ""
                raise TryAgainError(f"group {self._group}: {error.str()}{hint}")
            time.sleep(0.1)

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
                raise TryAgainError(f"group {self._group}, {_name(place)}: {place.error.str()}")
        return {TopicPartition(p.topic, p.partition): (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def close(self) -> None:
        """Commit nothing more."""
        self._over.set()
        self._thread.join(timeout=ASK_LIMIT_S)

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            error = None
            with self._lock:
                fresh = [self._fresh.pop() for _ in range(len(self._fresh))]
                lanes = fresh or (list(self._kept)[:1] if self._renews else [])
                places = {place: cut for lane in lanes for place, cut in self._kept.get(lane, {}).items()}
                if places:
                    error = self._commit(places)
            if error is not None:
                self._fresh.update(fresh)
            if error is not None and error.code() not in _BETWEEN:
                self._away.goes_on(f"group {self._group}: the cuts were not committed: {error.str()}")

    def _commit(self, places: Places) -> KafkaError | None:
        """Commit, and wait for the answer; returns why it was not taken."""
        began = time.monotonic()
        offsets = [TopicPartition(p.topic, p.partition, offset, text) for p, (offset, text) in places.items()]
        try:
            answered = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            failure: KafkaError = error.args[0]
            if failure.code() in _BETWEEN:
                self.confirmed_at = began
            return failure
        except RuntimeError:  # the consumer is closed
            return KafkaError(KafkaError._DESTROY)
        self.confirmed_at = began
        return next((p.error for p in answered or () if p.error is not None), None)

    def _fitting(self, places: Places) -> Places:
        fitting = {}
        for place, (offset, metadata) in places.items():
            size = len(metadata.encode())
            if size > MAX_COMMIT_METADATA_BYTES:
                log.warning("%s: no backup of this cut, %d bytes are too many for a commit", _name(place), size)
            else:
                fitting[place] = (offset, metadata)
        return fitting


def _name(place: TopicPartition) -> str:
    return f"{place.topic}[{place.partition}]"
