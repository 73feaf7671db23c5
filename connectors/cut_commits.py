"""The cut of every lane on Kafka, beside the snapshots: the metadata of ordinary consumer-group commits."""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka import ASK_LIMIT_S, ClientConfig, Patience, new_consumer, patiently
from schemas.errors import TryAgainError

log = logging.getLogger(__name__)

MAX_COMMIT_METADATA_BYTES = 4000
"""A broker takes 4,096 bytes (`offset.metadata.max.bytes`); beyond that it refuses the commit."""
EVERY_S = 1.0
POLL_S = 0.05
LIMIT_S = 30.0
_BETWEEN = frozenset({KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS})
"""The group is changing; its coordinator answers, and has not thrown this member out."""
_HAS_MEMBERS = (
    "; it has members: either all cells have their lanes by hand (`--cell`), or none has. One that has just ended is a "
    "member for some seconds more"
)

Places = Mapping[TopicPartition, tuple[int, str]]
"""For each partition the offset, and the cut as text."""


class _Commit:
    """One that is on its way."""

    def __init__(self) -> None:
        self.sent_at = time.monotonic()
        self.answered = threading.Event()
        self.error: KafkaError | None = None


class CutCommits:
    """Commits the newest cut of each lane, about once a second.

    The library lets one thread at a time into a consumer, and the answer to a commit waits behind one to a request to
    join; so nobody waits for an answer inside. Whoever has the consumer, `run`s this again and again.

    - **Unit of parallelism:** the process; all its lanes go together.
    - **Guarantee:** none for `keep`: a failure is logged, since an older cut is as good as a newer one. What `begin`
      and `end` were given is on the broker when they return.
    - **Replay:** commits an older cut over a newer one, which costs time when it is used and nothing else.

    Args:
        config: of the consumer; from `client_config`, perhaps with what makes it a member.
        group: its group.
    """

    def __init__(self, config: ClientConfig, group: str) -> None:
        self._group = group
        self.consumer: Consumer = new_consumer({**config, "on_commit": self._on_commit}, group, committed_only=False)
        self.confirmed_at = -float("inf")
        """The newest time, by `time.monotonic`, at which the coordinator is known to have counted this process in."""
        self._kept: dict[int, Places] = {}
        self._fresh: set[int] = set()
        """Lanes with a newer cut than was committed."""
        self._committed_at = 0.0
        self._on_the_way: deque[_Commit] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._away = Patience(lambda: False, float("inf"))

    def keep(self, lane: int, places: Places) -> None:
        """Commit a lane's cut soon."""
        with self._lock:
            self._kept[lane] = self._fitting(places)
            self._fresh.add(lane)

    def begin(self, lane: int, places: Places) -> None:
        """Commit the first cut of a lane that this process has from now on.

        Raises:
            TryAgainError: the broker did not take it in time, or counts this process out.
        """
        fitting = self._fitting(places)
        self._now(fitting)
        with self._lock:
            self._kept[lane] = fitting

    def forget(self, lane: int) -> None:
        """Commit nothing more of a lane."""
        with self._lock:
            self._kept.pop(lane, None)
            self._fresh.discard(lane)

    def end(self, lane: int, places: Places) -> None:
        """Commit the last cut of a lane that this process lets go of: they arrive in the order in which they are sent.

        Raises:
            TryAgainError: as `begin`.
        """
        self.forget(lane)
        self._now(self._fitting(places))

    def committed_cut(
        self, places: Sequence[TopicPartition], timeout_s: float = ASK_LIMIT_S
    ) -> dict[TopicPartition, tuple[int, str]]:
        """Read back the last cuts of these partitions; one that has none is left out.

        Raises:
            TryAgainError: the broker does not answer in time.
        """
        asked = [TopicPartition(p.topic, p.partition) for p in places]
        try:
            found = patiently(lambda left: self.consumer.committed(asked, timeout=left), timeout_s)
        except KafkaException as error:
            raise TryAgainError(f"group {self._group}: {error.args[0].str()}") from None
        for place in found:
            if place.error is not None:
                raise TryAgainError(f"group {self._group}, {_name(place)}: {place.error.str()}")
        return {TopicPartition(p.topic, p.partition): (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def run(self, *, renew: bool = False) -> Any:
        """Do what is due; returns what the consumer has to tell.

        Args:
            renew: commit something in any case, to learn whether this process is counted in.
        """
        now = time.monotonic()
        if not self._on_the_way and (renew or now - self._committed_at >= EVERY_S):
            with self._lock:
                fresh = sorted(self._fresh) or (sorted(self._kept)[:1] if renew else [])
                self._fresh.clear()
                places = {place: cut for lane in fresh for place, cut in self._kept[lane].items()}
            if places:
                self._committed_at = now
                self._send(places)
        return self.consumer.poll(0)

    def close(self) -> None:
        """Let go of the group; what is on its way may or may not arrive."""
        self._closed = True
        self.consumer.close()

    def _now(self, fitting: Places) -> None:
        deadline = time.monotonic() + LIMIT_S
        while fitting:
            commit = self._send(fitting)
            if not commit.answered.wait(max(0.0, deadline - time.monotonic())):
                raise TryAgainError(f"group {self._group}: no answer within {LIMIT_S:.0f} s")
            error = commit.error
            if error is None:
                return
            if error.code() not in _BETWEEN or time.monotonic() > deadline or self._closed:
                hint = _HAS_MEMBERS if error.code() == KafkaError.UNKNOWN_MEMBER_ID else ""
                raise TryAgainError(f"group {self._group}: {error.str()}{hint}")
            time.sleep(0.1)

    def _send(self, places: Places) -> _Commit:
        offsets = [TopicPartition(p.topic, p.partition, offset, text) for p, (offset, text) in places.items()]
        commit = _Commit()
        with self._lock:  # so that the order here is the one in which answers come
            self._on_the_way.append(commit)
            try:
                self.consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as failure:
                self._on_the_way.remove(commit)
                commit.error = failure.args[0]
                commit.answered.set()
            except RuntimeError:  # it is closed
                self._on_the_way.remove(commit)
                commit.error = KafkaError(KafkaError._DESTROY)
                commit.answered.set()
        return commit

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        commit = self._on_the_way.popleft()
        commit.error = error or next((p.error for p in places if p.error is not None), None)
        code = commit.error.code() if commit.error is not None else None
        if code is None or code in _BETWEEN:
            self.confirmed_at = commit.sent_at
        else:
            self._away.goes_on(f"group {self._group}: the cuts were not committed: {commit.error}")
        commit.answered.set()

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
