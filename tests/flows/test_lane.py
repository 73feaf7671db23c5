"""The rules of the lane one by one, and what its simulation does not count: how much runs at a time, in which order."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cut import Cut, TopicCut
from flows.lane import ALONE, APART, FEW, TOGETHER, Lane, Message, Sealer, Window, id_key
from flows.lane_source import AT_FIRST
from schemas.decision import Decision, DecisionKind
from schemas.errors import LogMismatchError
from schemas.ids import Owner

INPUT, OTHER = "tasks.global", "tasks.global.high"


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


def test_a_lane_that_has_just_come_goes_on_though_all_calls_of_a_topic_hang() -> None:
    """What was under way before is handed out first, and may be hanging ones alone; those that come find a place."""
    lane = reading(*[("hangs", 0)] * 500, at_first=AT_FIRST)
    assert len(lane.hand_out(0.0)[0]) < AT_FIRST
    for number in range(500, 550):
        lane.read(Message(kafka_topic=INPUT, offset=number, task_id=f"t{number}", topic="goes"))
    decided = 0
    while handed := [m for m in lane.hand_out(0.0)[0] if m.topic == "goes"]:
        for message in handed:
            lane.log(decided, entry(DecisionKind.CONVERGED, message.offset))
            decided += 1
    assert decided == 50


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


# -- what the log says of a message --------------------------------------------------------------------------------


class Index:
    """An index of ids, in memory."""

    def __init__(self, next_offset: int = 0) -> None:
        self.next_offset = next_offset
        self.owners: dict[bytes, Owner] = {}

    def get(self, key: bytes) -> Owner | None:
        """Look an id up."""
        return self.owners.get(bytes(key))  # None is no key

    def put(self, key: bytes, owner: Owner) -> None:
        """Note an owner."""
        self.owners[key] = owner


def message(number: int, name: str = "", digest: str = "d", **fields: Any) -> Message:
    """A message that introduces the id with this name, if it has one."""
    key = id_key("math", name, 0) if name else None
    return Message(
        **{
            "kafka_topic": INPUT,
            "offset": number,
            "task_id": f"{name or 't'}:r0",
            "key": key,
            "digest": digest,
            **fields,
        }
    )


def decided(number: int, name: str = "", digest: str = "d", **fields: Any) -> Decision:
    """A decision on that message."""
    return Decision(
        **{
            "kind": DecisionKind.CONVERGED,
            "kafka_topic": INPUT,
            "offset": number,
            "task_id": f"{name or 't'}:r0",
            "topic": "math",
            "logical_id": name,
            "introduces": bool(name),
            "payload_digest": digest,
            **fields,
        }
    )


def mark(number: int, level: int, name: str = "") -> Decision:
    """A mark of that message."""
    return decided(number, name, kind=DecisionKind.STARTED, level=level)


def opened(index: Index | None = None, cut: Cut | None = None, **options: Any) -> Lane:
    """A lane with two inputs, whose log has not been read yet."""
    return Lane(0, {INPUT: 1, OTHER: 4}, index or Index(), cut, **options)


def begun(index: Index | None = None, cut: Cut | None = None, **options: Any) -> Lane:
    """The same, with an empty log that has been read to its end."""
    lane = opened(index, cut, **options)
    lane.begin_reading({INPUT: 0, OTHER: 0})
    return lane


def offsets(lane: Lane, now: float = 0.0) -> list[int]:
    """What it hands out."""
    return [m.offset for m in lane.hand_out(now)[0]]


def test_ids_and_seals_are_those_of_messages_sent_long_ago() -> None:
    """An index of ids on a disk, and a message on its way, are read by every later version."""
    assert id_key("math", "t", 1).hex() == "41fab7927b666cbf255887bfcbc28683"
    sealer = Sealer(b"a" * 32)
    assert sealer.seal((1, 2, 3), "t:r0", INPUT, 4) == "ff04b70a7579a818e53ae316"
    assert sealer.seal((1, 2, 3), "t:r0", INPUT, 4, "ab") == "e0156cb8969927d3226d16a0"


def test_no_input_is_read_before_the_log_was_read_to_its_end() -> None:
    """Else what is decided would be handed out once more."""
    lane = opened()
    assert lane.room(INPUT) == 0
    with pytest.raises(RuntimeError, match="the log has to be read to its end first"):
        lane.read(message(0))
    lane.begin_reading({})
    assert lane.room(INPUT) == 8192


def test_a_log_that_does_not_hold_what_was_read_of_it_stops_the_lane() -> None:
    """It begins too late, or ends too early: by one entry."""
    lane = opened(Index(7), Cut(0, 9, 4, {}))
    assert (lane.log_start, lane.log_next) == (4, 4)
    lane.check_log(4, 9)
    with pytest.raises(LogMismatchError, match="begins at 5, after 4"):
        lane.check_log(5, 9)
    with pytest.raises(LogMismatchError, match="ends at 8, but entries up to 9"):
        lane.check_log(4, 8)
    ahead = opened(Index(12), Cut(0, 9, 4, {}))
    with pytest.raises(LogMismatchError, match="ends at 11, but entries up to 12"):
        ahead.check_log(4, 11)
    behind = opened(Index(2), Cut(0, 9, 4, {}))
    assert behind.log_start == 2


def test_an_input_that_does_not_hold_what_was_decided_of_it_stops_the_lane() -> None:
    """It begins too late, or ends too early: by one message."""
    lane = opened(cut=Cut(0, 0, 0, {INPUT: TopicCut(5, {})}))
    lane.check_input(INPUT, 5, 5, 0)
    with pytest.raises(LogMismatchError, match="holds offsets 6 to 9"):
        lane.check_input(INPUT, 6, 9, 0)
    with pytest.raises(LogMismatchError, match="holds offsets 0 to 4"):
        lane.check_input(INPUT, 0, 4, 0)
    lane.log(0, decided(7))
    lane.log(1, decided(6))
    lane.log(2, decided(8))  # appended after the end of the input was asked for: that says nothing of it
    lane.check_input(INPUT, 5, 8, 2)
    with pytest.raises(LogMismatchError, match="messages up to 8 were there"):
        lane.check_input(INPUT, 5, 7, 2)
    with pytest.raises(LogMismatchError, match="messages up to 9 were there"):
        lane.check_input(INPUT, 5, 8, 3)


def test_an_entry_about_a_kafka_topic_that_is_no_input_stops_the_lane() -> None:
    """It has been taken away from a cluster that still needs it."""
    with pytest.raises(LogMismatchError, match="is no input here"):
        opened().log(0, decided(0, kafka_topic="tasks.gone"))


def test_a_decision_on_another_task_than_the_message_stops_the_lane() -> None:
    """Whichever of the two is read first, and whether or not it is under way."""
    waiting = begun(in_flight=1)
    waiting.read(message(0, "a"))
    waiting.read(message(1, "b"))
    assert offsets(waiting) == [0]
    with pytest.raises(LogMismatchError, match="but that message is 'b:r0'"):
        waiting.log(0, decided(1, "c"))
    with pytest.raises(LogMismatchError, match="but that message is 'a:r0'"):
        waiting.log(0, decided(0, "c"))
    known = opened()
    known.log(0, decided(0, "c"))
    known.begin_reading({})
    with pytest.raises(LogMismatchError, match="has decided it as 'c:r0'"):
        known.read(message(0, "a"))


def test_a_message_that_was_decided_and_is_gone_stops_the_lane() -> None:
    """A gap is a gap only where nothing was decided."""
    lane = opened()
    lane.log(0, decided(2))
    lane.begin_reading({})
    lane.read(message(0))
    with pytest.raises(LogMismatchError, match=r"@2 as task 't:r0', but that message is gone"):
        lane.read(message(3))
    lane = opened()
    lane.log(0, decided(1))
    lane.begin_reading({})
    lane.read(message(0))
    with pytest.raises(LogMismatchError, match=r"@1 as task 't:r0', but that message is gone"):
        lane.read(message(3))
    for number in (1, 3):
        gaps = opened()
        gaps.log(0, decided(number))
        gaps.begin_reading({})
        gaps.read(message(1))
        gaps.read(message(3))
        assert offsets(gaps) == [4 - number]


def test_offsets_at_the_end_of_an_input_are_passed_over_unless_one_was_decided() -> None:
    """What a transaction leaves there is no message; what was decided is one."""
    lane = opened()
    lane.log(0, decided(3))
    lane.begin_reading({})
    lane.read(message(0))
    lane.pass_over(INPUT, 3)
    lane.pass_over(INPUT, 3)
    with pytest.raises(LogMismatchError, match=r"@3 as task 't:r0', but that message is gone"):
        lane.pass_over(INPUT, 4)
    lane.read(message(3))
    assert offsets(lane) == [0]


def test_the_first_decision_wins_and_all_later_ones_are_counted() -> None:
    """Whoever wrote them; and what was decided is handed out no more."""
    lane = begun()
    for number in range(3):
        lane.read(message(number))
    assert lane.log(0, decided(1))
    assert not lane.log(1, decided(1))
    assert lane.losing == 1
    assert lane.log(2, decided(0))
    assert not lane.log(3, decided(0))
    assert not lane.log(4, decided(0, kind=DecisionKind.STARTED, level=1))
    assert lane.losing == 2
    assert offsets(lane) == [2]
    assert lane.log_next == 5


def test_a_message_whose_cause_was_seen_counts_as_decided_whatever_the_log_says_later() -> None:
    """And is counted; a process that was thought dead may still have decided it."""
    lane = begun()
    lane.read(message(0, cause=(3, 8, 0)))
    lane.read(message(1, cause=(3, 8, 1)))
    lane.read(message(2, cause=(3, 8, 1)))
    lane.read(message(3, cause=(3, 7, 5)))
    lane.read(message(4, cause=(4, 0, 0)))
    assert (lane.duplicates, lane.losing) == (2, 0)
    assert not lane.log(0, decided(2))
    assert lane.losing == 1
    assert offsets(lane) == [0, 1, 4]


def test_of_two_decisions_on_one_id_the_first_owns_it() -> None:
    """The second is a duplicate if it is about the same payload, in the same Kafka topic or in another one."""
    index = Index()
    lane = opened(index)
    assert lane.log(0, decided(0, "a"))
    assert not lane.log(1, decided(1, "a"))
    assert not lane.log(2, decided(0, "a", kafka_topic=OTHER))
    assert (lane.duplicates, lane.losing) == (2, 0)
    assert index.owners == {id_key("math", "a", 0): Owner(INPUT, 0, "d")}
    assert lane.log(3, decided(1, "b", kafka_topic=OTHER, digest="e"))
    assert lane.duplicates == 2


def test_a_decision_on_an_id_that_another_payload_owns_counts_for_nothing() -> None:
    """Its message is handed out anew, as a conflict, whose decision then counts."""
    lane = begun()
    lane.read(message(0, "a", digest="e"))
    assert offsets(lane) == [0]
    assert lane.log(0, decided(7, "a", kafka_topic=OTHER))  # another process has read this one first
    assert not lane.log(1, decided(0, "a", digest="e"))
    assert (lane.under_way, lane.losing, lane.duplicates) == (0, 1, 0)
    ((again,), _) = lane.hand_out(0.0)
    assert (again.offset, again.verdict) == (0, "id_conflict")
    assert lane.log(2, decided(0, "a", introduces=False, kind=DecisionKind.DEAD))
    assert lane.under_way == 0
    assert not lane._places


def test_such_a_decision_counts_for_nothing_before_its_message_is_read_too() -> None:
    """It is known for what it is when it is read."""
    lane = opened()
    lane.log(0, decided(7, "a", kafka_topic=OTHER))
    assert not lane.log(1, decided(0, "a", digest="e"))
    assert lane.losing == 1
    lane.begin_reading({})
    lane.read(message(0, "a", digest="e"))
    ((again,), _) = lane.hand_out(0.0)
    assert again.verdict == "id_conflict"


@pytest.mark.parametrize("level", [TOGETHER, APART])
def test_a_conflict_that_ran_apart_or_alone_keeps_nobody_waiting(level: int) -> None:
    """It is handed out with the others."""
    lane = opened(unclean=True)
    lane.log(0, mark(0, level, "a"))
    lane.begin_reading({INPUT: 1, OTHER: 0})
    lane.read(message(0, "a", digest="e"))
    lane.read(message(1, "b"))
    assert offsets(lane) == [1]
    lane.log(1, decided(1, "b"))
    ((asked,), handed) = reversed(lane.hand_out(0.0))
    assert (asked.level, handed) == (level + 1, [])
    lane.log(2, mark(0, asked.level, "a"))
    assert offsets(lane) == [0]
    assert lane.wants_alone
    lane.log(3, decided(7, "a", kafka_topic=OTHER))
    assert not lane.log(4, decided(0, "a", digest="e"))
    assert not lane.wants_alone
    ((again,), marks) = lane.hand_out(0.0)
    assert (again.verdict, marks) == ("id_conflict", [])


def test_a_message_that_waits_for_its_id_is_settled_with_it() -> None:
    """The same again is a duplicate, another payload a conflict; neither where the log knows it already."""
    index = Index()
    lane = begun(index)
    lane.read(message(0, "a"))
    lane.read(message(1, "a"))
    lane.read(message(2, "a", digest="e"))
    lane.read(message(3, "a"))
    lane.read(message(0, "a", digest="e", kafka_topic=OTHER))
    assert offsets(lane) == [0]
    assert lane.log(0, decided(3, "a", introduces=False, kind=DecisionKind.DEAD))
    assert lane.log(1, decided(0, "a"))
    assert lane.duplicates == 1
    conflicts, _ = lane.hand_out(0.0)
    assert {(m.kafka_topic, m.offset, m.verdict) for m in conflicts} == {
        (INPUT, 2, "id_conflict"),
        (OTHER, 0, "id_conflict"),
    }
    assert lane.windows()[INPUT].low == 2
    lane.read(message(4, "a"))
    lane.read(message(5, "a", digest="e"))
    assert lane.duplicates == 2
    assert offsets(lane) == [5]


def test_a_message_that_waited_for_its_id_and_is_passed_already_is_no_duplicate() -> None:
    """Another process has decided it, for another reason."""
    lane = begun()
    lane.read(message(0, "a", kafka_topic=OTHER))
    lane.read(message(0, "a"))
    lane.log(0, decided(0, "a", introduces=False, kind=DecisionKind.DEAD))
    assert lane.windows()[INPUT] == Window(1, 1, 0)
    lane.log(1, decided(0, "a", kafka_topic=OTHER))
    assert (lane.duplicates, lane._inputs[INPUT].done) == (0, set())


def test_an_id_is_owned_by_what_its_decision_says() -> None:
    """Also where the message was read as one that has none."""
    index = Index()
    lane = begun(index)
    lane.read(message(0))
    lane.log(0, decided(0, "a", task_id="t:r0"))
    assert list(index.owners) == [id_key("math", "a", 0)]


def test_a_message_that_owns_its_id_without_a_decision_stops_the_lane() -> None:
    """The log has lost it."""
    index = Index()
    index.put(id_key("math", "a", 0), Owner(INPUT, 1, "d"))
    lane = begun(index)
    lane.read(message(0, "a"))
    lane.read(message(1, "b"))
    assert lane.duplicates == 1
    lane.read(message(1, "a", kafka_topic=OTHER))
    assert lane.duplicates == 2
    other = begun(index)
    other.read(message(0))
    with pytest.raises(LogMismatchError, match="owns its id 'a:r0', but"):
        other.read(message(1, "a"))


def test_an_index_older_than_the_cut_learns_who_owns_what() -> None:
    """From what is before the cut, also where no message is read again; not from a decision that owns no id."""
    index = Index(2)
    lane = opened(index, Cut(0, 5, 5, {INPUT: TopicCut(9, {})}))
    assert lane.log_start == 2
    assert not lane.log(2, decided(3, "a"))
    assert not lane.log(3, decided(4, "b", introduces=False))
    assert not lane.log(4, decided(5, "a", digest="e"))
    assert not lane.log(5, decided(6, "c"))
    assert index.owners == {id_key("math", "a", 0): Owner(INPUT, 3, "d")}


def test_all_follows_from_the_cut_on_and_nothing_before_it() -> None:
    """Before it, the log tells what is decided above a low-water."""
    lane = opened(cut=Cut(0, 5, 3, {INPUT: TopicCut(1, {})}))
    assert not lane.log(4, decided(2))
    assert lane.log(5, decided(3))
    lane.begin_reading({})
    assert lane.position(INPUT) == 1
    for number in range(1, 5):
        lane.read(message(number))
    assert offsets(lane) == [1, 4]


# -- the cut and the window ----------------------------------------------------------------------------------------


def test_a_cut_holds_the_low_waters_and_the_newest_causes_below_them() -> None:
    """An older cause that came once more below it changes nothing."""
    lane = begun()
    for number, cause in enumerate([(3, 8, 1), (3, 8, 0), (4, 0, 0), None, (3, 9, 0)]):
        lane.read(message(number, cause=cause, size=10))
    assert lane.windows()[INPUT] == Window(0, 5, 50)
    lane.log(0, decided(0))
    lane.log(1, decided(2))
    lane.log(2, decided(4))
    cut = lane.cut()
    assert cut.topics == {INPUT: TopicCut(3, {3: (8, 1), 4: (0, 0)}), OTHER: TopicCut(0, {})}
    assert (cut.lane, cut.log, cut.resume_from) == (0, 3, 2)
    assert lane.windows()[INPUT] == Window(3, 5, 20)
    lane.log(3, decided(3))
    cut = lane.cut()
    assert cut.topics[INPUT] == TopicCut(5, {3: (9, 0), 4: (0, 0)})
    assert (cut.log, cut.resume_from) == (4, 4)
    assert lane.windows()[INPUT] == Window(5, 5, 0)


def test_a_lane_resumed_from_a_cut_knows_the_causes_below_its_low_waters() -> None:
    """And takes the same cut again before it has read anything."""
    cut = Cut(0, 5, 3, {INPUT: TopicCut(2, {3: (8, 1)}), OTHER: TopicCut(0, {})})
    lane = begun(Index(5), cut)
    assert lane.cut() == cut
    lane.read(message(2, cause=(3, 8, 1)))
    lane.read(message(3, cause=(3, 8, 2)))
    assert offsets(lane) == [3]
    assert lane.cut().topics[INPUT] == TopicCut(3, {3: (8, 1)})


def test_a_cut_resumes_from_the_first_mark_of_a_message_that_has_no_decision() -> None:
    """From the first of several, and no longer when the message turns out to be decided or a double."""
    lane = opened()
    lane.log(0, mark(0, 1))
    lane.log(1, mark(1, 1))
    lane.log(2, mark(0, 1))
    assert lane.cut().resume_from == 0
    lane.log(3, decided(0))
    lane.begin_reading({})
    lane.read(message(0, cause=(3, 8, 1)))
    assert lane.cut().resume_from == 1
    lane.read(message(1, cause=(3, 8, 1)))
    assert lane.cut().resume_from == 4


def test_the_window_is_bounded_in_messages_and_in_bytes() -> None:
    """Of each input by itself; what is decided makes room."""
    lane = begun(span=3, window_bytes=10)
    lane.read(message(0, size=4))
    lane.read(message(1, size=5))
    assert (lane.room(INPUT), lane.room(OTHER)) == (1, 3)
    lane.read(message(2, size=1))
    assert lane.room(INPUT) == 0
    lane.log(0, decided(0))
    assert lane.room(INPUT) == 1
    lane.read(message(5, size=0))
    assert lane.room(INPUT) == 0
    roomy = begun(span=3, window_bytes=10)
    roomy.read(message(0, size=10))
    assert roomy.room(INPUT) == 0


def test_a_gap_counts_as_decided() -> None:
    """Offsets without a message are passed, and a message behind one is found."""
    lane = begun(in_flight=1)
    lane.read(message(2, "a"))
    lane.read(message(3, "b"))
    lane.read(message(5, "c"))
    assert lane.windows()[INPUT].low == 0
    assert lane.log(0, decided(0))
    with pytest.raises(LogMismatchError, match="but that message is 'c:r0'"):
        lane.log(1, decided(5, "b"))
    assert lane.log(1, decided(5, "c"))
    assert lane.log(2, decided(2, "a"))
    assert lane.windows()[INPUT].low == 3
    assert lane.log(3, decided(3, "b"))
    assert lane.windows()[INPUT].low == 6
    assert lane.log(4, decided(6))


# -- when and beside what a message runs ---------------------------------------------------------------------------


def test_a_retry_waits_until_it_is_due() -> None:
    """To the moment; and not at all where the log knows it."""
    lane = begun()
    for number, due_at in enumerate([5.0, 5.0, 6.0]):
        lane.read(message(number, f"t{number}" if number < 2 else "", due_at=due_at))
    assert offsets(lane, 4.9) == []
    lane.log(0, decided(0, "t0"))
    assert offsets(lane, 5.0) == [1]
    assert offsets(lane, 5.9) == []
    assert offsets(lane, 6.1) == [2]


def test_a_retry_that_is_decided_elsewhere_or_known_by_its_id_waits_for_nothing() -> None:
    """Neither stops the lane, and no other message with its id waits for it."""
    lane = begun()
    lane.read(message(0, "a", due_at=5.0))
    lane.read(message(1, "b", due_at=5.0))
    lane.log(0, decided(0, "a"))
    lane.log(1, decided(1, "b", introduces=False, kind=DecisionKind.DEAD))
    assert offsets(lane, 5.0) == []
    lane.read(message(2, "a", due_at=9.0))
    assert (lane.duplicates, lane.windows()[INPUT].low) == (1, 3)
    lane.read(message(3, "b"))
    assert offsets(lane, 5.0) == [3]


def test_inputs_take_turns_by_their_weights() -> None:
    """Four of the one to one of the other."""
    lane = begun()
    for number in range(9):
        lane.read(message(number))
        lane.read(message(number, kafka_topic=OTHER))
    handed, _ = lane.hand_out(0.0)
    assert [m.kafka_topic == INPUT for m in handed[:10]] == [True, False, False, False, False] * 2


def test_an_input_that_had_nothing_to_hand_out_has_saved_up_no_turns() -> None:
    """Nor has one that had nothing which might go."""
    idle = begun()
    for number in range(40):
        idle.read(message(number, kafka_topic=OTHER))
    assert len(offsets(idle)) == 40
    for number in range(9):
        idle.read(message(number))
        idle.read(message(number + 40, kafka_topic=OTHER))
    assert [m.kafka_topic == INPUT for m in idle.hand_out(0.0)[0][:7]] == [
        True,
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    one = begun()
    for number in range(40):
        one.read(message(number, kafka_topic=OTHER))
    assert len(offsets(one)) == 40
    one.read(message(0))
    assert offsets(one) == [0]
    one.read(message(1))
    for number in range(40, 48):
        one.read(message(number, kafka_topic=OTHER))
    assert [m.kafka_topic == INPUT for m in one.hand_out(0.0)[0]][:5] == [False, False, False, True, False]
    kept = begun(in_flight=18)
    for number in range(30):
        kept.read(message(number, topic="hot"))
    assert len(offsets(kept)) == 17
    for number in range(40):
        kept.read(message(number, topic=f"rare-{number}", kafka_topic=OTHER))
        assert [m.kafka_topic for m in kept.hand_out(0.0)[0]] == [OTHER]
        kept.log(number, decided(number, kafka_topic=OTHER))
    for number in range(17):
        kept.log(40 + number, decided(number))
    kept.read(message(40, topic="rare", kafka_topic=OTHER))
    kept.read(message(41, topic="rare-too", kafka_topic=OTHER))
    handed = [m.kafka_topic == INPUT for m in kept.hand_out(0.0)[0]]
    assert not all(handed[:3])


def test_a_priority_that_was_used_up_is_used_again() -> None:
    """When another message comes that has it."""
    lane = reading(("a", 5), ("a", 1))
    assert offsets(lane) == [1, 0]
    lane.read(message(2, topic="a", priority=5))
    assert offsets(lane) == [2]


def test_what_was_decided_elsewhere_while_it_waited_is_not_handed_out() -> None:
    """In line, behind its mark, or among those that are to run apart or alone."""
    line = begun(in_flight=1)
    line.read(message(0))
    line.read(message(1))
    assert offsets(line) == [0]
    line.log(0, decided(1))
    line.log(1, decided(0))
    assert offsets(line) == []
    lane = opened(unclean=True)
    for at, level in enumerate([TOGETHER, TOGETHER, APART, APART]):
        lane.log(at, mark(at, level))
    lane.begin_reading({INPUT: 5, OTHER: 0})
    for number in range(5):
        lane.read(message(number))
    assert lane.hand_out(0.0) == ([], [lane._find(lane._inputs[INPUT], 4)])
    lane.log(4, mark(4, TOGETHER))
    lane.log(5, decided(4))
    lane.log(6, decided(0))
    lane.log(7, decided(2))
    ((apart,), handed) = reversed(lane.hand_out(0.0))
    assert (apart.offset, apart.level, handed) == (1, APART, [])
    lane.log(8, decided(1))
    ((alone,), handed) = reversed(lane.hand_out(0.0))
    assert (alone.offset, alone.level, handed) == (3, ALONE, [])
    lane.log(9, mark(3, ALONE))
    lane.log(10, decided(3))
    assert lane.hand_out(0.0) == ([], [])
    assert not lane.wants_alone


def test_what_runs_apart_waits_until_nothing_else_is_under_way() -> None:
    """In this lane, and in the others of its process."""
    lane = opened(unclean=True)
    lane.log(0, mark(1, TOGETHER))
    lane.begin_reading({INPUT: 2, OTHER: 0})
    lane.read(message(0))
    lane.read(message(1))
    lane.read(message(2))
    handed, (asked,) = lane.hand_out(0.0)
    assert ([m.offset for m in handed], asked.offset) == ([2], 0)
    assert lane.hand_out(0.0) == ([], [])
    lane.log(1, decided(2))
    assert lane.hand_out(0.0) == ([], [])
    lane.log(2, mark(0, TOGETHER))
    assert offsets(lane) == [0]
    assert lane.hand_out(0.0) == ([], [])
    lane.log(3, decided(0))
    assert lane.hand_out(0.0, may_run_alone=False) == ([], [])
    _, (apart,) = lane.hand_out(0.0)
    assert apart.offset == 1
    lane.read(message(3))
    lane.log(4, mark(1, APART))
    assert offsets(lane) == [1]
    assert lane.hand_out(0.0) == ([], [])
    lane.log(5, decided(1))
    assert offsets(lane) == [3]


def test_those_that_run_apart_all_end_before_one_runs_alone() -> None:
    """And then one after the other."""
    lane = opened(unclean=True, few=1)
    for at, level in enumerate([APART, TOGETHER, APART, TOGETHER]):
        lane.log(at, mark(at, level))
    lane.begin_reading({INPUT: 4, OTHER: 0})
    for number in range(4):
        lane.read(message(number))
    lane.hand_out(0.0)
    order = []
    for at in range(4, 12, 2):
        _, (asked,) = lane.hand_out(0.0)
        assert lane.hand_out(0.0) == ([], [])
        lane.log(at, mark(asked.offset, asked.level))
        assert offsets(lane) == [asked.offset]
        assert lane.hand_out(0.0) == ([], [])
        lane.log(at + 1, decided(asked.offset))
        order.append((asked.offset, asked.level))
    assert order == [(1, APART), (3, APART), (0, ALONE), (2, ALONE)]
    assert not lane.wants_alone


def test_no_more_are_suspect_than_the_life_before_had_in_its_window() -> None:
    """From the first undecided one on, a span of them."""
    lane = opened(unclean=True, span=2)
    lane.log(0, decided(0))
    lane.begin_reading({INPUT: 9, OTHER: 0})
    for number in range(3):
        lane.read(message(number))
    assert [m.offset for m in lane.hand_out(0.0)[1]] == [1, 2]
    lane.log(1, decided(1))
    lane.log(2, decided(2))
    lane.read(message(3))
    lane.read(message(4))
    assert [m.offset for m in lane.hand_out(0.0)[0]] == [3, 4]


def test_marks_take_places_and_what_waits_to_run_apart_takes_none() -> None:
    """So no more are under way than may be."""
    lane = opened(unclean=True, in_flight=2)
    lane.log(0, mark(0, TOGETHER))
    lane.log(1, mark(1, APART))
    lane.begin_reading({INPUT: 9, OTHER: 0})
    for number in range(5):
        lane.read(message(number))
    handed, asked = lane.hand_out(0.0)
    assert (handed, [m.offset for m in asked]) == ([], [2, 3])
    plain = opened(unclean=True, in_flight=2)
    plain.begin_reading({INPUT: 9, OTHER: 0})
    for number in range(3):
        plain.read(message(number))
    assert [m.offset for m in plain.hand_out(0.0)[1]] == [0, 1]
    assert plain.hand_out(0.0) == ([], [])
    plain.log(0, mark(0, TOGETHER))
    assert [m.offset for m in plain.hand_out(0.0)[0]] == [0]
    assert plain.hand_out(0.0) == ([], [])
    plain.log(1, decided(0))
    assert [m.offset for m in plain.hand_out(0.0)[1]] == [2]


def test_the_highest_of_several_marks_counts() -> None:
    """Also where a process that was thought dead marks it lower, later; and a verdict it had before stays."""
    lane = opened(unclean=True)
    lane.log(0, mark(0, APART))
    lane.log(1, mark(0, TOGETHER))
    lane.log(2, mark(1, ALONE))
    lane.log(3, mark(2, ALONE))
    lane.begin_reading({INPUT: 3, OTHER: 0})
    lane.read(message(0))
    lane.read(message(1, verdict="moved"))
    lane.read(message(2))
    assert [m.verdict for m in lane.hand_out(0.0)[0]] == ["moved", "poison"]
    lane.log(4, decided(1))
    lane.log(5, decided(2))
    assert [m.level for m in lane.hand_out(0.0)[1]] == [ALONE]
