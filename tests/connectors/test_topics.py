"""Aureon's Kafka topics, and the record of which cluster they belong to."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

import connectors.topics
from connectors.checked_producer import CheckedProducer
from connectors.kafka import MAX_MESSAGE_BYTES, admin_client, client_config, read_to_end
from connectors.topics import (
    ALL_TOPICS,
    CLUSTER_KEY,
    DIRECTIVES,
    HEADS,
    HEARTBEATS,
    LANE_TOPICS,
    RESULTS,
    RETRY,
    TASKS,
    ClusterRecord,
    ensure_topics,
    establish_cluster,
)
from schemas.errors import RefusedError, TryAgainError
from tests.brokers import Broker


def create(broker: Broker, name: str, partitions: int, **settings: str) -> None:
    """Create a Kafka topic as somebody else would."""
    config = {key.replace("_", "."): value for key, value in settings.items()}
    client = admin_client(client_config(broker.brokers))
    client.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result()


def write(broker: Broker, messages: list[bytes], keys: list[bytes]) -> None:
    """Write to the directives."""
    producer = CheckedProducer(client_config(broker.brokers))
    producer.send(DIRECTIVES, 0, messages, keys)
    producer.flush(10)
    producer.close()


def test_missing_topics_are_created_with_settings_that_lose_nothing(own_broker: Broker) -> None:
    """Each lane topic has a partition a lane, keeps all, and takes large decisions."""
    config = client_config(own_broker.brokers)
    topics = ensure_topics(config, 3)
    assert (topics.lanes, topics.max_message_bytes) == (3, MAX_MESSAGE_BYTES)
    client = admin_client(config)
    there = client.list_topics(timeout=10).topics
    assert {name: len(there[name].partitions) for name in ALL_TOPICS} == {
        **dict.fromkeys(LANE_TOPICS, 3),
        HEARTBEATS: 1,
        DIRECTIVES: 1,
        HEADS: 1,
    }
    resources = {name: ConfigResource(ResourceType.TOPIC, name) for name in ALL_TOPICS}
    told = client.describe_configs(list(resources.values()))
    settings = {n: {k: e.value for k, e in told[r].result().items()} for n, r in resources.items()}
    assert {settings[name]["retention.ms"] for name in LANE_TOPICS} == {"-1"}
    assert settings[RETRY]["message.timestamp.type"] == "LogAppendTime"
    assert settings[DIRECTIVES]["cleanup.policy"] == settings[HEADS]["cleanup.policy"] == "compact"


def test_number_of_lanes_is_found_where_nobody_says_it(own_broker: Broker) -> None:
    """What is there counts."""
    config = client_config(own_broker.brokers)
    assert ensure_topics(config, 2) == ensure_topics(config)


def test_two_processes_may_create_the_topics_at_once(own_broker: Broker) -> None:
    """Whoever comes second finds them there."""
    config = client_config(own_broker.brokers)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: ensure_topics(config, 2), range(4)))
    assert [r.lanes for r in results] == [2, 2, 2, 2]


def test_topic_that_the_broker_does_not_show_yet_settles_the_number_of_lanes(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a broker lists may lag behind what the controller has created."""
    create(own_broker, TASKS, 1, retention_ms="-1")
    late, shown = iter(["once"]), connectors.topics._partitions
    monkeypatch.setattr("connectors.topics._partitions", lambda client: {} if next(late, None) else shown(client))
    assert ensure_topics(client_config(own_broker.brokers)).lanes == 1


def test_another_number_of_lanes_is_refused_with_both_numbers(own_broker: Broker) -> None:
    """A task's lane follows from the number, so it never changes."""
    config = client_config(own_broker.brokers)
    ensure_topics(config, 2)
    with pytest.raises(RefusedError, match="has 2 partitions, and 5 lanes are asked for"):
        ensure_topics(config, 5)


def test_topics_with_different_numbers_of_partitions_are_refused(own_broker: Broker) -> None:
    """A lane is one partition number over all of them."""
    create(own_broker, TASKS, 2, retention_ms="-1")
    create(own_broker, RESULTS, 3, retention_ms="-1")
    with pytest.raises(RefusedError, match=r"tasks.results has 3 partitions and tasks.global has 2"):
        ensure_topics(client_config(own_broker.brokers))


def test_topic_that_has_one_partition_for_all_may_not_have_more(own_broker: Broker) -> None:
    """What is read in order there would be in two orders."""
    create(own_broker, HEARTBEATS, 2)
    with pytest.raises(RefusedError, match=r"nodes\.heartbeat has 2 partitions and needs 1: delete it"):
        ensure_topics(client_config(own_broker.brokers))


def test_broker_that_is_away_is_told_before_anything_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be back."""
    monkeypatch.setattr("connectors.topics.ASK_LIMIT_S", 0.3)
    with pytest.raises(TryAgainError, match="the broker does not list its topics: "):
        ensure_topics(client_config("127.0.0.1:1"))


def test_topics_that_are_created_and_never_shown_are_told(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to what may not be there."""
    monkeypatch.setattr("connectors.topics.ASK_LIMIT_S", 0.5)
    monkeypatch.setattr("connectors.topics._partitions", lambda _client: {})
    with pytest.raises(TryAgainError, match=r"tasks\.global: created, and the broker does not show it yet"):
        ensure_topics(client_config(own_broker.brokers), 1)


def test_topic_that_would_forget_tasks_is_refused_with_the_command_that_mends_it(own_broker: Broker) -> None:
    """Kafka's default keeps a week; a backlog may be older."""
    create(own_broker, TASKS, 2, retention_ms="604800000")
    with pytest.raises(RefusedError, match=r"kafka-configs --alter --topic tasks.global --add-config retention.ms=-1"):
        ensure_topics(client_config(own_broker.brokers), 2)


def test_smallest_limit_of_the_topics_is_told(own_broker: Broker) -> None:
    """A decision that does not fit must not win."""
    create(own_broker, TASKS, 1, retention_ms="-1", max_message_bytes="500000")
    assert ensure_topics(client_config(own_broker.brokers)).max_message_bytes == 500_000


def test_more_replicas_than_brokers_are_refused(own_broker: Broker) -> None:
    """What the broker says reaches the user, with the cure."""
    with pytest.raises(RefusedError, match="lower the replication factor"):
        ensure_topics(client_config(own_broker.brokers), 1, replication=3)


def test_cluster_record_is_written_once_and_found_again(own_broker: Broker) -> None:
    """Every later start reads the same, also after the broker was started anew."""
    config = client_config(own_broker.brokers)
    topics = ensure_topics(config, 2)
    first = establish_cluster(config, topics, "key-a")
    own_broker.restart()
    assert establish_cluster(config, ensure_topics(config), "key-a") == first
    assert len(list(read_to_end(config, DIRECTIVES))) == 1


def test_rivals_that_begin_a_cluster_at_once_agree_on_one(own_broker: Broker) -> None:
    """All write, all take the first; compaction keeps it, as every record has its own key."""
    config = client_config(own_broker.brokers)
    topics = ensure_topics(config, 1)
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(lambda _: establish_cluster(config, topics, "key-a"), range(4)))
    assert len({r.cluster_id for r in records}) == 1
    keys = [m.key() for m in read_to_end(config, DIRECTIVES)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"lanes": 7}, "began with 7 lanes, and its Kafka topics have 1 partitions"),
        ({"kafka_cluster_id": "elsewhere"}, "began on Kafka cluster elsewhere, and this one is"),
        ({"key_fingerprint": "key-z"}, "began with the key key-z, and this process has key-a"),
    ],
)
def test_other_cluster_is_refused_with_both_sides(own_broker: Broker, change: dict[str, object], told: str) -> None:
    """Going on would mix two logs."""
    config = client_config(own_broker.brokers)
    topics = ensure_topics(config, 1)
    other = msgspec.structs.replace(ClusterRecord.new(topics, "key-a"), **change)
    write(own_broker, [msgspec.json.encode(other)], [f"{CLUSTER_KEY}{other.cluster_id}".encode()])
    with pytest.raises(RefusedError, match=told):
        establish_cluster(config, topics, "key-a")


def test_topic_that_was_created_again_is_refused_where_the_broker_gives_ids(own_broker: Broker) -> None:
    """Its offsets mean other messages now."""
    config = client_config(own_broker.brokers)
    topics = ensure_topics(config, 1)
    establish_cluster(config, topics, "key-a")
    client = admin_client(config)
    client.delete_topics([TASKS], operation_timeout=10)[TASKS].result()
    again = ensure_topics(config, 1)
    if not again.topic_ids:
        assert establish_cluster(config, again, "key-a").topic_ids == {}
        return
    with pytest.raises(RefusedError, match=rf"with tasks.global as {topics.topic_ids[TASKS]}"):
        establish_cluster(config, again, "key-a")


def test_other_directives_do_not_disturb_the_record(own_broker: Broker) -> None:
    """The supervision root writes to the same Kafka topic."""
    config = client_config(own_broker.brokers)
    topics = ensure_topics(config, 1)
    write(own_broker, [b"{}", b"not json"], [b"quarantine/node-1", b"affinity"])
    assert establish_cluster(config, topics, "key-a") == establish_cluster(config, topics, "key-a")


def test_record_that_somebody_spoiled_is_refused_by_name(own_broker: Broker) -> None:
    """The message names topic, partition and offset."""
    config = client_config(own_broker.brokers)
    topics = ensure_topics(config, 1)
    write(own_broker, [b"{}"], [f"{CLUSTER_KEY}x".encode()])
    with pytest.raises(RefusedError, match=r"supervision.directives\[0\]@0: no record of a cluster"):
        establish_cluster(config, topics, "key-a")
