"""How topics fare, and which are stopped."""

import logging

import pytest

from flows.supervision.case import Health
from flows.supervision.health import MAX_TOPICS, TopicRecord
from schemas.decision import Decision, DecisionKind, Finding, FindingAction, RoundResult


def decided(topic: str, action: FindingAction | None = None, at: float = 100.0, answer: str | None = "42") -> Decision:
    """A decision about a result of which a policy found something."""
    findings = (Finding(policy="mine", action=action, reason="so", pause_s=60.0),) if action is not None else ()
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


def test_a_file_that_is_none_is_refused() -> None:
    """The caller asks the lake then."""
    with pytest.raises(ValueError, match="truncated"):
        TopicRecord().restore(b'{"next_offsets"')
