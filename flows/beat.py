"""The beat of a cell: how it is, every two seconds, whatever it does."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Self

from schemas.supervision import CellState

log = logging.getLogger(__name__)

BEAT_EVERY_S = 2.0


class Beat:
    """A thread that says how the cell is; what it cannot say it leaves out.

    Args:
        state: tells how it is.
        publish: takes it; never waits.
    """

    def __init__(self, state: Callable[[], CellState], publish: Callable[[Sequence[CellState]], None]) -> None:
        self._state = state
        self._publish = publish
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aureon-beat", daemon=True)

    def start(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End."""
        self._over.set()
        self._thread.join(timeout=2 * BEAT_EVERY_S)

    def _run(self) -> None:
        while True:
            try:
                self._publish([self._state()])
            except Exception:
                if not self._over.is_set():
                    log.exception("how the cell is")
            if self._over.wait(BEAT_EVERY_S):
                return
