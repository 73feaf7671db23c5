"""The home of `aureon demo`: where it is, what it remembers, and how it is emptied."""

import argparse
import os
import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from connectors import whole_files
from connectors.embedded import EmbeddedBroker
from flows.commands.arguments import settings_of
from flows.commands.demo_report import Result
from flows.running import locked
from flows.settings import PREFIX, Settings
from schemas.errors import UNREADABLE, RefusedError

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
    whole_files.replace(home / STATE_FILE, msgspec.json.format(msgspec.json.encode(state)))


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
