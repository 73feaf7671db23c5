"""infer: ask the models, concurrently, within each node's limit, deadline and retry policy.

Nothing is kept in the snapshot: intake hands undecided messages out again.
"""

import asyncio
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from bytewax.operators import StatefulBatchLogic
from msgspec import Struct

from connectors.nodes import Node, NodeError
from flows.steps.intake import Stopping
from flows.steps.route import Routed
from schemas.errors import tells_errors
from schemas.node import Answer, Call

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.05
"""How often it is looked whether a call has taken too long."""
DRAIN_EVERY = timedelta(milliseconds=2)
"""How often finished rounds are looked for while some are open."""


class Answered(Struct, frozen=True, gc=False):
    """A round with the answers to its calls, in the order of the calls."""

    routed: Routed
    answers: tuple[Answer, ...]


class RetryPolicy(Struct, frozen=True, gc=False):
    """How often a call is tried within its round, and how long before another try: exponential, with full jitter."""

    tries: int
    backoff_s: float

    def pause(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures; `chance` is drawn from [0, 1)."""
        return float(self.backoff_s * 2 ** (failures - 1)) * (0.5 + chance / 2)


class _Open:
    """A round with calls under way."""

    __slots__ = ("answers", "missing", "outbox", "routed")

    def __init__(self, routed: Routed, outbox: deque[Answered]) -> None:
        self.routed = routed
        self.outbox = outbox
        self.answers: list[Answer | None] = [None] * len(routed.calls)
        self.missing = len(routed.calls)

    def take(self, place: int, answer: Answer) -> None:
        """Take one answer; with the last one the round is answered."""
        self.answers[place] = answer
        self.missing -= 1
        if not self.missing:
            self.outbox.append(Answered(self.routed, tuple([a for a in self.answers if a is not None])))


class CallRunner:
    """Runs calls on one asyncio loop in a thread of its own; the whole process shares it."""

    def __init__(self, nodes: Callable[[], Sequence[Node]], retry: RetryPolicy) -> None:
        self._make_nodes = nodes
        self._retry = retry
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._nodes: Mapping[str, Node] = {}
        self._limits: dict[str, asyncio.Semaphore] = {}
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        """Of every call under way: when its present try is over, by the loop's clock. One look at all of them now and
        then; a timer each (`asyncio.timeout`) costs more than all the rest here, 4 of 10 microseconds a call."""
        self._expired: set[asyncio.Task[Any]] = set()
        self._looking = False
        self._ending = False

    def start(self) -> None:
        """Start the loop, once."""
        with self._lock:
            if self._loop is not None:
                return
            nodes = self._make_nodes()
            self._nodes = {n.capabilities.node: n for n in nodes}
            self._limits = {n.capabilities.node: asyncio.Semaphore(n.capabilities.max_concurrency) for n in nodes}
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="calls", daemon=True)
            self._thread.start()

    def submit(self, rounds: Sequence[Routed], outbox: deque[Answered]) -> None:
        """Ask all calls of some rounds; each round comes into the outbox when all its calls have ended."""
        if self._loop is None:
            self.start()
        assert self._loop is not None  # noqa: S101 - start() has set it
        self._loop.call_soon_threadsafe(self._open, rounds, outbox)

    def close(self) -> None:
        """Abandon open calls, close the nodes, end the loop."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result(timeout=10)
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout=10)
            loop.close()

    async def _shut_down(self) -> None:
        self._ending = True
        tasks = list(self._deadlines)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._nodes.values():
            await node.close()

    def _open(self, rounds: Sequence[Routed], outbox: deque[Answered]) -> None:
        loop = asyncio.get_running_loop()
        for routed in rounds:
            opened = _Open(routed, outbox)
            for place, call in enumerate(routed.calls):
                self._deadlines[loop.create_task(self._ask(opened, place, call))] = math.inf
        if not self._looking:
            self._look()

    def _look(self) -> None:
        """End the tries whose time is over."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, deadline in self._deadlines.items():
            # once: a node that tidies up takes its time, and a second time would cut that short
            if deadline < now and task not in self._expired:
                self._expired.add(task)
                task.cancel()
        self._looking = bool(self._deadlines)
        if self._looking:
            loop.call_later(LOOK_EVERY_S, self._look)

    async def _ask(self, opened: _Open, place: int, call: Call) -> None:
        """One call with its retries; a failure in the end is an answer that says so."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs in one
        node, limit = self._nodes[call.node], self._limits[call.node]
        started, text = time.monotonic(), ""
        try:
            async with limit:
                for tries in range(1, self._retry.tries + 1):
                    try:
                        answer = await self._try(node, call, task)
                    except Exception as error:  # noqa: BLE001 - whatever a node raises, the round goes on without it
                        text = f"{type(error).__name__}: {error}"[:500]
                        if tries < self._retry.tries:
                            await asyncio.sleep(self._retry.pause(tries, random.random()))  # noqa: S311
                    else:
                        break
                else:
                    answer = Answer(node=call.node, model=call.model, status="failed", error=text)
        finally:
            del self._deadlines[task]
        latency = round(time.monotonic() - started, 6)
        opened.take(place, msgspec.structs.replace(answer, tries=tries, latency_s=latency, sample=call.sample))

    async def _try(self, node: Node, call: Call, task: asyncio.Task[Any]) -> Answer:
        """One try.

        Raises:
            TimeoutError: it took too long.
            NodeError: the node gave up the call, or what it returned is no answer.
        """
        limit_s = node.capabilities.timeout_s
        self._deadlines[task] = time.monotonic() + limit_s
        try:
            answer: object = await node.ask(call)
        except asyncio.CancelledError:
            if self._ending:
                raise
            if task in self._expired:
                raise TimeoutError(f"no answer within {limit_s:g} s") from None
            raise NodeError("the node cancelled the call") from None
        finally:
            self._deadlines[task] = math.inf
            if task in self._expired:
                self._expired.remove(task)
                task.uncancel()
        if not isinstance(answer, Answer):
            raise NodeError(f"the node returned {type(answer).__name__}, which is no Answer")
        return answer


@tells_errors
class Inference(StatefulBatchLogic[list[Routed], list[Answered], None]):
    """The open rounds of one lane."""

    def __init__(self, runner: CallRunner, stopping: Stopping) -> None:
        self._runner = runner
        self._stopping = stopping
        self._outbox: deque[Answered] = deque()
        self._open = 0

    def on_batch(self, values: list[list[Routed]]) -> tuple[Iterable[list[Answered]], bool]:
        """Submit what came, and pass on what has been answered; a round without calls passes at once."""
        to_ask: list[Routed] = []
        at_once: list[Answered] = []
        for routed in (r for batch in values for r in batch):
            if routed.calls:
                to_ask.append(routed)
            else:
                at_once.append(Answered(routed, ()))
        if to_ask:
            self._open += len(to_ask)
            self._runner.submit(to_ask, self._outbox)
        return self._emit(at_once)

    def on_notify(self) -> tuple[Iterable[list[Answered]], bool]:
        """Pass on what has been answered."""
        return self._emit([])

    def on_eof(self) -> tuple[Iterable[list[Answered]], bool]:
        """Keep nothing: what is still open is handed out again after the next start."""
        return self._emit([])

    def _emit(self, done: list[Answered]) -> tuple[Iterable[list[Answered]], bool]:
        outbox = self._outbox
        finished = len(outbox)
        self._open -= finished
        done.extend([outbox.popleft() for _ in range(finished)])
        if self._stopping.drained:
            done = []  # the lanes are reading their logs to the end; a decision from now on would come too late
        return ([done] if done else ()), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Soon, while rounds are open."""
        return datetime.now(UTC) + DRAIN_EVERY if self._open else None

    def snapshot(self) -> None:
        """Nothing."""
        return
