"""Readers, the producer and the backup of cuts, on a broker that comes and goes."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Message, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from connectors import lane_reader
from connectors.kafka import (
    MAX_MESSAGE_BYTES,
    CheckedProducer,
    admin_client,
    client_config,
    preflight,
    read_to_end,
)
from connectors.lane_reader import LaneReader, Watermarks
from connectors.topics import RESULTS, TASKS, Topics, ensure_topics
from schemas.errors import BadRecordError, LogMismatchError, OutcomeUnknownError, RefusedError, TryAgainError
from tests.aureon_command import until
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


@contextmanager
def reading(broker: Broker, start: int = 0, **options: Any) -> Iterator[LaneReader]:
    """Read lane 0 of the backlog."""
    config = client_config(broker.brokers)
    with Watermarks(config) as watermarks:
        reader = LaneReader(config, TASKS, 0, start, watermarks, **options)
        yield reader
        reader.close()


def take(reader: LaneReader, count: int, limit_s: float = 60.0) -> list[Message]:
    """Read until there are so many."""
    messages: list[Message] = []

    def enough() -> bool:
        messages.extend(reader.poll(500))
        return len(messages) >= count

    until(enough, limit_s)
    return messages


def fall_asleep(reader: LaneReader) -> None:
    """Poll, finding nothing, until the reader sleeps."""

    def asleep() -> bool:
        assert reader.poll(10) == []
        return reader.asleep

    until(asleep)


def values(messages: list[Message]) -> list[bytes | None]:
    """Take the contents."""
    return [m.value() for m in messages]


def numbers(first: int, last: int) -> list[bytes]:
    """Make messages that show their order."""
    return [b"%d" % i for i in range(first, last)]


def test_unreachable_broker_is_told_within_ten_seconds_with_the_cure() -> None:
    """A wrong address must not hang the start; and a broker that is away may be back, so this is no refusal."""
    began = time.monotonic()
    with pytest.raises(TryAgainError, match=r"127\.0\.0\.1:1 \(.*refused.*AUREON_BROKERS"):
        preflight(client_config("127.0.0.1:1"))
    assert time.monotonic() - began < 10


def test_setting_that_the_guarantees_rest_on_is_refused() -> None:
    """A user's setting may add to Aureon's, and not undo it."""
    with pytest.raises(RefusedError, match="'acks' is Aureon's own"):
        client_config("127.0.0.1:1", {"acks": "1"})


def test_wrong_setting_is_refused_and_named() -> None:
    """The library's own words reach the user."""
    with pytest.raises(RefusedError, match=r"no\.such\.setting"):
        preflight(client_config("127.0.0.1:1", {"no.such.setting": "1"}))


def test_reader_gives_every_message_once_and_in_order(own_broker: Broker, producer: CheckedProducer) -> None:
    """From the offset it was told, on one partition."""
    producer.send(TASKS, 0, numbers(0, 3000))
    producer.send(TASKS, 1, numbers(0, 10))
    producer.flush()
    with reading(own_broker, 1000) as reader:
        messages = take(reader, 2000)
        assert values(messages) == numbers(1000, 3000)
        assert (reader.position, reader.begin_offset(), reader.end_offset()) == (3000, 0, 3000)


def test_keys_travel_with_their_messages(own_broker: Broker, producer: CheckedProducer) -> None:
    """So that others who read the Kafka topic find a task's messages by its id."""
    producer.send(TASKS, 0, [b"a", b"b"], [b"id-a", b"id-b"])
    producer.flush()
    with reading(own_broker) as reader:
        assert [(m.key(), m.value()) for m in take(reader, 2)] == [(b"id-a", b"a"), (b"id-b", b"b")]


def test_reader_sleeps_at_the_end_and_wakes_without_skipping(own_broker: Broker, producer: CheckedProducer) -> None:
    """Messages that come while it sleeps, or just as it falls asleep, are all seen."""
    with reading(own_broker, sleep_after_s=0.02) as reader:
        sent = 0
        for pause in (0.0, 0.01, 0.02, 0.021, 0.022, 0.03, 0.06, 0.2) * 4:
            producer.send(TASKS, 0, numbers(sent, sent + 3))
            sent += 3
            assert values(take(reader, 3, 5)) == numbers(sent - 3, sent)
            until = time.monotonic() + pause
            while time.monotonic() < until:
                assert reader.poll(10) == []
        fall_asleep(reader)
        assert reader.position == sent


def test_sleeping_reader_costs_next_to_nothing_and_wakes_in_milliseconds(
    own_broker: Broker, producer: CheckedProducer
) -> None:
    """A consumer that waits at the end of the embedded broker keeps a core busy."""
    with reading(own_broker) as reader:
        producer.send(TASKS, 0, [b"x"])
        take(reader, 1)
        fall_asleep(reader)
        time.sleep(0.5)
        began = time.process_time()
        time.sleep(1)
        assert time.process_time() - began < 0.2
        began = time.monotonic()
        producer.send(TASKS, 0, [b"y"])
        take(reader, 1)
        assert time.monotonic() - began < 0.5


def test_reader_stays_awake_for_what_was_sent_here(own_broker: Broker, producer: CheckedProducer) -> None:
    """Without waiting until its partition is looked at; and for no longer than that takes."""
    with reading(own_broker, sleep_after_s=0.0) as reader:
        producer.send(TASKS, 0, [b"x"])
        take(reader, 1)
        fall_asleep(reader)
        reader.expect()
        reader.poll(1)
        assert not reader.asleep
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
        assert reader.asleep


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
        threading.Timer(0.5, own_broker.start).start()
        producer.flush(60)
        assert len(producer) == 0
    assert values(read_to_end(client_config(own_broker.brokers), TASKS)) == numbers(0, sent)


def test_full_queue_holds_send_back_and_keeps_the_order(own_broker: Broker, topics: Topics) -> None:
    """Backpressure from the library is waited for."""
    small = client_config(own_broker.brokers) | {"queue.buffering.max.messages": 10}
    producer = CheckedProducer(small)
    producer.send(TASKS, 0, numbers(0, 1000))
    producer.send(TASKS, 0, numbers(1000, 1500), numbers(1000, 1500))
    producer.flush()
    producer.close()
    assert values(read_to_end(client_config(own_broker.brokers), TASKS)) == numbers(0, 1500)


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


def test_complaints_of_the_library_are_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that is away would fill the log."""
    with caplog.at_level(logging.DEBUG), pytest.raises(TryAgainError):
        preflight(client_config("127.0.0.1:9"), 2)
    assert sum("127.0.0.1:9" in r.getMessage() for r in caplog.records) == 1
