"""A clock that is set back: Bytewax waits by it, and stands still until it shows again what it had shown."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Self

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
BACK_S = 5.0
"""Standing still for less costs no more than another start."""
TRY_AGAIN = 1
"""The exit code of what may go through later; whoever started the process starts it again."""


def end_at_once(code: int) -> None:
    """End the process as a kill would: its flow does not move, and so cannot be stopped in order."""
    logging.shutdown()
    os._exit(code)


class ClockGuard:
    """A thread that ends the process when its clock was set back by more than `BACK_S`.

    Sources that say nothing of when to be asked next do not help: the engine itself asks them again "a millisecond
    later", by the clock. Steps forth, and a clock that is slowly put right, are no matter.

    Unit of parallelism: the process. Guarantee: that of any kill. Replay: none.

    Args:
        wall: the clock that may be set, in seconds.
        steady: one that never is, in seconds.
        end: ends the process with an exit code.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = end_at_once,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._end = end
        self._ahead = wall() - steady()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aureon-clock", daemon=True)

    def start(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End."""
        self._over.set()
        self._thread.join(timeout=2 * LOOK_EVERY_S)

    def look(self) -> None:
        """Compare the clocks with what they were at the last look."""
        before, self._ahead = self._ahead, self._wall() - self._steady()
        if before - self._ahead > BACK_S:
            log.error(
                "the clock was set back by %.0f s, for which the engine would stand still; ending, to be started again",
                before - self._ahead,
            )
            self._end(TRY_AGAIN)

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self.look()
