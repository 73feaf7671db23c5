"""Where partitions end, on a broker that comes and goes."""

import pytest

from connectors import lane_ends
from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.lane_ends import LaneEnds
from connectors.topics import TASKS
from tests.aureon_command import until
from tests.brokers import Broker

PLACES = [(TASKS, 0), (TASKS, 1)]


def test_ends_are_told_while_the_broker_answers_and_else_why_not(
    own_broker: Broker, producer: CheckedProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was true once is not told for ever."""
    monkeypatch.setattr(lane_ends, "ASK_EVERY_S", 0.1)
    monkeypatch.setattr(lane_ends, "ANSWER_LIMIT_S", 0.5)
    producer.send(TASKS, 0, [b"a", b"b"])
    producer.flush()
    config = client_config(own_broker.brokers)
    ends = LaneEnds(lambda: config, lambda: PLACES)
    assert ends.lacks == "the broker was not asked yet"
    ends.start()
    try:
        until(lambda: ends.ends == {(TASKS, 0): 2, (TASKS, 1): 0})
        assert not ends.lacks
        own_broker.stop()
        until(lambda: bool(ends.lacks))
        assert not ends.ends
        own_broker.start()
        until(lambda: ends.ends == {(TASKS, 0): 2, (TASKS, 1): 0})
        assert not ends.lacks
    finally:
        ends.close()


def test_a_fault_of_ones_own_does_not_end_the_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and the next question comes."""
    monkeypatch.setattr(lane_ends, "ASK_EVERY_S", 0.05)
    asked: list[int] = []

    def places() -> list[tuple[str, int]]:
        asked.append(1)
        raise KeyError(TASKS)

    ends = LaneEnds(lambda: None, places).start()
    try:
        until(lambda: len(asked) > 1)
        assert ends.lacks == "KeyError"
    finally:
        ends.close()
