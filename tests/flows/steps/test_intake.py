"""What a message is, and what is wrong with it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.blobs import BlobStore
from connectors.topics import RETRY, TASKS, TASKS_NEXT
from flows.items import Rejected, Work
from flows.lane import Message, Sealer
from flows.overflow import Overflow
from flows.steps.intake import Reading, classify
from schemas.blob import BlobReference
from schemas.errors import TryAgainError
from schemas.ids import content_id, home_lane
from schemas.task import encode

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
    "a tolerance of all": (task(payload={"prompt": "x", "tolerance": 1}), "< 1.0 - at `$.payload.tolerance`"),
    "a negative tolerance": (task(payload={"prompt": "x", "tolerance": -0.1}), ">= 0.0 - at `$.payload.tolerance`"),
    "a tolerance as text": (task(payload={"prompt": "x", "tolerance": "1%"}), "got `str` - at `$.payload.tolerance`"),
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
    "a reference without an id": (
        task(logical_id=None, payload={"$blob": "sha256-" + "0" * 64, "bytes": 5}),
        "needed where the payload is a reference to a blob - at `$.logical_id`",
    ),
    "a reference that is none": (task(payload={"$blob": "sha256-0", "bytes": 5}), "`$.payload.$blob`"),
    "a reference with more in it": (task(payload={"$blob": "sha256-" + "0" * 64, "bytes": 5, "n": 1}), "field `n`"),
    "a reference of no size": (task(payload={"$blob": "sha256-" + "0" * 64, "bytes": 0}), "`$.payload.bytes`"),
    "a reference where there is no store": (
        task(payload={"$blob": "sha256-" + "0" * 64, "bytes": 5}),
        "there is no blob store here - at `$.payload`",
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


LARGE = b'{"prompt": "' + b"x" * 300_000 + b'", "answer_kind": "number"}'


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """A blob store with nothing in it, that keeps nothing in memory."""
    made = BlobStore(str(tmp_path / "blobs"), cache_bytes=0)
    made.create()
    return made


def with_store(value: bytes, store: BlobStore, kafka_topic: str = TASKS) -> Message:
    """Classify a message where there is a blob store."""
    place = msgspec.structs.replace(reading(), overflow=Overflow(store, 1 << 16))
    return classify(place, kafka_topic, 7, value, 100.0)


def referring(reference: BlobReference, **fields: Any) -> bytes:
    """A task whose payload is in the blob store."""
    return task(payload=msgspec.Raw(encode(reference)), **fields)


def test_a_task_is_the_same_whichever_way_its_payload_came(store: BlobStore) -> None:
    """Its id, its digest and all that the steps see of it; and its size is what is held of it."""
    inline = with_store(task(payload=msgspec.Raw(LARGE)), store)
    away = with_store(referring(store.put(LARGE)), store)
    assert away.verdict is None
    assert (away.key, away.digest, away.task_id) == (inline.key, inline.digest, inline.task_id)
    assert away.body.view == inline.body.view
    assert bytes(away.body.task.payload) == LARGE
    assert away.size >= len(LARGE)


def test_a_reference_may_be_written_in_any_way(store: BlobStore) -> None:
    """It is JSON."""
    reference = store.put(LARGE)
    payload = b'{ "bytes" : %d,\n "$blob": "%b" }' % (reference.size, reference.name.encode())
    assert with_store(task(payload=msgspec.Raw(payload)), store).verdict is None


def test_a_payload_with_a_field_like_that_of_a_reference_is_a_payload(store: BlobStore) -> None:
    """It has a prompt, which no reference has."""
    payload = {"$blob": "sha256-" + "0" * 64, "bytes": 5, "prompt": "1+1"}
    assert with_store(task(payload=payload), store).body.view.prompt == "1+1"


def test_a_blob_that_is_gone_is_bad_input_under_the_id_of_its_task(store: BlobStore) -> None:
    """The id must not depend on the store: once decided, the blob may be there again when the message is read again."""
    reference = BlobReference("sha256-" + "0" * 64, 5)
    message = with_store(referring(reference), store)
    assert (message.verdict, message.task_id, message.key) == ("bad_input", "a:r0", None)
    assert reference.name in message.body.error
    assert message.body.error.startswith("tasks.global[0]@7: ")
    assert message.body.error.endswith(" - at `$.payload`")


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"not JSON",
        b"\xff",
        b'{"prompt":"\xff"}',
        b"{}",
        b'{"prompt":5}',
        b'{"prompt":"p","n":1e999}',
        b'{"prompt":"p","n":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"prompt":"p","n":' + b"[" * 200_000,
    ],
)
def test_a_blob_that_holds_no_payload_is_bad_input_under_the_id_of_its_task(store: BlobStore, content: bytes) -> None:
    """As one that came inline."""
    message = with_store(referring(store.put(content)), store)
    assert (message.verdict, message.task_id) == ("bad_input", "a:r0")
    assert "`$.payload" in message.body.error


def test_a_reference_to_a_reference_is_bad_input(store: BlobStore) -> None:
    """Nothing is followed twice."""
    message = with_store(referring(store.put(encode(store.put(LARGE)))), store)
    assert message.verdict == "bad_input"
    assert "empty: needs `prompt`" in message.body.error


def test_a_later_round_whose_blob_is_gone_keeps_its_cause(store: BlobStore) -> None:
    """Each cause counts once, whatever became of the payload."""
    seal = SEALER.seal((0, 5, 0), "a:r1", TASKS_NEXT, 0)
    more: dict[str, Any] = {"task_id": "a:r1", "round_index": 1, "cause": [0, 5, 0, seal]}
    message = with_store(referring(BlobReference("sha256-" + "0" * 64, 5), **more), store, TASKS_NEXT)
    assert (message.verdict, message.task_id, message.cause) == ("bad_input", "a:r1", (0, 5, 0))


def test_an_earlier_answer_comes_back_from_the_store(store: BlobStore) -> None:
    """And where it is gone, that is told."""
    seal = SEALER.seal((0, 5, 0), "a:r1", TASKS_NEXT, 0)
    more: dict[str, Any] = {"task_id": "a:r1", "round_index": 1, "cause": [0, 5, 0, seal]}
    for reference, verdict in (
        (store.put(b"42" * 50_000), None),
        (BlobReference("sha256-" + "0" * 64, 5), "bad_input"),
    ):
        message = with_store(task(origin={"answer": encode(reference).decode()}, **more), store, TASKS_NEXT)
        assert message.verdict == verdict
        if verdict is None:
            assert message.body.task.origin.answer == "42" * 50_000
            assert bytes(message.body.task.payload) == b'{"prompt":"1+1"}'
        else:
            assert message.body.error.endswith(" - at `$.origin.answer`")


def test_a_store_that_is_away_stops_the_cell(tmp_path: Path) -> None:
    """Nothing is decided of the message, so nothing is lost."""
    away = BlobStore(str(tmp_path / "not mounted"))
    with pytest.raises(TryAgainError, match="not mounted"):
        with_store(referring(BlobReference("sha256-" + "0" * 64, 5)), away)
