"""How a process is asked to end."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopping:
    """Says to every part of the process that it is to end: gracefully at first, at once when asked again."""

    def __init__(self, drain_s: float) -> None:
        self.drain_s = drain_s
        """How long to wait for the calls in flight."""
        self._deadline: float | None = None

    def ask(self) -> None:
        """Ask to stop; a second time: without waiting for the calls in flight."""
        self._deadline = time.monotonic() + (self.drain_s if self._deadline is None else 0.0)

    @property
    def asked(self) -> bool:
        """Tell whether a stop was asked for."""
        return self._deadline is not None

    @property
    def drained(self) -> bool:
        """Tell whether the time to wait for calls in flight is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline


@contextmanager
def waited_for(*signals: signal.Signals) -> Iterator[Callable[[float | None], bool]]:
    """Keep signals for whoever waits for them, as this thread and those that it starts meanwhile get none.

    There is no handler, which could come where this thread holds a lock that the handler wants.

    Returns:
        Waits for one of them, for so many seconds, or for as long as it takes; tells whether one came.
    """

    def wait(limit_s: float | None) -> bool:
        if limit_s is None:
            return bool(signal.sigwait(signals))
        return signal.sigtimedwait(signals, limit_s) is not None

    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield wait
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
