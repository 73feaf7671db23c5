"""The beat of a cell: how it is, every two seconds, whatever it does."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from schemas.supervision import CellState

log = logging.getLogger(__name__)

BEAT_EVERY_S = 2.0


class Beat:
    """A thread that says how the cell is; what it cannot say it leaves out.

    Args:
        state: tells how it is.
        publish: takes it; never waits.
        ends: tells at the end whether the cell was asked to stop, and is not to be missed.
    """

    def __init__(
        self,
        state: Callable[[], CellState],
        publish: Callable[[Sequence[CellState]], None],
        ends: Callable[[], bool] = lambda: False,
    ) -> None:
        self._state = state
        self._publish = publish
        self._ends = ends
        self._last: CellState | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aureon-beat", daemon=True)

    def start(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End; of a cell that was asked to stop with a last word."""
        self._over.set()
        self._thread.join(timeout=2 * BEAT_EVERY_S)
        if self._last is not None and self._ends():
            self._publish([msgspec.structs.replace(self._last, lanes=(), ended=True, at=round(time.time(), 3))])

    def _run(self) -> None:
        while True:
            try:
                self._last = self._state()
                self._publish([self._last])
            except Exception:
                if not self._over.is_set():
                    log.exception("how the cell is")
            if self._over.wait(BEAT_EVERY_S):
                return
