"""The gate of one node: which calls may go in now, which wait, and which are told to go elsewhere.

Topics take turns at its seats, so that a call of one that asks little does not wait behind hundreds of one that asks a
lot. Priorities count where tasks are handed out, and not here.

It belongs to the event loop that the calls run on, and tells the time by `time.monotonic`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from connectors.nodes import NodeError
from flows.fair import FairQueue
from flows.health import AdaptiveLimit, Breaker, Meter
from schemas.node import NodeCapabilities, NodeHealth, NodeState

SLOWER = 4.0
SLOWER_BY_S = 1.0
"""A call does not wait for a node where it would take so much longer, and by so much, than the rest of its round."""
VOTES = 2
"""So many models the rest of a round has to ask for that: one answer alone bears out nothing, and is waited with."""
DEGRADED_FROM = 0.2
"""Error rate from which a node counts as degraded."""
PROBE_LIMIT_S = 5.0
"""A first probe waits for so long, or five times what is usual for its node: its round waits with it."""
LOOK_AGAIN_S = 1.0
"""Whoever waits because a node asked to be left alone looks so often whether that is still so."""
LOOKS = 2
"""A node is slow to give a seat back if it was looked so often since: between two looks, all answers are read."""
RATE_LIMITED_S = 5.0
"""A node that asked to be left alone, and was not so long ago, is likely to do so again after a call or two: what it
would do to a queue cannot be told from how long a call takes."""
LONGEST_QUIET_S = 600.0
"""No node is left alone for longer, whatever it asks for; then it may ask again."""


def is_far_slower(wait_s: float, others_s: float) -> bool:
    """Tell whether it is better to do without a call that waits so long, beside others that wait so long."""
    return wait_s > SLOWER * others_s + SLOWER_BY_S


class UnavailableError(NodeError):
    """The node is not asked now, and somebody else can serve."""


class SlowerError(UnavailableError):
    """Others serve far sooner."""


class RetiredError(NodeError):
    """The node is no more, or another has come in its place."""


class _Blocked:
    """A call that waits for its node to be asked again."""

    __slots__ = ("future", "model", "since")

    def __init__(self, model: str, since: float, future: asyncio.Future[None]) -> None:
        self.model = model
        self.since = since
        self.future = future


class NodeGate:
    """Seats for the calls of a node, and what is known of how it does.

    Args:
        capabilities: of the node.
        cell: who asks, for its states.
        silence_s: not heard of for so long, it counts as unhealthy; only of a node that can be asked how it is.
    """

    def __init__(self, capabilities: NodeCapabilities, cell: str, silence_s: float) -> None:
        self.capabilities = capabilities
        self.limit = AdaptiveLimit(capabilities.max_concurrency, adaptive=capabilities.adaptive)
        self.meter = Meter()
        self.breakers = {model: Breaker() for model in capabilities.models}
        self.active = 0
        self.silent = False
        """Not heard of for too long."""
        self.loaded = capabilities.models
        self.being_checked = False
        self.retired = False
        self._heard = time.monotonic()
        self._ever_heard = False
        self._cell = cell
        self._silence_s = silence_s
        self._quiet_until = 0.0
        self._rate_limited_until = 0.0
        self._waiting: FairQueue[asyncio.Future[bool]] = FairQueue()
        self._returning = 0
        """Calls that left the queue to look anew, and will most likely be in it again in a moment."""
        self._turned = self._heard
        """When a seat was last given back, or the last free one taken."""
        self._looks = 0
        """How often it was looked since then."""
        self._blocked: deque[_Blocked] = deque()

    # -- going in --------------------------------------------------------------------------------------------------

    def is_open(self, model: str) -> bool:
        """Tell whether calls to a model go through, sooner or later."""
        breaker = self.breakers.get(model)
        return breaker is not None and breaker.is_closed and not self.silent

    def enter_at_once(self, model: str) -> bool:
        """Take a seat if one is free and nothing speaks against it."""
        if self.active >= self.limit.value or self._quiet_until or self.silent or not self.breakers[model].is_closed:
            return False
        self._sit()
        return True

    def _sit(self) -> None:
        self.active += 1
        if self.active >= self.limit.value:
            self._turn()

    def _turn(self) -> None:
        self._turned = time.monotonic()
        self._looks = 0

    def is_rate_limited(self, now: float) -> bool:
        """Tell whether it asks to be left alone, or did so a moment ago: nobody is to count on it."""
        return now < self._rate_limited_until

    def wait_s(self, now: float, topic: str | None = None) -> float:
        """Say how long a call of a topic would wait for a seat: as many turns as go before it, each as long as usual.

        Without a topic it is one that comes after all that wait.
        Of a node that has given no seat back for longer than that, each turn is taken to be as long as it is by now;
        so it is of one that has not answered yet. Not where the process itself stood still, and answers wait to be
        read, for then it was not looked twice meanwhile.
        One that has asked to be left alone is not asked before.
        """
        ahead = len(self._waiting) if topic is None else self._waiting.ahead(topic)
        return self._wait_s(now, ahead + self._returning)

    def _wait_s(self, now: float, ahead: int) -> float:
        quiet_s = max(0.0, self._quiet_until - now) if self._quiet_until else 0.0
        if self.active < self.limit.value:
            return quiet_s
        turn_s = usual_s = self.meter.usual_latency_s / self.limit.value
        if self._looks >= LOOKS or not usual_s:
            turn_s = max(usual_s, now - self._turned)
        return max(quiet_s, (ahead + 1) * turn_s)

    async def enter(self, topic: str, model: str, others_wait: Callable[[int], float | None]) -> bool:
        """Wait for a seat.

        Args:
            topic: of the call.
            model: which model is to be asked.
            others_wait: tells how long the round waits for its other calls, in seconds; None where they ask fewer
                models than it is told, and nobody else can serve it.

        Returns:
            Whether this call is the probe that finds out whether the model is back.

        Raises:
            UnavailableError: the node is not asked now, and others can serve.
            RetiredError: it is no more; another may have come in its place.
            NodeError: it was not available for as long as a call may take.
        """
        loop = asyncio.get_running_loop()
        since = time.monotonic()
        while True:
            if self.retired:
                raise RetiredError("the node is no more")
            now = time.monotonic()
            breaker = self.breakers[model]
            if not breaker.is_closed:
                if breaker.may_probe(now):
                    breaker.probing = True
                    self._sit()
                    return True
                if others_wait(0) is not None:
                    raise UnavailableError(self._why(model))
                blocked = _Blocked(model, since, loop.create_future())
                self._blocked.append(blocked)
                await blocked.future
            elif now < self._quiet_until:
                if others_wait(0) is not None:
                    raise UnavailableError("it asked to be left alone for a while")
                await asyncio.sleep(min(self._quiet_until - now, LOOK_AGAIN_S))
            elif self.active < self.limit.value:
                self._quiet_until = 0.0
                self._sit()
                return False
            elif await self._queue(topic, now, others_wait):
                return False

    async def _queue(self, topic: str, now: float, others_wait: Callable[[int], float | None]) -> bool:
        """Wait in the queue; True with a seat, False to look anew."""
        self.limit.reached()
        is_known = self.meter.usual_latency_s > 0 or self._looks >= LOOKS
        ahead = self._waiting.ahead(topic)  # whoever returns after it goes after it
        wait_s = self._wait_s(now, ahead) if is_known else 0.0
        if wait_s > SLOWER_BY_S:
            others_s = others_wait(VOTES)
            if others_s is not None and is_far_slower(wait_s, others_s):
                raise SlowerError("others serve sooner")
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.put(topic, future)
        try:
            has_seat = await future
        except asyncio.CancelledError:
            if future.cancelled():  # calls that were given up are to take no turns of their topic
                self._waiting.discard(topic, future)
            elif future.result():
                self.leave()
            else:
                self._returning -= 1
            raise
        if not has_seat:
            self._returning -= 1
        return has_seat

    def leave(self) -> None:
        """Give a seat back, to whose turn it is."""
        self._turn()
        if self.active <= self.limit.value:
            while (future := self._waiting.take()) is not None:
                if not future.done():
                    future.set_result(True)
                    return
        self.active -= 1

    def _why(self, model: str) -> str:
        if self.silent:
            return f"the node was not heard of for {self._silence_s:g} s"
        return f"{model} failed too often; it is asked again soon"

    # -- what calls did --------------------------------------------------------------------------------------------

    def answered(self, model: str, now: float, latency_s: float, tokens_out: int) -> None:
        """A call was answered."""
        self._heard = now
        self._ever_heard = True
        if self.silent:
            self._back()
        self.meter.answered(now, latency_s, tokens_out)
        self.limit.answered(latency_s)
        breaker = self.breakers[model]
        was_closed = breaker.is_closed
        breaker.succeeded()
        if not was_closed:
            self._unblock()
        if self._waiting:
            self._let_in()

    def failed(self, model: str, now: float, error: Exception, *, probe: bool = False) -> None:
        """A call failed; a refusal of this very request says nothing against the node."""
        failure = error.failure if isinstance(error, NodeError) else "failed"
        timed_out = failure == "timeout" or isinstance(error, TimeoutError)
        if failure not in ("refused", "timeout") and not timed_out:
            self.heard()
        self.meter.failed(timed_out=timed_out)
        after_s = error.retry_after_s if isinstance(error, NodeError) else None
        if after_s:
            self._quiet_until = max(self._quiet_until, now + min(after_s, LONGEST_QUIET_S))
            self._rate_limited_until = self._quiet_until + RATE_LIMITED_S
            self.look_anew()
        breaker = self.breakers[model]
        if failure == "rate_limited":
            self.limit.pushed_back()
            if probe:
                breaker.probing = False
            return
        if failure == "rejected":
            if probe:
                breaker.succeeded()
                self._unblock()
            return
        breaker.failed(now, probe=probe)
        if not breaker.is_closed:
            self.look_anew()

    def abandoned(self, model: str) -> None:
        """A call was given up for reasons of its own; if it was a probe, another has to find out."""
        self.breakers[model].probing = False

    def heard(self) -> None:
        """The node has given a sign of life."""
        self._heard = time.monotonic()
        self._ever_heard = True
        if self.silent:
            self._back()

    def _back(self) -> None:
        self.silent = False
        for breaker in self.breakers.values():
            breaker.try_soon(self._heard)
        self._unblock()

    def retire(self) -> None:
        """The node is no more, or another is in its place: whoever waits here goes there."""
        self.retired = True
        self.look_anew()
        self._unblock()

    def _let_in(self) -> None:
        """Fill the seats that a higher limit has made."""
        while self.active < self.limit.value and (future := self._waiting.take()) is not None:
            if not future.done():
                self._sit()
                future.set_result(True)

    def look_anew(self) -> None:
        """Those that wait for a seat are to see whether they still should.

        Several gates may be asked for it at once, and the calls of one come back before those of the next.
        """
        waiting, self._waiting = self._waiting, FairQueue()
        while (future := waiting.take()) is not None:
            if not future.done():
                future.set_result(False)
                self._returning += 1

    def _unblock(self) -> None:
        blocked, self._blocked = self._blocked, deque()
        for one in blocked:
            if not one.future.done():
                one.future.set_result(None)

    # -- now and then ----------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Let a probe go where it is time, and end the waiting of calls that have waited long enough."""
        self._looks += 1
        for one in list(self._blocked):
            if one.future.done():
                self._blocked.remove(one)
            elif self.breakers[one.model].may_probe(now):
                self._blocked.remove(one)
                one.future.set_result(None)
                break
            elif now - one.since > self.capabilities.timeout_s:
                self._blocked.remove(one)
                one.future.set_exception(NodeError(f"{self._why(one.model)}; nobody else can serve", "timeout"))

    def check_silence(self, stood_still_s: float = 0.0) -> bool:
        """Tell whether the node has just become silent: its calls under way are to go elsewhere.

        Args:
            stood_still_s: for so long this process has just stood still itself, and could hear of nobody.
        """
        self._heard = min(time.monotonic(), self._heard + stood_still_s)
        if self.silent or time.monotonic() - self._heard < self._silence_s:
            return False
        self.silent = True
        for breaker in self.breakers.values():
            breaker.trip(time.monotonic())
        self.look_anew()
        return True

    def probe_limit_s(self, model: str) -> float:
        """How long a probe may take: twice as long after each that failed."""
        first_s = max(PROBE_LIMIT_S, 5 * self.meter.usual_latency_s)
        return min(self.capabilities.timeout_s, first_s * self.breakers[model].patience)

    def state(self, now: float) -> NodeState:
        """Sum up how the node is."""
        rates = self.meter.rates(now)
        open_ = tuple(model for model, breaker in self.breakers.items() if not breaker.is_closed)
        most = self.capabilities.max_concurrency
        health = NodeHealth.HEALTHY
        if self.silent or len(open_) == len(self.breakers):
            health = NodeHealth.UNHEALTHY
        elif open_ or self._quiet_until > now or rates.error_rate >= DEGRADED_FROM or self.limit.value * 2 < most:
            health = NodeHealth.DEGRADED
        return NodeState(
            cell=self._cell,
            node=self.capabilities.node,
            health=health,
            load=round(self.active / most, 3),
            queue_depth=len(self._waiting) + len(self._blocked),
            active_calls=self.active,
            quiet_s=round(max(0.0, self._quiet_until - now), 1),
            limit=self.limit.value,
            error_rate=round(rates.error_rate, 3),
            timeout_rate=round(rates.timeout_rate, 3),
            latency_s=rates.latency_s,
            tokens_per_s=rates.tokens_per_s,
            calls=self.meter.calls,
            last_seen=round(time.time() - (time.monotonic() - self._heard), 3) if self._ever_heard else 0.0,
            loaded=self.loaded,
            open=open_,
            at=round(time.time(), 3),
        )
