"""Spans to a collector that does not take them, or that there is no library for."""

import importlib
import sys

import pytest

from connectors import otlp
from connectors.otlp import SpanExport
from schemas.errors import RefusedError
from schemas.span import Span
from tests.apache_kafka import free_ports
from tests.aureon_command import until
from tests.flows.test_traces import Collector, collector

__all__ = ["collector"]

SPAN = Span(trace_id=1, span_id=2, name="x", began=1.0, ended=2.0, attributes={})


def test_what_a_collector_does_not_take_is_dropped_and_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each request would fill the log."""
    monkeypatch.setattr(otlp, "SEND_LIMIT_S", 0.2)
    monkeypatch.setattr(otlp, "SEND_EVERY_S", 0.1)
    (away,) = free_ports(1)
    export = SpanExport[int](f"http://127.0.0.1:{away}", "test", lambda _item: [SPAN])
    export.offer([1])
    until(lambda: export.dropped == 1)
    export.offer([2])
    until(lambda: export.dropped == 2)
    export.close()
    assert export.sent == 0
    assert caplog.text.count("traces are dropped") == 1


def test_items_whose_spans_cannot_be_told_are_dropped_and_the_next_are_sent(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread goes on."""

    def spans(item: int) -> list[Span]:
        if not item:
            raise ArithmeticError("two and two")
        return [SPAN]

    export = SpanExport[int](collector.url, "test", spans)
    export.offer([0])
    until(lambda: export.dropped == 1)
    export.offer([1])
    export.close()
    assert export.sent == len(collector.spans) == 1
    assert "traces are dropped: ArithmeticError: two and two" in caplog.text


def test_without_the_extra_traces_are_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is missing."""
    monkeypatch.delitem(sys.modules, "connectors.otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(
        RefusedError, match=r"^traces need the extra `otel` \(opentelemetry.* is missing\): pip install"
    ):
        importlib.import_module("connectors.otlp")
