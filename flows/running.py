"""A cell in this process, with all that it needs around it.

The state folder is prepared and locked, the embedded broker started where no other is named, the broker checked, and
signals are turned into a graceful stop.
"""

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Self

from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from connectors.embedded import EmbeddedBroker
from connectors.file_lock import LOOKS, try_lock
from connectors.processes import read_pid, write_pid
from connectors.told_errors import step_log
from flows.cell import Cell
from flows.cell_status import CellStatus
from flows.cluster import NO_FOLDER, config_of
from flows.engine import muffled_engine
from flows.figures import KafkaFigures, KafkaLook, LakeCounts, LakeLook, reach
from flows.refine import cell_flow
from flows.settings import Settings
from flows.stopping import Stopping
from flows.telemetry import shown
from flows.terminal import FAILED, say, say_in_handler
from schemas.errors import AureonError, RefusedError

log = logging.getLogger(__name__)

RECOVERY_PARTITIONS = 4
"""Files of the recovery store. The number is fixed for good when the store is made; each file is written by one worker
and costs one small transaction an epoch. Workers are threads under one GIL, so more than four gain nothing."""

LOCK = "run.lock"
ENGINE_LOG = "engine.log"
LOOK_S = 1.0


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
        reach(config_of(settings))
        yield
        return
    with EmbeddedBroker(settings.broker_dir) as broker, _watched(broker):
        yield


@contextlib.contextmanager
def _watched(broker: EmbeddedBroker) -> Iterator[None]:
    """End this process, as a crash would, where its own broker has ended: nothing more can come of it."""
    if not broker.owned:  # another process has it, and may start it again
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_S):
            if not broker.is_running():
                say(
                    f"aureon: the embedded broker in {broker.folder} was killed: what it acknowledged in its last "
                    "seconds is gone. The lake is whole; start again, or with another --home where that is refused"
                )
                os._exit(FAILED)

    thread = threading.Thread(target=watch, name="aureon-broker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
        if not try_lock(file.fileno(), tries=LOOKS):
            raise RefusedError(
                f"the state folder {state_dir} is in use by process {read_pid(file)}: stop that one, "
                "or set AUREON_STATE to another folder"
            )
        write_pid(file)
        yield
        file.truncate(0)


def running_pid(state_dir: Path) -> int | None:
    """Tell which process holds the lock of a state folder; None if nobody does."""
    try:
        with (state_dir / LOCK).open("rb") as file:
            if not try_lock(file.fileno(), shared=True):
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
        self._stopping.ask()
        if self._asked == 1:
            limit = self._stopping.drain_s
            say_in_handler(
                f"stopping: waiting up to {limit:g} s for the calls in flight; again to stop without waiting"
            )


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
