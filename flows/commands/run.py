"""`aureon run`: the cell of `flows.refine` in this process, with all that it needs around it.

It prepares the state folder and takes its lock, starts the embedded broker where no other is named, checks the broker,
and turns signals into a graceful stop.
"""

import argparse
import contextlib
import fcntl
import logging
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Self

from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from connectors.embedded import EmbeddedBroker
from connectors.kafka import client_config
from connectors.processes import read_pid, write_pid
from flows.cell import Cell
from flows.cell_status import CellStatus
from flows.cluster import NO_FOLDER
from flows.commands.arguments import settings_of
from flows.commands.engine import muffled_engine
from flows.commands.figures import KafkaFigures, KafkaLook, LakeCounts, LakeLook, Rate, reach
from flows.refine import cell_flow
from flows.settings import Settings
from flows.stopping import Stopping
from flows.telemetry import shown
from flows.terminal import OK, say
from schemas.errors import AureonError, RefusedError, step_log

log = logging.getLogger(__name__)

RECOVERY_PARTITIONS = 4
"""Files of the recovery store. The number is fixed for good when the store is made; each file is written by one worker
and costs one small transaction an epoch. Workers are threads under one GIL, so more than four gain nothing."""

LOCK = "run.lock"
ENGINE_LOG = "engine.log"
PREFLIGHT_S = 5.0
"""A broker that answers at all does so in this time; with all that a start takes besides, an error comes within ten."""
HEARTBEAT_S = 5.0
LOOK_S = 1.0


def main(options: argparse.Namespace) -> int:
    """Run a cell until it is asked to stop."""
    settings = settings_of(options)
    lines = options.verbose or sys.stderr.isatty()
    with prepared(settings) as (cell, interrupts):
        say(start_line(cell))
        heartbeat = Heartbeat(cell, lines=lines, until_idle_s=options.until_idle)
        is_looked_at = lines or options.until_idle is not None
        run_cell(cell, interrupts, Watch(cell, heartbeat) if is_looked_at else contextlib.nullcontext())
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


# -- around the flow -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def prepared(settings: Settings) -> Iterator[tuple[Cell, "Interrupts"]]:
    """Make all that a cell needs, in order, and let go of it in the reverse order.

    Raises:
        TryAgainError: no broker answers.
        RefusedError: another process has the state folder, or something belongs elsewhere.
    """
    cell = Cell(settings)
    cell.check()
    with (
        Interrupts(cell.stopping) as interrupts,
        locked(settings.state_dir),
        shown(settings, CellStatus(cell)) as telemetry,
        broker_of(settings),
    ):
        try:
            if telemetry.url:
                say(f"metrics at {telemetry.url}/metrics")
            cell.connect()
            cell.router()
            cell.planner()
            yield cell, interrupts
        finally:
            cell.close()


def run_cell(cell: Cell, interrupts: "Interrupts", watch: AbstractContextManager[object]) -> None:
    """Run the flow in this thread until it has stopped.

    Raises:
        BytewaxRuntimeError: a step failed; what it raised is in the chain of causes.
    """
    settings = cell.settings
    step_log.disabled = True  # in one process the error comes back, and is told once
    flow = cell_flow(cell)
    recovery = RecoveryConfig(recovery_folder(settings.state_dir), timedelta(0))
    with muffled_engine(settings.state_dir / ENGINE_LOG), watch, interrupts.graceful():
        cli_main(
            flow,
            workers_per_process=settings.workers,
            epoch_interval=timedelta(seconds=settings.snapshot_s),
            recovery_config=recovery,
        )


@contextlib.contextmanager
def broker_of(settings: Settings) -> Iterator[None]:
    """Start the embedded broker, and stop it only if it was started here; or ask the one that the settings name.

    Raises:
        TryAgainError: none answers.
    """
    if settings.brokers:
        reach(client_config(settings.brokers, settings.kafka_properties), PREFLIGHT_S)
        yield
        return
    with EmbeddedBroker(settings.broker_dir):
        yield


def recovery_folder(state_dir: Path) -> Path:
    """Find Bytewax's recovery store, or make it in one step: half a store would be refused for good."""
    folder = state_dir / "recovery"
    if not folder.is_dir():
        draft = Path(tempfile.mkdtemp(prefix="recovery.", dir=state_dir))
        init_db_dir(draft, RECOVERY_PARTITIONS)
        draft.replace(folder)
    for left in state_dir.glob("recovery.*"):  # of a process that died in the middle
        shutil.rmtree(left, ignore_errors=True)
    return folder


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the lock of a state folder: two cells on one would spoil it, and Bytewax does not notice.

    Raises:
        RefusedError: another process holds it, and is named; or there can be none.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except NO_FOLDER as error:
        raise RefusedError(
            f"the state folder {state_dir} cannot be made: {error.strerror}; set AUREON_STATE or AUREON_HOME to another"
        ) from None
    with (state_dir / LOCK).open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"the state folder {state_dir} is in use by process {read_pid(file)}: stop that one, "
                "or set AUREON_STATE to another folder"
            ) from None
        write_pid(file)
        yield
        file.truncate(0)


def running_pid(state_dir: Path) -> int | None:
    """Tell which process holds the lock of a state folder; None if nobody does."""
    try:
        with (state_dir / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return read_pid(file)
    except OSError:
        pass
    return None


class Interrupts:
    """Ctrl-C and SIGTERM: a graceful stop while the flow runs, an ordinary interruption before and after.

    Within a flow the first one hands nothing new out, the second one does not wait for the calls in flight, the third
    one ends at once, as a crash would.
    """

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        self._asked = 0
        self._graceful = False

    @property
    def asked(self) -> bool:
        """Tell whether the user asked for the stop."""
        return self._asked > 0

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def graceful(self) -> Iterator[None]:
        """From here on, signals stop the flow."""
        self._graceful = True
        try:
            yield
        finally:
            self._graceful = False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked += 1
        if not self._graceful or self._asked > 2:  # the third time
            raise KeyboardInterrupt
        if self._asked == 1:
            limit = self._stopping.drain_s
            say(f"stopping: waiting up to {limit:g} s for the calls in flight; again to stop without waiting")
        self._stopping.ask()


# -- beside the flow -----------------------------------------------------------------------------------------------


class Watch:
    """A thread that looks at the figures while the flow runs, and shows them to a function that may stop the flow.

    It only asks Kafka and the lake, as anybody may; what it cannot learn it leaves out, and the flow goes on.

    Args:
        cell: what runs.
        on_figures: called about once a second.
    """

    def __init__(self, cell: Cell, on_figures: Callable[[KafkaFigures | None, LakeCounts], None]) -> None:
        self._cell = cell
        self._on_figures = on_figures
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aureon-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=LOOK_S * 5)

    def _run(self) -> None:
        settings = self._cell.settings
        kafka = KafkaLook(self._cell.connect().config, settings.group)
        lake = LakeLook(settings.lake_dir)
        while not self._over.wait(LOOK_S):
            try:
                self._on_figures(kafka.figures(), lake.counts())
            except AureonError as error:
                log.warning("no figures: %s", error)
            except Exception:
                log.exception("no figures")


class Heartbeat:
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
        if self._lines and now - self._said >= HEARTBEAT_S:
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
