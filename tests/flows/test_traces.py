"""Traces: what a decision tells, and one task with two rounds and branches as a collector sees it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.otlp import MAX_WAITING, SpanExport
from connectors.topics import TASKS, ensure_topics
from flows.traces import spans_of
from schemas.decision import Decision, DecisionKind, RoundResult
from schemas.ids import home_lane
from schemas.node import Answer
from schemas.span import Span
from schemas.task import Ancestor, Origin
from tests.apache_kafka import free_ports
from tests.aureon_command import until
from tests.brokers import Broker
from tests.chaos.cells import CrashingCell
from tests.flows.refine_parts import BRANCHING
from tests.flows.scraped import Scraped

LANES = 2


class Collector:
    """Takes spans by OTLP over HTTP, on this machine."""

    def __init__(self) -> None:
        self.spans: dict[bytes, Any] = {}
        """By id; the resource is of no interest."""
        self.paths: set[str] = set()
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                mine.paths.add(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for of_scope in of_resource.scope_spans:
                        mine.spans |= {span.span_id: span for span in of_scope.spans}
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def named(self, name: str) -> list[Any]:
        """The spans with a name."""
        return [span for span in tuple(self.spans.values()) if span.name == name]

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """It listens; no proxy is between."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = Collector()
    yield one
    one.close()


def attributes(span: Any) -> dict[str, Any]:
    """By name."""
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


def send(broker: Broker, logical_id: str, prompt: str) -> None:
    """One task."""
    producer = CheckedProducer(client_config(broker.brokers))
    task = {"topic": "math", "logical_id": logical_id, "payload": {"prompt": prompt}}
    producer.send(TASKS, home_lane(logical_id, LANES), [msgspec.json.encode(task)], [logical_id.encode()])
    producer.flush()
    producer.close()


def test_a_task_with_two_rounds_and_branches_is_one_trace(
    own_broker: Broker, tmp_path: Path, collector: Collector
) -> None:
    """Its rounds are below it, their calls below them, and its branches with their rounds below it too."""
    ensure_topics(client_config(own_broker.brokers), LANES)
    nodes = "tests.flows.refine_parts:two_round_nodes"
    cell = CrashingCell(
        tmp_path, {"AUREON_BROKERS": own_broker.brokers, "AUREON_NODES": nodes, "AUREON_TRACES": collector.url}
    )
    cell.start("w1")
    try:
        send(own_broker, "root", f"what is it, {BRANCHING}")
        until(lambda: len(collector.named("task follow-up")) == 2, 90)
    finally:
        cell.end()
    assert collector.paths == {"/v1/traces"}
    assert len({span.trace_id for span in collector.spans.values()}) == 1
    (root,) = collector.named("task math")
    assert not root.parent_span_id
    for task in (root, *collector.named("task follow-up")):
        if task is not root:
            assert task.parent_span_id == root.span_id
        below = [span for span in collector.spans.values() if span.parent_span_id == task.span_id]
        rounds = sorted((span for span in below if span.name.startswith("round")), key=lambda s: s.name)
        assert [span.name for span in rounds] == ["round 0", "round 1"]
        assert task.start_time_unix_nano <= rounds[0].start_time_unix_nano + 1_000_000
        assert rounds[0].end_time_unix_nano <= rounds[1].end_time_unix_nano == task.end_time_unix_nano
        for number, one in enumerate(rounds):
            assert attributes(one)["aureon.task_id"] == f"{attributes(task)['aureon.logical_id']}:r{number}"
            calls = [span for span in collector.spans.values() if span.parent_span_id == one.span_id]
            assert sorted(span.name for span in calls) == ["call one", "call two"]
            assert all(
                one.start_time_unix_nano <= call.start_time_unix_nano <= call.end_time_unix_nano for call in calls
            )
    assert len(collector.spans) == 3 * (1 + 2 + 4)


def test_a_collector_that_is_away_keeps_nothing_from_going_on(own_broker: Broker, tmp_path: Path) -> None:
    """The task converges; that its spans were dropped is counted."""
    ensure_topics(client_config(own_broker.brokers), LANES)
    away, port = free_ports(2)
    settings = {
        "AUREON_BROKERS": own_broker.brokers,
        "AUREON_NODES": "tests.flows.refine_parts:quick_nodes",
        "AUREON_TRACES": f"http://127.0.0.1:{away}",
        "AUREON_LOG_FORMAT": "json",
        "AUREON_METRICS": str(port),
    }
    cell, scraped = CrashingCell(tmp_path, settings), Scraped(port)
    cell.start("w1")
    try:
        send(own_broker, "root", "what is it")
        until(lambda: scraped.value("aureon_decisions_total", topic="math", kind="converged") == 1, 90)
        until(lambda: scraped.value("aureon_traced_decisions_total", outcome="dropped") == 1)
        assert scraped.get("/healthz") == (200, "ok\n")
    finally:
        cell.end()


def test_what_is_too_much_is_dropped_and_counted(collector: Collector) -> None:
    """What waits is sent at the end; an item whose spans cannot be told takes only its own request along."""
    span = Span(trace_id=1, span_id=2, name="x", began=1.0, ended=2.0, attributes={})
    export = SpanExport[int](collector.url, "test", lambda _item: [span])
    export.offer(range(MAX_WAITING - 1))
    export.offer(range(MAX_WAITING))
    assert export.dropped == MAX_WAITING
    export.close()
    assert export.sent == MAX_WAITING - 1
    assert len(collector.spans) == 1


def decision(**more: Any) -> Decision:
    """One of the second round of a task, with two answers."""
    answers = tuple(
        Answer(node=name, model=name, text="42", latency_s=latency) for name, latency in (("a", 1.0), ("b", 9.0))
    )
    given: dict[str, Any] = {
        "kind": DecisionKind.CONVERGED,
        "kafka_topic": TASKS,
        "offset": 7,
        "task_id": "x:r1",
        "topic": "math",
        "logical_id": "x",
        "round_index": 1,
        "decided_at": 100.0,
        "latency_s": 5.0,
        "origin": Origin(started_at=80.0),
        "result": RoundResult(
            answer="42", score=1.0, confidence=1.0, agreement=1.0, evidence="self", candidates=answers, leading=(0, 1)
        ),
    }
    return Decision(**given | more)


def test_spans_are_a_function_of_the_decision() -> None:
    """Their times are its evidence: no call outlasts its round."""
    told = spans_of("cluster", decision())
    assert told == spans_of("cluster", decision())
    assert [(span.name, span.began, span.ended) for span in told] == [
        ("task math", 80.0, 100.0),
        ("round 1", 95.0, 100.0),
        ("call a", 95.0, 96.0),
        ("call b", 95.0, 100.0),
    ]
    task, round_, *calls = told
    assert round_.parent_id == task.span_id
    assert {call.parent_id for call in calls} == {round_.span_id}
    assert len({span.span_id for span in told}) == 4


@pytest.mark.parametrize(
    "other, same_trace",
    [
        ({"generation": 1}, False),
        ({"logical_id": "y"}, False),
        ({"topic": "coding"}, False),
        ({"round_index": 2}, True),
        ({"attempt": 1}, True),
        ({"logical_id": "x:branch-0", "origin": Origin(ancestors=(Ancestor("math", "x"),))}, True),
    ],
)
def test_what_is_one_trace(other: dict[str, Any], *, same_trace: bool) -> None:
    """A root task of one generation, with its rounds and branches."""
    of_this, of_other = spans_of("cluster", decision()), spans_of("cluster", decision(**other))
    assert ({span.trace_id for span in of_this} == {span.trace_id for span in of_other}) is same_trace
    assert not {s.span_id for s in of_this[1:]} & {s.span_id for s in of_other[1:]}
    assert {span.trace_id for span in spans_of("another", decision())} != {of_this[0].trace_id}


@pytest.mark.parametrize(
    "more, names",
    [
        ({"kind": DecisionKind.NEXT_ROUND}, ["round 1", "call a", "call b"]),
        ({"kind": DecisionKind.DEAD, "result": None}, ["task math", "round 1"]),
        ({"kind": DecisionKind.MOVED}, []),
        ({"kind": DecisionKind.DEAD, "reason": "id_conflict"}, []),
        ({"kind": DecisionKind.DEAD, "reason": "bad_input", "topic": ""}, []),
    ],
)
def test_which_spans_a_decision_tells(more: dict[str, Any], names: list[str]) -> None:
    """The task's own where it ends; none of what is no round of it."""
    assert [span.name for span in spans_of("cluster", decision(**more))] == names


def test_no_answer_is_in_a_trace() -> None:
    """Nor anything else that a model said."""
    assert "42" not in str([span.attributes for span in spans_of("cluster", decision())])
