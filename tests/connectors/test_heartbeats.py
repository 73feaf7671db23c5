"""Heartbeats on Kafka, written and followed."""

import msgspec
import pytest

from connectors.checked_producer import CheckedProducer
from connectors.heads import publish_head, published_heads
from connectors.heartbeats import HeartbeatReader, HeartbeatWriter
from connectors.kafka import client_config
from connectors.topics import HEADS, HEARTBEATS, ensure_topics
from schemas.head import Head
from tests.aureon_command import until
from tests.brokers import Broker
from tests.flows.test_registry import cell, node


def test_heartbeats_are_followed(own_broker: Broker) -> None:
    """Each once, and from the beginning where the broker begins anew."""
    config = client_config(own_broker.brokers)
    ensure_topics(config, 1)
    reader, writer = HeartbeatReader(config), HeartbeatWriter(config)
    heard: list[object] = []

    def hear() -> int:
        heard.extend(reader.read())
        return len(heard)

    try:
        assert hear() == 0
        writer.publish([cell("one", 1.0), node("one:1", "n", 1.0)])
        until(lambda: hear() == 2)
        assert heard == [cell("one", 1.0), node("one:1", "n", 1.0)]
        writer.publish([cell("one", 2.0)])
        until(lambda: hear() == 3)
        reader._position = 1000
        assert len(reader.read()) == 3
        assert reader.read() == []
    finally:
        writer.close()
        reader.close()


def test_what_is_no_heartbeat_and_no_head_is_passed_over(own_broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """With its place in the log, and what comes behind it is read."""
    config = client_config(own_broker.brokers)
    ensure_topics(config, 1)
    producer = CheckedProducer(config)
    head = Head(cluster="a", version=1, hash="b", key="c", at=1.0)
    producer.send(HEADS, 0, [b"no head"], [b"x"])
    publish_head(producer, head)
    producer.send(HEARTBEATS, 0, [b"no heartbeat", msgspec.json.encode(cell("one", 1.0))])
    producer.flush()
    producer.close()
    reader = HeartbeatReader(config)
    try:
        assert reader.read() == [cell("one", 1.0)]
    finally:
        reader.close()
    assert published_heads(config) == [head]
    assert f"{HEARTBEATS}@0: " in caplog.text
    assert f"{HEADS}@0: no head: " in caplog.text
