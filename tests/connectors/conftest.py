"""Kafka topics of two lanes, and a producer to them."""

from collections.abc import Iterator

import pytest

from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.topics import Topics, ensure_topics
from tests.brokers import Broker


@pytest.fixture
def topics(own_broker: Broker) -> Topics:
    """Two lanes on an empty broker."""
    return ensure_topics(client_config(own_broker.brokers), 2)


@pytest.fixture
def producer(own_broker: Broker, topics: Topics) -> Iterator[CheckedProducer]:
    """A producer to it."""
    one = CheckedProducer(client_config(own_broker.brokers))
    yield one
    one.close()
