"""Lanes that a consumer group hands out, on Apache Kafka; and those that are fixed."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from connectors import lane_group
from connectors.kafka import client_config
from connectors.lane_group import FixedLanes, LaneGroup
from connectors.topics import RESULTS, ensure_topics
from schemas.errors import RefusedError
from tests.aureon_command import until
from tests.brokers import Broker

LANES = 6
Join = Callable[[str], LaneGroup]


@pytest.fixture
def join(own_broker: Broker) -> Iterator[Join]:
    """Makes members of one group, each with a name."""
    config = client_config(own_broker.brokers)
    ensure_topics(config, LANES)
    with ExitStack() as members:

        def new(name: str) -> LaneGroup:
            member = LaneGroup(config, "aureon", name, RESULTS, 5.0)
            members.callback(member.close)
            for lane in range(LANES):
                member.expect(lane)
            return member

        yield new


def lanes_of(member: LaneGroup) -> set[int]:
    """Those that it has."""
    return {lane for lane in range(LANES) if member.tenure(lane)}


def leave_all(member: LaneGroup) -> set[int]:
    """Leave what is to go, as somebody who has nothing under way."""
    leaving = {lane for lane in range(LANES) if member.is_leaving(lane)}
    for lane in leaving:
        member.left(lane)
    return leaving


@pytest.mark.apache
def test_a_lane_moves_once_whoever_had_it_has_left(join: Join) -> None:
    """The rest stays where it is, and goes on."""
    first = join("first")
    until(lambda: len(lanes_of(first)) == LANES)
    tenures = {lane: first.tenure(lane) for lane in range(LANES)}

    second = join("second")
    until(lambda: any(first.is_leaving(lane) for lane in range(LANES)))
    time.sleep(1.0)
    assert not lanes_of(second)
    assert len(lanes_of(first)) == LANES

    moved = leave_all(first)
    until(lambda: lanes_of(second) == moved)
    assert len(moved) == LANES // 2
    assert {lane: first.tenure(lane) for lane in lanes_of(first)} == {
        lane: tenure for lane, tenure in tenures.items() if lane not in moved
    }


@pytest.mark.apache
def test_who_is_back_in_time_finds_its_lanes_and_nobody_else_notices(join: Join) -> None:
    """As after a restart: the group waits for a session timeout."""
    first, second = join("first"), join("second")
    until(lambda: leave_all(first) or leave_all(second) or len(lanes_of(first)) == len(lanes_of(second)) == 3)
    until(lambda: len(lanes_of(first)) == len(lanes_of(second)) == 3)
    had, tenures = lanes_of(second), {lane: first.tenure(lane) for lane in lanes_of(first)}
    second.close()

    again = join("second")
    until(lambda: lanes_of(again) == had)
    assert {lane: first.tenure(lane) for lane in lanes_of(first)} == tenures


@pytest.mark.apache
def test_lanes_of_who_does_not_come_back_go_to_others(join: Join) -> None:
    """Once the session timeout is over."""
    first, second = join("first"), join("second")
    until(lambda: leave_all(first) or leave_all(second) or len(lanes_of(first)) == len(lanes_of(second)) == 3)
    second.close()
    closed = time.monotonic()
    until(lambda: len(lanes_of(first)) == LANES)
    assert time.monotonic() - closed < lane_group.SESSION_S + 25.0


@pytest.mark.apache
def test_who_is_cut_off_has_no_lanes_after_a_while(join: Join, own_broker: Broker) -> None:
    """It may not spend calls on them; when the broker is back, it has them again."""
    member = join("first")
    until(lambda: len(lanes_of(member)) == LANES)
    own_broker.stop()
    until(lambda: not lanes_of(member), lane_group.SESSION_S + 25.0)
    own_broker.start()
    until(lambda: len(lanes_of(member)) == LANES)


@pytest.mark.apache
def test_who_stood_still_begins_anew(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped does not know what has become of its lanes."""
    member = join("first")
    until(lambda: len(lanes_of(member)) == LANES)
    before = {lane: member.tenure(lane) for lane in range(LANES)}
    assert member.is_sure

    still = threading.Event()
    monkeypatch.setattr(member, "_check_places", lambda: still.wait(lane_group.SESSION_S))
    until(lambda: not member.is_sure, lane_group.SESSION_S)
    monkeypatch.undo()
    until(lambda: member.is_sure)
    assert all(member.tenure(lane) > before[lane] for lane in range(LANES))


@pytest.mark.apache
def test_two_cells_with_one_state_folder_are_told_apart(join: Join) -> None:
    """Kafka goes on with the second one; the first one ends, and says what to do."""
    first = join("same")
    until(lambda: len(lanes_of(first)) == LANES)
    second = join("same")
    until(lambda: len(lanes_of(second)) == LANES)
    with pytest.raises(RefusedError, match=r"another process has joined as this cell, same: .* state folder"):
        until(lambda: not first.tenure(0) and False, 60.0)


@pytest.mark.apache
def test_lanes_without_a_place_in_the_process_are_an_error(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell of several processes would leave them undone."""
    monkeypatch.setattr(lane_group, "HERE_LIMIT_S", 1.0)
    config = client_config(own_broker.brokers)
    ensure_topics(config, LANES)
    member = LaneGroup(config, "aureon", "half", RESULTS, 5.0)
    try:
        member.expect(0)
        with pytest.raises(RefusedError, match="AUREON_CELL=1/1"):
            until(lambda: not member.tenure(0) and False, 60.0)
    finally:
        member.close()


def test_fixed_lanes_are_there_for_good() -> None:
    """And no others."""
    fixed = FixedLanes([1, 3])
    assert [fixed.tenure(lane) for lane in range(4)] == [0, 1, 0, 1]
    assert fixed.is_sure
    assert not fixed.is_leaving(1)
