"""An OpenAI-compatible server for the tests: real HTTP on 127.0.0.1, and every fault that real ones have.

    with OpenAIServer(lambda request: "42") as server:
        server.faults.extend([rate_limited("0.2"), half_closed()])      the next two requests
        server.fault_of = lambda request: HANG if request["model"] == "slow" else None
        server.kill(); server.start()                                   dies; comes back on the same port

As a process of its own, for measurements: `python -m tests.openai_server --port 8000 --latency 1.0 --text 42`.
"""

import argparse
import asyncio
import signal
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

T = TypeVar("T")
Question = dict[str, Any]
"""The body of a request."""

BACKLOG = 4096
"""Of connections that are not accepted yet: a benchmark opens hundreds at once."""


class Fault(Struct, frozen=True):
    """What goes wrong with one request; `delay_s` alone is a slow answer."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    """Instead of the answer."""
    delay_s: float = 0.0
    ends: Literal["", "before", "half"] = ""
    """Where the connection is closed: before the answer, or half-way through its body."""


def slow(seconds: float) -> Fault:
    """An answer that takes longer, by so much."""
    return Fault(delay_s=seconds)


def error(status: int, message: str = "something is wrong", headers: Mapping[str, str] | None = None) -> Fault:
    """An error as OpenAI words it."""
    return Fault(status=status, headers=headers or {}, body=msgspec.json.encode({"error": {"message": message}}))


def rate_limited(retry_after: str) -> Fault:
    """HTTP 429, with the text of its Retry-After."""
    return error(429, "slow down", {"Retry-After": retry_after})


def half_closed() -> Fault:
    """Half of the body, and the connection is closed."""
    return Fault(ends="half")


def disconnected() -> Fault:
    """The connection is closed without an answer."""
    return Fault(ends="before")


def garbage(body: bytes = b"<html>It works!</html>") -> Fault:
    """Status 200, and a body that is no answer."""
    return Fault(body=body)


HANG = Fault(delay_s=1e9)
"""No answer, ever."""


class Served(Struct):
    """One request to a model."""

    model: str
    body: Question
    headers: Mapping[str, str]
    started: float
    """By time.monotonic()."""
    ended: float | None = None
    """None while it is under way, and for good if it never got its whole answer."""


class OpenAIServer:
    """Runs in a thread with a loop of its own. All that is public may be changed while it runs.

    Args:
        answer: what the model says to the body of a request; or the whole body of the reply.
        models: what `GET /models` lists; names, or entries as they are.
        latency_s: how long each answer takes.
        port: 0 is one that is free.
        record: keep every request in `served`; a benchmark has too many.
    """

    def __init__(
        self,
        answer: Callable[[Question], str | Question] = lambda _request: "42",
        *,
        models: Sequence[str | Question] = ("m",),
        latency_s: float = 0.0,
        port: int = 0,
        record: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.models = models
        self.latency_s = latency_s
        self.faults: deque[Fault] = deque()
        """For the next requests, one each."""
        self.fault_of: Callable[[Question], Fault | None] | None = None
        """By rule, for all requests."""
        self.models_fault: Fault | None = None
        """For `GET /models`."""
        self.served: list[Served] = []
        self.count = 0
        """Requests to a model so far."""
        self.active = 0
        self.most_active = 0
        self._port = port
        self._record = record
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._listener: asyncio.Server | None = None
        self._http: web.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens; the same for all its lives."""
        return self._port

    @property
    def url(self) -> str:
        """What a client is given as the base URL."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}/v1"

    # -- its lives -------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to listen; also after `kill`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, name="openai-server", daemon=True)
            self._thread.start()
        if self._listener is None:
            self._run(self._listen())
        return self

    def kill(self) -> None:
        """Drop all connections at once, as a process does that is killed, and refuse new ones."""
        self._run(self._die())

    def stop(self) -> None:
        """End for good."""
        if self._thread is None:
            return
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._thread = None
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._http = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._listener = await self._loop.create_server(
            self._http, "127.0.0.1", self._port, backlog=BACKLOG, reuse_address=True, ssl=self._tls
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    async def _die(self) -> None:
        if self._listener is None or self._http is None:
            return
        self._listener.close()
        for connection in self._http.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._http.shutdown(0)
        self._listener = self._http = None

    # -- what it serves --------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/models":
            listed = [m if isinstance(m, dict) else {"id": m, "object": "model"} for m in self.models]
            return await self._reply(request, self.models_fault, {"object": "list", "data": listed})
        if request.path != "/v1/chat/completions" or request.method != "POST":
            return web.Response(status=404, body=b'{"error":{"message":"no such path"}}')
        question = msgspec.json.decode(await request.read())
        served = Served(question["model"], question, request.headers, time.monotonic())
        if self._record:
            self.served.append(served)
        self.count += 1
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            fault = self.fault_of(question) if self.fault_of is not None else None
            if fault is None and self.faults:
                fault = self.faults.popleft()
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            answer = self.answer(question)
            response = await self._reply(request, fault, _completion(question, answer))
            served.ended = time.monotonic()
            return response
        finally:
            self.active -= 1

    async def _reply(self, request: web.BaseRequest, fault: Fault | None, document: Question) -> web.StreamResponse:
        body = msgspec.json.encode(document)
        if fault is None:
            return web.Response(body=body, content_type="application/json")
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.ends:
            if fault.ends == "half":
                response = web.StreamResponse(headers={"Content-Length": str(len(body))})
                await response.prepare(request)
                await response.write(body[: len(body) // 2])
            if request.transport is not None:
                request.transport.close()  # what was written is sent first
            raise asyncio.CancelledError
        return web.Response(
            status=fault.status,
            headers=fault.headers,
            body=body if fault.body is None else fault.body,
            content_type="application/json",
        )


def _completion(question: Question, answer: str | Question) -> Question:
    if isinstance(answer, dict):
        return answer
    asked = sum(len(message["content"]) for message in question["messages"])
    used = {"prompt_tokens": asked // 4 + 1, "completion_tokens": len(answer) // 4 + 1}
    return {
        "object": "chat.completion",
        "model": question["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
        "usage": {**used, "total_tokens": sum(used.values())},
    }


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; say where on stdout."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--text", default="42", help="what every model says")
    parser.add_argument("--models", default="m", help="names, with commas between them")
    options = parser.parse_args()
    server = OpenAIServer(
        lambda _question: str(options.text),
        models=options.models.split(","),
        latency_s=options.latency,
        port=options.port,
        record=False,
    )
    with server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        sys.stdout.write(f"{server.count} requests, {server.most_active} at a time at most\n")


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
