"""Reading one partition as a lane does: in order, as far as it is asked to, and asleep at the end."""

import logging
import threading
import time
from typing import Self

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from connectors.kafka import (
    ASK_LIMIT_S,
    ClientConfig,
    Patience,
    admin_client,
    new_consumer,
    watermarks_of,
)
from schemas.errors import LogMismatchError, RefusedError, TryAgainError

log = logging.getLogger(__name__)

GONE_LIMIT_S = 30.0
"""How long a Kafka topic may be unknown to a restarting broker before it counts as deleted."""

SILENCE_S = 5.0
LONGEST_SILENCE_S = 15.0
"""How long a reader may hear nothing, neither a message nor of the end, before it begins to fetch anew: twice as long
each time. After a broker was away, the library now and then goes on without fetching, and says nothing."""


UNKNOWN = -1
"""Of a partition's end: no offset, so a reader that sleeps there wakes and asks itself."""


EXPECTED_S = 0.02
"""So long a reader stays awake for a message that this process has sent: several times what its way takes."""


class _Watch:
    """What is known of one partition where a reader sleeps."""

    __slots__ = ("asked", "committed_only", "end", "position")

    def __init__(self, kafka_topic: str, partition: int, position: int, *, committed_only: bool) -> None:
        self.asked = TopicPartition(kafka_topic, partition)
        self.position = position
        self.committed_only = committed_only
        self.end = position


class Watermarks:
    """A thread that looks at the ends of the partitions where readers sleep, in one request for all.

    The embedded broker answers an empty fetch at once, so a consumer that waits at the end keeps a core busy on both
    sides; on any broker a reader that waits costs a connection's worth of requests. This costs 20 small requests a
    second while nothing happens, whatever the number of lanes, and finds a message within 50 ms; within 5 ms just
    after something happened.

    - **Unit of parallelism:** one a process.
    - **Guarantee:** none is needed: a reader goes on from its own position, whatever it is told and when. Where the
      question has no answer no reader sleeps: of several brokers one that is away leaves it open for all partitions,
      while those of the others, and soon its own, can be read.
    - **Replay:** nothing.
    """

    SHORTEST_S = 0.005
    LONGEST_S = 0.05
    ASK_S = 1.0
    """How long the brokers may take to answer."""
    AFTER_FAILURE_S = 1.0
    BUSY_S = 0.03
    """How long after the last sign of life it looks every 5 ms; from then on less and less often."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._client = admin_client(config)
        self._watches: set[_Watch] = set()
        self._lock = threading.Lock()
        self._look = threading.Event()
        self._stopped = False
        self._is_blind = False
        """Whether the last question had no answer."""
        self._thread = threading.Thread(target=self._run, name="aureon-watermarks", daemon=True)
        self._thread.start()

    def watch(self, kafka_topic: str, partition: int, position: int, *, committed_only: bool) -> _Watch:
        """Look at one partition from now on."""
        watch = _Watch(kafka_topic, partition, position, committed_only=committed_only)
        if self._is_blind:
            watch.end = UNKNOWN
        with self._lock:
            self._watches.add(watch)
        # A reader that falls asleep has just seen something, and more often comes soon.
        self._look.set()
        return watch

    def forget(self, watch: _Watch) -> None:
        """Look at it no more."""
        with self._lock:
            self._watches.discard(watch)

    def close(self) -> None:
        """End the thread."""
        self._stopped = True
        self._look.set()
        self._thread.join(timeout=ASK_LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        pause, last_sign = self.SHORTEST_S, 0.0
        away = Patience(lambda: self._stopped, float("inf"))
        while not self._stopped:
            # With nobody asleep there is nothing to look at until `watch` says so.
            is_nudged = self._look.wait(pause if self._watches else None)
            self._look.clear()
            with self._lock:
                watches = list(self._watches)
            try:
                saw_more = self._ask(watches)
            except (KafkaException, TimeoutError) as error:
                # whatever it is, the thread goes on: without it no reader wakes
                away.goes_on(f"{self._config['bootstrap.servers']} does not tell where its partitions end: {error}")
                self._is_blind = True
                for watch in watches:
                    watch.end = UNKNOWN
                # A client goes on asking the broker that led a partition, and connects to it, away or not, without a
                # pause: a core's worth. A new one learns who leads now.
                self._client = admin_client(self._config)
                pause = self.AFTER_FAILURE_S
                continue
            self._is_blind = False
            now = time.monotonic()
            if is_nudged or saw_more:
                last_sign = now
            pause = self.SHORTEST_S if now - last_sign < self.BUSY_S else min(pause * 1.25, self.LONGEST_S)

    def _ask(self, watches: list[_Watch]) -> bool:
        """Look at all; tells whether one goes on."""
        saw_more = False
        self._client.poll(0)
        for committed_only in (True, False):
            some = {w.asked: w for w in watches if w.committed_only is committed_only}
            if not some:
                continue
            level = IsolationLevel.READ_COMMITTED if committed_only else IsolationLevel.READ_UNCOMMITTED
            found = self._client.list_offsets(
                {p: OffsetSpec.latest() for p in some}, isolation_level=level, request_timeout=self.ASK_S
            )
            for asked, future in found.items():
                watch = some[asked]
                end = future.result(ASK_LIMIT_S).offset
                saw_more = saw_more or end != watch.end
                watch.end = end
        return saw_more


class LaneReader:
    """One partition of one Kafka topic, in order, as far as it is asked to.

    - **Unit of parallelism:** one partition. A reader that is not polled fetches a few MiB and stops, so that is how
      to hold one back.
    - **Guarantee:** every message from `start_offset` on, once, in order. `position` moves past offsets that hold no
      message. It waits while the broker is away, and raises when the broker has lost what it is to read.
    - **Replay:** nothing is committed; a new reader begins where it is told to.

    Args:
        config: from `client_config`.
        kafka_topic: what to read.
        partition: the lane.
        start_offset: the first offset wanted.
        watermarks: wakes the reader after it went to sleep at the end of the partition.
        committed_only: leave out what aborted transactions wrote. Not on the embedded broker, which then loses
            messages that were committed.
        sleep_after_s: how long it waits at the end before it stops asking; None to wait there for good.
    """

    def __init__(
        self,
        config: ClientConfig,
        kafka_topic: str,
        partition: int,
        start_offset: int,
        watermarks: Watermarks,
        *,
        committed_only: bool = False,
        sleep_after_s: float | None = 0.1,
    ) -> None:
        self.kafka_topic = kafka_topic
        self.partition = partition
        self._position = start_offset
        self._watermarks = watermarks
        self._committed_only = committed_only
        self._sleep_after_s = sleep_after_s
        self._expects_until = 0.0
        self._consumer = new_consumer(config, "aureon-lane", committed_only=committed_only)
        self._watch: _Watch | None = None
        self._at_end_since: float | None = None
        self._silent_since: float | None = None
        self._silence_s = SILENCE_S
        self._unknown_since: float | None = None
        self._retry_at: float | None = None
        self._assign()

    @property
    def position(self) -> int:
        """The next offset; all below were handed out or hold no message."""
        return self._position

    def poll(self, n: int) -> list[Message]:
        """Take up to `n` messages that are there; never waits.

        Raises:
            LogMismatchError: the broker no longer has the messages at this position.
            RefusedError: the Kafka topic may not be read, or is gone.
        """
        watch = self._watch
        if watch is not None:
            # More has come, or there is less than there was: either way the broker has to be asked.
            if watch.end == self._position and time.monotonic() >= self._expects_until:
                return []
            self._wake(watch)
        elif self._retry_at is not None:
            self._try_again()
        messages = self._consumer.consume(n, 0)
        if not messages:
            self._sleep_if_idle()
            self._fetch_anew_if_silent()
            return messages
        self._at_end_since = self._silent_since = None
        self._silence_s = SILENCE_S
        good = [m for m in messages if m.error() is None]
        if good:
            self._at_end_since = self._unknown_since = None
            # The last offset of a message from a broker is never None.
            self._position = (good[-1].offset() or 0) + 1
        if len(good) < len(messages):
            for message in messages:
                error = message.error()
                if error is not None:
                    self._on_error(error, message)
        if self._sleep_after_s == 0:
            self._sleep_if_idle()
        return good

    def expect(self) -> None:
        """Say that this process has just sent a message here: the reader does not sleep over it. Any thread may."""
        self._expects_until = time.monotonic() + EXPECTED_S

    def begin_offset(self, timeout_s: float = ASK_LIMIT_S) -> int:
        """Ask for the first offset that the broker has.

        Raises:
            TryAgainError: it does not answer in time.
        """
        return watermarks_of(self._consumer, self.kafka_topic, self.partition, timeout_s)[0]

    def end_offset(self, timeout_s: float = ASK_LIMIT_S) -> int:
        """Ask for the offset that the next message will get.

        Raises:
            TryAgainError: the broker does not answer in time.
        """
        return watermarks_of(self._consumer, self.kafka_topic, self.partition, timeout_s)[1]

    def close(self) -> None:
        """Let go of the partition."""
        if self._watch is not None:
            self._watermarks.forget(self._watch)
        self._consumer.close()

    def __repr__(self) -> str:
        return f"{self.kafka_topic}[{self.partition}]@{self._position}"

    def _assign(self) -> None:
        self._at_end_since = self._retry_at = self._silent_since = None
        self._consumer.assign([TopicPartition(self.kafka_topic, self.partition, self._position)])

    def _wake(self, watch: _Watch) -> None:
        self._watermarks.forget(watch)
        self._watch = None
        self._assign()

    def _sleep_if_idle(self) -> None:
        since, limit = self._at_end_since, self._sleep_after_s
        now = time.monotonic()
        if since is None or limit is None or now - since < limit or now < self._expects_until:
            return
        self._at_end_since = None
        self._consumer.unassign()
        self._watch = self._watermarks.watch(
            self.kafka_topic, self.partition, self._position, committed_only=self._committed_only
        )

    def _fetch_anew_if_silent(self) -> None:
        if self._watch is not None or self._at_end_since is not None:
            return
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > self._silence_s:
            log.info("%r: nothing heard for %.0f s, fetching anew", self, self._silence_s)
            self._silence_s = min(2 * self._silence_s, LONGEST_SILENCE_S)
            self._assign()

    def _on_error(self, error: KafkaError, message: Message) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._position = max(self._position, message.offset() or 0)
            self._at_end_since = time.monotonic()
            self._unknown_since = None
        elif code == KafkaError._AUTO_OFFSET_RESET:
            self._check_range()
        elif code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise RefusedError(f"{self!r}: {error.str()}; grant this user `Read` and `Describe` on it")
        elif code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
            self._on_unknown(error)
        else:
            log.warning("%r: %s; reading on", self, error.str())
            self._retry_at = time.monotonic() + 0.5

    def _on_unknown(self, error: KafkaError) -> None:
        now = time.monotonic()
        self._unknown_since = self._unknown_since or now
        if now - self._unknown_since > GONE_LIMIT_S:
            raise RefusedError(
                f"{self!r}: {error.str()}; the Kafka topic was deleted. Restore it, or begin a new cluster with fresh "
                "Kafka topics and state folders"
            )
        log.warning("%r: %s; waiting for the broker", self, error.str())
        self._retry_at = now + 1.0

    def _try_again(self) -> None:
        """After an error that may have ended the fetching: begin again at the position, when the time has come."""
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._assign()

    def _check_range(self) -> None:
        """Tell a broker that lost messages from one that answered in the middle of its start."""
        try:
            low, high = watermarks_of(self._consumer, self.kafka_topic, self.partition, ASK_LIMIT_S)
        except TryAgainError as error:
            log.warning("%s; asking again", error)
            self._retry_at = time.monotonic() + 0.5
            return
        if low <= self._position <= high:
            self._retry_at = time.monotonic() + 0.1
            return
        name = f"{self.kafka_topic}[{self.partition}]"
        raise LogMismatchError(
            f"the broker no longer has offset {self._position} of {name}; it holds {low} up to (not with) {high}. "
            "Restore the broker's data; or, if it is lost for good, begin a new cluster with fresh Kafka topics and "
            "state folders"
        )
