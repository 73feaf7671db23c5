"""What is made of its values in the order of its fields: each field has what its name says."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from flows.items import Answered, Decided, Supervised
from flows.policies import SimpleThresholdPolicy
from flows.settings import Settings
from flows.steps.derive import derive
from flows.steps.plan import Limits, Planner
from flows.steps.route import Router
from flows.steps.supervise import Supervision
from flows.steps.validate import built_in_verifiers, validate
from flows.supervision import Case, Supervisor
from schemas.decision import Decision, DecisionKind, Dissent, Finding, RoundResult, Seen, read_decision
from schemas.node import Answer, NodeCapabilities
from schemas.one import Record, RoundRow, micros
from schemas.task import Allowance, Ancestor, Cause, Origin, encode, read_head
from tests.flows.logged import CLUSTER
from tests.flows.steps.test_plan import SEALER, message, said

ORIGIN = Origin(
    introduces=True,
    ancestors=(Ancestor("root", "r"), Ancestor("parent", "p")),
    branches_left=3,
    answer="before",
    score=0.11,
    confidence=0.12,
    calls=100,
    tokens=200,
    cost=0.5,
    started_at=50.0,
)
RESULT = RoundResult(
    answer="42",
    score=0.91,
    confidence=0.92,
    agreement=0.93,
    evidence="verifier",
    verifier="tests",
    verified=True,
    candidates=(Answer(node="n2", model="m2", text="42", version="v2"), Answer(node="n1", model="m1", text="7")),
    leading=(0,),
    groups=(0, 1),
    checks=(True, None),
    abstained=4,
    effective_votes=1.5,
    dissent=(Dissent(answer="7", confidence=0.05, votes=1),),
    z_score=0.25,
    parameters="parameters",
    flags=("flag",),
    findings=(Finding(policy="p", action="flag", reason="flag"),),
    warnings=("warning",),
)
DECISION = Decision(
    kind=DecisionKind.CONVERGED,
    kafka_topic="tasks.global.next",
    offset=7,
    task_id="t:r2",
    introduces=True,
    topic="math",
    logical_id="t",
    generation=1,
    round_index=2,
    attempt=3,
    priority=4,
    payload=Raw(b'{"prompt":"6*7"}'),
    payload_digest="digest",
    metadata={"labels": "one, two"},
    budget=Allowance(calls=9),
    sources=(Ancestor("source", "s"),),
    origin=ORIGIN,
    cause=Cause(5, 6, 0, "seal", "c" * 64),
    reason="reason",
    detail="detail",
    forced=True,
    policy="policy",
    result=RESULT,
    content_hash="a" * 64,
    routing="routing",
    prompt_hash="prompt",
    supervision="supervision",
    software="software",
    seen=Seen(spent="spent"),
    calls=11,
    tokens=12,
    cost=0.25,
    decided_at=101.5,
    latency_s=1.25,
    cut_off=("cut",),
)
TOLD_OTHERWISE = {
    Record: {
        "lane": 0,
        "decision_offset": 40,
        "payload": '{"prompt":"6*7"}',
        "models": ["m2"],
        "nodes": ["n2"],
        "calls": 111,
        "tokens": 212,
        "cost": 0.75,
        "metadata": '{"labels":"one, two"}',
        "started_at": micros(50.0),
        "converged_at": micros(101.5),
        "parent_topic": "parent",
        "parent_id": "p",
        "root_topic": "root",
        "root_id": "r",
        "depth": 2,
        "previous_lane": 5,
        "previous_offset": 6,
        "cluster": CLUSTER,
        "labels": ["math", "root", "parent", "one", "two"],
        "sources": '[["source","s"]]',
        "provenance": '{"software":"software","policy":"policy","supervision":"supervision","verifier":"tests",'
        '"parameters":"parameters","prompt":"prompt","models":[{"node":"n2","model":"m2","version":"v2",'
        '"gave_it":true},{"node":"n1","model":"m1","gave_it":false}]}',
        "decision_hash": "d" * 64,
        "row_hash": None,
    },
    RoundRow: {
        "lane": 0,
        "decision_offset": 40,
        "message_offset": 7,
        "candidates": encode(RESULT.candidates).decode(),
        "flags": ["flag"],
        "warnings": ["warning"],
        "cut_off": ["cut"],
        "decided_at": micros(101.5),
        "previous_lane": 5,
        "previous_offset": 6,
        "cause_lane": 5,
        "cause_offset": 6,
        "dissent": encode(RESULT.dissent).decode(),
        "findings": encode(RESULT.findings).decode(),
        "cluster": CLUSTER,
        "decision_hash": "d" * 64,
        "cause_hash": "c" * 64,
        "row_hash": None,
        "inputs": '{"seen":{"spent":"spent"},"before":{"answer":"before","score":0.11,"confidence":0.12,"calls":100,'
        '"tokens":200,"cost":0.5},"checks":[true,null],"groups":[0,1]}',
    },
}


def values(struct: Any) -> dict[str, Any]:
    """The fields by name."""
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


@pytest.mark.parametrize("kind", [Record, RoundRow])
def test_each_column_has_what_its_name_says(kind: type[Record | RoundRow]) -> None:
    """A column of a decision's or a result's name has theirs; the others are spelled out here."""
    rows = derive(Decided(0, [(40, DECISION)], ["d" * 64]), SEALER, CLUSTER).rows
    (row,) = [values(r) for r in rows if isinstance(r, kind)]
    expected = {n: v for n, v in {**values(DECISION), **values(RESULT)}.items() if n in row}
    # a decision has an answer only in its result, and a reason only of its own
    assert row == {**expected, **TOLD_OTHERWISE[kind]}


def test_a_root_task_without_a_label_has_its_own_topic_and_no_parent() -> None:
    """And what there was not, is null."""
    decision = msgspec.structs.replace(DECISION, origin=None, metadata={}, sources=(), cause=None, seen=None)
    (record, round_) = derive(Decided(0, [(40, decision)], ["d" * 64]), SEALER, CLUSTER).rows
    assert isinstance(record, Record)
    assert isinstance(round_, RoundRow)
    assert (record.labels, record.depth, record.sources) == (["math"], 0, None)
    assert (record.parent_topic, record.parent_id, record.root_topic, record.root_id) == (None, None, "math", "t")
    assert record.started_at == micros(101.5 - 1.25)
    assert (round_.cause_lane, round_.cause_hash, round_.previous_lane) == (None, None, None)
    assert round_.inputs == '{"checks":[true,null],"groups":[0,1]}'


def decided(policy_score: float = 0.5) -> tuple[Answered, Supervised, Decision]:
    """A round as a task with every field comes to it."""
    asked = message(metadata={"a": "b"}, priority=4, budget={"calls": 9}, sources=[["math", "s"]])
    router = Router(lambda: (1, [NodeCapabilities(node=n, models=("m",)) for n in "ab"]), built_in_verifiers())
    routed = router.route(asked, 100.0)
    answered = Answered(routed, (said("a"), said("b")))
    result = validate(asked.body.view, answered.answers, built_in_verifiers())
    supervised = Supervised(answered, result)
    planner = Planner(SimpleThresholdPolicy(Settings(score_threshold=policy_score)), Limits(1, 3, 3, 16))
    return answered, supervised, read_decision(planner.plan(0, supervised, 103.0))


def test_a_decision_takes_over_what_its_task_says() -> None:
    """By name."""
    answered, supervised, decision = decided()
    task = answered.routed.message.body.task
    same = ["task_id", "topic", "logical_id", "generation", "round_index", "attempt", "priority", "payload", "metadata"]
    for name in [*same, "budget", "sources", "origin", "cause"]:
        assert getattr(decision, name) == getattr(task, name), name
    assert (decision.kafka_topic, decision.offset) == (answered.routed.message.kafka_topic, 3)
    assert decision.payload_digest == answered.routed.message.digest != ""
    assert decision.introduces
    assert decision.result == supervised.result
    assert (decision.reason, decision.detail, decision.forced) == ("score >= 0.5", "", False)
    assert decision.routing == answered.routed.routing != ""
    assert (decision.decided_at, decision.latency_s) == (103.0, 3.0)


def test_the_next_round_takes_over_what_its_task_says() -> None:
    """By name, with the answer of this round."""
    answered, supervised, decision = decided(policy_score=1.0)
    assert supervised.result is not None
    task, head = answered.routed.message.body.task, read_head(decision.follow_ups[0].task)
    for name in ["topic", "logical_id", "generation", "attempt", "priority", "metadata", "budget", "sources"]:
        assert getattr(head, name) == getattr(task, name), name
    assert (head.task_id, head.round_index) == ("t:r1", 1)
    assert head.origin == Origin(
        branches_left=16,
        allowance=Allowance(calls=9),
        answer="42",
        score=supervised.result.score,
        confidence=supervised.result.confidence,
        critique=head.origin.critique if head.origin is not None else "",
        started_at=100.0,
    )


def test_each_call_asks_what_its_task_says() -> None:
    """By name."""
    answered, _, _ = decided()
    task = answered.routed.message.body.task
    for call, node in zip(answered.routed.calls, "ab", strict=True):
        for name in ["topic", "logical_id", "generation", "round_index", "attempt"]:
            assert getattr(call, name) == getattr(task, name), name
        assert (call.node, call.model, call.sample, call.prompt) == (node, "m", 0, "6*7")
        assert (call.answer_kind, call.messages, call.previous_answer) == ("number", (), None)


def test_a_policy_sees_what_the_task_says() -> None:
    """By name."""
    seen: list[Case] = []

    class Looks(Supervisor):
        def examine(self, case: Case) -> RoundResult:
            seen.append(case)
            return case.result

    answered, supervised, _ = decided()
    assert supervised.result is not None
    Supervision(Looks([]), 7).supervise(answered, supervised.result)
    (case,) = seen
    task = answered.routed.message.body.task
    for name in ["topic", "logical_id", "generation", "round_index", "attempt"]:
        assert getattr(case, name) == getattr(task, name), name
    assert (case.result, case.answers, case.spent) == (supervised.result, answered.answers, answered.spent)
    assert (case.max_rounds, case.view) == (7, answered.routed.message.body.view)
