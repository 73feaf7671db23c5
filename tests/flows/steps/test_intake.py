"""What a message is, and what is wrong with it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.topics import RETRY, TASKS
from flows.lane import Message, Sealer
from flows.steps.intake import Reading, Rejected, Work, classify
from schemas.ids import content_id, home_lane

SEALER = Sealer(b"k" * 32)


def reading(lane: int = 0, lanes: int = 1) -> Reading:
    """A place where messages are read."""
    return Reading(lane, lanes, SEALER, 1 << 20, RETRY, 5.0)


def classified(value: bytes | None, *, kafka_topic: str = TASKS, lane: int = 0, lanes: int = 1) -> Message:
    """Classify one message at offset 7."""
    return classify(reading(lane, lanes), kafka_topic, 7, value, 100.0)


def task(**fields: Any) -> bytes:
    """A good task, but for what is said otherwise; None leaves a field out."""
    whole = {"topic": "math", "logical_id": "a", "payload": {"prompt": "1+1"}, **fields}
    return msgspec.json.encode({k: v for k, v in whole.items() if v is not None})


BAD = {
    "not JSON": (b"{topic: math}", "not JSON"),
    "nothing": (b"", "not JSON"),
    "a tombstone": (None, "not JSON"),
    "not UTF-8": (b'{"topic":"\xff","payload":{"prompt":"x"}}', "not UTF-8"),
    "a list": (b"[]", "Expected `object`, got `array`"),
    "nested without end": (b'{"topic":"a","payload":' + b"[" * 200_000, "nested too deeply"),
    "no topic": (task(topic=None), "missing required field `topic`"),
    "no payload": (task(payload=None), "missing required field `payload`"),
    "a number as topic": (task(topic=3), "got `int` - at `$.topic`"),
    "an empty topic": (task(topic=""), "length >= 1 - at `$.topic`"),
    "an endless topic": (task(topic="x" * 201), "length <= 200 - at `$.topic`"),
    "a topic with a control character": (task(topic="a\nb"), "control character - at `$.topic`"),
    "an unknown field": (task(colour="red"), "unknown field `colour`"),
    "an empty payload": (task(payload={}), "empty: needs `prompt`"),
    "a payload that is text": (task(payload="1+1"), "Expected `object`, got `str` - at `$.payload`"),
    "an empty prompt": (task(payload={"prompt": "  "}), "empty: needs `prompt`"),
    "a prompt that is a number": (task(payload={"prompt": 5}), "got `int` - at `$.payload.prompt`"),
    "an unknown answer kind": (task(payload={"prompt": "x", "answer_kind": "haiku"}), "`$.payload.answer_kind`"),
    "messages that are no messages": (task(payload={"messages": ["hi"]}), "`$.payload.messages[0]`"),
    "a negative priority": (task(priority=-1), ">= 0 - at `$.priority`"),
    "a huge priority": (task(priority=10**9), "<= 9 - at `$.priority`"),
    "a priority beyond all integers": (task(priority=10**30), "`$.priority`"),
    "a priority as text": (task(priority="high"), "got `str` - at `$.priority`"),
    "a round that jumps": (task(round_index=5), "starts at round 0"),
    "an attempt": (task(attempt=1), "starts at round 0, attempt 0"),
    "a generation": (task(generation=2), "only a redrive"),
    "a task id of another round": (task(task_id="a:r3"), "'a:r3' is not 'a:r0'"),
    "an id that ends as a round": (task(logical_id="x:r2"), "reserved"),
    "an id that ends as a branch": (task(logical_id="x:branch-0"), "reserved"),
    "an endless id": (task(logical_id="x" * 513), "longer than 512 bytes"),
    "metadata that is no text": (task(metadata={"a": 1}), "got `int` - at `$.metadata"),
    "twenty megabytes": (task(payload={"prompt": "x" * 20_000_000}), "bytes; a task may have 1,048,576"),
    "a payload nested without end": (
        b'{"topic":"m","logical_id":"a","payload":{"prompt":"p","d":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        "nested too deeply",
    ),
    "a number beyond all floats": (b'{"topic":"m","payload":{"prompt":"p","d":1e999}}', "`$.payload`"),
    "a forged cause": (
        task(task_id="a:r0", cause=[0, 5, 0, "0" * 24]),
        "claims a cause that this cluster has not sealed",
    ),
    "a forged origin": (task(task_id="a:r0", origin={"answer": "43"}), "leave it out - at `$.origin`"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_told_by_name_and_kept(kind: str) -> None:
    """The message names Kafka topic, lane, offset and field, and the bytes travel with it."""
    value, expected = BAD[kind]
    message = classified(value)
    assert message.verdict == "bad_input"
    assert message.key is None
    assert isinstance(message.body, Rejected)
    assert message.body.error.startswith("tasks.global[0]@7: ")
    assert expected in message.body.error


@pytest.mark.parametrize("topic", ["a/b", "with spaces", "🧪", "日本語", "../../etc", "-"])
def test_a_topic_may_be_any_printable_text(topic: str) -> None:
    """It never becomes a path or a Kafka topic."""
    message = classified(task(topic=topic))
    assert message.verdict is None
    assert isinstance(message.body, Work)
    assert message.body.task.topic == topic


def test_a_task_without_an_id_is_named_by_its_content() -> None:
    """The same topic and payload are one task, whatever the order of the keys."""
    one = classified(b'{"topic":"m","payload":{"prompt":"p","n":1}}')
    two = classified(b'{"payload":{"n":1, "prompt":"p"},"topic":"m"}')
    other = classified(b'{"topic":"m2","payload":{"prompt":"p","n":1}}')
    assert one.task_id == two.task_id == content_id("m", b'{"n":1,"prompt":"p"}') + ":r0"
    assert one.key == two.key
    assert one.digest == two.digest
    assert other.key != one.key


def test_one_id_under_two_topics_is_two_tasks() -> None:
    """Ids are unique within a topic."""
    assert classified(task(topic="math")).key != classified(task(topic="logic")).key


def test_one_id_with_two_payloads_is_told_apart_by_the_digest() -> None:
    """The key is the same and the digest is not, so the lane sees the conflict."""
    one, two = classified(task()), classified(task(payload={"prompt": "2+2"}))
    assert one.key == two.key
    assert one.digest != two.digest


def test_a_message_away_from_home_is_moved() -> None:
    """Its id rule holds at home, so it has no key here."""
    away = next(lane for lane in range(4) if lane != home_lane("a", 4))
    message = classified(task(), lane=away, lanes=4)
    assert message.verdict == "moved"
    assert message.key is None


def test_a_sealed_cause_is_taken() -> None:
    """What the cluster has sealed for this place counts."""
    seal = SEALER.seal((0, 5, 0), "a:r0", TASKS, 0)
    value = task(task_id="a:r0", cause=[0, 5, 0, seal], origin={"introduces": True})
    message = classified(value)
    assert message.verdict is None
    assert message.cause == (0, 5, 0)
    assert message.key is not None
    assert classified(value, kafka_topic=RETRY).verdict == "bad_input", "sealed for another place"


def test_a_retry_is_due_after_the_delay() -> None:
    """Counted from when the broker took it."""
    seal = SEALER.seal((0, 5, 0), "a:r0", RETRY, 0)
    value = task(task_id="a:r0", attempt=1, cause=[0, 5, 0, seal])
    assert classified(value, kafka_topic=RETRY).due_at == 105.0


@given(st.binary(max_size=200))
def test_any_bytes_are_a_task_or_a_named_error(value: bytes) -> None:
    """No message stops the cell."""
    message = classified(value)
    assert message.verdict == "bad_input" or isinstance(message.body, Work)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_the_users_part_of_a_payload_travels_untouched(extra: Any) -> None:
    """Byte for byte."""
    payload = msgspec.json.encode({"prompt": "p", "extra": extra})
    message = classified(b'{"topic":"m","payload":' + payload + b"}")
    if message.verdict is None:
        assert bytes(message.body.task.payload) == payload
    else:
        assert isinstance(extra, int | float | list | dict)
