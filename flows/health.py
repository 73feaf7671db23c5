"""How a node is doing, from what its calls did: pure, with explicit times in seconds of any one clock.

Breaker         one a model: after a row of failures it is not asked for a while, then once, as a probe
AdaptiveLimit   one a node: how many calls run at a time, fewer while its latency is raised
Meter           one a node: error and time-out rates, latency, tokens a second
"""

import statistics
from collections import deque

from msgspec import Struct

from flows.tally import Histogram

TRIP_AFTER = 5
"""Failures in a row that open a breaker; or half of the last `RECENT` calls."""
RECENT = 20
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""A breaker stays open for so long, twice as long after each probe that fails."""

WINDOW = 32
"""Calls between two looks at the latency; their median is looked at."""
RAISED = 2.0
"""Latency that has risen by so much, and by `SLACK_S`, takes a quarter of the limit away."""
CALM = 1.5
SLACK_S = 0.05
"""Below this a rise is the noise of this process, not of the node."""
SHRINK = 0.75
GROW = 1.25
LEAST_SHARE = 8
"""The limit stays at or above an eighth of max_concurrency, so that it is noticed when the node recovers."""
FORGET = 1.02
"""By so much a window the best latency is taken to rise: what was fast once need not be for ever."""

RENEWED_AFTER = 0.1
"""The usual latency is worked out anew once so much of what it is the median of has changed."""
RATE_OVER_S = 5.0
"""Tokens a second are over so many seconds."""


class Breaker:
    """A circuit breaker: closed, open, half-open (M. Nygard, Release It!, 2nd ed. 2018, chapter 5)."""

    __slots__ = ("_pause_s", "_recent", "_row", "open_until", "patience", "probing")

    def __init__(self) -> None:
        self._row = 0
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._pause_s = FIRST_PAUSE_S
        self.open_until: float | None = None
        """None while it is closed."""
        self.patience = 1.0
        """How many times longer than at first the next probe may take: a node that is slow to begin is no dead one."""
        self.probing = False
        """A probe is under way."""

    @property
    def is_closed(self) -> bool:
        """Whether calls go through."""
        return self.open_until is None

    def may_probe(self, now: float) -> bool:
        """Tell whether it is open, and time for one call that finds out."""
        return self.open_until is not None and not self.probing and now >= self.open_until

    def succeeded(self) -> None:
        """A call was answered."""
        self._row = 0
        self._recent.append(True)
        if self.open_until is not None:
            self.open_until, self.probing, self._pause_s, self.patience = None, False, FIRST_PAUSE_S, 1.0
            self._recent.clear()

    def failed(self, now: float, *, probe: bool = False) -> None:
        """A call failed for a reason that may have to do with the node."""
        self._row += 1
        self._recent.append(False)
        if self.open_until is not None:
            if probe:  # those that were under way when it opened say nothing new
                self.patience *= 2
                self._open(now, min(2 * self._pause_s, LONGEST_PAUSE_S))
        elif self._row >= TRIP_AFTER or (len(self._recent) == RECENT and self._recent.count(False) * 2 >= RECENT):
            self._open(now, FIRST_PAUSE_S)

    def trip(self, now: float) -> None:
        """Open it: the node was not heard of for too long."""
        if self.open_until is None:
            self._open(now, FIRST_PAUSE_S)

    def try_soon(self, now: float) -> None:
        """The node has given a sign of life: a probe may go now."""
        if self.open_until is not None:
            self.open_until = min(self.open_until, now)

    def _open(self, now: float, pause_s: float) -> None:
        self._pause_s = pause_s
        self.open_until = now + pause_s
        self.probing = False


class AdaptiveLimit:
    """How many calls a node has at a time: all it may, until its latency rises with them.

    A window of calls is compared with the best window so far: where the median has doubled, what is too much waits in
    the node's own queue, and the limit shrinks by a quarter; where it has not, and the limit was reached, it grows by a
    quarter (multiplicative both ways; the idea of delay-based congestion control, L. Brakmo and L. Peterson, TCP Vegas,
    1995).
    """

    __slots__ = ("_adaptive", "_best", "_least", "_most", "_reached", "_window", "value")

    def __init__(self, most: int, *, adaptive: bool = True) -> None:
        self._most = most
        self._least = max(1, most // LEAST_SHARE)
        self._adaptive = adaptive
        self._window: list[float] = []
        self._best: float | None = None
        self._reached = False
        self.value = most

    def reached(self) -> None:
        """A call has to wait for its turn."""
        self._reached = True

    def answered(self, latency_s: float) -> None:
        """Take the latency of one call."""
        if not self._adaptive:
            return
        self._window.append(latency_s)
        if len(self._window) < WINDOW:
            return
        median = statistics.median(self._window)
        self._window.clear()
        best = median if self._best is None else min(median, self._best * FORGET)
        self._best = best
        if median > best * RAISED and median > best + SLACK_S:
            self.value = max(self._least, int(self.value * SHRINK))
        elif self._reached and median <= best * CALM + SLACK_S:
            self.value = min(self._most, int(self.value * GROW) + 1)
        self._reached = False

    def pushed_back(self) -> None:
        """The node has said that this is too much (HTTP 429)."""
        if not self._adaptive:
            return
        self.value = max(self._least, int(self.value * SHRINK))


class Rates(Struct, frozen=True, gc=False):
    """What a `Meter` shows."""

    error_rate: float
    timeout_rate: float
    latency_s: float
    tokens_per_s: float


class Meter:
    """What the last calls of a node were like."""

    __slots__ = ("_fresh", "_latencies", "_outcomes", "_tokens", "_usual_s", "calls", "errors", "seconds", "timeouts")

    def __init__(self) -> None:
        self._outcomes: deque[str] = deque(maxlen=100)
        self._latencies: deque[float] = deque(maxlen=100)
        self._tokens: deque[tuple[float, int]] = deque(maxlen=10_000)
        self._usual_s = 0.0
        self._fresh = 0
        """Calls that were answered since that was worked out."""
        self.calls = self.errors = self.timeouts = 0
        self.seconds = Histogram()
        """Of all that were answered."""

    def answered(self, now: float, latency_s: float, tokens_out: int) -> None:
        """Take in a call that was answered."""
        self.calls += 1
        self._outcomes.append("ok")
        self._latencies.append(latency_s)
        self._fresh += 1
        self.seconds.add(latency_s)
        if tokens_out:
            self._tokens.append((now, tokens_out))

    def failed(self, *, timed_out: bool) -> None:
        """Take in one that was not."""
        self.calls += 1
        if timed_out:
            self.timeouts += 1
        else:
            self.errors += 1
        self._outcomes.append("timeout" if timed_out else "error")

    @property
    def usual_latency_s(self) -> float:
        """Median of the last calls that were answered, but for the newest few; 0 before the first."""
        if self._fresh > RENEWED_AFTER * len(self._latencies):
            self._usual_s = statistics.median(self._latencies)
            self._fresh = 0
        return self._usual_s

    def rates(self, now: float) -> Rates:
        """Sum up."""
        while self._tokens and self._tokens[0][0] < now - RATE_OVER_S:
            self._tokens.popleft()
        of = len(self._outcomes) or 1
        timeouts = self._outcomes.count("timeout")
        return Rates(
            error_rate=(self._outcomes.count("error") + timeouts) / of,
            timeout_rate=timeouts / of,
            latency_s=round(self.usual_latency_s, 6),
            tokens_per_s=round(sum(n for _, n in self._tokens) / RATE_OVER_S, 1),
        )
