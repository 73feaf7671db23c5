"""Settings of Kafka's clients, and a broker that does not answer."""

import logging
import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

import connectors.kafka
from connectors.kafka import _Quieter, answers, client_config, library_log, patiently, preflight, read_to_end
from connectors.topics import TASKS, Topics
from schemas.errors import RefusedError, TryAgainError
from tests.brokers import Broker


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


def test_complaints_of_the_library_are_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that is away would fill the log."""
    with caplog.at_level(logging.DEBUG), pytest.raises(TryAgainError):
        preflight(client_config("127.0.0.1:9"), 2)
    assert sum("127.0.0.1:9" in r.getMessage() for r in caplog.records) == 1


def test_a_complaint_that_counts_its_like_is_one_of_them(caplog: pytest.LogCaptureFixture) -> None:
    """However long it took, and how often it came meanwhile."""
    with caplog.at_level(logging.DEBUG):
        library_log.error("[thrd:a]: a: Connect failed (after 0ms in state CONNECT)")
        library_log.error("[thrd:a]: a: Connect failed (after 1ms in state CONNECT, 3 identical error(s) suppressed)")
    assert len(caplog.records) == 1


def test_complaints_that_mean_nothing_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The library has its way of putting things."""
    with caplog.at_level(logging.DEBUG):
        library_log.warning("The configuration property `enable.gapless.guarantee is experimental`")
        library_log.warning("Failed to acquire idempotence PID from broker: retrying")
        library_log.warning("Failed to acquire idempotence PID from broker: giving up")
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["giving up"]


def test_what_was_complained_of_is_not_kept_for_ever() -> None:
    """A thousand complaints; the first is then let through again, which is better than memory without a bound."""
    quieter = _Quieter()

    def passes(text: str) -> bool:
        return quieter.filter(logging.makeLogRecord({"msg": text}))

    assert passes("first")
    assert not passes("first")
    assert all(passes(f"complaint {number}") for number in range(1001))
    assert passes("first")


def test_a_broker_that_is_not_there_does_not_answer() -> None:
    """Nor does it say where a partition ends."""
    assert not answers("127.0.0.1:1", 0.3)
    with pytest.raises(TryAgainError, match=r"^tasks\.global\[3\]: "):
        list(read_to_end(client_config("127.0.0.1:1"), TASKS, 3, limit_s=0.3))


def test_a_question_is_asked_again_while_the_broker_is_not_ready() -> None:
    """It is told how long it has."""
    asked: list[float] = []

    def ask(left_s: float) -> str:
        asked.append(left_s)
        if len(asked) < 3:
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return "answer"

    assert patiently(ask, 5.0) == "answer"
    assert len(asked) == 3
    assert asked == sorted(asked, reverse=True)


def test_a_broker_that_is_never_ready_is_waited_for_as_long_as_it_may_take() -> None:
    """Then whoever asked is told what it said last."""
    asked: list[float] = []

    def ask(left_s: float) -> None:
        asked.append(left_s)
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))

    with pytest.raises(KafkaException, match="LEADER_NOT_AVAILABLE"):
        patiently(ask, 0.05)
    assert len(asked) > 1


def test_a_partition_that_is_not_handed_out_in_time_is_an_error(
    own_broker: Broker, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read by then may be half of it."""
    ask = connectors.kafka.watermarks_of

    def patient(consumer: Consumer, kafka_topic: str, partition: int, _limit_s: float) -> tuple[int, int]:
        return ask(consumer, kafka_topic, partition, 10.0)

    monkeypatch.setattr(connectors.kafka, "watermarks_of", patient)
    with pytest.raises(TryAgainError, match=r"^tasks\.global\[1\]: the broker handed out no more of it within 0 s$"):
        list(read_to_end(client_config(own_broker.brokers), TASKS, 1, limit_s=0.0))
