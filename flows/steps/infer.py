"""infer: ask the models, concurrently, within each node's limit, deadline and retry policy.

Nothing is kept in the snapshot: intake hands undecided messages out again, and the ledger knows what was answered.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from bytewax.operators import StatefulBatchLogic

from connectors.told_errors import tells_errors
from flows.calls import CallRunner
from flows.items import Answered, Routed
from flows.stopping import Stopping

DRAIN_SOON, DRAIN_EVERY = timedelta(milliseconds=2), timedelta(milliseconds=5)
"""How often finished rounds are looked for while some are open: just after a submission, and later."""
SOON_S = 0.02
SETTLE_EVERY = timedelta(milliseconds=500)
SETTLED_AFTER = 3
"""Snapshots after the last round of a lane: then all of them are decided, and the ledger may forget them."""


@tells_errors
class Inference(StatefulBatchLogic[list[Routed], list[Answered], None]):
    """The open rounds of one lane."""

    def __init__(self, runner: CallRunner, stopping: Stopping) -> None:
        self._runner = runner
        self._lane = runner.new_lane()
        self._unsettled = 0
        self._submitted_at = 0.0
        self._stopping = stopping
        self._open = 0

    def on_batch(self, values: list[list[Routed]]) -> tuple[Iterable[list[Answered]], bool]:
        """Submit what came, and pass on what has been answered; a round without calls passes at once."""
        to_ask: list[Routed] = []
        at_once: list[Answered] = []
        for routed in (r for batch in values for r in batch):
            if routed.calls:
                to_ask.append(routed)
            else:
                at_once.append(Answered(routed, ()))
        if to_ask:
            self._open += len(to_ask)
            self._unsettled = SETTLED_AFTER
            self._submitted_at = time.monotonic()
            self._runner.submit(self._lane, to_ask)
        return self._emit(at_once)

    def on_notify(self) -> tuple[Iterable[list[Answered]], bool]:
        """Pass on what has been answered.

        Raises:
            TryAgainError: answers cannot be made durable, so none is passed on.
        """
        self._runner.check()
        return self._emit([])

    def on_eof(self) -> tuple[Iterable[list[Answered]], bool]:
        """Keep nothing: what is still open is handed out again after the next start."""
        return self._emit([])

    def _emit(self, done: list[Answered]) -> tuple[Iterable[list[Answered]], bool]:
        outbox = self._lane.outbox
        finished = len(outbox)
        self._open -= finished
        done.extend([answered for _ in range(finished) if not (answered := outbox.popleft()).dropped])
        if self._stopping.drained:
            done = []  # the lanes are reading their logs to the end; a decision from now on would come too late
        return ([done] if done else ()), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Soon, while rounds are open."""
        if self._open:
            is_soon = time.monotonic() - self._submitted_at < SOON_S
            return datetime.now(UTC) + (DRAIN_SOON if is_soon else DRAIN_EVERY)
        return datetime.now(UTC) + SETTLE_EVERY if self._unsettled else None

    def snapshot(self) -> None:
        """Nothing; but what was decided two snapshots ago is on the log, and the ledger may forget it."""
        if self._unsettled:
            self._unsettled = SETTLED_AFTER if self._open else self._unsettled - 1
            self._runner.snapshot(self._lane)
