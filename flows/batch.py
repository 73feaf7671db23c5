"""A batch: tasks in, and ONE out when each of them has ended; a cell runs in this process for as long as that takes.

    tasks ─► Kafka ─► the cell ─► ONE

>>> lake = refine(read_settings({"max_rounds": 2}), Path("tasks.jsonl").read_bytes().splitlines())  # doctest: +SKIP
>>> lake.sql("SELECT logical_id, answer FROM one SEMI JOIN asked USING (topic, logical_id)")  # doctest: +SKIP

Run again, it sends the tasks again, which is harmless, since their ids are the same, and goes on where it stood.
"""

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import one_lake
from flows.cell import Cell
from flows.figures import KafkaFigures, LakeCounts, Rate
from flows.running import Interrupts, Watch, prepared, run_cell
from flows.sending import TaskSender
from flows.settings import Settings
from flows.terminal import say
from schemas.errors import AureonError, BadRecordError, OutcomeUnknownError, RefusedError, TryAgainError

SEND_AT = 50
"""Tasks are sent by so many, as they come."""
LINE_EVERY_S = 2.0
STALLED_S = 20.0
"""Nothing waits, nothing is decided, and not all has ended: tasks are gone."""


def refine(settings: Settings, tasks: Sequence[bytes]) -> duckdb.DuckDBPyConnection:
    """Refine tasks until each of them, and each branch of theirs, has ended; how far it is goes to stderr.

    To be called in the main thread, where Ctrl-C and SIGTERM stop it gracefully. The broker is the one that the
    settings name, or else the embedded one, for as long as this takes.

    Args:
        settings: of the cell.
        tasks: each a JSON object, as `aureon submit` takes them; blank ones are left out.

    Returns:
        The lake, as `one_lake.connect` gives it, with a table `asked` of the tasks: topic, logical_id.

    Raises:
        BadRecordError: one of them is no task; says which one, and why.
        KeyboardInterrupt: it was stopped.
        OutcomeUnknownError: the broker did not confirm a task in time: the same again goes on.
        RefusedError: there are no tasks, or a setting, a folder or a broker does not fit.
        TryAgainError: the broker does not answer, or has lost tasks: the same again goes on.
    """
    if not any(task.strip() for task in tasks):
        raise RefusedError("there are no tasks to refine")
    with prepared(settings) as (cell, interrupts):
        batch = Batch(cell, tasks, len(tasks))
        batch.run(interrupts)
    if batch.error is not None:
        raise batch.error
    if not batch.all_ended:
        if interrupts.asked:
            raise KeyboardInterrupt
        raise TryAgainError(f"nothing waits any more, with {batch.told}: the broker lost the others; run it again")
    lake = one_lake.connect(settings.lake_dir, settings.blobs_url)
    add_asked(lake, batch.ids)
    return lake


def add_asked(lake: duckdb.DuckDBPyConnection, ids: Sequence[tuple[str, str]]) -> None:
    """Add tasks, topic and logical id of each, to the table `asked` of a connection, which has it from then on."""
    lake.execute("CREATE TEMP TABLE IF NOT EXISTS asked (topic VARCHAR, logical_id VARCHAR)")
    columns = {"topics": [topic for topic, _ in ids], "ids": [logical_id for _, logical_id in ids]}
    lake.execute("INSERT INTO asked SELECT unnest($topics::VARCHAR[]), unnest($ids::VARCHAR[])", columns)


_HOW_FAR = """
WITH spawned AS (
    SELECT topic, logical_id FROM branches SEMI JOIN asked ON asked.topic = root_topic AND asked.logical_id = root_id
),
ours AS (FROM asked UNION FROM spawned),
-- another question under one of these ids is no end of it; a task whose blob is gone has ended
ends AS (
    SELECT (topic, logical_id) AS task, kind, forced FROM outcomes SEMI JOIN ours USING (topic, logical_id)
    WHERE kind IN ('converged', 'dead', 'cancelled') AND reason <> 'id_conflict'
)
SELECT
    (SELECT count(DISTINCT task) FROM ends),
    (SELECT count(*) FROM ours),
    (SELECT count(*) FROM spawned),
    (SELECT count(DISTINCT task) FROM ends WHERE kind = 'converged'),
    (SELECT count(DISTINCT task) FROM ends WHERE kind = 'converged' AND forced),
    (SELECT count(DISTINCT task) FROM ends WHERE kind = 'dead')
"""
# All of `rounds`, which comes last: what it tells to have ended, has its record and its branches in the other tables.


class Batch:
    """Sends tasks, shows how far they are, and stops the cell when every task and every branch has ended.

    Args:
        cell: where they are refined.
        tasks: each a JSON object; taken as they come, in a thread of their own.
        count: how many there are.
    """

    def __init__(self, cell: Cell, tasks: Iterable[bytes], count: int) -> None:
        self._cell = cell
        self._tasks = tasks
        self._count = count
        self._thread = threading.Thread(target=self._send, name="aureon-sending", daemon=True)
        self._sent = False
        self._rate = Rate()
        self._lake: duckdb.DuckDBPyConnection | None = None
        """Of the thread that looks, which may still ask it something when the flow has ended; so nobody closes it."""
        self._known = 0
        self._bar: Progress | None = None
        self._said = 0.0
        self._last = (0, 0)
        self._moved_at = time.monotonic()
        self.ids: list[tuple[str, str]] = []
        """(topic, logical id) of those sent."""
        self.error: AureonError | None = None
        """What ended the sending."""
        self.all_ended = False
        self.ended_at: float | None = None
        """By `time.monotonic`."""
        self.told = "nothing ended yet"
        """How far it is, in words."""

    def run(self, interrupts: Interrupts) -> None:
        """Run the cell until all have ended, sending has failed, the tasks are gone, or it is asked to stop."""
        if sys.stderr.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._bar_task = self._bar.add_task("starting", total=self._count)
        self._thread.start()
        try:
            run_cell(self._cell, interrupts, Watch(self._cell, self._look))
        finally:
            if self._bar is not None:
                self._bar.stop()
            self._thread.join(timeout=10)  # it ends soon once the cell stops

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        settings, connected = self._cell.settings, self._cell.connect()
        # else the cells, who may be elsewhere, have another store
        overflow = self._cell.overflow if settings.blobs or not settings.brokers else None
        lanes, most = connected.topics.lanes, settings.max_task_bytes
        number = 0
        try:
            with TaskSender(connected.config, lanes, most, SEND_AT, overflow) as sender:
                for task in self._tasks:
                    number += 1
                    if self._cell.stopping.asked:
                        return
                    if task.strip():
                        self.ids.append(sender.add(task))
                sender.flush()
            self._sent = True
        except BadRecordError as error:
            self.error = BadRecordError(f"task {number}: {error}")
        except AureonError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - it ends the batch, which says so
            self.error = OutcomeUnknownError(f"sending the tasks failed: {type(error).__name__}: {error}")
        finally:
            if not self._sent and not self._cell.stopping.asked:
                self._cell.stopping.ask()

    # -- looking ---------------------------------------------------------------------------------------------------

    def _look(self, kafka: KafkaFigures | None, lake: LakeCounts) -> None:
        """Take the figures of this second."""
        entries = kafka.log_entries if kafka is not None else 0
        rate = self._rate.add(entries)
        if (entries, lake.rounds) != self._last:
            self._last, self._moved_at = (entries, lake.rounds), time.monotonic()
        sent, has_ended = self._sent, False
        if lake.rounds:
            ended, ours, branches, converged, forced, dead = self._how_far()
            has_ended = ended == ours
            total = ours if sent else ours + self._count - self._known
            self.told = f"{ended:,} of {total:,} tasks and branches ended"
            told = f"{converged:,} converged ({forced:,} forced), {dead:,} dead, {branches:,} branches"
            told += f", {rate:,.0f} rounds/s"
            self._show(ended, total, told if sent else f"{told}, {self._known:,} sent", now=sent and has_ended)
        if not sent or self._cell.stopping.asked:
            return
        if has_ended:
            self.all_ended, self.ended_at = True, time.monotonic()
            self._cell.stopping.ask()
        elif kafka is not None and not kafka.waiting and time.monotonic() - self._moved_at > STALLED_S:
            self._cell.stopping.ask()

    def _how_far(self) -> Sequence[Any]:
        """Count, by the lake, of the tasks so far and their branches: ended, all, branches, records, forced, dead."""
        if self._lake is None:
            self._lake = one_lake.connect(self._cell.settings.lake_dir)
        else:
            one_lake.refresh(self._lake)
        new = self.ids[self._known :]
        add_asked(self._lake, new)
        self._known += len(new)
        (counts,) = self._lake.execute(_HOW_FAR).fetchall()
        return counts

    def _show(self, ended: int, total: int, text: str, *, now: bool) -> None:
        if self._bar is not None:
            self._bar.update(self._bar_task, completed=ended, total=total, description=text)
        elif now or time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{ended:,} of {total:,} ended: {text}")
