"""Batch replays: past tasks decided again, asked again or sent again; what comes of it is a run beside the lake.

    past rounds ─► again ─► run

Run it with `aureon replay`, or by itself; the settings are those of a cell, and no broker is needed:

    python -m bytewax.run "flows.replay:flow('nightly', since='2026-11-27', topics='math,coding')"
"""

import atexit
import contextlib
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import bytewax.operators as op
import msgspec
import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

from connectors.file_lock import try_lock
from connectors.told_errors import step_log, tells_errors
from flows.engine import muffled_engine
from flows.progress import bars
from flows.replays.parts import Done, Past, Redeciding
from flows.replays.redecide import Options, named
from flows.rules import Rules
from flows.running import broker_of
from flows.settings import Settings, read_settings
from flows.terminal import say
from one_lake import tables
from one_lake.runs import Asked, Run, Selection, keep_part, parts_done, past_rounds, read_run, run_folder, start_run
from schemas.errors import RefusedError, TryAgainError
from schemas.software import software_version

RE_DECIDE, RE_ASK, REDRIVE = MODES = "re-decide", "re-ask", "redrive"
ALL = Selection()
NOTHING_MORE = Options()

# -- the flow ------------------------------------------------------------------------------------------------------


class Again(Protocol):
    """Does parts of a run again, several at once."""

    asked: Asked
    """What it is given of them."""

    @property
    def reused(self) -> int:
        """Finished calls of a life before that were not paid again."""
        ...

    def take(self, parts: Iterable[Past]) -> Iterator[Done]:
        """Begin parts; gives those that are done by now, in order. Waits where too many are under way."""
        ...

    def rest(self) -> Iterator[Done]:
        """Wait for all others."""
        ...

    def close(self) -> None:
        """Let go of what that takes."""
        ...


def replay_flow(rounds: "PastRounds", again: Again, run: "RunSink") -> Dataflow:
    """Build the flow. Every item is a part of the run: a thousand tasks."""
    flow = Dataflow("replay")

    past = op.input("past_rounds", flow, rounds)
    # Past
    parts = op.key_on("parts", past, lambda _: "run")
    done = op.stateful_batch("again", parts, lambda _state: _Doing(again))
    # the run with what is Done
    op.output("run", op.key_rm("done", done), run)
    return flow


@tells_errors
class _Doing(StatefulBatchLogic[Past, Done, None]):
    """Has parts done beside the flow; what is under way at a crash is not done, and comes again."""

    def __init__(self, again: Again) -> None:
        self._again = again

    def on_batch(self, values: list[Past]) -> tuple[Iterable[Done], bool]:
        return list(self._again.take(values)), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[Done], bool]:
        return list(self._again.rest()), StatefulBatchLogic.DISCARD

    def snapshot(self) -> None:
        """Nothing: the run itself tells what is done."""


@tells_errors
class PastRounds(FixedPartitionedSource[Past, None]):
    """The rounds of a run's tasks.

    Unit of parallelism: one; its rows come sorted. Guarantee: each part that is not done, whole. Replay: after a crash
    those that were not kept come again.

    Args:
        lake_dir: the lake.
        name: of the run.
        run: what it is.
        asked: what of the rounds is asked for.
    """

    def __init__(self, lake_dir: Path, name: str, run: Run, asked: Asked) -> None:
        self._asked = lake_dir, name, run, asked

    def list_parts(self) -> list[str]:
        """Give the one."""
        return ["rounds"]

    def build_part(self, _step_id: str, _for_part: str, _resume_state: None) -> "_PastPartition":
        """Begin to read."""
        return _PastPartition(past_rounds(*self._asked))


@tells_errors
class _PastPartition(StatefulSourcePartition[Past, None]):
    def __init__(self, parts: Iterator[tuple[int, pa.Table]]) -> None:
        self._parts = parts

    def next_batch(self) -> list[Past]:
        return [Past(*next(self._parts))]

    def snapshot(self) -> None:
        """Nothing: the run itself tells what is done."""


@tells_errors
class RunSink(DynamicSink[Done]):
    """The folder of a run.

    Unit of parallelism: the part. Guarantee: a part is there whole, and on the disk. Replay: writes the same.

    Args:
        lake_dir: the lake.
        name: of the run.
        progress: told when a part is done.
    """

    def __init__(self, lake_dir: Path, name: str, progress: Callable[[], None] = lambda: None) -> None:
        self._keep = lambda part, data: keep_part(lake_dir, name, part, data)
        self._progress = progress

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "_RunPartition":
        """Nothing is opened."""
        return _RunPartition(self._keep, self._progress)


@tells_errors
class _RunPartition(StatelessSinkPartition[Done]):
    def __init__(self, keep: Callable[[int, bytes], None], progress: Callable[[], None]) -> None:
        self._keep = keep
        self._progress = progress

    def write_batch(self, items: list[Done]) -> None:
        for done in items:
            self._keep(done.part, done.data)
            self._progress()


# -- running it ----------------------------------------------------------------------------------------------------


def replay(
    settings: Settings, name: str, mode: str, selection: Selection = ALL, options: Options = NOTHING_MORE
) -> Run:
    """Do a run, or what is left of it, in this process; how far it is goes to stderr.

    Its rows are then `run('<name>')` in the lake. To be called in the main thread, where Ctrl-C and SIGTERM end it; it
    goes on when it is called again.

    Args:
        settings: the lake, and the rules.
        name: of the run.
        mode: `re-decide`, `re-ask` or `redrive`, of which the last is always of dead letters.
        selection: of which tasks; left out, those that it was begun with, or all.
        options: what else is asked again.

    Raises:
        RefusedError: there is no lake, what is chosen is none, or the run was begun otherwise.
        TryAgainError: another process is at it.
    """
    with _alone(settings, name), broker_of(settings) if mode == REDRIVE else contextlib.nullcontext():
        there = read_run(settings.lake_dir, name)
        if there is not None and selection == ALL:
            selection = there.selection
        elif mode == REDRIVE:
            selection = msgspec.structs.replace(selection, dead=True)
        run = begin(settings, name, mode, selection, options)
        if len(parts_done(settings.lake_dir, name)) < run.parts:
            _finish(settings, name, run, options)
    return run


def _finish(settings: Settings, name: str, run: Run, options: Options) -> None:
    """Do the parts of a run that are not done."""
    count = Counter({"parts": len(parts_done(settings.lake_dir, name))})
    if count["parts"]:
        say(f"aureon: the run {name} goes on after {count['parts']:,} of {run.parts:,} parts")
    step_log.disabled = True  # in one process the error comes back, and is told once
    engine_log = run_folder(settings.lake_dir, name) / "engine.log"
    with bars() as progress, contextlib.closing(again_of(settings, name, run, options)) as again:

        def tell() -> None:
            count["parts"] += 1
            progress("parts", count["parts"], run.parts)

        progress("parts", count["parts"], run.parts)
        with _terminating(), muffled_engine(engine_log):
            cli_main(flow_of(settings, name, run, again, tell))
        if again.reused:
            say(f"aureon: {again.reused:,} finished calls were taken from the ledger of the run, and not paid again")
    engine_log.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(settings: Settings, name: str) -> Iterator[None]:
    """One process at a run: two would do the same work."""
    folder = run_folder(settings.lake_dir, name)
    if not tables.is_lake(settings.lake_dir):
        raise tables.no_lake(settings.lake_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.lock").open("w") as lock:
        if not try_lock(lock.fileno()):
            raise TryAgainError(f"another process is at the run {name}; it goes on")
        try:
            yield
        finally:
            if read_run(settings.lake_dir, name) is None:  # it did not come so far
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does; it goes on where it was when it is run again.

    Ctrl-C itself is ignored in what a script has put into the background.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def flow(
    run: str = "",
    mode: str = RE_DECIDE,
    since: str = "",
    until: str = "",
    topics: str = "",
    query: str = "",
    *,
    dead: bool = False,
) -> Dataflow:
    """What `python -m bytewax.run flows.replay` runs: a run, from the settings that the environment describes.

    Args:
        run: its name; begun anew or gone on with. By default that of the mode and the day.
        mode: `re-decide`, `re-ask` or `redrive`.
        since: of tasks of which a round was decided from this time on (ISO 8601, UTC).
        until: and before that.
        topics: of these topics, separated by commas.
        query: that a query over the lake gives, with the columns topic and logical_id.
        dead: that ended as dead letters; `redrive` is always of these.

    Raises:
        RefusedError: there is no lake, or what is chosen is none.
    """
    settings = read_settings({})
    name = run or f"{mode}-{time.strftime('%Y-%m-%d', time.gmtime())}"
    chosen = Selection(
        since=since,
        until=until,
        topics=tuple(filter(None, (t.strip() for t in topics.split(",")))),
        query=query,
        dead=dead or mode == REDRIVE,
    )
    there = begin(settings, name, mode, chosen, Options())
    again = again_of(settings, name, there, Options())
    atexit.register(again.close)
    return flow_of(settings, name, there, again)


def begin(settings: Settings, name: str, mode: str, selection: Selection, options: Options) -> Run:
    """Begin a run, or find the one that was begun under its name.

    Raises:
        RefusedError: as `one_lake.runs.start_run`; or there is no such mode.
    """
    if mode not in MODES:
        raise RefusedError(f"{mode!r} is no mode of a run; there are {', '.join(MODES)}")
    rules = {} if mode == REDRIVE else named(Rules(settings), options)
    if mode == RE_ASK:
        rules |= {"nodes": settings.nodes, "routing": settings.routing}
    return start_run(settings.lake_dir, name, mode, selection, rules, software_version(), time.time())


def again_of(settings: Settings, name: str, run: Run, options: Options) -> Again:
    """What does its parts. What only one mode needs (nodes and their clients, Kafka) is imported for that one."""
    if run.mode == RE_ASK:
        from flows.replays.reask import Reasking  # noqa: PLC0415

        return Reasking(settings, run_folder(settings.lake_dir, name))
    if run.mode == REDRIVE:
        from flows.replays.redrive import Redriving  # noqa: PLC0415

        return Redriving(settings)
    return Redeciding(settings, options, run.tasks)


def flow_of(
    settings: Settings,
    name: str,
    run: Run,
    again: Again,
    progress: Callable[[], None] = lambda: None,
) -> Dataflow:
    """The flow of one run."""
    rounds = PastRounds(settings.lake_dir, name, run, again.asked)
    return replay_flow(rounds, again, RunSink(settings.lake_dir, name, progress))
