"""Aureon's Kafka topics: their names, their settings, and the record of which cluster they belong to.

- **Unit of parallelism:** any number of processes may create the topics, and begin the cluster, at once.
- **Guarantee:** whoever returns from `ensure_topics` and `establish_cluster` works on the same topics, lanes, key and
  record as everybody else; who would not is refused.
- **Replay:** creates what is missing and writes nothing twice.
"""

import logging
import time
import uuid
from typing import Any, Self

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from msgspec import Struct

from connectors.checked_producer import CheckedProducer
from connectors.kafka import ASK_LIMIT_S, MAX_MESSAGE_BYTES, ClientConfig, admin_client, patiently, read_to_end
from schemas.errors import UNREADABLE, RefusedError, TryAgainError
from schemas.software import check_version
from schemas.task import URGENT_PRIORITY

log = logging.getLogger(__name__)

TASKS = "tasks.global"
"""The backlog: what users write, and branches."""
TASKS_HIGH = "tasks.global.high"
"""Tasks up to priority 2, read ahead of the backlog: within one partition nothing overtakes."""
TASKS_NEXT = "tasks.global.next"
"""Follow-up rounds: a task that is under way is finished before a new one begins."""
RETRY = "tasks.retry"
"""Rounds that are tried again, each after the same delay, so that they fall due in order."""
RESULTS = "tasks.results"
"""The log of decisions, from which all else follows."""
DEAD_LETTERS = "tasks.dead_letter"
"""Tasks that ended without a result, for people and their tools."""
HEARTBEATS = "nodes.heartbeat"
"""How the nodes are doing; only the last minutes matter."""
DIRECTIVES = "supervision.directives"
"""What the supervision root orders, by key, the newest one a key; and the cluster's own record."""
HEADS = "one.heads"
"""What the lake held when each cell last wrote to it."""

LANE_TOPICS = (TASKS, TASKS_HIGH, TASKS_NEXT, RETRY, RESULTS, DEAD_LETTERS)
"""Those with one partition a lane."""
ALL_TOPICS = (*LANE_TOPICS, HEARTBEATS, DIRECTIVES, HEADS)

DEFAULT_LANES = 4
CLUSTER_VERSION = 1
CLUSTER_KEY = "cluster/"
"""Records of the cluster have this key and their own id behind it: with one key for all, compaction would let the
last record of two rivals survive, and the first one counts."""

_KEEP = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""Kafka must not delete what is not decided yet, and nothing deletes what is."""
_LANE_SETTINGS = {**_KEEP, "max.message.bytes": str(MAX_MESSAGE_BYTES)}
_SETTINGS: dict[str, dict[str, str]] = {
    **dict.fromkeys(LANE_TOPICS, _LANE_SETTINGS),
    # The delay counts from the broker's time, which all cells share.
    RETRY: {**_LANE_SETTINGS, "message.timestamp.type": "LogAppendTime"},
    HEARTBEATS: {"cleanup.policy": "delete", "retention.ms": "3600000"},
    # More and more come, and only what is in a closed segment is compacted.
    DIRECTIVES: {"cleanup.policy": "compact", "segment.ms": "3600000"},
    HEADS: {"cleanup.policy": "compact", "segment.ms": "3600000"},
}
_MUST_BE: dict[str, dict[str, str]] = {
    **dict.fromkeys(LANE_TOPICS, _KEEP),
    RETRY: {**_KEEP, "message.timestamp.type": "LogAppendTime"},
    DIRECTIVES: {"cleanup.policy": "compact"},
    HEADS: {"cleanup.policy": "compact"},
}
"""Settings that a Kafka topic which somebody else created has to have."""

NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""Sixteen zero bytes: a broker that gives its topics no ids."""


def input_topic(priority: int) -> str:
    """The Kafka topic on which a task of this priority goes in."""
    return TASKS_HIGH if priority <= URGENT_PRIORITY else TASKS


class Topics(Struct, frozen=True, kw_only=True):
    """What `ensure_topics` found."""

    lanes: int
    topic_ids: dict[str, str]
    """Empty on a broker that gives none."""
    kafka_cluster_id: str
    max_message_bytes: int
    """What the most modest of the Kafka topics takes."""

    @property
    def committed_only(self) -> bool:
        """Whether readers may leave out aborted transactions: the embedded broker, known by its lack of ids, may not.

        It loses committed messages to a reader that does.
        """
        return bool(self.topic_ids)


class ClusterRecord(Struct, frozen=True, kw_only=True):
    """Which cluster this is, written once and checked at every start."""

    cluster_id: str
    kafka_cluster_id: str
    topic_ids: dict[str, str]
    lanes: int
    key_fingerprint: str
    """Of the key that seals causes; the key itself is never on Kafka."""
    created_at: float
    """Seconds since the epoch."""
    version: int = 1

    @classmethod
    def new(cls, topics: Topics, key_fingerprint: str) -> Self:
        """Make the record of a cluster that begins now."""
        return cls(
            cluster_id=str(uuid.uuid4()),
            kafka_cluster_id=topics.kafka_cluster_id,
            topic_ids=topics.topic_ids,
            lanes=topics.lanes,
            key_fingerprint=key_fingerprint,
            created_at=time.time(),
            version=CLUSTER_VERSION,
        )


def ensure_topics(config: ClientConfig, lanes: int = 0, replication: int = 1) -> Topics:
    """Create the Kafka topics that are missing, and check those that are there.

    Two processes may do so at once.

    Args:
        config: from `client_config`.
        lanes: how many partitions the lane topics have; 0 takes what is there, or 4.
        replication: for those that are created.

    Raises:
        RefusedError: what is there does not fit; says what differs and the cure.
        TryAgainError: the broker does not answer.
    """
    client = admin_client(config)
    there = _partitions(client)
    wanted = _agree_on_lanes(there, lanes)
    # The tasks' own topic first: it may be there with another number and not be shown yet.
    for names in ((TASKS,), ALL_TOPICS):
        if missing := [name for name in names if name not in there]:
            _create(client, [_new_topic(name, wanted, replication) for name in missing])
            there = _wait_for(client, missing)
            wanted = _agree_on_lanes(there, lanes)
    ids, cluster_id = _describe(client)
    return Topics(
        lanes=wanted, topic_ids=ids, kafka_cluster_id=cluster_id, max_message_bytes=_check_settings(client, replication)
    )


def establish_cluster(config: ClientConfig, topics: Topics, key_fingerprint: str) -> ClusterRecord:
    """Read the record of the cluster, or write it if there is none; then check that it is this cluster.

    When two processes begin a cluster at once, both write, and both take the first record.

    Raises:
        RefusedError: it is another cluster; names both sides.
        TryAgainError: the broker does not answer.
        OutcomeUnknownError: the record was not confirmed; starting again is safe.
    """
    record = _read_record(config)
    if record is None:
        mine = ClusterRecord.new(topics, key_fingerprint)
        producer = CheckedProducer(config)
        try:
            key = CLUSTER_KEY + mine.cluster_id
            producer.send(DIRECTIVES, 0, [msgspec.json.encode(mine)], [key.encode()])
            producer.flush(ASK_LIMIT_S)
        finally:
            producer.close()
        record = _read_record(config)
    if record is None:
        raise RefusedError(f"{DIRECTIVES}: the record of the cluster was written and is gone; who deletes there?")
    _check_record(record, topics, key_fingerprint)
    return record


def _read_record(config: ClientConfig) -> ClusterRecord | None:
    """Take the first record by offset; later ones are of processes that came second."""
    for message in read_to_end(config, DIRECTIVES):
        key, value = message.key(), message.value()
        if key is None or value is None or not key.startswith(CLUSTER_KEY.encode()):
            continue
        try:
            return msgspec.json.decode(value, type=ClusterRecord)
        except UNREADABLE as error:
            raise RefusedError(
                f"{DIRECTIVES}[0]@{message.offset()}: no record of a cluster: {error}; only Aureon writes there"
            ) from None
    return None


def _check_record(record: ClusterRecord, topics: Topics, key_fingerprint: str) -> None:
    check_version(f"{DIRECTIVES}: the record of the cluster", record.version, CLUSTER_VERSION)
    anew = "go back to the broker that it began on, or begin a new cluster with fresh Kafka topics and state folders"
    began = f"cluster {record.cluster_id} began"
    if record.lanes != topics.lanes:
        raise RefusedError(
            f"{began} with {record.lanes} lanes, and its Kafka topics have {topics.lanes} partitions now; "
            f"the number of lanes never changes: {anew}"
        )
    if record.kafka_cluster_id != topics.kafka_cluster_id:
        raise RefusedError(
            f"{began} on Kafka cluster {record.kafka_cluster_id}, and this one is {topics.kafka_cluster_id}: {anew}"
        )
    for name in record.topic_ids.keys() & topics.topic_ids.keys():
        before, now = record.topic_ids[name], topics.topic_ids[name]
        if before != now:
            raise RefusedError(
                f"{began} with {name} as {before}, and it is {now} now: the Kafka topic was deleted and created "
                f"again: {anew}"
            )
    if record.key_fingerprint != key_fingerprint:
        raise RefusedError(
            f"{began} with the key {record.key_fingerprint}, and this process has {key_fingerprint}: "
            "give it the cluster's own key"
        )


def _partitions(client: AdminClient) -> dict[str, int]:
    """Count the partitions of those of our Kafka topics that are there."""
    try:
        metadata = client.list_topics(timeout=ASK_LIMIT_S)
    except KafkaException as error:
        raise TryAgainError(f"the broker does not list its topics: {error.args[0].str()}") from None
    return {
        name: len(topic.partitions)
        for name, topic in metadata.topics.items()
        if name in ALL_TOPICS and topic.error is None and topic.partitions
    }


def _agree_on_lanes(there: dict[str, int], lanes: int) -> int:
    """Find the one number of lanes, or refuse."""
    counts = {name: there[name] for name in LANE_TOPICS if name in there}
    wanted = lanes or next(iter(counts.values()), DEFAULT_LANES)
    for name, count in counts.items():
        if count != wanted and lanes:
            raise RefusedError(
                f"{name} has {count} partitions, and {lanes} lanes are asked for; the number of lanes never changes: "
                f"ask for {count}, or begin anew with fresh Kafka topics"
            )
        if count != wanted:
            both = f"{name} has {count} partitions and {next(iter(counts))} has {wanted}"
            raise RefusedError(
                f"{both}; all of {', '.join(LANE_TOPICS)} need the same number: delete the ones that are "
                "empty and wrong (`kafka-topics --delete --topic …`), Aureon creates them"
            )
    for name in (HEARTBEATS, DIRECTIVES, HEADS):
        if there.get(name, 1) != 1:
            raise RefusedError(f"{name} has {there[name]} partitions and needs 1: delete it, Aureon creates it")
    return wanted


def _new_topic(name: str, lanes: int, replication: int) -> NewTopic:
    settings = dict(_SETTINGS[name])
    if replication > 1:
        # One broker may be away, and what is acknowledged is still on two; of two brokers, on one.
        settings["min.insync.replicas"] = str(replication - 1)
    return NewTopic(name, lanes if name in LANE_TOPICS else 1, replication, config=settings)


def _create(client: AdminClient, topics: list[NewTopic]) -> None:
    plain: list[NewTopic] = []
    for name, future in client.create_topics(topics, request_timeout=ASK_LIMIT_S).items():
        try:
            future.result(2 * ASK_LIMIT_S)
        except KafkaException as failure:
            error = failure.args[0]
            topic = next(t for t in topics if t.topic == name)
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            if error.code() == KafkaError.INVALID_CONFIG and topic.config:
                log.warning("%s: the broker does not know the settings %s (%s)", name, topic.config, error.str())
                plain.append(NewTopic(name, topic.num_partitions, topic.replication_factor))
                continue
            raise _creation_error(name, topic, error) from None
    if plain:
        # `_check_settings` refuses what comes out wrong on a broker that tells its settings.
        _create(client, plain)


def _creation_error(name: str, topic: NewTopic, error: KafkaError) -> RefusedError | TryAgainError:
    if error.code() == KafkaError.INVALID_REPLICATION_FACTOR:
        return RefusedError(
            f"{name}: {topic.replication_factor} replicas are asked for, and there are fewer brokers ({error.str()}); "
            "lower the replication factor"
        )
    if error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return RefusedError(f"{name} is missing and this user may not create it: {error.str()}; create it, or grant it")
    if error.retriable() or error.code() == KafkaError._TIMED_OUT:
        return TryAgainError(f"{name} was not created: {error.str()}")
    return RefusedError(f"{name} cannot be created: {error.str()}")


def _wait_for(client: AdminClient, created: list[str]) -> dict[str, int]:
    """Wait until the broker shows what it has created."""
    deadline = time.monotonic() + ASK_LIMIT_S
    while True:
        there = _partitions(client)
        absent = [name for name in created if name not in there]
        if not absent:
            return there
        if time.monotonic() > deadline:
            raise TryAgainError(f"{', '.join(absent)}: created, and the broker does not show it yet")
        time.sleep(0.05)


def _describe(client: AdminClient) -> tuple[dict[str, str], str]:
    """Ask for the ids of our Kafka topics and of the cluster."""

    def ask(left_s: float) -> dict[str, str]:
        described = client.describe_topics(TopicCollection(list(ALL_TOPICS)), request_timeout=left_s)
        return {name: str(future.result(2 * ASK_LIMIT_S).topic_id) for name, future in described.items()}

    try:
        ids: dict[str, str] = patiently(ask, ASK_LIMIT_S)
        # The package declares the fields of its answer as None.
        metadata: Any = client.list_topics(HEARTBEATS, timeout=ASK_LIMIT_S)
    except KafkaException as error:
        raise TryAgainError(f"the broker does not describe its topics: {error.args[0].str()}") from None
    return {name: i for name, i in ids.items() if i != NO_TOPIC_ID}, metadata.cluster_id or ""


def _check_settings(client: AdminClient, replication: int) -> int:
    """Refuse Kafka topics that would lose messages; return the largest message that all of the lane topics take."""
    resources = {name: ConfigResource(ResourceType.TOPIC, name) for name in ALL_TOPICS}
    asked = client.describe_configs(list(resources.values()), request_timeout=ASK_LIMIT_S)
    largest = MAX_MESSAGE_BYTES
    for name, resource in resources.items():
        try:
            entries = asked[resource].result(2 * ASK_LIMIT_S)
        except KafkaException as error:
            log.warning("%s: its settings are not told (%s), so they are not checked", name, error.args[0].str())
            continue
        settings: dict[str, str | None] = {key: entry.value for key, entry in entries.items()}
        for key, value in _MUST_BE.get(name, {}).items():
            if settings.get(key, value) != value:
                raise RefusedError(
                    f"{name} has {key}={settings[key]} and needs {value}: "
                    f"`kafka-configs --alter --topic {name} --add-config {key}={value}`"
                )
        if name in LANE_TOPICS:
            largest = min(largest, int(settings.get("max.message.bytes") or largest))
        if replication > 1 and settings.get("min.insync.replicas") == "1":
            log.warning(
                "%s: min.insync.replicas=1 lets an acknowledged message be on one broker only; of three, set 2", name
            )
    return largest
