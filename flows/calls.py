"""Calls to models: every round's calls on one asyncio loop, charged, kept in the ledger, replaced where a node is away.

    submit ─► what the ledger knows ─► each call with its tries (`flows/tries.py`) ─► next call, or answered round

A call that fails for good is replaced by the round's next reserve. A round that escalates asks its reserves one by one
while its answers do not suffice.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from msgspec import Struct

from connectors.ledger import CallLedger, round_key
from flows.budget import NOTHING, Budgets, Spent
from flows.charges import Charges
from flows.checks import Checking, Checks
from flows.gate import NodeGate
from flows.items import Answered, Routed, Work
from flows.node_watch import Nodes, NodeWatch
from flows.open_round import OpenRound
from flows.tries import RetryPolicy, Tries
from schemas.node import Answer, Call, NodeState
from schemas.task import FORM_CHECKS, TaskDescriptor

LEFT_S = 600.0
"""How long what was paid for a round is kept that was abandoned with its lane: by then another cell has decided it."""

log = logging.getLogger(__name__)

_NO_STATES: Mapping[str, NodeState] = {}
_NO_GATES: Mapping[str, NodeGate] = {}

Check = Callable[[Routed, Sequence[Answer], Checks | None], Checks]
"""Asks a verifier, which may take its time; given what it said of answers before."""


class RunnerParts(Struct, frozen=True, kw_only=True):
    """What the runner is made of."""

    nodes: Callable[[], Nodes]
    retry: RetryPolicy
    ledger: Callable[[], CallLedger]
    budgets: Callable[[], Budgets]
    enough: Callable[[Routed, Sequence[Answer], Checks | None], bool] = lambda _routed, _answers, _checks: True
    """Whether a round that escalates may stop."""
    check: Check | None = None
    check_s: float = 30.0
    """How long a verifier may take."""
    is_cancelled: Callable[[TaskDescriptor], bool] = lambda _task: False
    may_ask: Callable[[], bool] = lambda: True
    """Whether this process may spend calls now: not while it stops; one that was cut off may have lost its lanes."""
    publish: Callable[[Sequence[NodeState]], None] = lambda _states: None
    """Takes the states of all nodes, every two seconds, in the loop's thread."""
    cell: str = ""
    silence_s: float = 10.0


class _Left(NamedTuple):
    """A round that was abandoned with its lane."""

    position: int
    """Of the ledger, when it was opened."""
    until: float
    """By `time.monotonic`."""


class LaneCalls:
    """The open rounds of a lane, where they go once they are answered, and what it needs of the ledger."""

    __slots__ = ("before", "done", "left", "number", "open", "outbox")

    def __init__(self, number: int) -> None:
        self.number = number
        """Among those that this process has opened."""
        self.outbox: deque[Answered] = deque()
        self.open: dict[OpenRound, int] = {}
        """With the position at which each was opened."""
        self.left: dict[bytes, _Left] = {}
        """By their keys, rounds that were abandoned with the lane, and may come back with it."""
        self.done = self.before = math.inf
        """The lowest position of those that ended in this snapshot interval, and in the one before."""

    def end(self, round_: OpenRound) -> None:
        """A round has ended."""
        self.done = min(self.done, self.open.pop(round_))

    def leave(self, round_: OpenRound) -> None:
        """A round is abandoned with the lane; what was paid for it is kept for a while."""
        self.left[round_.key] = _Left(self.open.pop(round_), time.monotonic() + LEFT_S)

    @property
    def is_idle(self) -> bool:
        """No round is open or left, and none has ended since the snapshot before the last."""
        return not self.open and not self.left and self.done == math.inf and self.before == math.inf

    def needed(self, position: int) -> int:
        """At a snapshot, tell from where on the ledger is needed: what ended two ago is decided on the log."""
        left = [at for at, _ in self.left.values()]
        low = min(*self.open.values(), *left, position, self.done, self.before)
        self.before, self.done = self.done, math.inf
        return int(low)


class CallRunner:
    """Runs calls on one asyncio loop in a thread of its own; the whole process shares it."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._numbered = 0
        self._lanes: dict[int, LaneCalls] = {}
        """Those that have asked anything, by their numbers."""
        self._checking = Checking()
        self._judging: set[asyncio.Task[None]] = set()
        self._failed: Exception | None = None
        """What nobody expected in the loop: some round has ended by it, and would never be answered."""

    # -- from any thread -------------------------------------------------------------------------------------------

    @property
    def states(self) -> Mapping[str, NodeState]:
        """How the nodes are; the same object as long as nothing has changed."""
        return _NO_STATES if self._loop is None else self._watch.states

    @property
    def open_rounds(self) -> int:
        """How many rounds are not answered."""
        return sum(len(lane.open) for lane in tuple(self._lanes.values()))

    @property
    def gates(self) -> Mapping[str, NodeGate]:
        """The gates as they are; to be looked at, since they belong to the loop."""
        return _NO_GATES if self._loop is None else dict(self._watch.gates)

    @property
    def ledger(self) -> CallLedger | None:
        """The ledger, to be looked at; None before the first call."""
        return None if self._loop is None else self._ledger

    def spent_today(self, lanes: Iterable[int]) -> Spent:
        """What some lanes of this cell have spent of the day's budget; nothing where that is not limited."""
        return NOTHING if self._loop is None else self._charges.spent_today(lanes)

    def start(self) -> None:
        """Start the loop, once."""
        with self._lock:
            if self._loop is not None:
                return
            parts = self._parts
            self._watch = NodeWatch(parts.nodes(), parts.cell, parts.silence_s, parts.publish, self._move_calls)
            budgets, self._ledger = parts.budgets(), parts.ledger()
            self._charges = Charges(budgets, self._ledger)
            self._loop = asyncio.new_event_loop()
            self._tries = Tries(
                self._loop, self._watch, self._ledger, self._charges, parts.retry, parts.may_ask, self._take, self._fail
            )
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="calls", daemon=True)
            self._thread.start()

    def new_lane(self) -> LaneCalls:
        """Open a place for the rounds of one lane."""
        with self._lock:
            self._numbered += 1
            return LaneCalls(self._numbered)

    def submit(self, lane: LaneCalls, rounds: Sequence[Routed]) -> None:
        """Ask the calls of some rounds; each round comes into the lane's outbox when it has its answers.

        Raises:
            TryAgainError: the ledger cannot be written, so no answer can be acted on.
        """
        if self._loop is None:
            self.start()
        self.check()
        assert self._loop is not None  # noqa: S101 - start() has set it
        self._loop.call_soon_threadsafe(self._open_all, lane, rounds)

    def stuck(self, lane: int) -> int:
        """Tell how many rounds of a lane wait for calls of which none may begin; 0 while any call is under way."""
        if self._loop is None or self._tries.moving or self._judging:
            return 0
        lanes = tuple(self._lanes.values())
        return sum(round_.routed.message.lane == lane for each in lanes for round_ in list(each.open))

    def told_twice(self) -> tuple[int, int]:
        """Tell how many calls of earlier lives were taken from the ledger, and how many in flight were asked again."""
        return (0, 0) if self._loop is None else (self._ledger.reused, self._ledger.repeated)

    def check(self) -> None:
        """Raise what keeps answers from coming.

        Raises:
            TryAgainError: the ledger cannot be written.
        """
        if self._loop is not None and self._ledger.failed is not None:
            raise self._ledger.failed
        if self._failed is not None:
            raise self._failed

    def snapshot(self, lane: LaneCalls) -> None:
        """An epoch ends: what ended two epochs ago is decided on the log."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._keep_from, lane)

    def know_spent(self, lane: int, day: str, spent: Spent) -> None:
        """Take in what a lane that comes to this cell has spent of a day."""
        self.start()
        assert self._loop is not None  # noqa: S101 - start() has set it
        self._loop.call_soon_threadsafe(self._charges.know, lane, day, spent)

    def cancel(self) -> None:
        """Look at all open rounds: tasks have been cancelled."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel_rounds)

    def drop(self, lane: int) -> None:
        """Abandon the rounds of a lane that is not this cell's any more; each comes into the outbox, as dropped."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drop_rounds, lane)

    def close(self) -> None:
        """Abandon open calls, close the nodes, end the loop."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result(timeout=10)
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout=10)
            loop.close()

    # -- the loop --------------------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(self._watch.begin)
        loop.run_forever()

    def _fail(self, error: Exception) -> None:
        log.error("the calls' loop", exc_info=error)
        self._failed = self._failed or error

    async def _shut_down(self) -> None:
        tasks = [*self._tries.end(), *self._judging]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._watch.close()
        await self._ledger.close()

    def _move_calls(self, gate: NodeGate) -> None:
        """A node has become silent: its calls under way go to others."""
        self._tries.move(gate, f"the node was not heard of for {self._parts.silence_s:g} s")

    # -- rounds ----------------------------------------------------------------------------------------------------

    def _open_all(self, lane: LaneCalls, rounds: Sequence[Routed]) -> None:
        if lane.number not in self._lanes:
            self._lanes[lane.number] = lane
            self._ledger.keep_from(lane.number, self._ledger.position)
        try:
            for routed in rounds:
                self._open(routed, lane)
        except Exception as error:  # noqa: BLE001 - the others would never be opened
            self._fail(error)

    def _open(self, routed: Routed, lane: LaneCalls) -> None:
        round_ = OpenRound(routed, lane.number, round_key(routed.calls[0]))
        left = lane.left.pop(round_.key, None)
        lane.open[round_] = self._ledger.position if left is None else left.position
        past = self._ledger.past(round_.key) if self._ledger.has_past else None
        first: Sequence[Call] = routed.calls if past is None else round_.resume(past)
        round_.purse = self._charges.purse(routed.allowance, past)
        if self._parts.is_cancelled(round_.task):
            round_.cancelled = True
            round_.answers = [answer for call in first if (answer := round_.known(call)) is not None]
            self._end(round_)
            return
        if past is not None:
            self._ledger.repeated += len(past.in_flight)
        round_.missing = 1  # so that it does not end before all are asked
        for call in first:
            self._ask_one(round_, call)
        round_.missing -= 1
        if not round_.missing:
            self._settle(round_)

    def _ask_one(self, round_: OpenRound, call: Call) -> None:
        place = round_.place(call)
        known = round_.known(call)
        if known is not None:
            self._ledger.reused += 1
            self._take(round_, place, known)
        else:
            self._tries.ask(round_, place, call)

    def _take(self, round_: OpenRound, place: int, answer: Answer) -> None:
        """Take one answer, durable by now; with the last one the round is answered."""
        if round_.cancelled:
            lane = self._lanes.get(round_.lane)
            if round_.dropped and lane is not None and round_.key in lane.left:
                round_.answers[place] = answer
                self._ledger.give_back(round_.key, round_.past_now())
            return
        round_.answers[place] = answer
        if answer.status == "failed" and round_.has_reserve_for(place) and not round_.exceeded:
            self._ask_next(round_)
        round_.missing -= 1
        if not round_.missing:
            self._settle(round_)

    def _ask_next(self, round_: OpenRound) -> None:
        call, round_.reserves = round_.reserves[0], round_.reserves[1:]
        self._ask_one(round_, call)

    def _settle(self, round_: OpenRound) -> None:
        """All that were asked have answered: ask more, or be done."""
        work: Work = round_.routed.message.body
        if work.view.verifier is not None and work.view.verifier not in FORM_CHECKS and self._parts.check is not None:
            self._judging.add(task := asyncio.create_task(self._judge(round_, self._parts.check)))
            task.add_done_callback(self._judging.discard)
        else:
            self._go_on(round_)

    async def _judge(self, round_: OpenRound, check: Check) -> None:
        """Have a verifier look at the answers, which may take its time, and go on with the round."""
        try:
            round_.checks = await self._checking.ask(
                partial(check, round_.routed, round_.given(), round_.checks), self._parts.check_s, round_.checks
            )
            if not round_.cancelled:
                self._go_on(round_)
        except Exception as error:  # noqa: BLE001 - the round would never end
            self._fail(error)

    def _go_on(self, round_: OpenRound) -> None:
        """Ask more, or be done."""
        routed = round_.routed
        may_ask_more = routed.escalates and round_.reserves and not round_.exceeded
        if may_ask_more and not self._parts.enough(routed, round_.given(), round_.checks):
            self._ask_next(round_)
        else:
            self._end(round_)

    def _end(self, round_: OpenRound) -> None:
        lane = self._lanes[round_.lane]
        if round_.dropped:
            lane.leave(round_)
            self._ledger.give_back(round_.key, round_.past_now())
        else:
            lane.end(round_)
        answers = tuple(round_.given())
        spent = round_.spent(answers)
        lane.outbox.append(
            Answered(round_.routed, answers, spent, round_.checks, round_.exceeded, round_.cancelled, round_.dropped)
        )

    def _cancel_rounds(self) -> None:
        for lane in self._lanes.values():
            for round_ in list(lane.open):
                round_.cancelled = self._parts.is_cancelled(round_.task)
        self._end_cancelled()

    def _drop_rounds(self, number: int) -> None:
        for lane in self._lanes.values():
            for round_ in lane.open:
                if round_.routed.message.lane == number:
                    round_.cancelled = round_.dropped = True
        self._end_cancelled()

    def _end_cancelled(self) -> None:
        self._tries.cancel()
        for lane in self._lanes.values():
            for round_ in [r for r in lane.open if r.cancelled]:
                self._end(round_)

    def _forget_left(self) -> None:
        """What was abandoned so long ago is decided elsewhere by now."""
        now = time.monotonic()
        for lane in list(self._lanes.values()):
            for key in [key for key, left in lane.left.items() if left.until < now]:
                del lane.left[key]
                self._ledger.past(key)
                self._let_idle_go(lane)

    def _let_idle_go(self, lane: LaneCalls) -> None:
        if lane.is_idle and self._lanes.pop(lane.number, None) is not None:
            self._ledger.keep_none(lane.number)

    def _keep_from(self, lane: LaneCalls) -> None:
        self._forget_left()
        self._let_idle_go(lane)
        if lane.number in self._lanes:
            self._ledger.keep_from(lane.number, lane.needed(self._ledger.position))
