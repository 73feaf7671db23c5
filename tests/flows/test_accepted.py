"""Which questions have a record already."""

import time

import msgspec
import pytest

from flows import accepted
from flows.accepted import KEPT_RECORDS, MAX_CHARACTERS, Accepted, AcceptedRecords
from schemas.blob import REFERENCE_START
from schemas.decision import Decision, DecisionKind
from schemas.ids import payload_digest
from tests.flows.steps.test_plan import decide, message, next_message, said

PAYLOAD = b'{"prompt":"6*7","answer_kind":"number"}'


def converged(answer: str = "42", logical_id: str = "t") -> Decision:
    """A decision that two models agree on."""
    return decide(message(logical_id=logical_id), said("a", answer), said("b", answer))


def test_a_question_is_found_by_its_topic_and_its_payload() -> None:
    """However the payload is written."""
    records = AcceptedRecords()
    records.learn(0, [(0, converged())])
    digest = payload_digest(b'{"answer_kind": "number", "prompt": "6*7"}')
    assert records.record_of("math", digest) == Accepted("t", "42", "cross-model")
    assert records.record_of("logic", digest) is None
    assert records.record_of("math", payload_digest(b'{"prompt":"6*8"}')) is None


def test_a_record_of_a_later_round_is_found_too() -> None:
    """Its decision does not tell the digest."""
    records = AcceptedRecords()
    first = decide(message(), said("a", "1"), said("b", "2"))
    records.learn(0, enumerate([first, decide(next_message(first), said("a"), said("b"))]))
    assert records.record_of("math", payload_digest(PAYLOAD)) is not None


def test_what_is_forced_or_did_not_converge_is_no_record() -> None:
    """Nobody bore it out."""
    records = AcceptedRecords()
    first = decide(message(), said("a", "1"), said("b", "2"))
    second = decide(next_message(first), said("a", "1"), said("b", "2"))
    last = decide(next_message(second), said("a", "1"), said("b", "2"))
    assert last.forced
    records.learn(0, enumerate([first, second, last]))
    assert records.count == 0


@pytest.mark.parametrize("answer", ["9" * (MAX_CHARACTERS + 1), REFERENCE_START + ' "sha256-", "bytes": 5}'])
def test_a_long_answer_is_not_remembered_and_its_question_is(answer: str) -> None:
    """Nor is one that is elsewhere."""
    records = AcceptedRecords()
    records.learn(0, [(0, converged(answer))])
    found = records.record_of("math", payload_digest(PAYLOAD))
    assert found is not None
    assert found.answer is None


def test_the_question_answered_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(accepted, "MAX_RECORDS", 2)
    records = AcceptedRecords()
    decisions = [
        Decision(
            kind=DecisionKind.CONVERGED,
            kafka_topic="",
            offset=0,
            task_id="",
            topic="math",
            logical_id=f"t{i}",
            payload_digest=str(i),
            result=converged().result,
        )
        for i in (0, 1, 0, 2)
    ]
    records.learn(0, enumerate(decisions))
    assert [records.record_of("math", str(i)) is not None for i in range(3)] == [True, False, True]


@pytest.mark.unmeasured
def test_the_newest_are_there_after_a_restart_and_take_little_time_to_keep() -> None:
    """They are written every two seconds."""
    records, one = AcceptedRecords(), converged()
    decisions = [
        Decision(
            kind=one.kind,
            kafka_topic="",
            offset=0,
            task_id="",
            topic="math",
            payload_digest=f"{i:016x}",
            result=one.result,
        )
        for i in range(KEPT_RECORDS + 10)
    ]
    records.learn(0, enumerate(decisions))
    begun = time.process_time()
    written = records.encoded()
    assert time.process_time() - begun < 0.2
    again = AcceptedRecords()
    again.restore(written)
    assert again.count == KEPT_RECORDS
    assert again.record_of("math", f"{9:016x}") is None
    assert again.record_of("math", f"{10:016x}") is not None
    again.learn(0, [(0, converged("43"))])
    assert again.record_of("math", payload_digest(PAYLOAD)) is None


@pytest.mark.parametrize("payload", [b'{"prompt": "6*7", "n": 1e400}', b"{"])
def test_a_question_that_cannot_be_digested_is_not_remembered(payload: bytes) -> None:
    """A number beyond all that can be written is left where it is; nor is a record without an answer remembered."""
    records = AcceptedRecords()
    again = msgspec.structs.replace(converged(), payload=msgspec.Raw(payload), payload_digest="")
    records.learn(0, [(0, again)])
    assert again.result is not None
    empty = msgspec.structs.replace(converged(), result=msgspec.structs.replace(again.result, answer=None))
    records.learn(0, [(1, empty)])
    assert records.count == 0
