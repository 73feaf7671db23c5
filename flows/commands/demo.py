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
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from connectors.embedded import EmbeddedBroker
from connectors.nodes.llm import MODEL, model_path
from flows.batch import Batch
from flows.commands.arguments import settings_of
from flows.commands.demo_report import Result, evaluate, print_report
from flows.commands.examiner import Examiner
from flows.commands.run import locked, prepared
from flows.settings import PREFIX, Settings
from flows.terminal import FAILED, INTERRUPTED, OK, command_name, say
from schemas.errors import RefusedError

TASKS = 2100
"""By default: 150 of each family."""
LLM_TASKS = 210
"""By default with the language model, which takes a second or two for each call."""
SEED = 0

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
        batch = Batch(cell, _tasks(examiner, home / TASKS_FILE, state.tasks), state.tasks)
        try:
            batch.run(interrupts)
        finally:
            state.ran_s += (batch.ended_at or time.monotonic()) - began
            save_state(home, state)
        if not batch.all_ended:
            return _unfinished(batch, home, asked=interrupts.asked)
        say("all ended; checking the answers with reasoning-gym's own verifiers")
        state.result = evaluate(settings.lake_dir, batch.ids, examiner, state.ran_s, MODEL if state.llm else "")
        save_state(home, state)
    print_report(state.result, settings.lake_dir)
    return OK


def _tasks(examiner: Examiner, path: Path, count: int) -> Iterator[bytes]:
    """The tasks as they are posed, kept in a file as well: the next run need not wait for them."""
    kept = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if len(kept) >= count:
        yield from kept[:count]
        return
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        for task in examiner.tasks():
            file.write(task)
            yield task
    part.replace(path)


def _unfinished(batch: Batch, home: Path, *, asked: bool) -> int:
    if batch.error is not None:
        raise batch.error
    go_on = f"`{_command(home)}` goes on where it stands"
    if asked:
        say(f"aureon: stopped with {batch.told}; {go_on}")
        return INTERRUPTED
    say(f"aureon: nothing waits any more, with {batch.told}: the broker lost the others; {go_on}, and sends them again")
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
    except msgspec.DecodeError as error:
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
