"""Turns: nothing is lost, each topic keeps its order, and no topic waits for more than one turn of any other."""

from collections import Counter, deque
from functools import partial
from operator import ne

from hypothesis import given
from hypothesis import strategies as st

from flows.fair import FairQueue

TOPICS = st.sampled_from("abcde")
PUTS = st.tuples(st.just("put"), TOPICS)
TAKES = st.tuples(st.just("take"), st.none() | TOPICS)
"""With the topic that may not go, if any."""
DISCARDS = st.tuples(st.just("discard"), st.integers(0, 200))
STEPS = st.lists(PUTS | PUTS | TAKES | DISCARDS, max_size=200)


@given(STEPS)
def test_nothing_is_lost_and_each_topic_keeps_its_order(steps: list[tuple[str, str | int | None]]) -> None:
    """Whatever comes, goes, is dropped or may not go now."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    here: dict[str, deque[tuple[str, int]]] = {}
    put: list[tuple[str, int]] = []
    for step, what in steps:
        if step == "put":
            item = str(what), len(put)
            put.append(item)
            queue.put(item[0], item)
            here.setdefault(item[0], deque()).append(item)
        elif step == "take":
            taken = queue.take(partial(ne, what))
            others = [items for topic, items in here.items() if items and topic != what]
            assert (taken is None) == (not others)
            if taken is not None:
                assert taken[0] != what
                assert here[taken[0]].popleft() == taken
        elif put:
            dropped = put[int(what or 0) % len(put)]
            queue.discard(dropped[0], dropped)
            if dropped in here[dropped[0]]:
                here[dropped[0]].remove(dropped)
        assert len(queue) == sum(map(len, here.values()))
    while (taken := queue.take()) is not None:
        assert here[taken[0]].popleft() == taken
    assert not any(here.values())


@given(st.lists(PUTS | st.just(("take", None)), max_size=200))
def test_while_a_topic_waits_each_other_one_has_at_most_one_turn(steps: list[tuple[str, str | None]]) -> None:
    """However much another has, and whether it was idle before or not."""
    queue: FairQueue[str] = FairQueue()
    waiting: dict[str, Counter[str]] = {}  # turns of the others since a topic began to wait, or had its last turn
    held: Counter[str] = Counter()
    for step, topic in steps:
        if step == "put" and topic is not None:
            queue.put(topic, topic)
            held[topic] += 1
            waiting.setdefault(topic, Counter())
        elif (taken := queue.take()) is not None:
            held[taken] -= 1
            waiting.pop(taken)
            for turns in waiting.values():
                turns[taken] += 1
                assert turns[taken] == 1
            if held[taken]:
                waiting[taken] = Counter()


@given(st.lists(TOPICS, max_size=100), TOPICS)
def test_it_is_known_how_many_go_first(before: list[str], topic: str) -> None:
    """At most: never more than there are, nor than the turns of the others while this topic's own go."""
    queue: FairQueue[int] = FairQueue()
    for number, one in enumerate(before):
        queue.put(one, number)
    ahead = queue.ahead(topic)
    queue.put(topic, -1)
    first = 0
    while queue.take() != -1:
        first += 1
    assert first <= ahead <= len(before)
    if topic not in before:
        assert ahead == len(set(before))
