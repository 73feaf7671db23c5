"""Cuts in the consumer group, on a broker that comes and goes."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import TopicPartition

from connectors.cut_commits import CutCommits, Places
from connectors.kafka import client_config
from connectors.topics import RESULTS, ensure_topics
from schemas.errors import TryAgainError
from tests.aureon_command import until
from tests.brokers import Broker

FIRST, SECOND = TopicPartition(RESULTS, 0), TopicPartition(RESULTS, 1)


@contextmanager
def commits_on(broker: Broker) -> Iterator[CutCommits]:
    """Commit for a group without members."""
    commits = CutCommits(client_config(broker.brokers), "aureon")
    yield commits
    commits.close()


def test_cut_comes_back_from_the_group_as_it_was_committed(own_broker: Broker) -> None:
    """Offset and text, for those that have one; also after the broker was started anew."""
    ensure_topics(client_config(own_broker.brokers), 2)
    long = '{"cut":"é' + "x" * 3900 + '"}'
    with commits_on(own_broker) as commits:
        assert commits.committed_cut([FIRST, SECOND]) == {}

        commits.now(0, {FIRST: (5, "old")})
        assert commits.committed_cut([FIRST, SECOND]) == {FIRST: (5, "old")}

        commits.keep(0, {FIRST: (7, long)})
        until(lambda: commits.committed_cut([FIRST]).get(FIRST) == (7, long))
        own_broker.restart()
        assert commits.committed_cut([FIRST, SECOND], 30) == {FIRST: (7, long)}


def test_nothing_of_a_lane_is_committed_after_its_end(own_broker: Broker) -> None:
    """Whoever has it next has the last word."""
    ensure_topics(client_config(own_broker.brokers), 2)
    with commits_on(own_broker) as mine, commits_on(own_broker) as others:
        mine.now(0, {FIRST: (5, "mine")})
        mine.keep(0, {FIRST: (6, "mine, later")})
        mine.now(0, {FIRST: (7, "the end")})
        assert others.committed_cut([FIRST]) == {FIRST: (7, "the end")}

        others.now(0, {FIRST: (8, "theirs")})
        time.sleep(2.5)
        assert others.committed_cut([FIRST]) == {FIRST: (8, "theirs")}


def test_cut_that_is_too_long_is_left_out_and_logged(own_broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """A broker would refuse the whole commit, and with it the other lanes'."""
    ensure_topics(client_config(own_broker.brokers), 2)
    with commits_on(own_broker) as commits:
        with caplog.at_level(logging.WARNING):
            commits.keep(0, {FIRST: (5, "x" * 5000), SECOND: (6, "short")})
            commits.now(1, {FIRST: (4, "y" * 6000)})
        assert "tasks.results[0]: no backup of this cut, 5000 bytes" in caplog.text
        assert "tasks.results[0]: no backup of this cut, 6000 bytes" in caplog.text
        until(lambda: commits.committed_cut([FIRST, SECOND]) == {SECOND: (6, "short")})


def test_a_lane_may_end_while_a_commit_is_made(own_broker: Broker) -> None:
    """What is to be committed of the others is."""
    ensure_topics(client_config(own_broker.brokers), 2)

    class Ending(dict[int, Places]):
        """Loses a lane when it has told which there are."""

        def __iter__(self) -> Iterator[int]:
            lanes = list(super().__iter__())
            commits.forget(0)
            return iter(lanes)

    with commits_on(own_broker) as commits:
        commits._newer = Ending({0: {FIRST: (5, "gone")}, 1: {SECOND: (6, "kept")}})
        until(lambda: commits.committed_cut([FIRST, SECOND]) == {SECOND: (6, "kept")})


def test_the_end_does_not_wait_for_a_broker_that_is_away(own_broker: Broker) -> None:
    """A commit without its broker would take as long as a session of a group's member lasts, 45 s."""
    ensure_topics(client_config(own_broker.brokers), 2)
    with commits_on(own_broker) as commits:
        commits.now(0, {FIRST: (5, "kept")})
        own_broker.stop()
        commits.keep(0, {FIRST: (6, "later")})
        until(lambda: not commits._newer)  # it is on its way
        began = time.monotonic()
    assert time.monotonic() - began < 20
    own_broker.start()


def test_commit_without_a_broker_does_no_harm(own_broker: Broker) -> None:
    """An older cut is as good as a newer one."""
    ensure_topics(client_config(own_broker.brokers), 2)
    with commits_on(own_broker) as commits:
        commits.now(0, {FIRST: (5, "kept")})
        own_broker.stop()
        commits.keep(0, {FIRST: (6, "later")})
        with pytest.raises(TryAgainError, match="group aureon"):
            commits.committed_cut([FIRST], 1)
        own_broker.start()
        until(lambda: commits.committed_cut([FIRST], 10)[FIRST][0] == 6)
