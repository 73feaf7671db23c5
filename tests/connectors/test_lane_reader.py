"""The reader of a lane, on a broker that comes and goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Message, Producer, TopicPartition

from connectors import lane_reader
from connectors.checked_producer import CheckedProducer
from connectors.kafka import admin_client, client_config
from connectors.lane_reader import LaneReader, Watermarks
from connectors.topics import TASKS, Topics, ensure_topics
from schemas.errors import LogMismatchError
from tests.aureon_command import until
from tests.brokers import Broker
from tests.connectors.numbered import numbers, values


@contextmanager
def reading(broker: Broker, start: int = 0, **options: Any) -> Iterator[LaneReader]:
    """Read lane 0 of the backlog."""
    config = client_config(broker.brokers)
    with Watermarks(config) as watermarks:
        reader = LaneReader(config, TASKS, 0, start, watermarks, **options)
        yield reader
        reader.close()


def take(reader: LaneReader, count: int) -> list[Message]:
    """Read until there are so many."""
    messages: list[Message] = []

    def enough() -> bool:
        messages.extend(reader.poll(500))
        return len(messages) >= count

    until(enough)
    return messages


def is_asleep(reader: LaneReader) -> bool:
    """Whether it waits at the end without asking the broker."""
    return reader._watch is not None


def fall_asleep(reader: LaneReader) -> None:
    """Poll, finding nothing, until the reader sleeps."""

    def asleep() -> bool:
        assert reader.poll(10) == []
        return is_asleep(reader)

    until(asleep)


def test_reader_gives_every_message_once_and_in_order(own_broker: Broker, producer: CheckedProducer) -> None:
    """From the offset it was told, on one partition."""
    producer.send(TASKS, 0, numbers(0, 3000))
    producer.send(TASKS, 1, numbers(0, 10))
    producer.flush()
    with reading(own_broker, 1000) as reader:
        messages = take(reader, 2000)
        assert values(messages) == numbers(1000, 3000)
        assert (reader.position, reader.begin_offset(), reader.end_offset()) == (3000, 0, 3000)


def test_reader_sleeps_at_the_end_and_wakes_without_skipping(own_broker: Broker, producer: CheckedProducer) -> None:
    """Messages that come while it sleeps, or just as it falls asleep, are all seen."""
    with reading(own_broker, sleep_after_s=0.02) as reader:
        sent = 0
        for pause in (0.0, 0.01, 0.02, 0.021, 0.022, 0.03, 0.06, 0.2) * 4:
            producer.send(TASKS, 0, numbers(sent, sent + 3))
            sent += 3
            assert values(take(reader, 3)) == numbers(sent - 3, sent)
            until = time.monotonic() + pause
            while time.monotonic() < until:
                assert reader.poll(10) == []
        fall_asleep(reader)
        assert reader.position == sent


@pytest.mark.unmeasured
def test_sleeping_reader_costs_next_to_nothing_and_wakes_in_milliseconds(
    own_broker: Broker, producer: CheckedProducer
) -> None:
    """A consumer that waits at the end of the embedded broker keeps a core busy."""
    with reading(own_broker) as reader:
        producer.send(TASKS, 0, [b"x"])
        take(reader, 1)
        cost, took = [], []
        for _ in range(3):  # other threads and other programs may have the processor for a while
            fall_asleep(reader)
            time.sleep(0.5)
            began = time.process_time()
            time.sleep(1)
            cost.append(time.process_time() - began)
            began = time.monotonic()
            producer.send(TASKS, 0, [b"y"])
            take(reader, 1)
            took.append(time.monotonic() - began)
    assert min(cost) < 0.2, cost
    assert min(took) < 0.5, took


def test_reader_stays_awake_for_what_was_sent_here(own_broker: Broker, producer: CheckedProducer) -> None:
    """Without waiting until its partition is looked at; and for no longer than that takes."""
    with reading(own_broker, sleep_after_s=0.0) as reader:
        producer.send(TASKS, 0, [b"x"])
        take(reader, 1)
        fall_asleep(reader)
        reader.expect()
        reader.poll(1)
        assert not is_asleep(reader)
        producer.send(TASKS, 0, [b"y"])
        assert values(take(reader, 1)) == [b"y"]
        fall_asleep(reader)
        reader.expect()
        fall_asleep(reader)
        assert reader.position == 2


def test_reader_that_is_not_polled_holds_back(own_broker: Broker, producer: CheckedProducer) -> None:
    """And goes on where it was."""
    large = [b"%07d" % i + b"x" * 2000 for i in range(8000)]
    producer.send(TASKS, 0, large)
    producer.flush()
    with reading(own_broker) as reader:
        first = take(reader, 1)
        time.sleep(1)
        assert values(first + take(reader, 8000 - len(first))) == large


def test_reader_survives_a_broker_that_is_away(own_broker: Broker, producer: CheckedProducer) -> None:
    """Awake or asleep, it waits and goes on at its position."""
    producer.send(TASKS, 0, numbers(0, 100))
    producer.flush()
    with reading(own_broker) as reader, reading(own_broker, sleep_after_s=None) as sleepless:
        take(reader, 100)
        take(sleepless, 100)
        fall_asleep(reader)
        own_broker.stop()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert reader.poll(10) == []
            assert sleepless.poll(10) == []
            time.sleep(0.005)
        own_broker.start()
        producer.send(TASKS, 0, numbers(100, 200))
        assert values(take(reader, 100)) == numbers(100, 200)
        assert values(take(sleepless, 100)) == numbers(100, 200)


@pytest.mark.unmeasured
def test_reader_that_sleeps_while_the_broker_is_away_costs_little(
    own_broker: Broker, producer: CheckedProducer
) -> None:
    """The library, asked about a partition whose leader is away, connects to it thousands of times a second."""
    producer.send(TASKS, 0, numbers(0, 10))
    producer.flush()
    with reading(own_broker, sleep_after_s=0.02) as reader:
        take(reader, 10)
        fall_asleep(reader)
        own_broker.stop()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert reader.poll(10) == []
            time.sleep(0.02)
        began = time.process_time()
        time.sleep(2)
        assert time.process_time() - began < 0.5


def test_reader_that_hears_nothing_fetches_anew(
    own_broker: Broker, producer: CheckedProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library may stop fetching without a word: here because somebody takes its partition away."""
    monkeypatch.setattr(lane_reader, "SILENCE_S", 0.3)
    producer.send(TASKS, 0, numbers(0, 10))
    with reading(own_broker, sleep_after_s=None) as reader:
        take(reader, 10)
        reader._consumer.unassign()
        producer.send(TASKS, 0, numbers(10, 20))
        assert values(take(reader, 10)) == numbers(10, 20)


def test_what_was_acknowledged_survives_a_kill_of_a_durable_broker(
    own_broker: Broker, producer: CheckedProducer
) -> None:
    """On the embedded broker it does not, which is said where users read it."""
    producer.send(TASKS, 0, numbers(0, 100))
    producer.flush()
    if own_broker.name == "embedded":
        assert not own_broker.survives_kill
        return
    with reading(own_broker) as reader:
        take(reader, 100)
        own_broker.kill()
        own_broker.start()
        producer.send(TASKS, 0, numbers(100, 200))
        assert values(take(reader, 100)) == numbers(100, 200)
    with reading(own_broker) as reader:
        assert values(take(reader, 200)) == numbers(0, 200)


@pytest.mark.parametrize("start", [3, 300])
def test_offset_that_the_broker_does_not_have_stops_the_reader(
    own_broker: Broker, producer: CheckedProducer, start: int
) -> None:
    """Before the beginning (deleted) or after the end (lost): never a silent jump."""
    producer.send(TASKS, 0, numbers(0, 200))
    producer.flush()
    client = admin_client(client_config(own_broker.brokers))
    for future in client.delete_records([TopicPartition(TASKS, 0, 10)]).values():
        future.result()
    with reading(own_broker, start) as reader, pytest.raises(LogMismatchError, match="it holds 10 up to") as caught:
        take(reader, 1)
    assert f"offset {start} of tasks.global[0]" in str(caught.value)


@pytest.mark.parametrize("asleep", [True, False])
def test_reader_whose_messages_vanish_stops(own_broker: Broker, producer: CheckedProducer, asleep: bool) -> None:  # noqa: FBT001
    """A Kafka topic that is deleted and created again has fewer messages than were read."""
    producer.send(TASKS, 0, numbers(0, 50))
    producer.flush()
    with reading(own_broker, sleep_after_s=0.05 if asleep else None) as reader:
        take(reader, 50)
        if asleep:
            fall_asleep(reader)
        config = client_config(own_broker.brokers)
        client = admin_client(config)
        client.delete_topics([TASKS], operation_timeout=10)[TASKS].result()
        ensure_topics(config, 2)
        with pytest.raises(LogMismatchError, match=r"no longer has offset 50 of tasks.global\[0\]"):
            take(reader, 1)


def test_aborted_transactions_are_left_out_where_the_broker_can(own_broker: Broker, topics: Topics) -> None:
    """And the position moves past the markers, that hold no message."""
    user = Producer({"bootstrap.servers": own_broker.brokers, "transactional.id": "user", "linger.ms": 0})
    user.init_transactions(30)
    for number, end in enumerate((user.commit_transaction, user.abort_transaction, user.commit_transaction)):
        user.begin_transaction()
        user.produce(TASKS, b"%d" % number, partition=0)
        user.flush(10)
        end(30)
    with reading(own_broker, committed_only=topics.committed_only, sleep_after_s=0.05) as reader:
        expected = [b"0", b"2"] if topics.committed_only else [b"0", b"1", b"2"]
        assert values(take(reader, len(expected))) == expected
        fall_asleep(reader)
        assert reader.position == reader.end_offset()
        time.sleep(0.3)
        assert reader.poll(1) == []
        assert is_asleep(reader)
