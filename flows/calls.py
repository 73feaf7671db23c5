"""Calls to models: every round's calls on one asyncio loop, charged, kept in the ledger, replaced where a node is away.

    submit ─► what the ledger knows ─► seat at the node's gate ─► charge ─► ask ─► ledger ─► next call or answered round

A call that fails for good is replaced by the round's next reserve. A round that escalates asks its reserves one by one
while its answers do not suffice.
"""

import asyncio
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import msgspec
from msgspec import Struct

from connectors.ledger import Begun, CallLedger, CallName, Charge, Ended, Past, round_key
from connectors.nodes import NodeError
from flows.budget import NOTHING, UNLIMITED, Budgets, Purse, Spent, expected, is_unlimited
from flows.checks import Checking, Checks
from flows.fair import FairQueue
from flows.gate import SLOWER_BY_S, NodeGate, RetiredError
from flows.node_watch import Nodes, NodeWatch
from flows.steps.intake import Work
from flows.steps.route import Routed
from schemas.ids import home_lane
from schemas.node import Answer, Call, NodeState
from schemas.task import FORM_CHECKS, TaskDescriptor

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.05
"""How often it is looked whether a call has taken too long."""
MAX_COUNT = 1 << 53
"""Tokens beyond are no count."""

_NO_STATES: Mapping[str, NodeState] = {}
_NO_GATES: Mapping[str, NodeGate] = {}
_write_answer = msgspec.json.Encoder().encode
_read_answer = msgspec.json.Decoder(Answer).decode


class Answered(Struct, frozen=True, gc=False):
    """A round with the answers to its calls, in the order in which they were asked."""

    routed: Routed
    answers: tuple[Answer, ...]
    spent: Spent = NOTHING
    checks: Checks | None = None
    """What the verifier said, where it takes its time and was asked ahead."""
    exceeded: str = ""
    """Which budget kept a call from being asked."""
    cancelled: bool = False
    """The task was cancelled while its calls were under way."""
    dropped: bool = False
    """Its lane is another cell's by now: nothing is to be decided of it here."""


class RetryPolicy(Struct, frozen=True, gc=False):
    """How often a call is tried within its round, and how long before another try: exponential, with equal jitter."""

    tries: int
    backoff_s: float

    def pause(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures; `chance` is drawn from [0, 1)."""
        return float(self.backoff_s * 2 ** (failures - 1)) * (0.5 + chance / 2)


class RunnerParts(Struct, frozen=True, kw_only=True):
    """What the runner is made of."""

    nodes: Callable[[], Nodes]
    retry: RetryPolicy
    ledger: Callable[[], CallLedger]
    budgets: Callable[[], Budgets]
    enough: Callable[[Routed, Sequence[Answer], Checks | None], bool] = lambda _routed, _answers, _checks: True
    """Whether a round that escalates may stop."""
    check: Callable[[Routed, Sequence[Answer], Checks | None], Checks] | None = None
    """Asks a verifier, which may take its time; given what it said of answers before."""
    check_s: float = 30.0
    """How long a verifier may take."""
    is_cancelled: Callable[[TaskDescriptor], bool] = lambda _task: False
    may_ask: Callable[[], bool] = lambda: True
    """Whether this process may spend calls now: one that was stopped, or cut off, may have lost its lanes."""
    publish: Callable[[Sequence[NodeState]], None] = lambda _states: None
    """Takes the states of all nodes, every two seconds, in the loop's thread."""
    cell: str = ""
    silence_s: float = 10.0


class LaneCalls:
    """The open rounds of a lane, where they go once they are answered, and what it needs of the ledger."""

    __slots__ = ("before", "done", "number", "open", "outbox")

    def __init__(self, number: int) -> None:
        self.number = number
        """Among those that this process has opened."""
        self.outbox: deque[Answered] = deque()
        self.open: dict[_Round, int] = {}
        """With the position at which each was opened, rising."""
        self.done = self.before = math.inf
        """The lowest position of those that ended in this snapshot interval, and in the one before."""

    def end(self, round_: "_Round") -> None:
        """A round has ended."""
        self.done = min(self.done, self.open.pop(round_))

    @property
    def is_idle(self) -> bool:
        """No round is open, and none has ended since the snapshot before the last."""
        return not self.open and self.done == math.inf and self.before == math.inf

    def needed(self, position: int) -> int:
        """At a snapshot, tell from where on the ledger is needed: what ended two ago is decided on the log."""
        low = min(next(iter(self.open.values()), position), self.done, self.before)
        self.before, self.done = self.done, math.inf
        return int(low)


class _Asked:
    """One call under way."""

    __slots__ = ("call", "corrected", "cut", "deadline", "gate", "limit_s", "place", "round", "task")

    task: asyncio.Task[None]
    """That of the worker which asks it."""

    def __init__(self, round_: "_Round", place: int, call: Call) -> None:
        self.round = round_
        self.place = place
        self.call = call
        self.gate: NodeGate | None = None
        self.limit_s = self.deadline = math.inf
        """Of the present try, by `time.monotonic`."""
        self.cut: NodeError | TimeoutError | None = None
        """Why the present try was ended."""
        self.corrected = (0, 0.0)
        """What its tries took beyond what they were charged: tokens, money."""

    def cut_short(self, why: NodeError | TimeoutError) -> None:
        """End the present try; once: a node that tidies up takes its time, and a second time would cut that short."""
        if self.cut is None:
            self.cut = why
            self.task.cancel()

    def over(self) -> None:
        """The present try is over."""
        self.deadline = math.inf
        if self.cut is not None:
            self.cut = None
            self.task.uncancel()


class _Round:
    """A round with calls under way."""

    __slots__ = (
        "answers",
        "calls",
        "cancelled",
        "checks",
        "dropped",
        "exceeded",
        "in_flight_before",
        "key",
        "lane",
        "missing",
        "past",
        "purse",
        "reserves",
        "routed",
    )

    def __init__(self, routed: Routed, lane: LaneCalls, key: bytes) -> None:
        self.routed = routed
        self.lane = lane
        self.key = key
        self.calls: list[Call] = []
        self.answers: list[Answer | None] = []
        self.reserves: Sequence[Call] = routed.reserves
        self.missing = 0
        self.past: Past | None = None
        self.purse: Purse | None = None
        """Where something is limited."""
        self.in_flight_before = 0
        self.checks: Checks | None = None
        self.exceeded = ""
        self.cancelled = self.dropped = False

    @property
    def task(self) -> TaskDescriptor:
        work: Work = self.routed.message.body
        return work.task

    def spent(self, answers: Iterable[Answer]) -> Spent:
        """All that the round has taken, earlier lives included."""
        if self.purse is not None:
            return self.purse.spent
        calls, tokens, cost = self.in_flight_before, 0, 0.0
        for answer in answers:
            calls += answer.tries
            tokens += answer.tokens_in + answer.tokens_out
            cost += answer.cost
        return Spent(calls, tokens, cost)


class CallRunner:
    """Runs calls on one asyncio loop in a thread of its own; the whole process shares it."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._retry = parts.retry
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._numbered = 0
        self._lanes: set[LaneCalls] = set()
        """Those that have asked anything."""
        self._days: dict[int, _Day] = {}
        """By lane."""
        self._to_ask: FairQueue[_Asked] = FairQueue()
        """Those that no worker has taken yet; some thousands come at once, which takes a while."""
        self._worker_comes = False
        """One is about to look what there is to ask."""
        self._under_way: set[_Asked] = set()
        """One look at the deadlines of all of them now and then; a timer each (`asyncio.timeout`) costs more than all
        the rest here, 4 of 10 microseconds a call."""
        self._looking = False
        self._ending = False
        self._checking = Checking()
        self._judging: set[asyncio.Task[None]] = set()

    # -- from any thread -------------------------------------------------------------------------------------------

    @property
    def states(self) -> Mapping[str, NodeState]:
        """How the nodes are; the same object as long as nothing has changed."""
        return _NO_STATES if self._loop is None else self._watch.states

    @property
    def open_rounds(self) -> int:
        """How many rounds are not answered."""
        return sum(len(lane.open) for lane in tuple(self._lanes))

    @property
    def gates(self) -> Mapping[str, NodeGate]:
        """The gates as they are; to be looked at, since they belong to the loop."""
        return _NO_GATES if self._loop is None else dict(self._watch.gates)

    @property
    def ledger(self) -> CallLedger | None:
        """The ledger, to be looked at; None before the first call."""
        return None if self._loop is None else self._ledger

    def spent_today(self) -> Spent:
        """What the lanes of this cell have spent of the day's budget; nothing where that is not limited."""
        if self._loop is None or not self._has_day:
            return NOTHING
        today = _today()
        of_lane = {lane: Spent(*before) for lane, before in self._spent_before.items() if today == self._started_on}
        of_lane |= {lane: day.purse.spent for lane, day in dict(self._days).items() if day.name == today}
        parts = of_lane.values()
        return Spent(sum(p.calls for p in parts), sum(p.tokens for p in parts), sum(p.cost for p in parts))

    def start(self) -> None:
        """Start the loop, once."""
        with self._lock:
            if self._loop is not None:
                return
            parts = self._parts
            self._watch = NodeWatch(parts.nodes(), parts.cell, parts.silence_s, parts.publish, self._move_calls)
            self._budgets = self._parts.budgets()
            self._ledger = self._parts.ledger()
            self._has_day = not is_unlimited(self._budgets.day)
            self._started_on = _today()
            self._spent_before = self._ledger.spent_on(self._started_on) if self._has_day else {}
            self._loop = asyncio.new_event_loop()
            self._create_task, self._call_later = self._loop.create_task, self._loop.call_later
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

    def snapshot(self, lane: LaneCalls) -> None:
        """An epoch ends: what ended two epochs ago is decided on the log."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._keep_from, lane)

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

    async def _shut_down(self) -> None:
        self._ending = True
        tasks = [*(asked.task for asked in self._under_way), *self._judging]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._watch.close()
        await self._ledger.close()

    def _move_calls(self, gate: NodeGate) -> None:
        """A node has become silent: its calls under way go to others."""
        for asked in self._under_way:
            if asked.gate is gate and asked.deadline < math.inf:
                why = f"the node was not heard of for {self._parts.silence_s:g} s"
                asked.cut_short(NodeError(why, "timeout"))

    def _look(self) -> None:
        """End the tries whose time is over, and let probes go."""
        now = time.monotonic()
        for asked in self._under_way:
            if asked.deadline < now:
                asked.cut_short(TimeoutError(f"no answer within {asked.limit_s:g} s"))
        for gate in self._watch.gates.values():
            gate.look(now)
        self._looking = bool(self._under_way or self._to_ask)
        if self._looking:
            self._call_later(LOOK_EVERY_S, self._look)

    # -- rounds ----------------------------------------------------------------------------------------------------

    def _open_all(self, lane: LaneCalls, rounds: Sequence[Routed]) -> None:
        if lane not in self._lanes:
            self._lanes.add(lane)
            self._ledger.keep_from(lane.number, self._ledger.position)
        for routed in rounds:
            self._open(routed, lane)

    def _open(self, routed: Routed, lane: LaneCalls) -> None:
        round_ = _Round(routed, lane, round_key(routed.calls[0]))
        lane.open[round_] = self._ledger.position
        if self._parts.is_cancelled(round_.task):
            round_.cancelled = True
            self._end(round_)
            return
        past = self._ledger.past(round_.key) if self._ledger.has_past else None
        if past is not None:
            self._resume(round_, past)
        if routed.allowance is not None or self._has_day:
            before = Spent(past.calls, past.tokens, past.cost) if past is not None else NOTHING
            round_.purse = Purse(routed.allowance or UNLIMITED, before)
        first = routed.calls if past is None else self._known_first(round_, past)
        round_.missing = 1  # so that it does not end before all are asked
        for call in first:
            self._ask_one(round_, call)
        round_.missing -= 1
        if not round_.missing:
            self._settle(round_)

    def _resume(self, round_: _Round, past: Past) -> None:
        """Take over what an earlier life knew of a round."""
        round_.past = past
        round_.in_flight_before = sum(past.in_flight.values())
        self._ledger.repeated += len(past.in_flight)

    @staticmethod
    def _known_first(round_: _Round, past: Past) -> Sequence[Call]:
        """Those calls that were begun before, as many as are asked at first, and more where more are answered.

        The router may have learned something else since; what was paid for goes before what it would choose now.
        """
        routed = round_.routed
        every = (*routed.calls, *routed.reserves)
        known = [c for c in every if _name_of(c) in past.answers]
        begun = [c for c in every if _name_of(c) in past.in_flight]
        first = [*known, *begun, *(c for c in routed.calls if c not in known and c not in begun)]
        first = first[: max(len(routed.calls), len(known))]
        chosen = {_name_of(c) for c in first}
        round_.reserves = tuple([c for c in every if _name_of(c) not in chosen])
        return first

    def _ask_one(self, round_: _Round, call: Call) -> None:
        place = len(round_.calls)
        round_.calls.append(call)
        round_.answers.append(None)
        round_.missing += 1
        known = round_.past.answers.get(_name_of(call)) if round_.past is not None else None
        if known is not None:
            self._ledger.reused += 1
            self._take(round_, place, known)
            return
        self._to_ask.put(call.topic, _Asked(round_, place, call))
        self._call_worker()
        if not self._looking:
            self._looking = True
            self._call_later(LOOK_EVERY_S, self._look)

    def _call_worker(self) -> None:
        if not self._worker_comes:
            self._worker_comes = True
            self._create_task(self._work())

    async def _work(self) -> None:
        """Ask what there is to ask, one call after the other; where one has to wait, another worker goes on.

        So calls that are answered at once share a task, and any other has one to itself: one each costs as much as all
        the rest of a call here.
        """
        self._worker_comes = False
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - it runs in one
        while not self._ending and (asked := self._to_ask.take()) is not None:
            if asked.round.cancelled:
                continue
            if self._to_ask:
                self._call_worker()
            asked.task = me
            self._under_way.add(asked)
            await self._ask(asked)
            if me.cancelling():
                return

    def _take(self, round_: _Round, place: int, answer: Answer) -> None:
        """Take one answer, durable by now; with the last one the round is answered."""
        if round_.cancelled:
            return
        round_.answers[place] = answer
        if answer.status == "failed" and round_.reserves and not round_.exceeded:
            self._ask_next(round_)
        round_.missing -= 1
        if not round_.missing:
            self._settle(round_)

    def _ask_next(self, round_: _Round) -> None:
        call, round_.reserves = round_.reserves[0], round_.reserves[1:]
        self._ask_one(round_, call)

    def _settle(self, round_: _Round) -> None:
        """All that were asked have answered: ask more, or be done."""
        work: Work = round_.routed.message.body
        if work.view.verifier is not None and work.view.verifier not in FORM_CHECKS and self._parts.check is not None:
            self._judging.add(task := self._create_task(self._judge(round_, self._parts.check)))
            task.add_done_callback(self._judging.discard)
        else:
            self._go_on(round_)

    async def _judge(self, round_: _Round, check: Callable[[Routed, Sequence[Answer], Checks | None], Checks]) -> None:
        """Have a verifier look at the answers, which may take its time, and go on with the round."""
        answers = [a for a in round_.answers if a is not None]
        round_.checks = await self._checking.ask(
            partial(check, round_.routed, answers, round_.checks), self._parts.check_s, round_.checks
        )
        if not round_.cancelled:
            self._go_on(round_)

    def _go_on(self, round_: _Round) -> None:
        """Ask more, or be done."""
        routed = round_.routed
        if routed.escalates and round_.reserves and not round_.exceeded:
            answers = [a for a in round_.answers if a is not None]
            if not self._parts.enough(routed, answers, round_.checks):
                self._ask_next(round_)
                return
        self._end(round_)

    def _end(self, round_: _Round) -> None:
        round_.lane.end(round_)
        answers = tuple([a for a in round_.answers if a is not None])
        spent = round_.spent(answers)
        round_.lane.outbox.append(
            Answered(round_.routed, answers, spent, round_.checks, round_.exceeded, round_.cancelled, round_.dropped)
        )

    def _cancel_rounds(self) -> None:
        for lane in self._lanes:
            for round_ in list(lane.open):
                round_.cancelled = self._parts.is_cancelled(round_.task)
        self._end_cancelled()

    def _drop_rounds(self, number: int) -> None:
        for lane in self._lanes:
            for round_ in lane.open:
                if round_.routed.message.lane == number:
                    round_.cancelled = round_.dropped = True
        self._end_cancelled()

    def _end_cancelled(self) -> None:
        for asked in self._under_way:
            if not asked.round.cancelled:
                continue
            if asked.deadline < math.inf:  # it is being asked, and is not going to tell what it took
                asked.round.in_flight_before += 1
            asked.task.cancel()
        for lane in self._lanes:
            for round_ in [r for r in lane.open if r.cancelled]:
                self._end(round_)

    def _keep_from(self, lane: LaneCalls) -> None:
        if lane not in self._lanes:
            return
        if lane.is_idle:
            self._lanes.remove(lane)
            self._ledger.keep_none(lane.number)
        else:
            self._ledger.keep_from(lane.number, lane.needed(self._ledger.position))

    def _others_wait(self, round_: _Round, place: int) -> float | None:
        """Say how long a round waits for a seat for its other calls, or for its best reserve; None if there is none."""
        longest: float | None = None
        for other, answer in enumerate(round_.answers):
            if other == place or (answer is not None and answer.status == "failed"):
                continue
            wait_s = 0.0 if answer is not None else self._watch.wait_s(round_.calls[other])
            if wait_s is not None:
                longest = wait_s if longest is None else max(longest, wait_s)
        if longest is not None:
            return longest
        return min((w for w in map(self._watch.wait_s, round_.reserves) if w is not None), default=None)

    # -- one call --------------------------------------------------------------------------------------------------

    async def _ask(self, asked: "_Asked") -> None:
        """One call with its tries; a failure in the end is an answer that says so."""
        round_, call = asked.round, asked.call
        started = time.monotonic()
        try:
            answer, tries, text = await self._try_often(asked)
        except asyncio.CancelledError:
            if not round_.cancelled:
                raise
            return
        finally:
            self._under_way.discard(asked)
        if round_.cancelled:
            return
        if answer is None:
            answer = Answer(node=call.node, model=call.model, status="failed", error=text)
        latency = round(time.monotonic() - started, 6)
        answer = msgspec.structs.replace(
            answer, node=call.node, model=call.model, sample=call.sample, tries=tries, latency_s=latency
        )
        if tries:
            self._ledger.end(
                Ended(round_.key, answer, *asked.corrected), partial(self._take, round_, asked.place, answer)
            )
        else:
            self._take(round_, asked.place, answer)

    async def _try_often(self, asked: "_Asked") -> tuple[Answer | None, int, str]:
        """Try until there is an answer or no use in it: the answer, how many tries it took, why there is none."""
        round_, call = asked.round, asked.call
        tries, text = 0, ""
        while not round_.cancelled:
            gate = self._watch.gates.get(call.node)
            if gate is None or call.model not in gate.breakers:
                return None, tries, text or "NodeError: the node, or its model, is no longer in the nodes file"
            asked.gate = gate
            if not self._parts.may_ask():
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            try:
                return await self._try(asked, gate), tries + 1, ""
            except RetiredError:
                continue  # another node may have its name
            except _Refused as refused:
                return None, tries, text or str(refused)
            except Exception as error:  # noqa: BLE001 - whatever a node raises, the round goes on without it
                tries += 1
                text = _told(error)
                if tries >= self._retry.tries or not getattr(error, "may_pass", True):
                    return None, tries, text
                pause = self._retry.pause(tries, random.random())  # noqa: S311
                if (after_s := getattr(error, "retry_after_s", None) or 0.0) <= SLOWER_BY_S:
                    pause = max(pause, after_s)  # where it is longer, the gate tells whether to wait for that
                await asyncio.sleep(pause)
        return None, tries, text

    async def _try(self, asked: "_Asked", gate: NodeGate) -> Answer:
        """One try: a seat, its charge, the question.

        Raises:
            RetiredError: the node is no more.
            _Refused: it was not asked: somebody else can, or a budget is spent.
            TimeoutError: it took too long.
            NodeError: the node gave up the call, or what it returned is no answer.
        """
        round_, call = asked.round, asked.call
        model, purse, node = call.model, round_.purse, self._watch.nodes[call.node]
        probe = False if gate.enter_at_once(model) else await self._enter(asked, gate)
        counted = False
        charged: _Charged | None = None
        try:
            if purse is None:
                self._ledger.begin(Begun(round_.key, _name_of(call)))
            else:
                charged = await self._charge(round_, purse, call, gate)
            limit_s = gate.probe_limit_s(model) if probe else gate.capabilities.timeout_s
            began = time.monotonic()
            asked.limit_s = limit_s
            asked.deadline = began + limit_s
            answer = _checked(await node.ask(call))
            ended = time.monotonic()
            gate.answered(model, ended, ended - began, answer.tokens_out)
            counted = True
            if probe:
                self._watch.note_states()
            self._correct(asked, charged, answer.tokens_in + answer.tokens_out, answer.cost)
        except _Refused:
            raise
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - `_ask` goes on whatever it was
            failure = self._failure(asked, error)
            gate.failed(model, time.monotonic(), failure, probe=probe)
            counted = True
            if not _may_have_cost(failure):
                self._correct(asked, charged, 0, 0.0)
            if not gate.is_open(model):
                self._watch.note_states()
            raise failure from None
        finally:
            asked.over()
            if probe and not counted:
                gate.abandoned(model)
            gate.leave()
        return answer

    async def _enter(self, asked: "_Asked", gate: NodeGate) -> bool:
        """Wait for a seat; tell whether the call is a probe.

        Raises:
            RetiredError: the node is no more.
            _Refused: there is none to be had.
        """
        try:
            call, others_wait = asked.call, partial(self._others_wait, asked.round, asked.place)
            return await gate.enter(call.topic, call.model, others_wait)
        except RetiredError:
            raise
        except NodeError as error:
            raise _Refused(_told(error)) from None

    def _failure(self, asked: "_Asked", error: BaseException) -> Exception:
        """Say why a try failed; what ends the call altogether goes on its way.

        Raises:
            CancelledError: the call is abandoned.
        """
        if isinstance(error, Exception):
            return error
        if self._ending or asked.round.cancelled:
            raise error
        if asked.cut is not None:
            return asked.cut
        if asked.task.cancelling():
            raise error
        return NodeError("the node cancelled the call")

    # -- money -----------------------------------------------------------------------------------------------------

    async def _charge(self, round_: _Round, purse: Purse, call: Call, gate: NodeGate) -> "_Charged":
        """Charge a call with what it is expected to take; it is asked once that is durable.

        Raises:
            _Refused: it would exceed a budget.
        """
        tokens, cost = expected(gate.capabilities, call)
        day = self._day_of(round_.task)
        lacks = purse.lacks(tokens, cost)
        if lacks:
            round_.exceeded = f"the budget of {lacks} is spent"
        elif day is not None and (lacks := day.purse.lacks(tokens, cost)):
            round_.exceeded = f"this lane's share of today's budget, {lacks}, is spent"
        if lacks:
            raise _Refused(round_.exceeded)
        purse.take(tokens, cost)
        if day is not None:
            day.purse.take(tokens, cost)
            self._ledger.charge(Charge(day.name, day.lane, 1, tokens, cost))
        durable = asyncio.get_running_loop().create_future()
        self._ledger.begin(Begun(round_.key, _name_of(call), tokens, cost), partial(_resolve, durable))
        await durable
        return _Charged(tokens, cost, day)

    def _correct(self, asked: _Asked, charged: "_Charged | None", tokens: int, cost: float) -> None:
        """Charge what a try took in the place of what was expected, to the day on which it began."""
        if charged is not None:
            tokens, cost = tokens - charged.tokens, cost - charged.cost
            if asked.round.purse is not None:
                asked.round.purse.correct(tokens, cost)
            if (day := charged.day) is not None:
                day.purse.correct(tokens, cost)
                self._ledger.charge(Charge(day.name, day.lane, 0, tokens, cost))
        asked.corrected = asked.corrected[0] + tokens, asked.corrected[1] + cost

    def _day_of(self, task: TaskDescriptor) -> "_Day | None":
        if not self._has_day:
            return None
        today, lane = _today(), home_lane(task.logical_id, self._budgets.lanes)
        known = self._days.get(lane)
        if known is None or known.name != today:
            known_today = known is None and today == self._started_on
            before = Spent(*self._spent_before.get(lane, (0, 0, 0.0))) if known_today else NOTHING
            known = self._days[lane] = _Day(today, lane, Purse(self._budgets.of_day(lane), before))
        return known


class _Day(Struct, frozen=True):
    """A lane's share of a day."""

    name: str
    lane: int
    purse: Purse


class _Charged(Struct, frozen=True, gc=False):
    """What a try was charged with before it began."""

    tokens: int
    cost: float
    day: _Day | None


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """A call was not asked."""


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _name_of(call: Call) -> CallName:
    return call.node, call.model, call.sample


def _checked(answer: object) -> Answer:
    """Make sure that what a node returned can be written down: msgspec checks what it decodes, not what is constructed.

    Raises:
        NodeError: it cannot.
    """
    if not isinstance(answer, Answer):
        raise NodeError(f"the node returned {type(answer).__name__}, which is no Answer", "garbage")
    if (
        answer.status == "ok"
        and type(answer.text) is str
        and answer.text.isascii()
        and answer.meta is None
        and answer.score is None
        and type(answer.tokens_in) is type(answer.tokens_out) is int
        and 0 <= answer.tokens_in + answer.tokens_out < MAX_COUNT
        and answer.cost == 0.0
        and answer.error == ""
    ):
        return answer
    try:
        checked = _read_answer(_write_answer(answer))
        if checked.score is None and answer.score is not None:  # NaN and inf, which JSON has not; supervision tells
            checked = msgspec.structs.replace(checked, score=float(answer.score))
        msgspec.msgpack.encode(checked)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NodeError(f"the node returned an Answer that is none: {error}"[:300], "garbage") from None
    if min(checked.tokens_in, checked.tokens_out) < 0 or not 0 <= checked.cost < math.inf:
        told = f"{checked.tokens_in} and {checked.tokens_out} tokens, cost {checked.cost}"
        raise NodeError(f"the node returned an Answer of {told}", "garbage")
    return checked


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _may_have_cost(error: Exception) -> bool:
    """Whether a model may have worked for a call that failed."""
    if isinstance(error, TimeoutError):
        return True
    return isinstance(error, NodeError) and error.failure in ("timeout", "closed", "garbage")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
