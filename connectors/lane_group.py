"""Which lanes a cell has: those that a Kafka consumer group hands out, or those that it was given by hand.

The members subscribe to the log, and partition *p* of it stands for lane *p*; they fetch nothing of it. Each has a name
of its own for good (Kafka's static membership, KIP-345), so that a cell that is back in time finds its lanes as it
left them, and nobody else notices; and lanes move one by one (incremental cooperative rebalancing, KIP-429).
"""

import logging
import threading
import time
from collections.abc import Collection
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka import ASK_LIMIT_S, ClientConfig, new_consumer
from schemas.errors import AureonError, RefusedError

log = logging.getLogger(__name__)

SESSION_S = 8.0
"""A cell that was not heard of for so long has lost its lanes. Kafka asks for 6 at least, and a restart takes 2."""
MARGIN_S = 2.0
"""A process that stood still for so much less than that has lost nothing."""
POLL_S = 0.05
REJOIN_S = 1.0
"""After it has joined, the library joins once more, to have what others have left, a second later at the soonest; what
is to go is worked on until then. Whoever is ready a moment before may wait for half a second more."""
HERE_LIMIT_S = 15.0
"""How long after its start a process may be given lanes for which it has no place."""

_MEMBER: dict[str, Any] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": int(SESSION_S * 1000),
    # How soon the others learn of a change.
    "heartbeat.interval.ms": 200,
    # Nothing is fetched, as all partitions are paused; what slips in before that is little.
    "queued.max.messages.kbytes": 1,
    "fetch.message.max.bytes": 1024,
}


class FixedLanes:
    """Lanes that the cell was given by hand, or all of them.

    Unit of parallelism: the cell. Guarantee: it has them for good; that no other cell has them is for the user to see
    to, and costs calls, not exactness. Replay: nothing.

    Args:
        lanes: their numbers.
    """

    is_sure = True

    def __init__(self, lanes: Collection[int]) -> None:
        self._lanes = frozenset(lanes)

    def tenure(self, lane: int) -> int:
        """One for each lane that the cell has."""
        return int(lane in self._lanes)

    def is_leaving(self, lane: int) -> bool:
        """None ever is."""
        del lane
        return False

    def left(self, lane: int) -> None:
        """Nobody waits for it."""

    def expect(self, lane: int) -> None:
        """Any may be worked on here."""

    def close(self) -> None:
        """Nothing is open."""


class LaneGroup:
    """The lanes that a consumer group hands out to this process.

    - **Unit of parallelism:** the cell: one process, one member.
    - **Guarantee:** each lane has one member as soon as the group is at rest. A lane that moves between living cells is
      left by one before the other begins; one whose cell died is free after the session timeout, and until then is its
      own again when it comes back. One that is cut off loses its lanes after the same time, and one that stood still
      for so long begins anew with what it then has.
    - **Replay:** joins again, under the same name.

    Args:
        config: from `client_config`; `session.timeout.ms` may be set there.
        group: its name.
        name: of this member, the same in every life of the cell.
        kafka_topic: the log; partition p stands for lane p.
        drain_s: how long a lane that is to go may take.
    """

    def __init__(self, config: ClientConfig, group: str, name: str, kafka_topic: str, drain_s: float) -> None:
        # a member that lets lanes go does not poll meanwhile
        patient = int(max(300.0, 2 * drain_s + 60.0) * 1000)
        settings = {**_MEMBER, "group.instance.id": name, "max.poll.interval.ms": patient, **config}
        settings["error_cb"] = self._on_error
        self._still_s = int(settings["session.timeout.ms"]) / 1000 - MARGIN_S
        self._name = name
        self._leave_limit_s = drain_s + ASK_LIMIT_S
        self._changed = threading.Condition()
        self._tenures: dict[int, int] = {}
        self._given = 0
        self._leaving: set[int] = set()
        self._here: set[int] = set()
        self._elsewhere_since: float | None = None
        self._failed: AureonError | None = None
        self._ticked_at = _now()
        self._over = threading.Event()
        self._consumer: Consumer = new_consumer(settings, group, committed_only=False)
        self._consumer.subscribe(
            [kafka_topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        self._thread = threading.Thread(target=self._run, name="aureon-group", daemon=True)
        self._thread.start()

    def tenure(self, lane: int) -> int:
        """Number the times that the cell was given a lane; 0 while the lane is not its own.

        Raises:
            RefusedError: the cell is no member any more, and cannot become one.
        """
        if self._failed is not None:
            raise self._failed
        return self._tenures.get(lane, 0)

    def is_leaving(self, lane: int) -> bool:
        """Tell whether a lane that it has is to go to another cell, which waits for `left`."""
        return lane in self._leaving

    def left(self, lane: int) -> None:
        """Say that nothing more is done in a lane that is leaving."""
        with self._changed:
            self._leaving.discard(lane)
            self._tenures.pop(lane, None)
            self._changed.notify_all()

    def expect(self, lane: int) -> None:
        """Say that a lane can be worked on in this process."""
        self._here.add(lane)

    @property
    def is_sure(self) -> bool:
        """Tell whether this process may think that its lanes are its own: not if it has just woken."""
        return _now() - self._ticked_at <= self._still_s

    def close(self) -> None:
        """Leave off; the group keeps the lanes for this cell until the session timeout is over."""
        self._over.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=ASK_LIMIT_S)
        self._consumer.close()

    # -- in the thread of the group --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over.wait(POLL_S):
            try:
                self._tick()
                message = self._consumer.poll(0)
                error = message.error() if message is not None else None
                if error is not None:
                    self._on_error(error)
                self._check_places()
            except KafkaException as failure:
                self._fail(failure.args[0])
                return
            except Exception as unexpected:
                log.exception("the group of cells")
                self._failed = RefusedError(f"the group of cells: {type(unexpected).__name__}: {unexpected}")
                return

    def _tick(self) -> None:
        """Notice that the process stood still for as long as the group waits: others may have its lanes by now, and the
        library says so a moment too late. All are dropped, and opened anew if they are still here.
        """
        now = _now()
        stood_s = now - self._ticked_at
        if stood_s > self._still_s:
            log.warning("this process stood still for %.1f s; it begins anew with the lanes that it still has", stood_s)
            self._given += 1
            with self._changed:
                self._tenures = dict.fromkeys(self._tenures, self._given)
        self._ticked_at = now

    def _on_error(self, error: KafkaError) -> None:
        # all others the library mends itself
        if error.fatal() or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID):
            self._fail(error)

    def _fail(self, error: KafkaError) -> None:
        if error.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError._FATAL):
            self._failed = RefusedError(
                f"another process has joined as this cell, {self._name}: it was started with a copy of the state "
                "folder, or the cell has several processes. Give each cell a state folder of its own, and a cell of "
                f"several processes its lanes by hand (`--cell 1/1`, AUREON_CELL): {error.str()}"
            )
        else:
            self._failed = RefusedError(f"no member of the group of cells any more: {error.str()}")

    def _check_places(self) -> None:
        """See whether lanes were handed to a process that has no places for them, so that nobody works on them."""
        if self._tenures.keys() <= self._here:
            self._elsewhere_since = None
            return
        now = time.monotonic()
        self._elsewhere_since = self._elsewhere_since or now
        if now - self._elsewhere_since > HERE_LIMIT_S:
            self._failed = RefusedError(
                "the lanes of this process are worked on in another one: a cell of several processes (-i, -a) cannot "
                "have them from a consumer group. Give them by hand: `--cell 1/1`, AUREON_CELL=1/1"
            )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [TopicPartition(p.topic, p.partition, OFFSET_END) for p in partitions]
        consumer.incremental_assign(places)
        consumer.pause(places)
        self._given += 1
        with self._changed:
            self._tenures.update({p.partition: self._given for p in partitions})
        if partitions:
            log.info("lanes %s are this cell's from now on", _told(partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lanes = {p.partition for p in partitions}
        if lanes:
            log.info("lanes %s go to another cell", _told(partitions))
        self._work_on(REJOIN_S)
        deadline = time.monotonic() + self._leave_limit_s
        with self._changed:
            self._leaving |= lanes & self._tenures.keys()
            while self._leaving & lanes and not self._over.is_set() and time.monotonic() < deadline:
                self._changed.wait(POLL_S)
                self._tick()
        self._gone(consumer, partitions)

    def _work_on(self, limit_s: float) -> None:
        """Go on with lanes that are to go, while the library would not join again yet anyhow."""
        until = time.monotonic() + limit_s
        while not self._over.wait(POLL_S) and time.monotonic() < until:
            self._tick()

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("lanes %s were lost: the group had not heard of this cell", _told(partitions))
        self._gone(consumer, partitions)

    def _gone(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with self._changed:
            for place in partitions:
                self._tenures.pop(place.partition, None)
                self._leaving.discard(place.partition)
        consumer.incremental_unassign(partitions)


def _now() -> float:
    """Seconds by a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _told(partitions: list[TopicPartition]) -> str:
    return ", ".join(str(p.partition) for p in sorted(partitions, key=lambda p: p.partition))
