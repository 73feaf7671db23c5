"""The producer that never skips, on a broker that comes and goes."""

import os
import threading
import time

import pytest
from confluent_kafka.admin import NewTopic

from connectors.checked_producer import CheckedProducer
from connectors.kafka import MAX_MESSAGE_BYTES, admin_client, client_config, read_to_end
from connectors.topics import RESULTS, TASKS, Topics
from schemas.errors import BadRecordError, OutcomeUnknownError
from tests.brokers import Broker
from tests.connectors.numbered import numbers, values


def test_keys_travel_with_their_messages(own_broker: Broker, producer: CheckedProducer) -> None:
    """So that others who read the Kafka topic find a task's messages by its id."""
    producer.send(TASKS, 0, [b"a", b"b"], [b"id-a", b"id-b"])
    producer.flush()
    read = read_to_end(client_config(own_broker.brokers), TASKS)
    assert [(m.key(), m.value()) for m in read] == [(b"id-a", b"a"), (b"id-b", b"b")]


def test_send_during_an_outage_delivers_all_in_order_once_the_broker_is_back(
    own_broker: Broker, producer: CheckedProducer
) -> None:
    """Five seconds without a broker while messages keep coming, and once more."""
    sent = 0
    for outage_s in (5, 1):
        producer.send(TASKS, 0, numbers(sent, sent + 500))
        sent += 500
        own_broker.stop()
        until = time.monotonic() + outage_s
        while time.monotonic() < until:
            producer.send(TASKS, 0, numbers(sent, sent + 100))
            sent += 100
            time.sleep(0.1)
        starting = threading.Timer(0.5, own_broker.start)
        starting.start()
        producer.flush(60)
        starting.join()  # it may still be at it when all has arrived
        assert len(producer) == 0
    assert values(list(read_to_end(client_config(own_broker.brokers), TASKS))) == numbers(0, sent)


def test_full_queue_holds_send_back_and_keeps_the_order(own_broker: Broker, topics: Topics) -> None:
    """Backpressure from the library is waited for."""
    small = client_config(own_broker.brokers) | {"queue.buffering.max.messages": 10}
    producer = CheckedProducer(small)
    producer.send(TASKS, 0, numbers(0, 1000))
    producer.send(TASKS, 0, numbers(1000, 1500), numbers(1000, 1500))
    producer.flush()
    producer.close()
    assert values(list(read_to_end(client_config(own_broker.brokers), TASKS))) == numbers(0, 1500)


def test_who_is_asked_to_stop_does_not_wait_at_a_full_queue() -> None:
    """It says how much of what it took is not confirmed."""
    small = client_config("127.0.0.1:1") | {"queue.buffering.max.messages": 10}
    producer = CheckedProducer(small, should_stop=lambda: True)
    with pytest.raises(OutcomeUnknownError, match=r"stopped while \d+ messages to 127\.0\.0\.1:1 were unconfirmed"):
        producer.send(TASKS, 0, numbers(0, 1000))
    producer.close()


def test_message_to_a_partition_that_is_not_there_stops_the_producer(producer: CheckedProducer) -> None:
    """The library refuses it at once, and nothing may go past it."""
    producer.send(TASKS, 0, [b"first"])
    producer.flush()
    with pytest.raises(OutcomeUnknownError, match=r"tasks\.global\[9\]: not sent: .*[Uu]nknown partition"):
        producer.send(TASKS, 9, [b"a", b"b"])
    with pytest.raises(OutcomeUnknownError):
        producer.send(TASKS, 0, [b"second"])


def test_message_that_the_broker_refuses_raises_and_stops_the_producer(
    own_broker: Broker, topics: Topics, producer: CheckedProducer
) -> None:
    """Nothing behind it is delivered: a gap in a log would be worse than a stop."""
    client = admin_client(client_config(own_broker.brokers))
    client.create_topics([NewTopic("small", 1, 1, config={"max.message.bytes": "1000"})])["small"].result()
    producer.send("small", 0, [os.urandom(5000)])
    with pytest.raises(OutcomeUnknownError, match=r"small.*Message size too large"):
        producer.flush(60)
    with pytest.raises(OutcomeUnknownError):
        producer.send(TASKS, 0, [b"z"])
    with pytest.raises(OutcomeUnknownError):
        producer.check()


def test_too_large_a_message_is_refused_before_any_of_its_batch_is_sent(
    own_broker: Broker, producer: CheckedProducer
) -> None:
    """The library would send the ones behind it."""
    with pytest.raises(BadRecordError, match=r"tasks.results\[1\]: a message of 33,554,432 bytes"):
        producer.send(RESULTS, 1, [b"a", b"x" * MAX_MESSAGE_BYTES, b"c"])
    producer.send(RESULTS, 1, [b"x" * (MAX_MESSAGE_BYTES - 1000)])
    producer.flush()
    (only,) = read_to_end(client_config(own_broker.brokers), RESULTS, 1)
    assert len(only) == MAX_MESSAGE_BYTES - 1000


def test_flush_without_a_broker_ends_when_asked_to_or_at_its_limit(
    own_broker: Broker, producer: CheckedProducer
) -> None:
    """What was sent may yet arrive, and the error says so."""
    stop = threading.Event()
    impatient = CheckedProducer(client_config(own_broker.brokers), should_stop=stop.is_set)
    impatient.send(TASKS, 0, [b"first"])
    impatient.flush()
    own_broker.stop()
    impatient.send(TASKS, 0, [b"x"])
    with pytest.raises(OutcomeUnknownError, match=r"1 messages to .* may or may not have arrived"):
        impatient.flush(1)
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(OutcomeUnknownError):
        impatient.flush()
    assert time.monotonic() - began < 5
    impatient.close()


def test_close_is_quiet_about_what_is_on_its_way(own_broker: Broker, topics: Topics) -> None:
    """To purge what the broker has not acknowledged is a fatal error of an idempotent producer."""
    one = CheckedProducer(client_config(own_broker.brokers))
    one.send(TASKS, 0, [b"first"])
    one.flush()
    own_broker.freeze()
    try:
        one.send(TASKS, 0, [b"x"])
        with pytest.raises(OutcomeUnknownError):
            one.flush(0.5)
        one.close()
    finally:
        own_broker.thaw()
