"""`aureon status`: true figures, whoever is there to ask."""

import json
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.kafka import client_config
from connectors.topics import ensure_topics
from flows import figures
from flows.budget import NOTHING, Spent
from flows.figures import KafkaLook, LakeCounts, LakeLook, Rate, TopicFigures, lake_by_topic, total
from schemas.errors import TryAgainError
from tests.aureon_command import aureon, running, said, until
from tests.brokers import Broker
from tests.one_lake.lake_data import branch, dead_letter, lake_writer, record, round_row


def write_lake(folder: Path) -> None:
    """A task that took two rounds and spawned one branch, one forced, one dead, one between its rounds, one moved."""
    writer = lake_writer(folder)
    first = {"kind": "next_round", "introduces": True}
    later = {"introduces": False, "cause_lane": 0, "cause_offset": 0}
    at_home = {"introduces": True, "cause_lane": 0, "cause_offset": 5}
    writer.add(
        [
            round_row(0, 0, calls=3, **first),
            record(0, 1, logical_id="a"),
            branch(0, 1, 0, topic="logic"),
            round_row(0, 1, calls=3, **later),
            record(0, 2, logical_id="b", forced=True),
            round_row(0, 2, calls=3, forced=True),
            dead_letter(0, 3, topic="math"),
            round_row(0, 3, kind="dead", calls=0),
            round_row(0, 4, calls=3, **first),
            # It came to the wrong lane; what follows from that is a message like any other.
            round_row(0, 5, kind="moved", calls=0),
            round_row(0, 6, kind="dead", topic="", calls=0),
            round_row(1, 0, calls=3, **at_home),
            record(1, 0, logical_id="c"),
        ]
    )
    writer.flush()
    writer.close()


def test_the_lake_is_summed_up_by_topic(tmp_path: Path) -> None:
    """Begun and not ended are: the one between its rounds, and the branch that nobody has looked at."""
    write_lake(tmp_path)
    figures, day = lake_by_topic(tmp_path, 1_700_000_000.0)
    math = msgspec.structs.replace(figures["math"], cost=round(figures["math"].cost, 9))
    assert math == TopicFigures(converged=3, forced=1, dead=1, open=1, rounds=7, calls=15, cost=0.07)
    assert figures["logic"] == TopicFigures(open=1, branches=1)
    assert figures[""] == TopicFigures(dead=1, rounds=1, cost=0.01)
    assert total(figures).open == 2
    assert msgspec.structs.replace(day, cost=round(day.cost, 9)) == Spent(calls=15, tokens=560, cost=0.08)
    assert lake_by_topic(tmp_path, 1_700_000_000.0 + 86_400)[1] == NOTHING


def test_rows_are_counted_by_the_log_of_the_lake(tmp_path: Path) -> None:
    """Also those that come later, and none where there is no lake."""
    look = LakeLook(tmp_path)
    assert look.counts() == LakeCounts()
    write_lake(tmp_path)
    assert look.counts() == LakeCounts(records=3, branches=1, dead_letters=1, rounds=8)
    writer = lake_writer(tmp_path)
    writer.add([round_row(0, 9), record(0, 9)])
    writer.flush()
    writer.close()
    assert look.counts() == LakeCounts(records=4, branches=1, dead_letters=1, rounds=9)


def test_a_rate_is_that_of_the_last_seconds() -> None:
    """What was long ago does not count."""
    rate = Rate()
    assert rate.add(0, at=0.0) == 0.0
    assert rate.add(100, at=1.0) == 100.0
    assert rate.add(100, at=100.0) == 0.0
    assert rate.add(150, at=105.0) == 10.0


def test_an_empty_home_has_a_status(tmp_path: Path) -> None:
    """It says what is missing and how to get it, and makes nothing."""
    done = aureon("status", cwd=tmp_path)
    assert done.returncode == 0
    assert "no broker: set AUREON_BROKERS" in done.stdout
    assert "no lake at" in done.stdout
    assert "not running here" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_empty_home_has_a_status_in_json(tmp_path: Path) -> None:
    """With all fields."""
    done = aureon("status", "--json", cwd=tmp_path)
    assert done.returncode == 0
    status = json.loads(done.stdout)
    assert (status["broker"], status["kafka"], status["cell_pid"], status["topics"]) == (None, None, None, {})
    assert status["lake_error"].startswith("no lake")


def test_without_a_broker_the_lake_is_shown(tmp_path: Path) -> None:
    """And that there is no broker."""
    write_lake(tmp_path / "lake")
    away: dict[str, Any] = {"AUREON_BROKERS": "127.0.0.1:1", "AUREON_DAY_BUDGET": "cost=2"}
    done = aureon("status", "--home", ".", cwd=tmp_path, **away)
    assert done.returncode == 0
    assert "today      0 calls, 0 tokens, 0 of money; there may be cost=2\n" in done.stdout
    assert "no Kafka answers at 127.0.0.1:1" in done.stdout
    assert "(no task)" in done.stdout
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("math")] == [
        ["math", "3", "1", "1", "0", "1", "0", "7", "15"]
    ]


def test_a_broker_without_our_topics_is_told_and_left_as_it_is(own_broker: Broker, tmp_path: Path) -> None:
    """Asking changes nothing."""
    for _ in range(2):
        done = aureon("status", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
        assert "without Aureon's Kafka topics yet" in done.stdout


def test_it_is_shown_again_and_again_until_ctrl_c(tmp_path: Path) -> None:
    """Which is no error."""
    with running("status", "--watch", "0.1", "--json", cwd=tmp_path) as process:
        until(lambda: said(tmp_path).count('"broker"') >= 3, 60, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_broker_that_goes_away_is_asked_again_when_it_is_back(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a client of its own: one that goes on would ask the broker that was there."""
    monkeypatch.setattr(figures, "LIMIT_S", 0.5)
    config = client_config(own_broker.brokers)
    ensure_topics(config, 1)
    look = KafkaLook(config, "aureon")
    own_broker.stop()
    with pytest.raises(TryAgainError, match="does not answer"):
        look.figures()
    own_broker.start()
    monkeypatch.setattr(figures, "LIMIT_S", 10.0)
    found = look.figures()
    assert found is not None
    assert found.lanes == 1
