"""The nodes that every installation has: solvers in processes beside this one.

Unit of parallelism: the worker process; a few of them are shared by all embedded nodes. Guarantee: each call ends, with
an answer, an abstention or an error. A solver that neither finishes nor heeds its alarm is killed with its process,
and the calls that waited behind it go to a new one. Solvers are functions of prompt and round, so a replay gets the
same answers.
"""

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from connectors.nodes import Node, NodeError
from connectors.nodes.solvers.reading import MAX_PROMPT
from connectors.nodes.solvers.wire import Reply, Request, frame
from schemas.node import Answer, Call, NodeCapabilities

TOPICS = ("math", "coding", "logic", "probability")
METHODS = ("symbolic", "numeric", "search")

WORKERS = 2
LIMIT_S = 5.0
"""For one call, some fifty times what the longest known takes."""
GRACE_S = 2.0
"""What a worker has, beyond the limit, to report that its alarm rang; then it is killed."""
START_S = 60.0
"""For a worker to load its libraries; half a second unless the machine is very busy."""
PIPELINE = 8
"""Calls handed to a worker ahead of its replies: it never waits for the event loop between two short ones."""

NOT_STARTED = "the solver process does not start"

_ROOT = str(Path(__file__).resolve().parents[2])


class _Pending:
    """A call that was handed in and has no reply yet."""

    __slots__ = ("frame", "future")

    def __init__(self, document: bytes, future: asyncio.Future[Reply]) -> None:
        self.frame = frame(document)
        self.future = future


class _Worker(asyncio.SubprocessProtocol):
    """One process, and the calls it has been handed, oldest first."""

    def __init__(self, pool: "SolverPool") -> None:
        self.pool = pool
        self.calls: deque[_Pending] = deque()
        self.ready = False
        self.alive = True
        self.buffer = bytearray()
        self.timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.SubprocessTransport | None = None
        self.exited = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # asyncio declares the base class for all protocols
        self.timer = asyncio.get_running_loop().call_later(START_S, self.end, NOT_STARTED)

    def send(self, call: _Pending) -> None:
        self.calls.append(call)
        if self.ready:
            self._write(call.frame)
            if len(self.calls) == 1:
                self._watch()

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        if fd != 1 or isinstance(data, str):
            return
        self.buffer += data
        while len(self.buffer) >= 4:
            end = 4 + int.from_bytes(self.buffer[:4], "big")
            if len(self.buffer) < end:
                break
            document = bytes(self.buffer[4:end])
            del self.buffer[:end]
            self._received(document)

    def _received(self, document: bytes) -> None:
        if not self.ready:
            self.ready = True
            for call in self.calls:
                self._write(call.frame)
        else:
            future = self.calls.popleft().future
            if not future.done():
                future.set_result(self.pool.decode(document))
        self._watch()
        self.pool.fill(self)

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            stdin = self.transport.get_pipe_transport(0)
            if isinstance(stdin, asyncio.WriteTransport):
                stdin.write(data)

    def _watch(self) -> None:
        """Time the oldest call, which is the one that runs."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.calls:
            self.timer = asyncio.get_running_loop().call_later(self.pool.limit_s + GRACE_S, self._stuck)

    def _stuck(self) -> None:
        self.end(f"took longer than {self.pool.limit_s:g} s; its process was killed")

    def process_exited(self) -> None:
        self.exited.set_result(None)
        code = self.transport.get_returncode() if self.transport is not None else None
        self.end(f"the solver process ended with code {code}" if self.ready else NOT_STARTED)

    def end(self, why: str) -> None:
        """Fail the call that runs, or all if none ever ran, and give the rest back."""
        if not self.alive:
            return
        self.alive = False
        if self.timer is not None:
            self.timer.cancel()
        if self.transport is not None:
            if self.transport.get_returncode() is None:
                self.transport.kill()
            self.transport.close()
        failed = 1 if self.ready else len(self.calls)
        for _ in range(min(failed, len(self.calls))):
            future = self.calls.popleft().future
            if not future.done():
                future.set_exception(NodeError(why))
        self.pool.lost(self)


class SolverPool:
    """A few worker processes. They start with the first call, and belong to the event loop that made it."""

    def __init__(self, workers: int = WORKERS, limit_s: float = LIMIT_S, command: Sequence[str] = ()) -> None:
        """Start nothing yet; `command` replaces the worker's own."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.limit_s = limit_s
        self._size = workers
        self._command = tuple(command) or (sys.executable, "-P", "-m", "connectors.nodes.solvers.worker")
        self._workers: list[_Worker] = []
        self._waiting: deque[_Pending] = deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._encode = msgspec.msgpack.Encoder().encode
        self.decode = msgspec.msgpack.Decoder(Reply).decode

    async def solve(self, solver: str, prompt: str, round_index: int) -> Reply:
        """Run a solver on a prompt.

        Raises:
            NodeError: it took too long, or its process ended.
        """
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError("a pool of solvers belongs to the event loop that made its first call")
        self._loop = loop
        document = self._encode(Request(solver, prompt, round_index, self.limit_s))
        call = _Pending(document, loop.create_future())
        self._waiting.append(call)
        self._dispatch()
        return await call.future

    def _dispatch(self) -> None:
        while self._waiting:
            worker = min(self._workers, key=lambda w: len(w.calls), default=None)
            if (worker is None or worker.calls) and len(self._workers) < self._size:
                worker = _Worker(self)
                self._workers.append(worker)
                task = asyncio.get_running_loop().create_task(self._start(worker))
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)
            if worker is None or len(worker.calls) >= PIPELINE:
                return
            call = self._waiting.popleft()
            if not call.future.done():
                worker.send(call)

    async def _start(self, worker: _Worker) -> None:
        path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: worker, *self._command, stderr=None, env={**os.environ, "PYTHONPATH": path}
            )
        except OSError as error:
            worker.end(f"{NOT_STARTED}: {error}")

    def fill(self, worker: _Worker) -> None:
        """Hand waiting calls to a worker that has replied."""
        while self._waiting and worker.alive and len(worker.calls) < PIPELINE:
            call = self._waiting.popleft()
            if not call.future.done():
                worker.send(call)

    def lost(self, worker: _Worker) -> None:
        """Take the calls of a worker that is no more, ahead of all others."""
        self._workers.remove(worker)
        self._waiting.extendleft(reversed(worker.calls))
        worker.calls.clear()
        self._dispatch()

    async def close(self) -> None:
        """End all workers; calls under way fail."""
        calls = [*self._waiting, *(call for worker in self._workers for call in worker.calls)]
        self._waiting.clear()
        for call in calls:
            if not call.future.done():
                call.future.set_exception(NodeError("the solvers were closed"))
        for task in tuple(self._starting):
            await task
        workers = tuple(self._workers)
        for worker in workers:
            worker.calls.clear()
            worker.end("the solvers were closed")
        if workers:
            await asyncio.wait([worker.exited for worker in workers], timeout=GRACE_S)


class SolverNode:
    """One method as a node with one model."""

    def __init__(self, method: str, pool: SolverPool) -> None:
        """Serve one method from a pool that other nodes share."""
        self.capabilities = NodeCapabilities(
            node=f"embedded-{method}", models=(method,), topics=TOPICS, max_concurrency=32, timeout_s=30.0
        )
        self._method = method
        self._pool = pool

    async def ask(self, call: Call) -> Answer:
        """Answer a call, or abstain.

        Raises:
            NodeError: the solver failed, took too long, or its process ended.
        """
        started = time.perf_counter()
        reply = Reply()
        if len(call.prompt) <= MAX_PROMPT and _is_unicode(call.prompt):
            reply = await self._pool.solve(self._method, call.prompt, call.round_index)
        if reply.error:
            raise NodeError(f"{self.capabilities.node}: {reply.error}")
        latency_s = time.perf_counter() - started
        found = reply.solution
        if found is None:
            return Answer(node=call.node, model=call.model, sample=call.sample, status="abstained", latency_s=latency_s)
        return Answer(
            node=call.node,
            model=call.model,
            sample=call.sample,
            text=found.text,
            score=found.score,
            meta=found.meta,
            latency_s=latency_s,
        )

    async def close(self) -> None:
        """End the workers, for all nodes of the pool."""
        await self._pool.close()


def _is_unicode(text: str) -> bool:
    """Tell a text from one with half a surrogate pair in it, which cannot be sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def embedded_nodes(workers: int = WORKERS) -> list[Node]:
    """Give the default nodes: three methods, one pool of processes."""
    pool = SolverPool(workers)
    return [SolverNode(method, pool) for method in METHODS]
