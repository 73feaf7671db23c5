"""What a newer Aureon wrote: a cell that cannot read it says so and stops; it passes over none of it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.topics import CLUSTER_KEY, CLUSTER_VERSION, DIRECTIVES, RESULTS, TASKS, TASKS_NEXT, ensure_topics
from flows.lane import Sealer
from schemas.decision import WIRE_VERSION, Decision, DecisionKind, read_decision
from schemas.errors import BadRecordError, RefusedError
from schemas.ids import home_lane
from schemas.task import encode
from tests.aureon_command import Finished, aureon
from tests.brokers import Broker

DECISION = Decision(kind=DecisionKind.CONVERGED, kafka_topic=TASKS, offset=0, task_id="a:r0")
SAYS = f"has version {WIRE_VERSION + 1}, and this software reads {WIRE_VERSION}: a newer Aureon wrote it; upgrade this"
LANES = 4


@pytest.fixture
def folder(own_broker: Broker, tmp_path: Path) -> Path:
    """The folder of a cell that has run on the broker, and had nothing to do."""
    assert run(own_broker, tmp_path).returncode == 0
    return tmp_path


def run(broker: Broker, folder: Path) -> Finished:
    """Run a cell until it has nothing to do."""
    return aureon("run", "--until-idle", "1", cwd=folder, AUREON_BROKERS=broker.brokers)


def send(broker: Broker, kafka_topic: str, lane: int, value: bytes, key: bytes | None = None) -> None:
    """Append a message."""
    producer = CheckedProducer(client_config(broker.brokers))
    try:
        producer.send(kafka_topic, lane, [value], [key] if key is not None else None)
        producer.flush(10)
    finally:
        producer.close()


def messages(broker: Broker, kafka_topic: str, lane: int) -> list[dict[str, Any]]:
    """Read all messages of a partition."""
    reader = Consumer({"bootstrap.servers": broker.brokers, "group.id": "test", "auto.offset.reset": "earliest"})
    try:
        reader.assign([TopicPartition(kafka_topic, lane, 0)])
        found = []
        while batch := reader.consume(100, 2.0):
            found += [json.loads(m.value() or b"") for m in batch if m.error() is None]
        return found
    finally:
        reader.close()


@pytest.mark.parametrize(
    "changed", [{}, {"kind": "postponed"}, {"offset": [0, 1]}], ids=["a field", "a kind", "a type"]
)
def test_a_newer_decision_is_none_that_nobody_wrote(changed: dict[str, Any]) -> None:
    """Whatever is new in it; without a newer number it is a stranger's."""
    told = {**json.loads(encode(DECISION)), **changed}
    with pytest.raises(RefusedError, match=SAYS):
        read_decision(msgspec.json.encode({**told, "version": WIRE_VERSION + 1}))
    if changed:
        with pytest.raises(BadRecordError, match="no decision"):
            read_decision(msgspec.json.encode(told))


def test_a_newer_decision_on_the_log_ends_the_cell(own_broker: Broker, folder: Path) -> None:
    """To pass over it would be to decide its message again."""
    send(own_broker, RESULTS, 1, encode(msgspec.structs.replace(DECISION, version=WIRE_VERSION + 1)))
    done = run(own_broker, folder)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"aureon: a decision {SAYS} one")


def test_a_newer_message_of_the_clusters_own_ends_the_cell(own_broker: Broker, folder: Path) -> None:
    """It would be a dead letter otherwise, and its task lost."""
    sealer = Sealer(bytes.fromhex((folder / ".aureon" / "cluster.key").read_text()))
    seal = sealer.seal((2, 5, 0), "a:r1", TASKS_NEXT, 3)
    task = {"cause": [2, 5, 0, seal], "task_id": "a:r1", "logical_id": "a", "topic": "math", "payload": {"prompt": "?"}}
    send(own_broker, TASKS_NEXT, 3, json.dumps({**task, "mood": "new"}).encode())
    done = run(own_broker, folder)
    assert done.returncode == 2
    assert f"{TASKS_NEXT}[3]@0: Object contains unknown field `mood`" in done.stderr
    assert done.stderr.endswith("a newer Aureon wrote it; upgrade this one\n")
    assert messages(own_broker, RESULTS, 3) == []


def test_whoever_spoils_a_copy_of_such_a_message_ends_nothing(own_broker: Broker, folder: Path) -> None:
    """It has the cause of one that is there: a duplicate."""
    home = home_lane("euler-1", LANES)
    task = {"topic": "math", "logical_id": "euler-1", "payload": {"prompt": "Solve for m: 3*m = 9"}}
    send(own_broker, TASKS, (home + 1) % LANES, json.dumps(task).encode())  # it moves home, with a cause
    assert run(own_broker, folder).returncode == 0
    (moved,) = messages(own_broker, TASKS, home)
    assert "cause" in moved
    send(own_broker, TASKS, home, json.dumps({**moved, "mood": "mine"}).encode())
    done = run(own_broker, folder)
    assert done.returncode == 0, done.stderr
    counted = aureon("sql", "--json", "SELECT kind FROM rounds WHERE logical_id = 'euler-1' ORDER BY ALL", cwd=folder)
    assert json.loads(counted.stdout) == [{"kind": "converged"}, {"kind": "moved"}]


def test_a_newer_cluster_is_not_joined(own_broker: Broker, tmp_path: Path) -> None:
    """Its record says so at the start."""
    topics = ensure_topics(client_config(own_broker.brokers), LANES)
    record = {
        "cluster_id": "c",
        "kafka_cluster_id": topics.kafka_cluster_id,
        "topic_ids": topics.topic_ids,
        "lanes": LANES,
        "key_fingerprint": "",
        "created_at": 0.0,
        "version": CLUSTER_VERSION + 1,
    }
    send(own_broker, DIRECTIVES, 0, json.dumps(record).encode(), f"{CLUSTER_KEY}c".encode())
    done = run(own_broker, tmp_path)
    assert done.returncode == 2
    assert f"{DIRECTIVES}: the record of the cluster has version {CLUSTER_VERSION + 1}" in done.stderr
