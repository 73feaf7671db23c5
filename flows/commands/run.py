"""`aureon run`: the cell of `flows.refine` in this process, until it is asked to stop or has nothing left to do."""

import argparse
import contextlib
import sys
import time

from flows.cell import Cell
from flows.commands.arguments import settings_of
from flows.figures import KafkaFigures, LakeCounts, Rate
from flows.running import Watch, prepared, run_cell
from flows.terminal import OK, say

LINE_EVERY_S = 5.0


def main(options: argparse.Namespace) -> int:
    """Run a cell until it is asked to stop."""
    settings = settings_of(options)
    lines = options.verbose or sys.stderr.isatty()
    with prepared(settings) as (cell, interrupts):
        say(start_line(cell))
        line = StatusLine(cell, lines=lines, until_idle_s=options.until_idle)
        is_looked_at = lines or options.until_idle is not None
        run_cell(cell, interrupts, Watch(cell, line) if is_looked_at else contextlib.nullcontext())
        reused, repeated = cell.runner().told_twice()
        if reused or repeated:
            say(
                f"of the life before, {reused:,} finished calls were taken from the ledger, and {repeated:,} that were "
                "in flight were asked again"
            )
    say("stopped; start it again and it goes on where it stood")
    return OK


def start_line(cell: Cell) -> str:
    """Name what a cell is connected to."""
    settings, connected = cell.settings, cell.connect()
    embedded = "" if settings.brokers else " (embedded)"
    _, nodes = cell.present_nodes()
    return (
        f"aureon: broker {connected.config['bootstrap.servers']}{embedded}, {connected.topics.lanes} lanes; "
        f"lake {settings.lake_dir}; {len(nodes)} nodes: {', '.join(n.node for n in nodes)}. Ctrl-C stops it."
    )


class StatusLine:
    """A line every few seconds, and the end of a run that has nothing left to do.

    Args:
        cell: what is stopped at the end.
        lines: print the lines.
        until_idle_s: how long nothing may happen before it is stopped; None for ever.
    """

    def __init__(self, cell: Cell, *, lines: bool, until_idle_s: float | None) -> None:
        self._cell = cell
        self._lines = lines
        self._until_idle_s = until_idle_s
        self._rate = Rate()
        self._said = time.monotonic()
        self._last: int | None = None
        self._idle_since: float | None = None

    def __call__(self, kafka: KafkaFigures | None, lake: LakeCounts) -> None:
        """Take the figures of this second."""
        if kafka is None:
            return
        now = time.monotonic()
        rate = self._rate.add(kafka.log_entries)
        if self._lines and now - self._said >= LINE_EVERY_S:
            self._said = now
            say(
                f"{time.strftime('%H:%M:%S')}  {rate:,.0f} decided/s, {kafka.waiting:,} waiting or under way, "
                f"{lake.records:,} converged, {lake.dead_letters:,} dead"
            )
        if kafka.waiting or kafka.log_entries != self._last:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        self._last = kafka.log_entries
        limit, since = self._until_idle_s, self._idle_since
        if limit is not None and since is not None and now - since >= limit and not self._cell.stopping.asked:
            say(f"idle for {limit:g} s, stopping")
            self._cell.stopping.ask()
