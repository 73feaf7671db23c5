"""How far a command is, on a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

Progress = Callable[[str, int, int | None], None]
"""Told what is done, how much of it, and of how much, if anybody knows."""


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """A bar for each thing that is told of; elsewhere than on a terminal nothing."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        of_each: dict[str, Any] = {}

        def progress(what: str, done: int, of: int | None) -> None:
            if what not in of_each:
                of_each[what] = shown.add_task(what, total=of)
            shown.update(of_each[what], completed=done, total=of)

        yield progress
