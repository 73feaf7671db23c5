"""Heartbeats on Kafka, written and followed."""

from connectors.heartbeats import HeartbeatReader, HeartbeatWriter
from connectors.kafka import client_config
from connectors.topics import ensure_topics
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
