"""Breakers, limits and meters, on a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from flows.health import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    RECENT,
    TRIP_AFTER,
    WINDOW,
    AdaptiveLimit,
    Breaker,
    Meter,
)


def tripped(now: float = 0.0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker()
    for _ in range(TRIP_AFTER):
        breaker.failed(now)
    return breaker


def test_a_row_of_failures_opens_a_breaker_and_a_success_within_it_does_not() -> None:
    """The row begins anew."""
    breaker = Breaker()
    for _ in range(3):
        for _ in range(TRIP_AFTER - 1):
            breaker.failed(0.0)
        for _ in range(TRIP_AFTER):
            breaker.succeeded()
    assert breaker.is_closed
    assert not tripped().is_closed


def test_half_of_the_last_calls_opens_it_too() -> None:
    """However they are spread."""
    breaker = Breaker()
    for number in range(RECENT):
        assert breaker.is_closed
        if number % 2:
            breaker.failed(0.0)
        else:
            breaker.succeeded()
    assert not breaker.is_closed


def test_one_probe_at_a_time_and_each_that_fails_doubles_the_pause() -> None:
    """Up to the longest; a success closes it and forgets all that."""
    breaker, now, pause = tripped(), 0.0, FIRST_PAUSE_S
    for _ in range(8):
        assert not breaker.may_probe(now + pause - 0.01)
        now += pause
        assert breaker.may_probe(now)
        breaker.probing = True
        assert not breaker.may_probe(now)
        breaker.failed(now)  # one that was under way before
        assert not breaker.may_probe(now + 1000.0)
        breaker.failed(now, probe=True)
        pause = min(2 * pause, LONGEST_PAUSE_S)
    assert pause == LONGEST_PAUSE_S
    breaker.succeeded()
    assert breaker.is_closed
    breaker = tripped(100.0)
    assert breaker.may_probe(100.0 + FIRST_PAUSE_S)


def test_calls_that_were_under_way_when_it_opened_do_not_lengthen_the_pause() -> None:
    """They say nothing new."""
    breaker = tripped()
    for _ in range(50):
        breaker.failed(0.5)
    assert breaker.may_probe(FIRST_PAUSE_S)


def latencies(limit: AdaptiveLimit, latency_s: float, windows: int = 1, *, full: bool = True) -> None:
    """So many windows of calls of one latency."""
    for _ in range(windows):
        if full:
            limit.reached()
        for _ in range(WINDOW):
            limit.answered(latency_s)


def test_the_limit_shrinks_while_latency_is_raised_and_grows_back() -> None:
    """Never below an eighth, never above what the node declares."""
    limit = AdaptiveLimit(64)
    latencies(limit, 0.1, 3)
    assert limit.value == 64
    latencies(limit, 0.5)
    assert limit.value == 48
    latencies(limit, 0.5, 20)
    assert limit.value == 8
    latencies(limit, 0.1, 20)
    assert limit.value == 64


def test_it_does_not_grow_where_nobody_waits() -> None:
    """There is nothing to learn from calls that were not held back."""
    limit = AdaptiveLimit(64)
    latencies(limit, 0.1)
    latencies(limit, 0.5, 2)
    held = limit.value
    latencies(limit, 0.1, 5, full=False)
    assert limit.value == held


def test_small_latencies_are_noise_and_a_node_may_declare_that_its_calls_differ() -> None:
    """Neither shrinks it."""
    limit = AdaptiveLimit(64)
    latencies(limit, 0.001)
    latencies(limit, 0.04, 10)
    assert limit.value == 64
    fixed = AdaptiveLimit(64, adaptive=False)
    latencies(fixed, 0.1)
    latencies(fixed, 5.0, 10)
    fixed.pushed_back()
    assert fixed.value == 64


@given(st.integers(1, 500), st.lists(st.floats(0, 100) | st.none(), max_size=500))
def test_the_limit_stays_within_its_bounds(most: int, events: list[float | None]) -> None:
    """Whatever the latencies; None is a node that pushes back."""
    limit = AdaptiveLimit(most)
    for latency_s in events:
        limit.reached()
        if latency_s is None:
            limit.pushed_back()
        else:
            limit.answered(latency_s)
        assert 1 <= limit.value <= most


def test_a_meter_tells_errors_time_outs_latency_and_tokens_a_second() -> None:
    """Of the last hundred calls, and of the last five seconds."""
    meter = Meter()
    for number in range(8):
        meter.answered(float(number), 0.2, 50)
    meter.failed(timed_out=True)
    meter.failed(timed_out=False)
    rates = meter.rates(7.0)
    assert (rates.error_rate, rates.timeout_rate, rates.latency_s) == (0.2, 0.1, 0.2)
    assert rates.tokens_per_s == 60.0
    assert meter.calls == 10
    assert meter.rates(100.0).tokens_per_s == 0.0


def test_a_node_that_falls_silent_or_is_heard_leaves_its_breaker_where_it_was() -> None:
    """One that is open stays open for as long as it was to be; one that is closed has nothing to try."""
    opened = tripped()
    until = opened.open_until
    opened.trip(0.5)
    assert opened.open_until == until
    closed = Breaker()
    closed.try_soon(0.5)
    assert closed.is_closed
    assert not closed.may_probe(1.0)
