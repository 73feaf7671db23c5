"""`aureon demo --compare`: the same tasks under several policies, one after the other, and what each took."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from connectors.processes import bound
from flows.commands.demo_home import STATE_FILE, DemoState, demo_settings
from flows.commands.demo_report import Result
from flows.settings import PREFIX
from flows.terminal import OK, say
from schemas.errors import RefusedError


class Way(Struct, frozen=True):
    """One way to run the demo."""

    name: str
    policy: str
    routing: str
    first: str

    @property
    def variables(self) -> dict[str, str]:
        """Its settings."""
        chosen = {"POLICY": self.policy, "ROUTING": self.routing, "CASCADE_FIRST": self.first}
        return {PREFIX + name: value for name, value in chosen.items()}


WAYS = (
    Way("threshold-all", "threshold", "all", "3"),
    Way("threshold-cascade", "threshold", "cascade", "1"),
    Way("value-cascade", "value", "cascade", "1"),
)


def compare(options: argparse.Namespace) -> int:
    """Run the demo in each way, each in a home of its own below the demo's, from its beginning.

    Raises:
        RefusedError: a broker is named, which all of them would share.
    """
    settings = demo_settings(options)
    if settings.brokers:
        raise RefusedError("--compare runs each way on an embedded broker of its own: leave out --brokers")
    results = []
    for way in WAYS:
        home = Path(settings.home) / "compare" / way.name
        command = [sys.executable, "-m", "flows.cli", "demo", "--fresh", "--home", str(home)]
        for flag, value in (("--tasks", options.tasks), ("--seed", options.seed)):
            command += [flag, str(value)] if value is not None else []
        say(f"aureon: policy {way.policy}, routing {way.routing}")
        code = _run(command, os.environ | way.variables)
        if code != OK:
            return code
        state = msgspec.json.decode((home / STATE_FILE).read_bytes(), type=DemoState)
        if state.result is not None:
            results.append((way, state.result))
    _print(results)
    return OK


def _run(command: list[str], variables: Mapping[str, str]) -> int:
    """Run a command, which is to end in order when this one is asked to, and when this one is killed."""
    process = subprocess.Popen(
        bound(signal.SIGTERM, command),
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # it gets what is passed on, and not Ctrl-C a second time
    )
    with process:
        before = {s: signal.signal(s, lambda n, _: process.send_signal(n)) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _print(results: list[tuple[Way, Result]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("policy", "routing"):
        table.add_column(column)
    for column in ("tasks", "right", "dead", "rounds", "calls", "fewer calls"):
        table.add_column(column, justify="right")
    most = results[0][1].calls
    for way, result in results:
        table.add_row(
            way.policy,
            way.routing if way.routing == "all" else f"{way.routing}, {way.first} first",
            f"{result.tasks:,}",
            f"{result.right / result.tasks:.2%}",
            f"{result.dead}",
            f"{result.decisions:,}",
            f"{result.calls:,}",
            f"{1 - result.calls / most:.0%}",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table, highlight=False)
