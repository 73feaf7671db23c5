"""Points of the lane that its simulation does not count: how much runs at a time."""

import pytest

from flows.lane import ALONE, APART, FEW, TOGETHER, Lane, Message, Owner, Sealer
from schemas.decision import Decision, DecisionKind

INPUT = "tasks.global"


class Nobody:
    """An index in which no id has an owner."""

    next_offset = 0

    def get(self, key: bytes) -> Owner | None:
        """Nobody."""
        del key
        return None

    def put(self, key: bytes, owner: Owner) -> None:
        """Forget."""


def lane_with(messages: int, level: int) -> tuple[Lane, int]:
    """A lane after an unclean end: so many messages that ran so; and the next offset of its log."""
    lane = Lane(0, {INPUT: 1}, Nobody(), unclean=True)
    offset = 0
    for number in range(messages if level else 0):
        lane.log(offset, entry(DecisionKind.STARTED, number, level))
        offset += 1
    lane.begin_reading()
    for number in range(messages):
        lane.read(Message(kafka_topic=INPUT, offset=number, task_id=f"t{number}"))
    return lane, offset


def entry(kind: DecisionKind, number: int, level: int = 0) -> Decision:
    """An entry of the log about a message."""
    return Decision(kind=kind, kafka_topic=INPUT, offset=number, task_id=f"t{number}", level=level)


@pytest.mark.parametrize("level,at_once", [(0, 100), (TOGETHER, FEW), (APART, 1)])
def test_suspects_run_among_few_before_they_run_alone(level: int, at_once: int) -> None:
    """One by one, a window of innocent messages would take hours after two kills in a row."""
    lane, offset = lane_with(100, level)
    done: set[int] = set()
    while len(done) < 100:
        # the first look finds out who is suspect, the second lets some run
        asked = lane.hand_out(0.0)[1] + lane.hand_out(0.0)[1]
        assert len(asked) == min(at_once, 100 - len(done))
        for message in asked:
            lane.log(offset, entry(DecisionKind.STARTED, message.offset, message.level))
            offset += 1
        handed, wanted = lane.hand_out(0.0)
        assert (len(handed), wanted) == (len(asked), [])
        for message in handed:
            assert message.verdict is None
            lane.log(offset, entry(DecisionKind.CONVERGED, message.offset))
            offset += 1
            done.add(message.offset)
    assert len(done) == 100


def test_a_message_that_was_under_way_at_too_many_unclean_ends_is_dead() -> None:
    """It is handed out with its verdict, so that it gets a decision."""
    lane, _ = lane_with(1, ALONE)
    ((dead,), marks) = lane.hand_out(0.0)
    assert not marks
    assert dead.verdict == "poison"


def test_two_marks_of_one_level_are_one_step() -> None:
    """A process that was thought dead marks what its successor marks too."""
    lane, offset = lane_with(1, 0)
    lane.log(offset, entry(DecisionKind.STARTED, 0, TOGETHER))
    lane.log(offset + 1, entry(DecisionKind.STARTED, 0, TOGETHER))
    lane.hand_out(0.0)
    _, (message,) = lane.hand_out(0.0)
    assert message.level == APART


def test_a_seal_holds_for_its_own_message_and_place_only() -> None:
    """Another cause, task, Kafka topic, lane or key: it does not."""
    sealer = Sealer(b"a" * 32)
    seal = sealer.seal((1, 2, 3), "t:r0", INPUT, 4)
    assert sealer.holds(seal, (1, 2, 3), "t:r0", INPUT, 4)
    assert not sealer.holds(seal, (1, 2, 4), "t:r0", INPUT, 4)
    assert not sealer.holds(seal, (1, 2, 3), "t:r0", INPUT, 4, "ab")
    assert sealer.holds(sealer.seal((1, 2, 3), "t:r0", INPUT, 4, "ab"), (1, 2, 3), "t:r0", INPUT, 4, "ab")
    assert not sealer.holds(seal, (1, 2, 3), "t:r1", INPUT, 4)
    assert not sealer.holds(seal, (1, 2, 3), "t:r0", "tasks.retry", 4)
    assert not sealer.holds(seal, (1, 2, 3), "t:r0", INPUT, 5)
    assert not Sealer(b"b" * 32).holds(seal, (1, 2, 3), "t:r0", INPUT, 4)
    assert not sealer.holds("é", (1, 2, 3), "t:r0", INPUT, 4)
