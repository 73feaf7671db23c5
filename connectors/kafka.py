"""Kafka's clients: their settings, on which the guarantees rest; questions to a broker, and waiting for it."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.errors import RefusedError, TryAgainError

log = logging.getLogger(__name__)
library_log = logging.getLogger(f"{__name__}.librdkafka")
"""What the library itself has to say; see `_Quieter` for what is left out."""

ClientConfig = Mapping[str, Any]
"""What `client_config` makes: the part of a client's settings that is the same for all of them."""

MAX_MESSAGE_BYTES = 33_554_432
"""32 MiB. Payloads above a far lower limit travel as references; this leaves room for the evidence of a decision."""

PREFLIGHT_LIMIT_S = 8.0
ASK_LIMIT_S = 10.0

SAY_SO_EVERY_S = 10.0
"""How often a wait is mentioned in the log."""

_PASSING = frozenset(
    {
        # A broker that starts, or a partition that moves or was just created: the same question soon has an answer.
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._WAIT_COORD,
        KafkaError._NOENT,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,  # by an answer that a busy broker gave in part
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
    }
)

_CONSUMER: dict[str, Any] = {
    # Positions are the lane's own: no commits behind its back, and no jump to either end when one is out of range.
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    # Tells the end of a partition, and past offsets that hold no message, exactly.
    "enable.partition.eof": True,
    # A backlog stays in Kafka. The limit is on what travels, which may be compressed twenty times: with a megabyte,
    # 300,000 waiting tasks took 60 MB more than 30,000, and with this nothing more.
    "queued.max.messages.kbytes": 4096,
    "fetch.message.max.bytes": 131_072,
    # While messages wait to be taken, the next are fetched after a millisecond, and not in a tight loop. The note of a
    # partition's end is one that waits, too: with 5 ms here, what came just after it came 5 ms late.
    "queued.min.messages": 1,
    "fetch.queue.backoff.ms": 1,
    "fetch.wait.max.ms": 100,
    # After an error on a partition (a broker that restarts) ask again soon.
    "fetch.error.backoff.ms": 100,
}

_PRODUCER: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    # No message is given up and the next one delivered: retry for ever, and stop for good at a gap.
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
    "delivery.report.only.error": True,
    # What is sent under load comes as a batch already, and one message alone is not to wait for others.
    "linger.ms": 0.1,
    "batch.size": 1_000_000,
    "message.max.bytes": MAX_MESSAGE_BYTES,
    # Rides out a broker's restart; a full queue holds `send` back.
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
    # Evidence is repetitive: a tenth of the bytes, for less time than their way through a broker takes.
    "compression.type": "zstd",
}
_WITHOUT_IDEMPOTENCE: dict[str, Any] = {
    # One request at a time, repeated until it is answered: no gap and no other order, though now and then a double,
    # which readers know by its cause or by the decision that was first.
    "enable.idempotence": False,
    "enable.gapless.guarantee": False,
    "max.in.flight.requests.per.connection": 1,
    "message.send.max.retries": 2_147_483_647,
}
"""For the embedded broker: it forgets its producers when it restarts, which ends an idempotent one for good."""
_TUNABLE = {"linger.ms", "batch.size", "compression.type", "queue.buffering.max.kbytes", "fetch.wait.max.ms"}
_OURS = (_CONSUMER.keys() | _PRODUCER.keys() | {"bootstrap.servers", "group.id", "isolation.level"}) - _TUNABLE


def client_config(brokers: str, extra: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Make the settings that all clients share.

    Args:
        brokers: `host:port`, several with commas.
        extra: settings of librdkafka for this installation: security, tuning.

    Raises:
        RefusedError: `extra` sets what the guarantees rest on.
    """
    extra = extra or {}
    if taken := sorted(_OURS & extra.keys()):
        raise RefusedError(f"Kafka setting {taken[0]!r} is Aureon's own, its guarantees rest on it; leave it out")
    return {
        "bootstrap.servers": brokers,
        "client.id": "aureon",
        # The embedded broker ignores the limits of a fetch, and answers with all it has.
        "receive.message.max.bytes": 2_000_000_000,
        # Brokers close idle connections as a matter of course.
        "log.connection.close": False,
        # Back within a second of the broker; the default grows to ten. Less than this would be tried all the time:
        # the library forgets how often it has failed.
        "reconnect.backoff.ms": 250,
        "reconnect.backoff.max.ms": 1000,
        # A broker whose machine is gone says nothing more, and does not close its connections either: so long it is
        # waited for, before anybody asks who leads its partitions now. The library's own is a minute.
        "socket.timeout.ms": 10_000,
        # When a broker dies, whoever is asked who leads now may not know it yet, or name the dead one; the library then
        # may not ask again before this is over. Its own is five minutes.
        "topic.metadata.refresh.interval.ms": 3000,
        "socket.keepalive.enable": True,
        "allow.auto.create.topics": False,
        "logger": library_log,
        **extra,
    }


def admin_client(config: ClientConfig) -> AdminClient:
    """Make a client for questions about topics and offsets.

    Raises:
        RefusedError: librdkafka does not take the settings.
    """
    with _settings_refused():
        # A new client waits for about half of this before it connects at all.
        return AdminClient({**config, "reconnect.backoff.ms": 20})


def answers(brokers: str, timeout_s: float) -> bool:
    """Tell whether a broker without security answers within a time."""
    try:
        preflight(client_config(brokers), timeout_s)
    except (RefusedError, TryAgainError):
        return False
    return True


def preflight(config: ClientConfig, timeout_s: float = PREFLIGHT_LIMIT_S) -> None:
    """Ask the broker for its topics, so that a wrong address ends the start and does not hang it.

    Raises:
        TryAgainError: it does not answer in time; names the address and what the library saw.
        RefusedError: it answers, and wants another user or certificate.
    """
    errors: list[KafkaError] = []
    client = admin_client({**config, "error_cb": errors.append})
    try:
        client.list_topics(timeout=timeout_s)
    except KafkaException as error:
        client.poll(0)
        told = [e for e in errors if e.code() != KafkaError._ALL_BROKERS_DOWN]
        raise _unreachable(config["bootstrap.servers"], told[-1] if told else error.args[0]) from None


def _unreachable(brokers: str, error: KafkaError) -> RefusedError | TryAgainError:
    """Say what is in the way, and what to change."""
    if error.code() == KafkaError._AUTHENTICATION:
        return RefusedError(
            f"Kafka at {brokers} refuses this user ({error.str()}); "
            "set sasl.mechanisms, sasl.username and sasl.password in AUREON_KAFKA_CONFIG to what it expects"
        )
    # A broker that misses the client's certificate says so at the first answer, and not where TLS begins.
    if error.code() == KafkaError._SSL or "SSL routines" in error.str():
        return RefusedError(
            f"no TLS with Kafka at {brokers} ({error.str()}); set ssl.ca.location in AUREON_KAFKA_CONFIG to the "
            "certificate of the authority that signed the broker's, and ssl.certificate.location and ssl.key.location "
            "to your own where the broker asks for one"
        )
    # how often it was tried, and how many other tries it stands for, tells nobody anything
    why = re.sub(r" \(after \d+ms in state (?:[^()]|\(s\))*\)", "", error.str())
    # It may be away for a while, and whoever starts this process again is to do so.
    return TryAgainError(
        f"no Kafka answers at {brokers} ({why}); "
        "set AUREON_BROKERS to the address of yours (host:port, several with commas), and security.protocol in "
        "AUREON_KAFKA_CONFIG where it wants TLS or SASL"
    )


def read_to_end(
    config: ClientConfig, kafka_topic: str, partition: int = 0, limit_s: float = 30.0, last: int | None = None
) -> Iterator[Message]:
    """Read one partition from its beginning to its present end: for the compacted Kafka topics.

    Args:
        config: from `client_config`.
        kafka_topic: its name.
        partition: its number.
        limit_s: how long the broker may take for the next message.
        last: so many of the last offsets only.

    Raises:
        TryAgainError: the broker hands out no more, and this is not the end.
    """
    name = f"{kafka_topic}[{partition}]"
    consumer = new_consumer(config, "aureon-read", committed_only=False)
    deadline = time.monotonic() + limit_s
    try:
        low, high = watermarks_of(consumer, kafka_topic, partition, limit_s)
        if last is not None:
            low = max(low, high - last)
        consumer.assign([TopicPartition(kafka_topic, partition, low)])
        while time.monotonic() < deadline:
            message = consumer.poll(0.05)
            if message is None:
                continue
            error = message.error()
            if error is None:
                yield message
                if (message.offset() or 0) + 1 >= high:  # the end itself is told by a fetch that waits for more
                    return
                deadline = time.monotonic() + limit_s
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            else:
                raise TryAgainError(f"{name}: {error.str()}")
    finally:
        consumer.close()
    raise TryAgainError(f"{name}: the broker handed out no more of it within {limit_s:.0f} s")


class _Quieter(logging.Filter):
    """Let each complaint through once in a while.

    While a broker is away, every client repeats it several times a second.
    """

    NUMBERS = re.compile(r"\[[^]]*\]|\((?:[^()]|\([^()]*\))*\)|\d+ms")
    """What tells the repetitions of a complaint apart: the client, its thread, how long it took."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = self.NUMBERS.sub("", record.getMessage())
        # Experimental since 2019, and the only setting that stops at a gap.
        if "enable.gapless.guarantee is experimental" in text:
            return False
        # A broker that has just started; it is asked again half a second later.
        if "idempotence PID" in text and "retrying" in text:
            return False
        now = time.monotonic()
        if now - self._said.get(text, -SAY_SO_EVERY_S) < SAY_SO_EVERY_S:
            return False
        if len(self._said) > 1000:
            self._said.clear()
        self._said[text] = now
        return True


library_log.addFilter(_Quieter())


class Patience:
    """Decide on each turn whether to go on waiting, and mention it now and then."""

    def __init__(self, should_stop: Callable[[], bool], limit_s: float) -> None:
        self._should_stop = should_stop
        self._limit_s = limit_s
        self._began = time.monotonic()
        self._said = self._began

    @property
    def waited_s(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._began

    def goes_on(self, what: str) -> bool:
        """Tell whether to go on waiting; `what` is being waited for."""
        now = time.monotonic()
        if now - self._said >= SAY_SO_EVERY_S:
            self._said = now
            log.warning("%s", what)
        return not self._should_stop() and now - self._began < self._limit_s


def new_consumer(config: ClientConfig, group: str, *, committed_only: bool) -> Consumer:
    """Make a consumer that commits and skips nothing by itself.

    Raises:
        RefusedError: librdkafka does not take the settings.
    """
    level = "read_committed" if committed_only else "read_uncommitted"
    with _settings_refused():
        return Consumer({**_CONSUMER, **config, "group.id": group, "isolation.level": level})


def new_producer(config: ClientConfig, *, idempotent: bool, **callbacks: Callable[..., None]) -> Producer:
    """Make a producer that gives up no message and delivers the next; `CheckedProducer` is how it is used.

    Raises:
        RefusedError: librdkafka does not take the settings.
    """
    with _settings_refused():
        return Producer({**_PRODUCER, **({} if idempotent else _WITHOUT_IDEMPOTENCE), **config, **callbacks})


def watermarks_of(consumer: Consumer, kafka_topic: str, partition: int, timeout_s: float) -> tuple[int, int]:
    """Ask where a partition begins and ends.

    Raises:
        TryAgainError: the broker does not answer in time.
    """
    place = TopicPartition(kafka_topic, partition)
    with _named(name_of(place)):
        found: tuple[int, int] = patiently(lambda left: consumer.get_watermark_offsets(place, timeout=left), timeout_s)
        return found


def patiently(ask: Callable[[float], Any], limit_s: float) -> Any:
    """Ask again while the answer is that the broker is not ready yet; `ask` is told how many seconds are left."""
    deadline = time.monotonic() + limit_s
    pause = 0.01  # a new client is told so while it learns who leads a partition
    while True:
        try:
            return ask(max(deadline - time.monotonic(), 0.1))
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn a question without an answer into our error, with the name of what was asked about."""
    try:
        yield
    except KafkaException as error:
        raise TryAgainError(f"{what}: {error.args[0].str()}") from None


@contextlib.contextmanager
def _settings_refused() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise RefusedError(f"AUREON_KAFKA_CONFIG: {error.args[0].str()}") from None


def name_of(place: TopicPartition) -> str:
    """How messages name one."""
    return f"{place.topic}[{place.partition}]"
