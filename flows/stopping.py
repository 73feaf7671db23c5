"""How a cell is asked to end."""

import time


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
