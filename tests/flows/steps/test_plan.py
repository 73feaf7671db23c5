"""Decisions: what is decided, and what follows."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.blobs import BlobStore
from connectors.topics import DEAD_LETTERS, RETRY, TASKS, TASKS_HIGH, TASKS_NEXT
from flows.accepted import AcceptedRecords
from flows.budget import Spent
from flows.items import Answered, Supervised
from flows.lane import Message, Sealer
from flows.overflow import Overflow
from flows.policies import ConvergencePolicy, SimpleThresholdPolicy
from flows.settings import Settings
from flows.steps.derive import Derived
from flows.steps.intake import Reading, classify
from flows.steps.plan import MAX_DECISION_BYTES, Limits, Planner
from flows.steps.route import Router
from flows.steps.supervise import Supervision
from flows.steps.validate import built_in_verifiers, validate
from flows.supervision import Supervisor, built_in_supervisor
from flows.supervision.health import TopicRecord
from schemas.blob import REFERENCE_START, BlobReference, reference_in
from schemas.decision import Decision, DecisionKind, read_decision
from schemas.errors import BadRecordError, TryAgainError
from schemas.ids import content_hash, home_lane
from schemas.node import Answer, NodeCapabilities
from schemas.one import BranchRow, DeadLetterRow, Record, RoundRow, micros
from schemas.software import software_version
from schemas.task import Ancestor, encode, read_head
from tests.flows.logged import CLUSTER, followed, hash_of

SEALER = Sealer(b"k" * 32)
SUPERVISOR = built_in_supervisor()
NODES = [NodeCapabilities(node=n, models=("m",), topics=("math", "logic")) for n in ("a", "b", "c")]


def message(
    lanes: int = 1, lane: int = 0, kafka_topic: str = TASKS, overflow: Overflow | None = None, **fields: Any
) -> Message:
    """A message with a good task, but for what is said otherwise."""
    task = {"topic": "math", "logical_id": "t", "payload": {"prompt": "6*7", "answer_kind": "number"}, **fields}
    reading = Reading(lane, lanes, SEALER, 1 << 25, RETRY, 5.0, overflow)
    return classify(reading, kafka_topic, 3, msgspec.json.encode(task), 100.0)


def decide(
    asked: Message,
    *answers: Answer,
    limits: Limits | None = None,
    lane: int = 0,
    overflow: Overflow | None = None,
    supervisor: Supervisor = SUPERVISOR,
    policy: ConvergencePolicy | None = None,
    topics: TopicRecord | None = None,
    records: AcceptedRecords | None = None,
    now: float = 100.0,
    exceeded: str = "",
) -> Decision:
    """Take a message through the steps, with these answers."""
    topics = topics or TopicRecord()
    router = Router(lambda: (1, NODES), built_in_verifiers(), stopped=topics.stopped)
    planner = Planner(
        policy or SimpleThresholdPolicy(Settings()),
        limits or Limits(1, 3, 3, 16),
        overflow=overflow,
        may_quote=supervisor.may_quote,
    )
    routed = router.route(asked, now)
    if not routed.calls:
        answers = ()
    answered = Answered(routed, answers, Spent(sum(a.tries for a in answers)), exceeded=exceeded)
    result = validate(asked.body.view, answers, built_in_verifiers()) if answers else None
    supervise = Supervision(supervisor, 3, topics, records).supervise
    passed = supervise(answered, result) if result else Supervised(answered, None)
    return read_decision(planner.plan(lane, passed, now + 1.0))


def carried_out(decision: Decision, offset: int = 40, lane: int = 0) -> Derived:
    """What follows from it at an offset."""
    return followed([(offset, decision)], SEALER, lane)


def said(node: str, text: str = "42", **fields: Any) -> Answer:
    """One answer."""
    return Answer(node=node, model="m", text=text, **fields)


def failed(node: str) -> Answer:
    """A call that failed for good."""
    return Answer(node=node, model="m", status="failed", error="TimeoutError: 60 s", tries=3)


def next_message(decision: Decision, lanes: int = 1, overflow: Overflow | None = None) -> Message:
    """The first message that follows, as its lane reads it."""
    (out, *_) = carried_out(decision).messages
    reading = Reading(out.lane, lanes, SEALER, 1 << 25, RETRY, 5.0, overflow)
    return classify(reading, out.kafka_topic, 9, out.value, 200.0)


def test_agreement_converges_and_becomes_a_record() -> None:
    """Two of three say the same."""
    decision = decide(message(), said("a"), said("b", "42.0"), said("c", "41"))
    assert decision.kind is DecisionKind.CONVERGED
    assert decision.introduces
    assert not decision.forced
    record, row = carried_out(decision).rows
    assert isinstance(record, Record)
    assert isinstance(row, RoundRow)
    assert (record.answer, record.evidence, record.nodes) == ("42", "cross-model", ["a", "b"])
    assert record.confidence == pytest.approx(0.9, abs=0.02)
    assert (record.lane, record.decision_offset) == (0, 40)


def test_disagreement_takes_another_round_and_the_last_one_is_forced() -> None:
    """The reason says so, and the earlier answer travels along."""
    first = decide(message(), said("a", "1"), said("b", "2"))
    assert first.kind is DecisionKind.NEXT_ROUND
    second_message = next_message(first)
    assert (second_message.kafka_topic, second_message.task_id) == (TASKS_NEXT, "t:r1")
    assert second_message.body.task.origin.answer == "1"
    second = decide(second_message, said("a", "1"), said("b", "2"))
    last = decide(next_message(second), said("a", "1"), said("b", "2"))
    assert last.kind is DecisionKind.CONVERGED
    assert last.forced
    assert last.reason == "3 rounds spent"
    record = carried_out(last).rows[0]
    assert isinstance(record, Record)
    assert (record.round_index, record.calls, record.previous_offset) == (2, 6, 40)
    assert record.started_at == micros(100.0)


def test_each_round_has_the_hash_of_the_one_before_it() -> None:
    """The message carries it, sealed; so the rows of a task are a chain, from its record back to its first round."""
    first = decide(message(), said("a", "1"), said("b", "2"))
    last = decide(next_message(first), said("a"), said("b"))
    assert last.cause is not None
    (before,) = carried_out(first).rows
    record, after = carried_out(last).rows
    assert isinstance(before, RoundRow)
    assert isinstance(after, RoundRow)
    assert isinstance(record, Record)
    assert before.decision_hash == hash_of(first) == last.cause.hash == after.cause_hash
    assert before.cause_hash is None
    assert record.decision_hash == after.decision_hash == hash_of(last)
    (out,) = carried_out(first).messages
    forged = out.value.replace(hash_of(first).encode(), hash_of(last).encode())
    assert forged != out.value
    reading = Reading(0, 1, SEALER, 1 << 25, RETRY, 5.0, None)
    assert classify(reading, out.kafka_topic, 9, forged, 200.0).verdict == "bad_input"


def test_a_record_tells_what_it_was_made_of() -> None:
    """Which models, in which versions, asked how, judged by what."""
    asked = message(sources=[["math", "older"]], metadata={"labels": "exam, math,,mine"})
    decision = decide(asked, said("a", version="m-2026-01"), said("b"), said("c", "7"))
    record, row = carried_out(decision).rows
    assert isinstance(record, Record)
    assert isinstance(row, RoundRow)
    provenance = msgspec.json.decode(record.provenance or "")
    assert provenance["models"] == [
        {"node": "a", "model": "m", "version": "m-2026-01", "gave_it": True},
        {"node": "b", "model": "m", "gave_it": True},
        {"node": "c", "model": "m", "gave_it": False},
    ]
    assert provenance["policy"] == decision.policy
    assert provenance["prompt"] == row.prompt_hash == decision.prompt_hash != ""
    assert provenance["software"] == row.software == software_version()
    assert record.labels == ["math", "exam", "mine"]
    assert record.sources == '[["math","older"]]'
    assert record.cluster == row.cluster == CLUSTER


def test_failing_calls_are_retried_and_then_dead_with_their_history() -> None:
    """Each attempt waits on the delay topic."""
    decision = decide(message(), failed("a"), failed("b"))
    for attempt in (1, 2):
        assert decision.kind is DecisionKind.RETRY
        again = next_message(decision)
        assert (again.kafka_topic, again.body.task.attempt, again.due_at) == (RETRY, attempt, 205.0)
        decision = decide(again, failed("a"), failed("b"))
    assert (decision.kind, decision.reason) == (DecisionKind.DEAD, "attempts_spent")
    derived = carried_out(decision)
    assert derived.messages[0].kafka_topic == DEAD_LETTERS
    row = derived.rows[0]
    assert isinstance(row, DeadLetterRow)
    assert len(row.history) == 3
    assert all("TimeoutError: 60 s (3 tries)" in line for line in row.history)


def test_one_answer_is_enough_where_others_fail() -> None:
    """Only a round whose calls all failed is tried again."""
    assert decide(message(), said("a"), failed("b"), failed("c")).kind is DecisionKind.NEXT_ROUND


def test_abstentions_to_the_end_are_a_dead_letter() -> None:
    """A record without an answer helps nobody."""
    asked = message()
    for _ in range(2):
        asked = next_message(decide(asked, Answer(node="a", model="m", status="abstained")))
    decision = decide(asked, Answer(node="a", model="m", status="abstained"))
    assert (decision.kind, decision.reason) == (DecisionKind.DEAD, "no_answer")


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -1.0, 2.0])
def test_a_score_that_is_none_is_left_out_with_a_warning(score: float) -> None:
    """JSON has no NaN; nothing behind may stumble over it."""
    decision = decide(message(), said("a", score=score), said("b", score=0.5))
    assert decision.kind is DecisionKind.CONVERGED
    assert decision.result is not None
    assert [a.score for a in decision.result.candidates] == [None, 0.5]
    assert any("is not between 0 and 1" in w for w in decision.result.warnings)


def branch(**fields: Any) -> dict[str, Any]:
    """One proposal."""
    return {"topic": "logic", "payload": {"prompt": "is it so?"}, **fields}


def test_branches_are_those_of_the_first_leading_answer_that_has_any() -> None:
    """Not only of the very first one, and never of one that was outvoted."""
    meta = {"branches": [branch()]}
    decision = decide(message(), said("a", meta={"text": "so"}), said("b", meta=meta))
    assert [f.task_id for f in decision.follow_ups] == ["t:branch-0:r0"]
    outvoted = decide(message(), said("c", "7", meta=meta), said("a"), said("b"))
    assert not outvoted.follow_ups


def test_branches_follow_with_names_home_and_priority() -> None:
    """Each goes to its own home lane."""
    meta = {"branches": [branch(priority=1, score=0.9), branch(topic="math")]}
    asked = message(lanes=4, lane=home_lane("t", 4))
    limits = Limits(4, 3, 3, 16)
    decision = decide(asked, said("a", meta=meta), said("b"), limits=limits, lane=home_lane("t", 4))
    one, two = decision.follow_ups
    assert (one.task_id, one.kafka_topic, one.lane) == ("t:branch-0:r0", TASKS_HIGH, home_lane("t:branch-0", 4))
    assert (two.task_id, two.kafka_topic, two.lane) == ("t:branch-1:r0", TASKS, home_lane("t:branch-1", 4))
    assert [m.key for m in carried_out(decision).messages] == [b"t:branch-0", b"t:branch-1"]
    rows = carried_out(decision).rows
    assert [r.logical_id for r in rows if isinstance(r, BranchRow)] == ["t:branch-0", "t:branch-1"]
    child = next_message(decision, lanes=4)
    assert child.verdict is None
    assert child.body.task.origin.ancestors == (Ancestor("math", "t"),)


@pytest.mark.parametrize(
    "meta,warning",
    [
        (None, None),
        ({}, None),
        ({"branches": None}, None),
        ({"branches": "many"}, "meta.branches is str, not a list"),
        ({"branches": {"topic": "logic"}}, "meta.branches is dict, not a list"),
        ({"branches": [7]}, "meta.branches[0]: Expected `object`"),
        ({"branches": [{"topic": "logic"}]}, "missing required field `payload`"),
        ({"branches": [branch(payload={})]}, "empty: needs `prompt`"),
        ({"branches": [branch(score=math.nan)]}, "`$.score`"),
        ({"branches": [branch(priority=-4)]}, "`$.priority`"),
        ({"branches": [branch(topic="")]}, "`$.topic`"),
        ({"branches": [branch(payload={"prompt": "\ud800"})]}, "meta.branches[0]"),
    ],
)
def test_branches_that_are_none_are_left_out_with_a_warning(meta: Any, warning: str | None) -> None:
    """The record itself is not harmed."""
    decision = decide(message(), said("a", meta=meta), said("b"))
    assert decision.kind is DecisionKind.CONVERGED
    assert decision.follow_ups == ()
    assert decision.result is not None
    assert (decision.result.warnings == ()) is (warning is None)
    assert warning is None or warning in decision.result.warnings[0]


def test_branches_are_bounded_by_count_and_what_is_cut_off_is_told() -> None:
    """The best ones are taken."""
    meta = {"branches": [branch(score=i / 10, payload={"prompt": str(i)}) for i in range(10)]}
    decision = decide(message(), said("a", meta=meta), said("b"), limits=Limits(1, 3, 3, 4))
    assert [f.score for f in decision.follow_ups] == [0.9, 0.8, 0.7, 0.6]
    assert len(decision.cut_off) == 6
    assert "no more branches left" in decision.cut_off[0]
    origins = [read_head(f.task).origin for f in decision.follow_ups]
    assert {o.branches_left for o in origins if o is not None} == {0}


@pytest.mark.parametrize("width", [1, 2, 5])
def test_recursion_always_ends(width: int) -> None:
    """However many branches each answer asks for, a root task has at most its count, and no deeper than its depth."""
    meta = {"branches": [branch(topic="math", payload={"prompt": str(i)}) for i in range(width)]}
    limits = Limits(1, 3, 4, 20)
    waiting, spawned = [message()], 0
    while waiting:
        decision = decide(waiting.pop(), said("a", meta=meta), said("b"), limits=limits)
        for out in carried_out(decision).messages:
            reading = Reading(0, 1, SEALER, 1 << 25, RETRY, 5.0)
            waiting.append(classify(reading, out.kafka_topic, 9, out.value, 1.0))
            spawned += 1
            assert len(waiting[-1].body.task.origin.ancestors) <= limits.max_depth
    assert 0 < spawned <= limits.max_branches


def test_a_topic_without_a_node_is_a_dead_letter_that_says_so() -> None:
    """It names the topic and those that are served."""
    decision = decide(message(topic="poetry"))
    assert (decision.kind, decision.reason) == (DecisionKind.DEAD, "no_node")
    assert "'poetry'" in decision.detail
    assert "logic, math" in decision.detail
    assert decision.introduces


def test_a_verifier_that_is_not_registered_is_a_dead_letter_that_says_so() -> None:
    """Nobody may think that it was checked."""
    decision = decide(message(payload={"prompt": "x", "verifier": "magic"}))
    assert (decision.kind, decision.reason) == (DecisionKind.DEAD, "unknown_verifier")
    assert "'magic'" in decision.detail


def test_a_verifier_outranks_the_vote() -> None:
    """One that passes leads, against two that do not."""
    asked = message(payload={"prompt": "x", "verifier": "json"})
    decision = decide(asked, said("a", "{"), said("b", "{"), said("c", "[1]"))
    assert decision.kind is DecisionKind.CONVERGED
    assert decision.result is not None
    assert (decision.result.answer, decision.result.evidence, decision.result.verified) == ("[1]", "verifier", True)


def test_a_misplaced_message_is_moved_home_with_its_id_rule() -> None:
    """It arrives sealed, and introduces its id there."""
    away = next(lane for lane in range(4) if lane != home_lane("t", 4))
    decision = decide(message(lanes=4, lane=away), limits=Limits(4, 3, 3, 16), lane=away)
    assert decision.kind is DecisionKind.MOVED
    assert not decision.introduces
    (out,) = carried_out(decision, lane=away).messages
    assert (out.kafka_topic, out.lane) == (TASKS, home_lane("t", 4))
    arrived = classify(Reading(out.lane, 4, SEALER, 1 << 20, RETRY, 5.0), out.kafka_topic, 0, out.value, 1.0)
    assert arrived.verdict is None
    assert arrived.key is not None
    assert arrived.cause == (away, 40, 0)


def test_bad_input_keeps_its_bytes_and_owns_no_id() -> None:
    """The dead letter has them in base64."""
    asked = classify(Reading(0, 1, SEALER, 1 << 20, RETRY, 5.0), TASKS, 3, b"{nonsense", 1.0)
    decision = decide(asked)
    assert (decision.kind, decision.reason, decision.introduces) == (DecisionKind.DEAD, "bad_input", False)
    assert decision.raw == "e25vbnNlbnNl"
    assert carried_out(decision).messages[0].kafka_topic == DEAD_LETTERS


def test_an_id_with_two_payloads_is_a_dead_letter_that_owns_nothing() -> None:
    """The first one stays the owner."""
    asked = message()
    asked.verdict = "id_conflict"
    decision = decide(asked)
    assert (decision.kind, decision.reason, decision.introduces) == (DecisionKind.DEAD, "id_conflict", False)
    assert bytes(decision.payload) == b'{"prompt":"6*7","answer_kind":"number"}'


def test_what_cannot_be_carried_out_does_not_win() -> None:
    """A decision too large for Kafka is decided dead instead, before it is appended."""
    huge = "x" * (MAX_DECISION_BYTES // 2 + 1)
    decision = decide(message(), said("a", "42", meta={"notes": huge}), said("b", "42", meta={"notes": huge}))
    assert (decision.kind, decision.reason) == (DecisionKind.DEAD, "too_large")


def test_an_answer_without_end_is_flagged_and_never_accepted() -> None:
    """It takes its rounds, and then it is dead."""
    long = "9" * 200_000
    asked = message()
    for _ in range(2):
        decision = decide(asked, said("a", long), said("b", long))
        assert decision.kind is DecisionKind.NEXT_ROUND
        asked = next_message(decision)
    decision = decide(asked, said("a", long), said("b", long))
    assert (decision.kind, decision.reason) == (DecisionKind.DEAD, "rejected")


def test_an_entry_whose_branch_is_no_task_is_no_decision() -> None:
    """Whoever else writes to the log cannot make the cell stumble over it later."""
    decision = decide(message(), said("a", meta={"branches": [branch()]}), said("b"))
    spoilt = msgspec.structs.replace(decision.follow_ups[0], task=msgspec.Raw(b'{"colour":"red"}'))
    entry = msgspec.json.encode(msgspec.structs.replace(decision, follow_ups=(spoilt,)))
    with pytest.raises(BadRecordError, match="no decision"):
        read_decision(entry)


SMALL = 4000
"""No message and no row has more bytes, whatever is large in its task."""
LARGE = {"prompt": "x" * 300_000, "mine": [1, None]}


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """A blob store with nothing in it."""
    made = BlobStore(str(tmp_path / "blobs"))
    made.create()
    return made


@pytest.fixture
def overflow(store: BlobStore) -> Overflow:
    """Where large values go: those of more than 1,024 bytes."""
    return Overflow(store, 1024)


def all_is_small(decision: Decision) -> None:
    """Check the decision, and all that follows from it."""
    derived = carried_out(decision)
    assert (
        max(len(e) for e in (encode(decision), *(m.value for m in derived.messages), *map(encode, derived.rows)))
        < SMALL
    )


def text_of(store: BlobStore, text: str | None) -> str:
    """What a reference in a text stands for."""
    reference = reference_in(text or "")
    assert reference is not None
    return store.get(reference).decode()


def test_an_answer_that_nobody_else_gave_travels_as_its_reference_too(store: BlobStore, overflow: Overflow) -> None:
    """Where the question and the answer that counts are small."""
    decision = decide(message(), said("a", "42"), said("b", "42"), said("c", "7" * 5000), overflow=overflow)
    assert decision.kind is DecisionKind.CONVERGED
    all_is_small(decision)
    assert decision.result is not None
    assert [text_of(store, c.text) for c in decision.result.candidates if c.node == "c"] == ["7" * 5000]


def test_what_is_large_travels_as_its_reference_through_all_rounds(store: BlobStore, overflow: Overflow) -> None:
    """Payload and answers; each round is asked with all of them, and the record's hash is over them."""
    answers = [said("a", "1" * 5000), said("b", "2" * 5000)]
    asked = message(payload=LARGE, overflow=overflow)
    for _ in range(2):
        decision = decide(asked, *answers, overflow=overflow)
        assert decision.kind is DecisionKind.NEXT_ROUND
        all_is_small(decision)
        asked = next_message(decision, overflow=overflow)
        assert asked.body.view.prompt == LARGE["prompt"]
        assert msgspec.json.decode(asked.body.task.payload) == LARGE
        assert asked.body.task.origin.answer == "1" * 5000
    last = decide(asked, *answers, overflow=overflow)
    assert last.forced
    all_is_small(last)
    record = carried_out(last).rows[0]
    assert isinstance(record, Record)
    assert msgspec.json.decode(text_of(store, record.payload)) == LARGE
    assert text_of(store, record.answer) == "1" * 5000
    assert last.result is not None
    assert [text_of(store, a.text)[0] for a in last.result.candidates] == ["1", "2"]
    assert last.content_hash == content_hash("math", "t", 0, bytes(asked.body.task.payload), "1" * 5000)


def test_a_decision_is_the_same_whichever_way_its_payload_came(store: BlobStore, overflow: Overflow) -> None:
    """Inline or by reference."""
    reference = msgspec.to_builtins(store.put(encode(LARGE)))
    inline = decide(message(payload=LARGE, overflow=overflow), said("a"), said("b"), overflow=overflow)
    away = decide(message(payload=reference, overflow=overflow), said("a"), said("b"), overflow=overflow)
    assert inline == away
    assert inline.content_hash


def test_an_answer_of_an_earlier_round_comes_back_for_the_record(store: BlobStore, overflow: Overflow) -> None:
    """Where the last round gave none."""
    asked = message(overflow=overflow)
    silent = Answer(node="a", model="m", status="abstained")
    for answers in ([said("a", "1" * 5000)], [silent]):
        asked = next_message(decide(asked, *answers, overflow=overflow), overflow=overflow)
    last = decide(asked, silent, overflow=overflow)
    all_is_small(last)
    assert last.result is not None
    assert text_of(store, last.result.answer) == "1" * 5000
    assert last.content_hash == content_hash("math", "t", 0, bytes(asked.body.task.payload), "1" * 5000)


def test_an_attempt_after_failures_still_has_the_earlier_answer(overflow: Overflow) -> None:
    """It travels as its reference then, too."""
    asked = next_message(
        decide(message(overflow=overflow), said("a", "1" * 5000), overflow=overflow), overflow=overflow
    )
    decision = decide(asked, failed("a"), overflow=overflow)
    assert decision.kind is DecisionKind.RETRY
    all_is_small(decision)
    assert next_message(decision, overflow=overflow).body.task.origin.answer == "1" * 5000


def test_large_branches_travel_as_their_references(store: BlobStore, overflow: Overflow) -> None:
    """And are asked with all of their payload."""
    decision = decide(message(), said("a", meta={"branches": [branch(payload=LARGE)]}), said("b"), overflow=overflow)
    all_is_small(decision)
    row = carried_out(decision).rows[1]
    assert isinstance(row, BranchRow)
    assert msgspec.json.decode(text_of(store, row.payload)) == LARGE
    assert next_message(decision, overflow=overflow).body.view.prompt == LARGE["prompt"]


def test_a_model_cannot_refer_to_a_blob(store: BlobStore, overflow: Overflow) -> None:
    """Neither its answer nor its branches are taken for references: the answer is kept, as it is, in the store."""
    secret = encode(store.put(b'{"prompt": "whoever knows the hash"}')).decode()
    proposed = branch(payload=msgspec.json.decode(secret))
    answers = [said(node, secret, meta={"branches": [proposed]}) for node in ("a", "b")]
    asked = message(payload={"prompt": "?"}, overflow=overflow)
    decision = decide(asked, *answers, overflow=overflow)
    assert decision.follow_ups == ()
    assert decision.result is not None
    assert "meta.branches[0]: empty" in decision.result.warnings[0]
    assert [text_of(store, t) for t in (decision.result.answer, decision.result.candidates[0].text)] == [secret] * 2
    again = next_message(decide(asked, *answers[:1], overflow=overflow), overflow=overflow)
    assert again.body.task.origin.answer == secret


def test_a_task_whose_payload_is_gone_is_a_dead_letter_with_its_reference(overflow: Overflow) -> None:
    """It names the blob and the task, and owns no id, so that it may be sent again."""
    lost = BlobReference("sha256-" + "0" * 64, 5)
    decision = decide(message(payload=msgspec.to_builtins(lost), overflow=overflow), overflow=overflow)
    assert (decision.kind, decision.reason, decision.introduces) == (DecisionKind.DEAD, "bad_input", False)
    row = carried_out(decision).rows[0]
    assert isinstance(row, DeadLetterRow)
    assert (row.topic, row.logical_id, row.payload) == ("math", "t", encode(lost).decode())
    assert lost.name in row.detail


def test_a_store_that_is_away_stops_the_cell(tmp_path: Path) -> None:
    """Before anything is decided that nobody could read."""
    (tmp_path / "blobs").write_text("no folder")
    with pytest.raises(TryAgainError, match="cannot be used"):
        decide(message(payload=LARGE), said("a"), overflow=Overflow(BlobStore(str(tmp_path / "blobs")), 1024))


def test_what_cannot_be_carried_out_does_not_win_where_its_payload_is_large(overflow: Overflow) -> None:
    """The decision that says so is a small one."""
    meta = {"notes": "x" * MAX_DECISION_BYTES}
    decision = decide(message(payload=LARGE, overflow=overflow), said("a", meta=meta), said("b"), overflow=overflow)
    assert (decision.kind, decision.reason) == (DecisionKind.DEAD, "too_large")
    all_is_small(decision)


@given(
    st.text(max_size=600)
    | st.text(max_size=200).map(lambda text: REFERENCE_START + text)
    | st.binary(min_size=32, max_size=32).map(lambda d: encode(BlobReference(f"sha256-{d.hex()}", 5)).decode())
)
def test_any_answer_comes_back_as_it_was(text: str) -> None:
    """Whether it is kept by its size, by what it looks like, or not at all."""
    store = BlobStore("memory://answers")
    store.create()
    written = Overflow(store, 1024).text_out(text)
    reference = reference_in(written)
    assert len(written.encode()) <= 1024
    assert (written if reference is None else store.get(reference).decode()) == text


def test_a_text_that_is_not_too_large_stays_where_it_is(overflow: Overflow) -> None:
    """Whether that is plain from its length or not; the limit is one of bytes."""
    for text in ("x" * 200, "x" * 1024):
        assert overflow.text_out(text) is text
    assert reference_in(overflow.text_out("é" * 513)) is not None


def test_where_the_question_is_large_a_decision_of_any_kind_is_looked_at(overflow: Overflow) -> None:
    """Also one from which nothing follows."""
    asked = message(payload=LARGE, overflow=overflow)
    decision = decide(
        asked,
        *(
            said(
                node,
                "same",
            )
            for node in ("a", "b", "c")
        ),
        overflow=overflow,
    )
    assert decision.kind is DecisionKind.CONVERGED
    all_is_small(decision)


def test_what_cannot_be_written_down_is_decided_dead() -> None:
    """With the reason; the message has its decision."""
    decision = decide(message(), said("a", "\ud800"), said("b", "\ud800"))
    assert (decision.kind, decision.reason) == (DecisionKind.DEAD, "too_large")
    assert "the decision cannot be written: " in decision.detail


def test_where_the_budget_is_spent_no_branch_follows() -> None:
    """The record says what was cut off, and why."""
    asked = message(budget={"calls": 2})
    decision = decide(asked, said("a", tries=1, meta={"branches": [branch()]}), said("b", tries=1))
    assert (decision.kind, decision.follow_ups) == (DecisionKind.CONVERGED, ())
    assert [": the budget is spent: " in why for why in decision.cut_off] == [True]
