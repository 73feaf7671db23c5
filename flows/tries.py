"""One call with its tries: a seat at its node's gate, a charge, the question, and what becomes of it.

    ask ─► a worker takes it ─► seat at the gate ─► charge ─► the node ─► answer ─► ledger ─► taken by its round
                                     ▲                            │
                                     └────────── pause ◄──────────┘ a failure that may pass

A call that was not asked at all, since others serve sooner, is one more reserve of its round.
A try ends with an answer, with what the node raises, at its deadline, or when its node has become silent. A call that
fails in the end is an answer that says so.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec import Struct

from connectors.ledger import Begun, CallLedger, Ended, call_name
from connectors.nodes import NodeError
from flows.charges import Charged, Charges
from flows.fair import FairQueue
from flows.gate import SLOWER_BY_S, NodeGate, RetiredError, SlowerError
from flows.node_watch import NodeWatch
from flows.open_round import OpenRound
from schemas.node import Answer, Call

LOOK_EVERY_S = 0.05
"""How often it is looked whether a call has taken too long."""
MAX_COUNT = 1 << 53
"""Tokens beyond are no count."""

_write_answer = msgspec.json.Encoder().encode
_read_answer = msgspec.json.Decoder(Answer).decode


class RetryPolicy(Struct, frozen=True, gc=False):
    """How often a call is tried within its round, and how long before another try: exponential, with equal jitter."""

    tries: int
    backoff_s: float

    def pause(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures; `chance` is drawn from [0, 1)."""
        return float(self.backoff_s * 2 ** (failures - 1)) * (0.5 + chance / 2)


class _Asked:
    """One call under way."""

    __slots__ = (
        "abandoned",
        "call",
        "corrected",
        "cut",
        "deadline",
        "gate",
        "limit_s",
        "moves",
        "place",
        "round",
        "task",
    )

    task: asyncio.Task[None]
    """That of the worker which asks it."""

    def __init__(self, round_: OpenRound, place: int, call: Call) -> None:
        self.round = round_
        self.place = place
        self.call = call
        self.gate: NodeGate | None = None
        self.limit_s = self.deadline = math.inf
        """Of the present try, by `time.monotonic`."""
        self.cut: NodeError | TimeoutError | None = None
        """Why the present try was ended."""
        self.abandoned = False
        """With its round."""
        self.moves = False
        """It is being asked, or its answer is about to be taken; else it waits for a seat, or for another try."""
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


class Tries:
    """The calls under way, each with its tries; it belongs to the event loop that they run on.

    Args:
        loop: that loop.
        watch: the nodes, with their gates.
        ledger: it knows each try before it begins, and each answer before anything acts on it.
        charges: where something is limited.
        retry: how often a call is tried.
        may_ask: whether this process may spend calls now.
        take: takes an answer for the call of a round that has this place, in the loop's thread.
        fail: hears of what should not have been raised here, and ends the process.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        watch: NodeWatch,
        ledger: CallLedger,
        charges: Charges,
        retry: RetryPolicy,
        may_ask: Callable[[], bool],
        take: Callable[[OpenRound, int, Answer], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._create_task, self._call_later = loop.create_task, loop.call_later
        self._watch = watch
        self._ledger = ledger
        self._charges = charges
        self._retry = retry
        self._may_ask = may_ask
        self._take = take
        self._fail = fail
        self._to_ask: FairQueue[_Asked] = FairQueue()
        """Those that no worker has taken yet; some thousands come at once, which takes a while."""
        self._worker_comes = False
        """One is about to look what there is to ask."""
        self._under_way: set[_Asked] = set()
        """One look at the deadlines of all of them now and then; a timer each (`asyncio.timeout`) costs more than all
        the rest here, 4 of 10 microseconds a call."""
        self._looking = False
        self._ending = False
        self.moving = 0
        """How many calls are being asked, or have an answer that is about to be taken; for any thread to look at."""

    def ask(self, round_: OpenRound, place: int, call: Call) -> None:
        """Ask one call of a round, when it is its turn."""
        self._to_ask.put(call.topic, _Asked(round_, place, call))
        self._call_worker()
        if not self._looking:
            self._looking = True
            self._call_later(LOOK_EVERY_S, self._look)

    def cancel(self) -> None:
        """Abandon the calls of rounds that are cancelled; once: a node that tidies up takes its time."""
        for asked in self._under_way:
            if not asked.round.cancelled or asked.abandoned:
                continue
            asked.abandoned = True
            if asked.deadline < math.inf:  # it is being asked, and is not going to tell what it took
                asked.round.abandoned.append(call_name(asked.call))
            asked.task.cancel()

    def move(self, gate: NodeGate, why: str) -> None:
        """End the tries at a node that has become silent: its calls under way go to others."""
        for asked in self._under_way:
            if asked.gate is gate and asked.deadline < math.inf:
                asked.cut_short(NodeError(why, "timeout"))

    def end(self) -> list[asyncio.Task[None]]:
        """Ask nothing any more; gives the tasks of those under way, which are to be cancelled."""
        self._ending = True
        return [asked.task for asked in self._under_way]

    # -- now and then ----------------------------------------------------------------------------------------------

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

    # -- workers ---------------------------------------------------------------------------------------------------

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
        try:
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
        except Exception as error:  # noqa: BLE001 - its round would never end
            self._fail(error)

    # -- one call --------------------------------------------------------------------------------------------------

    async def _ask(self, asked: _Asked) -> None:
        """One call with its tries; a failure in the end is an answer that says so."""
        round_, call = asked.round, asked.call
        started = time.monotonic()
        try:
            answer, tries, text = await self._try_often(asked)
        except asyncio.CancelledError:
            self._move(asked, moves=False)
            if not round_.cancelled:
                raise
            return
        finally:
            self._under_way.discard(asked)
        if round_.cancelled:
            self._move(asked, moves=False)
            return
        if answer is None:
            answer = Answer(node=call.node, model=call.model, status="failed", error=text)
        latency = round(time.monotonic() - started, 6)
        answer = msgspec.structs.replace(
            answer, node=call.node, model=call.model, sample=call.sample, tries=tries, latency_s=latency
        )
        if tries:
            self._ledger.end(Ended(round_.key, answer, *asked.corrected), partial(self._taken, asked, answer))
        else:
            self._taken(asked, answer)

    def _taken(self, asked: _Asked, answer: Answer) -> None:
        self._take(asked.round, asked.place, answer)
        self._move(asked, moves=False)

    def _move(self, asked: _Asked, *, moves: bool) -> None:
        if asked.moves is not moves:
            asked.moves = moves
            self.moving += 1 if moves else -1

    async def _try_often(self, asked: _Asked) -> tuple[Answer | None, int, str]:
        """Try until there is an answer or no use in it: the answer, how many tries it took, why there is none."""
        round_, call = asked.round, asked.call
        tries, text = 0, ""
        while not round_.cancelled:
            gate = self._watch.gates.get(call.node)
            if gate is None or call.model not in gate.breakers:
                return None, tries, text or "NodeError: the node, or its model, is no longer in the nodes file"
            asked.gate = gate
            if not self._may_ask():
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            try:
                return await self._try(asked, gate), tries + 1, ""
            except (RetiredError, _NotNow):
                continue  # another node may have its name, or it is to wait
            except _Refused as refused:
                if isinstance(refused.__cause__, SlowerError) and not tries:
                    round_.give_back(asked.place)
                return None, tries, text or str(refused)
            except Exception as error:  # noqa: BLE001 - whatever a node raises, the round goes on without it
                tries += 1
                text = _told(error)
                if tries >= self._retry.tries or not getattr(error, "may_pass", True):
                    return None, tries, text
                pause = self._retry.pause(tries, random.random())  # noqa: S311
                if (after_s := getattr(error, "retry_after_s", None) or 0.0) <= SLOWER_BY_S:
                    pause = max(pause, after_s)  # where it is longer, the gate tells whether to wait for that
                self._move(asked, moves=False)
                await asyncio.sleep(pause)
        return None, tries, text

    async def _try(self, asked: _Asked, gate: NodeGate) -> Answer:
        """One try: a seat, its charge, the question.

        Raises:
            RetiredError: the node is no more.
            _NotNow: it was not asked: while it waited for the seat, this process lost the right to.
            _Refused: it was not asked: somebody else can, or a budget is spent.
            TimeoutError: it took too long.
            NodeError: the node gave up the call, or what it returned is no answer.
        """
        round_, call = asked.round, asked.call
        model, purse, node = call.model, round_.purse, self._watch.nodes[call.node]
        probe = False if gate.enter_at_once(model) else await self._enter(asked, gate)
        counted = False
        charged: Charged | None = None
        try:
            if not self._may_ask():
                raise _NotNow  # noqa: TRY301 - what follows gives the seat back
            self._move(asked, moves=True)
            if purse is None:
                self._ledger.begin(Begun(round_.key, call_name(call)))
            elif (charged := await self._charges.charge(round_, purse, call, gate.capabilities)) is None:
                raise _Refused(round_.exceeded)  # noqa: TRY301 - what follows gives the seat back
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
        except (_Refused, _NotNow):
            raise
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - `_ask` goes on whatever it was
            failure = self._failure(asked, error)
            self._note_failure(call, gate, failure, probe=probe)
            counted = True
            if not _may_have_cost(failure):
                self._correct(asked, charged, 0, 0.0)
            raise failure from None
        finally:
            asked.over()
            if charged is not None:
                self._charges.over(charged)
            if probe and not counted:
                gate.abandoned(model)
            gate.leave()
        return answer

    async def _enter(self, asked: _Asked, gate: NodeGate) -> bool:
        """Wait for a seat; tell whether the call is a probe.

        Raises:
            RetiredError: the node is no more.
            _Refused: there is none to be had.
        """
        try:
            call, others_wait = asked.call, partial(asked.round.others_wait, asked.place, self._watch.wait_s)
            return await gate.enter(call.topic, call.model, others_wait)
        except RetiredError:
            raise
        except NodeError as error:
            raise _Refused(_told(error)) from error

    def _failure(self, asked: _Asked, error: BaseException) -> Exception:
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

    def _note_failure(self, call: Call, gate: NodeGate, failure: Exception, *, probe: bool) -> None:
        """Tell the gate; and whoever reads the log, where it closes to the model."""
        was_open = gate.is_open(call.model)
        gate.failed(call.model, time.monotonic(), failure, probe=probe)
        if not gate.is_open(call.model):
            self._watch.note_states()
            if was_open:
                self._watch.tell_failing(call.node, call.model, _told(failure))

    def _correct(self, asked: _Asked, charged: Charged | None, tokens: int, cost: float) -> None:
        """Charge what a try took in the place of what was expected."""
        if charged is not None:
            tokens, cost = self._charges.correct(charged, tokens, cost)
        asked.corrected = asked.corrected[0] + tokens, asked.corrected[1] + cost


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """A call was not asked."""


class _NotNow(Exception):  # noqa: N818 - it never leaves this module
    """A call is not asked as long as this process may not."""


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
