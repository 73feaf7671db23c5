"""Points of the lane that its simulation does not count: how much runs at a time, and in which order."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    lane.begin_reading({INPUT: messages})
    for number in range(messages):
        lane.read(Message(kafka_topic=INPUT, offset=number, task_id=f"t{number}"))
    return lane, offset


def reading(*messages: tuple[str, int], in_flight: int = 1 << 20, at_first: int | None = None) -> Lane:
    """A lane that has read messages of these topics and priorities, in this order."""
    lane = Lane(0, {INPUT: 1}, Nobody(), in_flight=in_flight, at_first=at_first)
    lane.begin_reading({})
    for topic, priority in messages:
        number = lane.position(INPUT)
        lane.read(Message(kafka_topic=INPUT, offset=number, task_id=f"t{number}", topic=topic, priority=priority))
    return lane


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


def test_what_came_after_the_lane_was_opened_is_no_suspect() -> None:
    """Else a quiet lane marks all messages for hours, and the next kill makes those under way run apart."""
    lane, _ = lane_with(3, 0)
    lane.read(Message(kafka_topic=INPUT, offset=3, task_id="t3"))

    handed, marks = lane.hand_out(0.0)

    assert [message.offset for message in marks] == [0, 1, 2]
    assert [message.offset for message in handed] == [3]


def test_two_marks_of_one_level_are_one_step() -> None:
    """A process that was thought dead marks what its successor marks too."""
    lane, offset = lane_with(1, 0)
    lane.log(offset, entry(DecisionKind.STARTED, 0, TOGETHER))
    lane.log(offset + 1, entry(DecisionKind.STARTED, 0, TOGETHER))
    lane.hand_out(0.0)
    _, (message,) = lane.hand_out(0.0)
    assert message.level == APART


# -- which goes next -----------------------------------------------------------------------------------------------


def test_a_rare_topic_goes_as_if_it_were_alone_with_one_turn_of_the_other_between() -> None:
    """Although 950 of the other came before it, and 50 more between its own."""
    lane = reading(*[("hot", 5)] * 950, ("rare", 5), *[("hot", 5)] * 50, ("rare", 5), in_flight=5)
    handed, _ = lane.hand_out(0.0)
    assert [m.topic for m in handed] == ["hot", "rare", "hot", "rare", "hot"]
    assert [m.offset for m in handed] == [0, 950, 1, 1001, 2]


def test_all_of_the_window_is_read_although_far_less_may_be_under_way() -> None:
    """A rare topic has its turn from any place in it."""
    lane = Lane(0, {INPUT: 1}, Nobody(), span=100, in_flight=2)
    lane.begin_reading({})
    for number in range(99):
        lane.read(Message(kafka_topic=INPUT, offset=number, task_id=f"t{number}", topic="hot"))
    assert lane.room(INPUT) == 1
    lane.read(Message(kafka_topic=INPUT, offset=99, task_id="t99", topic="rare"))
    assert lane.room(INPUT) == 0
    assert [m.topic for m in lane.hand_out(0.0)[0]] == ["hot", "rare"]


def test_what_is_more_urgent_goes_first_whatever_its_topic() -> None:
    """Turns are taken at one priority; what is no task takes them as one more topic."""
    lane = reading(("a", 5), ("b", 5), ("a", 1), ("a", 1), ("", 5), ("b", 1), ("a", 5))
    handed, _ = lane.hand_out(0.0)
    assert [m.offset for m in handed] == [2, 5, 3, 0, 1, 4, 6]


def test_one_topic_gets_nearly_all_places_and_another_one_at_once() -> None:
    """A topic whose calls hang keeps nobody else out, and what is less urgent neither."""
    lane = reading(*[("hot", 0)] * 1000, in_flight=90)
    assert len(lane.hand_out(0.0)[0]) == 81
    for number in range(1000, 1003):
        lane.read(Message(kafka_topic=INPUT, offset=number, task_id=f"t{number}", topic="rare", priority=9))
    assert [m.offset for m in lane.hand_out(0.0)[0]] == [1000, 1001, 1002]
    for number in (0, 1001, 1, 1002):
        lane.log(number, entry(DecisionKind.CONVERGED, number))
    assert lane.under_way == 80
    assert [m.topic for m in lane.hand_out(0.0)[0]] == ["hot"]


def test_a_lane_that_begins_with_few_has_one_more_with_each_decided() -> None:
    """Up to as many as there may be."""
    lane = reading(*[("a", 0)] * 30, in_flight=5, at_first=2)
    decided = 0
    for at_a_time in (2, 4, 5, 5):
        lane.hand_out(0.0)
        assert lane.under_way == at_a_time
        for number in range(decided, decided + at_a_time):
            lane.log(number, entry(DecisionKind.CONVERGED, number))
        decided += at_a_time


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 2)), max_size=80),
    st.integers(1, 40),
    st.integers(1, 50),
    st.randoms(use_true_random=False),
)
def test_each_message_is_handed_out_once_and_topics_take_turns(
    messages: list[tuple[str, int]], in_flight: int, at_first: int, random: Random
) -> None:
    """By priority and offset within a topic, as many at a time as there may be by then; none waits for ever."""
    lane = reading(*messages, in_flight=in_flight, at_first=at_first)
    under_way: list[Message] = []
    handed: list[Message] = []
    offset = 0
    while len(handed) < len(messages) or under_way:
        now, _ = lane.hand_out(0.0)
        assert now or under_way, "nothing is under way, and nothing goes"
        handed += now
        under_way += now
        assert len(under_way) == lane.under_way <= min(in_flight, at_first + offset)
        random.shuffle(under_way)
        for message in under_way[: random.randint(1, 5)]:
            lane.log(offset, entry(DecisionKind.CONVERGED, message.offset))
            under_way.remove(message)
            offset += 1
    assert sorted(m.offset for m in handed) == list(range(len(messages)))
    for topic in ("", "a", "b", "c"):
        own = [(m.priority, m.offset) for m in handed if m.topic == topic]
        assert own == sorted(own)
    assert lane.hand_out(0.0) == ([], [])


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
