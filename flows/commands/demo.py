"""`aureon demo`: real tasks, refined on this machine until each has ended, and how right the results are.

    examiner ─► tasks.jsonl ─► Kafka ─► the cell, in this process ─► ONE
        ▲                                                             │
        └──────────────────────── answers, marked ◄───────────────────┘

Everything is in the demo's home. Run again, it sends the tasks again, which is harmless, since their ids are the same,
and goes on where it stood; once finished it shows what came out.
"""

import argparse
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import duckdb
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import one_lake
from connectors.embedded import EmbeddedBroker
from connectors.nodes.llm import MODEL, model_path
from flows.cell import Cell
from flows.cli import FAILED, INTERRUPTED, OK, command_name, say, settings_of
from flows.commands.demo_report import Result, evaluate, print_report
from flows.commands.examiner import Examiner
from flows.commands.figures import KafkaFigures, LakeCounts, Rate
from flows.commands.run import Watch, locked, prepared, run_cell
from flows.commands.submit import TaskSender
from flows.settings import PREFIX, Settings
from schemas.errors import UNREADABLE, AureonError, OutcomeUnknownError, RefusedError

TASKS = 2100
"""By default: 150 of each family."""
LLM_TASKS = 210
"""By default with the language model, which takes a second or two for each call."""
SEED = 0
SEND_AT = 50
"""Tasks are sent by so many, as they are posed."""
LINE_EVERY_S = 2.0
STALLED_S = 20.0
"""Nothing waits, nothing is decided, and not all has ended: tasks are gone."""

STATE_FILE = "demo.json"
TASKS_FILE = "tasks.jsonl"
_OURS = ("broker", "blobs", "lake", "state", "cluster.key", TASKS_FILE, TASKS_FILE + ".part", STATE_FILE)
"""All that a demo makes in its home, and all that --fresh deletes; the mark of a demo last."""
_IGNORED = tuple(
    PREFIX + name
    for name in ("HOME", "BROKERS", "KAFKA_CONFIG", "STATE", "LAKE", "BLOBS", "KEY_FILE", "GROUP", "LANES")
)
"""Variables that are meant for another installation: a demo keeps to its home unless a flag says otherwise."""
_LLM_NODES = "connectors.nodes.llm:nodes_with_llm"
_LLM_DEFAULTS = {"ROUTING": "best-3", "IN_FLIGHT": "1"}
"""With the language model three of the four nodes are asked first, and which three is learned. One task of each lane is
under way at a time: what it teaches is known when the next one is routed, and the model, which takes one call at a
time, is never overrun."""


class DemoState(Struct, kw_only=True):
    """What the demo's home remembers, in `demo.json`."""

    tasks: int
    seed: int
    llm: bool = False
    """Whether the language model is asked."""
    ran_s: float = 0.0
    """In all runs so far."""
    result: Result | None = None
    """Once all has ended."""


def main(options: argparse.Namespace) -> int:
    """Run the demo to its end, or go on with it, or show its result again."""
    if options.compare:
        from flows.commands.demo_compare import compare  # noqa: PLC0415 - which is made of this module's parts

        return compare(options)
    settings = demo_settings(options)
    home = Path(settings.home)
    if options.fresh:
        if settings.brokers:
            raise RefusedError(
                "--fresh starts over on the embedded broker only: empty the Kafka topics of yours yourself"
            )
        if options.llm:  # refused before anything is deleted
            demo_settings(options, llm=True)
            model_path()
        delete_demo(settings)
    state = load_state(home, options.tasks, options.seed, llm=options.llm)
    if state.llm:
        settings = demo_settings(options, llm=True)
    if state.result is not None:
        say(f"aureon: this demo is finished; `{_command(home)} --fresh` starts over")
        print_report(state.result, settings.lake_dir)
        return OK
    if state.llm:
        model_path()  # refused before anything is made
    with prepared(settings) as (cell, interrupts), Examiner(state.tasks, state.seed) as examiner:
        say(
            f"aureon: {state.tasks:,} tasks on the broker {cell.connect().config['bootstrap.servers']}, the lake in "
            f"{settings.lake_dir}. Ctrl-C stops; `{_command(home)}` goes on."
        )
        save_state(home, state)
        began = time.monotonic()
        progress = DemoProgress(cell, Sending(cell, examiner, home / TASKS_FILE, state.tasks))
        try:
            with progress:
                run_cell(cell, interrupts, Watch(cell, progress))
        finally:
            state.ran_s += (progress.ended_at or time.monotonic()) - began
            save_state(home, state)
        if not progress.all_ended:
            return _unfinished(progress, home, asked=interrupts.asked)
        say("all ended; checking the answers with reasoning-gym's own verifiers")
        state.result = evaluate(
            settings.lake_dir, progress.sending.ids, examiner, state.ran_s, MODEL if state.llm else ""
        )
        save_state(home, state)
    print_report(state.result, settings.lake_dir)
    return OK


def _unfinished(progress: "DemoProgress", home: Path, *, asked: bool) -> int:
    if progress.sending.error is not None:
        raise progress.sending.error
    go_on = f"`{_command(home)}` goes on where it stands"
    if asked:
        say(f"aureon: stopped with {progress.told}; {go_on}")
        return INTERRUPTED
    say(
        f"aureon: nothing waits any more, with {progress.told}: the broker lost the others; {go_on}, and sends them "
        "again"
    )
    return FAILED


def _command(home: Path) -> str:
    flag = "" if home == Path(".aureon/demo") else f" --home {shlex.quote(str(home))}"
    return f"{command_name()} demo{flag}"


# -- the home ------------------------------------------------------------------------------------------------------


def demo_settings(options: argparse.Namespace, *, llm: bool = False) -> Settings:
    """Gather the settings; the demo has a home of its own within that of the installation.

    Args:
        options: the command's arguments.
        llm: whether the language model is one of the nodes.

    Raises:
        RefusedError: a value is not what its setting takes, or other nodes are named beside the language model.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _IGNORED}
    environment[PREFIX + "HOME"] = str(Path(os.environ.get(PREFIX + "HOME") or ".aureon") / "demo")
    if llm:
        if options.setting_nodes is not None:
            raise RefusedError("--llm names the nodes of the demo: leave out --nodes")
        environment = {PREFIX + name: value for name, value in _LLM_DEFAULTS.items()} | environment
        environment[PREFIX + "NODES"] = _LLM_NODES
    return settings_of(options, environment)


def load_state(home: Path, tasks: int | None, seed: int | None, *, llm: bool = False) -> DemoState:
    """Read what the home remembers; more tasks may be asked for than last time.

    Raises:
        RefusedError: it is the home of something else, or its tasks are others.
    """
    path = home / STATE_FILE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=DemoState)
    except FileNotFoundError:
        if (home / "state").exists() or (home / "lake").exists():
            raise RefusedError(
                f"{home} is no demo's home, and has a state or a lake: choose another with --home"
            ) from None
        return DemoState(tasks=tasks or (LLM_TASKS if llm else TASKS), seed=SEED if seed is None else seed, llm=llm)
    except UNREADABLE as error:
        raise RefusedError(f"{path}: {error}; `aureon demo --fresh` starts over") from None
    if seed is not None and seed != state.seed:
        raise RefusedError(f"the demo in {home} has the seed {state.seed}, not {seed}: start over with --fresh")
    if llm and not state.llm:
        raise RefusedError(f"the demo in {home} was begun without --llm: start over with --fresh --llm")
    if tasks is not None and tasks < state.tasks:
        raise RefusedError(
            f"the demo in {home} has {state.tasks:,} tasks already, not {tasks:,}: start over with --fresh"
        )
    if tasks is not None and tasks > state.tasks:
        state.tasks, state.result = tasks, None
    return state


def save_state(home: Path, state: DemoState) -> None:
    """Write down what the home is to remember, in one step."""
    draft = home / (STATE_FILE + ".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    draft.replace(home / STATE_FILE)


def delete_demo(settings: Settings) -> None:
    """Delete what a demo has made in its home, and nothing else.

    Raises:
        RefusedError: the folder is no demo's home, or something runs in it.
    """
    home = Path(settings.home)
    if not home.exists():
        return
    if not (home / STATE_FILE).is_file():
        if home.is_dir() and not any(home.iterdir()):
            return
        raise RefusedError(f"{home} is no demo's home: it has no {STATE_FILE}, so nothing was deleted")
    with locked(settings.state_dir):
        broker = EmbeddedBroker(settings.broker_dir)
        if broker.is_running():  # one whose owner died; it is adopted, and stopped
            broker.start()
            if not broker.owned:
                raise RefusedError(f"the broker of {home} is in use by another process: stop that first")
            broker.stop()
        for name in _OURS:
            path = home / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


# -- while it runs -------------------------------------------------------------------------------------------------


class Sending:
    """A thread that sends the tasks as they are posed, and keeps them in a file: the next run need not wait for them.

    Args:
        cell: whose broker they go to; it is stopped if sending fails.
        examiner: poses them.
        path: the file.
        count: how many there are.
    """

    def __init__(self, cell: Cell, examiner: Examiner, path: Path, count: int) -> None:
        self._cell = cell
        self._examiner = examiner
        self._path = path
        self.count = count
        self._thread = threading.Thread(target=self._run, name="aureon-sending", daemon=True)
        self.ids: list[tuple[str, str]] = []
        """(topic, logical id) of those sent."""
        self.done = False
        """All are sent and confirmed."""
        self.error: AureonError | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end, which comes soon once the cell stops."""
        self._thread.join(timeout=10)

    def _run(self) -> None:
        settings, connected = self._cell.settings, self._cell.connect()
        try:
            with TaskSender(connected.config, connected.topics.lanes, settings.max_task_bytes, SEND_AT) as sender:
                for task in self._tasks():
                    if self._cell.stopping.asked:
                        return
                    sender.add(task)
                    named = msgspec.json.decode(task, type=dict[str, Any])
                    self.ids.append((named["topic"], named["logical_id"]))
                sender.flush()
            self.done = True
        except AureonError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - it ends the demo, which says so
            self.error = OutcomeUnknownError(f"sending the tasks failed: {type(error).__name__}: {error}")
        finally:
            if not self.done and not self._cell.stopping.asked:
                self._cell.stopping.ask()

    def _tasks(self) -> Iterator[bytes]:
        kept = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        if len(kept) >= self.count:
            yield from kept[: self.count]
            return
        part = self._path.with_name(self._path.name + ".part")
        with part.open("wb") as file:
            for task in self._examiner.tasks():
                file.write(task)
                yield task
        part.replace(self._path)


_ENDED = """
WITH ended AS (SELECT topic, logical_id FROM records UNION SELECT topic, logical_id FROM dead_letters)
SELECT
    (SELECT count(*) FROM asked SEMI JOIN ended USING (topic, logical_id)),
    (SELECT count(*) FROM branches),
    (SELECT count(*) FROM branches SEMI JOIN ended USING (topic, logical_id))
"""


class DemoProgress:
    """Shows how far the demo is, and stops the cell when every task and every branch has ended."""

    def __init__(self, cell: Cell, sending: Sending) -> None:
        self._cell = cell
        self._rate = Rate()
        self._lake: duckdb.DuckDBPyConnection | None = None
        self._bar: Progress | None = None
        self._said = 0.0
        self._last = (0, 0)
        self._moved_at = time.monotonic()
        self.sending = sending
        self.all_ended = False
        self.ended_at: float | None = None
        self.told = "nothing ended yet"
        """How far it is, in words."""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._bar_task = self._bar.add_task("starting", total=self.sending.count)
        self.sending.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self.sending.join()
        if self._lake is not None:
            self._lake.close()

    def __call__(self, kafka: KafkaFigures | None, lake: LakeCounts) -> None:
        """Take the figures of this second."""
        sent = len(self.sending.ids)
        entries = kafka.log_entries if kafka is not None else 0
        rate = self._rate.add(entries)
        total = self.sending.count + lake.branches
        self.told = f"{lake.ended:,} of {total:,} tasks and branches ended"
        self._show(
            lake.ended,
            total,
            f"{lake.records:,} converged, {lake.dead_letters:,} dead, {lake.branches:,} branches, {rate:,.0f} rounds/s"
            + ("" if self.sending.done else f", {sent:,} sent"),
        )
        if (entries, lake.rounds) != self._last:
            self._last, self._moved_at = (entries, lake.rounds), time.monotonic()
        if not self.sending.done or self._cell.stopping.asked:
            return
        if lake.ended >= total and self._really_ended():
            self.all_ended, self.ended_at = True, time.monotonic()
            self._cell.stopping.ask()
        elif kafka is not None and not kafka.waiting and time.monotonic() - self._moved_at > STALLED_S:
            self._cell.stopping.ask()

    def _really_ended(self) -> bool:
        """Ask for each id; the counts are also those of whatever else went in."""
        if self._lake is None:
            self._lake = one_lake.connect(self._cell.settings.lake_dir)
            topics, ids = zip(*self.sending.ids, strict=True)
            self._lake.execute(
                "CREATE TEMP TABLE asked AS SELECT unnest($topics) AS topic, unnest($ids) AS logical_id",
                {"topics": list(topics), "ids": list(ids)},
            )
        else:
            one_lake.refresh(self._lake)
        ((ended, branches, branches_ended),) = self._lake.execute(_ENDED).fetchall()
        return bool(ended == self.sending.count and branches == branches_ended)

    def _show(self, ended: int, total: int, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._bar_task, completed=ended, total=total, description=text)
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{ended:,} of {total:,} ended: {text}")
