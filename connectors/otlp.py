"""Traces to an OpenTelemetry collector, by OTLP over HTTP."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from schemas.errors import RefusedError
from schemas.span import Span

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
except ImportError as _error:
    raise RefusedError(
        f"traces need the extra `otel` ({_error.name} is missing): pip install 'aureon[otel]', or unset AUREON_TRACES"
    ) from None

log = logging.getLogger(__name__)

X = TypeVar("X")

MAX_WAITING = 5_000
"""So many items wait for the collector, and what comes beyond is dropped: it bounds the memory that they keep, and the
processor that their spans take."""
MAX_SENT = 200
"""Items in one request, so that it stays within what collectors take (4 MiB)."""
SEND_EVERY_S = 1.0
SEND_LIMIT_S = 5.0
"""For one request with its repetitions."""
SAY_SO_EVERY_S = 60.0

# It tells of each request that fails, several times a second.
logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)


class SpanExport(Generic[X]):
    """A thread that sends what it is offered, turned into spans; whoever offers never waits.

    Unit of parallelism: one a process. Guarantee: none; what the collector does not take, or what is too much, is
    dropped and counted. Replay: sends the same spans again, under the same ids.

    Args:
        url: of the collector, without the path.
        service: the name of this process, as traces show it.
        spans: what an item tells.
    """

    def __init__(self, url: str, service: str, spans: Callable[[X], Iterable[Span]]) -> None:
        self._spans = spans
        self._exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=SEND_LIMIT_S)
        self._resource = Resource({"service.name": "aureon", "service.instance.id": service})
        self._waiting: deque[X] = deque()
        self._over = threading.Event()
        self._said_at = -SAY_SO_EVERY_S
        self.sent = self.dropped = 0
        """Items."""
        self._thread = threading.Thread(target=self._run, name="aureon-traces", daemon=True)
        self._thread.start()

    def offer(self, items: Sequence[X]) -> None:
        """Hand items over."""
        if len(self._waiting) + len(items) > MAX_WAITING:
            self.dropped += len(items)
        else:
            self._waiting.extend(items)

    def close(self) -> None:
        """Send what is left, if that takes no longer than one request may."""
        self._over.set()
        self._thread.join(timeout=SEND_LIMIT_S)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._over.wait(SEND_EVERY_S):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while self._waiting:
            items = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_SENT))]
            if self._send(items):
                self.sent += len(items)
            else:
                self.dropped += len(items)

    def _send(self, items: Sequence[X]) -> bool:
        why = "the collector does not take them"
        try:
            spans = [self._readable(span) for item in items for span in self._spans(item)]
            if not spans or self._exporter.export(spans) is SpanExportResult.SUCCESS:
                return True
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
            why = f"{type(error).__name__}: {error}"
        if time.monotonic() - self._said_at >= SAY_SO_EVERY_S:
            self._said_at = time.monotonic()
            log.warning("traces are dropped: %s", why)
        return False

    def _readable(self, span: Span) -> ReadableSpan:
        parent = span.parent_id
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace_id, span.span_id),
            parent=_context(span.trace_id, parent) if parent is not None else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.CLIENT if span.outside else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.failed) if span.failed else Status(StatusCode.OK),
            start_time=int(span.began * 1e9),
            end_time=int(span.ended * 1e9),
        )


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
