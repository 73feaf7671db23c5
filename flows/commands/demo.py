"""`aureon demo`: real tasks, refined on this machine until each has ended, and how right the results are.

    examiner ─► tasks.jsonl ─► Kafka ─► the cell, in this process ─► ONE
        ▲                                                             │
        └──────────────────────── answers, marked ◄───────────────────┘

Everything is in the demo's home. Run again, it sends the tasks again, which is harmless, since their ids are the same,
and goes on where it stood; once finished it shows what came out.
"""

import argparse
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from connectors.nodes.llm import MODEL, model_path
from flows.batch import Batch
from flows.commands.demo_compare import compare
from flows.commands.demo_home import TASKS_FILE, delete_demo, demo_settings, load_state, save_state
from flows.commands.demo_report import evaluate, print_report
from flows.commands.examiner import Examiner
from flows.running import prepared
from flows.terminal import FAILED, INTERRUPTED, OK, command_name, say
from schemas.errors import RefusedError


def main(options: argparse.Namespace) -> int:
    """Run the demo to its end, or go on with it, or show its result again."""
    if options.compare:
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
