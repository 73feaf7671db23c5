"""How topics fare, and which are stopped."""

import logging

import msgspec
import pytest

from flows.supervision.case import Health
from flows.supervision.health import MAX_TOPICS, TopicRecord
from schemas.decision import Decision, DecisionKind, Finding, FindingAction, RoundResult


def decided(
    topic: str, action: FindingAction | None = None, at: float = 100.0, answer: str | None = "42", by: str = "mine"
) -> Decision:
    """A decision about a result of which a policy found something."""
    findings = (Finding(policy=by, action=action, reason="so", pause_s=60.0),) if action is not None else ()
    result = RoundResult(answer=answer, score=0.0, confidence=0.0, agreement=1.0, evidence="self", findings=findings)
    kind = DecisionKind.NEXT_ROUND
    return Decision(kind=kind, kafka_topic="", offset=0, task_id="t:r0", topic=topic, result=result, decided_at=at)


def test_the_last_results_are_counted_topic_by_topic() -> None:
    """Those without an answer tell nothing; a replay is counted once."""
    record = TopicRecord()
    log = [
        decided("a", "reject"),
        decided("a"),
        decided("b", "flag"),
        decided("a", "reject"),
        decided("a", answer=None),
    ]
    record.learn(0, enumerate(log))
    record.learn(0, enumerate(log))
    record.learn(1, [(0, decided("a", "reject"))])
    assert record.health("a", 10) == Health(rejected=3, examined=4)
    assert record.health("a", 3) == Health(rejected=2, examined=3)
    assert record.health("b", 10) == Health(rejected=0, examined=1)
    assert record.health("c", 10) == Health()


def test_a_stopped_topic_is_told_until_its_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """In the log too; then it is counted anew."""
    record = TopicRecord()
    with caplog.at_level(logging.WARNING):
        record.learn(0, enumerate([decided("a", "reject"), decided("a", "stop_topic", at=100.0)]))
    assert "the topic 'a' is stopped until 1970-01-01 00:02:40 UTC by mine; rounds.findings says why" in caplog.text
    assert "mine: so" in record.stopped("a", 159.0)
    assert record.stopped("a", 160.0) == ""
    assert record.stopped("b", 100.0) == ""
    assert record.health("a", 10) == Health()


def test_the_last_result_comes_first_and_so_many_are_remembered() -> None:
    """Each by itself, and no more than a thousand."""
    record = TopicRecord()
    record.learn(0, enumerate([decided("a", "reject"), decided("a"), decided("a"), decided("a", "reject")]))
    assert [record.health("a", last).rejected for last in (1, 2, 3, 4, 5)] == [1, 1, 1, 2, 2]
    assert [record.health("a", last).examined for last in (1, 4, 5)] == [1, 4, 4]
    record.learn(1, ((i, decided("b", "reject")) for i in range(1002)))
    assert record.health("b", 5000) == Health(rejected=1000, examined=1000)
    again = TopicRecord()
    again.restore(record.encoded().replace(b'"examined":1000', b'"examined":1001'))
    assert again.health("b", 5000) == Health(rejected=1000, examined=1000)


def test_a_decision_is_learned_from_once() -> None:
    """Also the last one of a log; one without a result, or read before, changes nothing but the place."""
    record = TopicRecord()
    assert record.changes == 0
    for _ in range(2):
        record.learn(0, [(0, decided("a", "reject"))])
        assert (record.health("a", 9).examined, record.changes) == (1, 1)
    record.learn(0, [(1, msgspec.structs.replace(decided("a"), result=None)), (2, decided("a"))])
    assert (record.health("a", 9).examined, record.changes) == (2, 2)
    record.learn(1, [])
    assert record.changes == 2
    record.restore(record.encoded())
    assert record.changes == 3


def test_a_topic_stays_stopped_for_as_long_as_the_longest_says() -> None:
    """For the reason of the first that says so; and until then it is not counted as it was."""
    record = TopicRecord()
    log = [decided("a", "stop_topic", at=at, by=by) for at, by in ((100.0, "one"), (100.0, "two"), (90.0, "three"))]
    record.learn(0, enumerate([decided("a"), *log[:1], decided("a", "reject"), *log[1:]]))
    assert record.stopped("a", 159.9) == "the topic 'a' is stopped until 1970-01-01 00:02:40 UTC: one: so"
    assert record.stopped("a", 160.0) == ""
    assert record.stopped("other", 159.9) == ""
    assert record.health("a", 9) == Health()
    record.learn(0, [(9, decided("a", "stop_topic", at=101.0, by="four")), (10, decided("a", "reject"))])
    assert "four: so" in record.stopped("a", 160.0)
    assert record.health("a", 9) == Health(rejected=1, examined=1)
    again = TopicRecord()
    again.restore(record.encoded())
    assert again.stopped("a", 160.0) == record.stopped("a", 160.0)
    assert again.health("a", 9) == record.health("a", 9)
    again.restore(TopicRecord().encoded())
    assert (again.stopped("a", 160.0), again.health("a", 9)) == ("", Health())


def test_what_was_learned_is_the_same_when_it_is_read_again() -> None:
    """Counts, stops and places in the logs."""
    record, again = TopicRecord(), TopicRecord()
    log = [decided("a", "reject"), decided("a"), decided("b", "stop_topic")]
    record.learn(3, enumerate(log))
    again.restore(record.encoded())
    again.learn(3, enumerate(log))
    assert again.encoded() == record.encoded()
    assert again.health("a", 10) == Health(rejected=1, examined=2)
    assert again.stopped("b", 120.0)


def test_topics_are_not_remembered_without_bound() -> None:
    """They are the users' to invent."""
    record = TopicRecord()
    record.learn(0, ((i, decided(f"topic {i}", "stop_topic")) for i in range(MAX_TOPICS + 10)))
    assert record.health("topic 0", 1) == Health()
    assert record.stopped("topic 0", 100.0) == ""
    assert record.stopped(f"topic {MAX_TOPICS}", 100.0)
    assert record.encoded().count(b'"name"') == MAX_TOPICS
    record = TopicRecord()
    record.learn(0, ((i, decided(f"topic {i}", "reject")) for i in range(MAX_TOPICS)))
    assert record.health("topic 0", 1) == Health(1, 1)
    record.learn(1, [(0, decided("new", "reject"))])
    assert [record.health(t, 1) for t in ("topic 0", "topic 1", "new")] == [Health(), Health(1, 1), Health(1, 1)]
    again = TopicRecord()
    more = record.encoded().replace(b'"topics":[', b'"topics":[{"name":"oldest","examined":1},')
    again.restore(more)
    assert again.health("oldest", 1) == Health()
    assert again.encoded() == record.encoded()


def test_a_file_that_is_none_is_refused() -> None:
    """The caller asks the lake then."""
    with pytest.raises(ValueError, match="truncated"):
        TopicRecord().restore(b'{"next_offsets"')
