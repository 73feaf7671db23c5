"""`aureon top`: the cluster on a terminal, looked at again and again."""

import argparse
import contextlib
import logging
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Generic, Literal, NamedTuple, Self, TypeVar

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.commands.arguments import settings_of
from flows.commands.overview import LAKE_EVERY_S, Observer
from flows.commands.overview_cluster import CellView, Cluster, NodeView
from flows.commands.overview_lake import Lake
from flows.terminal import OK, printable, show
from schemas.node import NodeHealth
from schemas.supervision import Quarantine, Stage

X = TypeVar("X")

WIDE = 150
"""Columns from which on there are two views beside each other."""
WIDEST = 30
"""Columns that a name may take from the rest of its line."""
NARROWEST = 80
"""Elsewhere than on a terminal."""
CLOSE_S = 2.0
"""For looks that are under way at the end."""

_BAD, _WARN, _GOOD, _DIM = "bold red", "yellow", "green", "dim"
_HEALTH = {NodeHealth.HEALTHY: _GOOD, NodeHealth.DEGRADED: _WARN, NodeHealth.UNHEALTHY: _BAD}


def main(options: argparse.Namespace) -> int:
    """Show the cluster until `q`; once, elsewhere than on a terminal."""
    observer = Observer(settings_of(options), options.every)
    console = Console(highlight=False)
    if options.json:
        show(msgspec.json.encode({"cluster": observer.cluster(), "lake": observer.lake()}).decode())
    elif console.is_terminal and not console.is_dumb_terminal:
        _watch(observer, console, options.every)
    else:
        console = Console(highlight=False, width=max(console.width, NARROWEST))
        console.print(screen(observer.cluster(), observer.lake(), console.width, None))
    return OK


# -- what is shown -------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A table."""

    columns: tuple[str, ...]
    """The first one says what it is; all others are numbers, but for the last where `text` says so."""
    rows: Sequence[tuple[Text, ...]]
    text: bool = False


def screen(cluster: Cluster | None, lake: Lake | None, width: int, height: int | None) -> RenderableType:
    """Show all that is known; None stands for what has not been looked at yet.

    Args:
        cluster: how it is.
        lake: how it fared.
        width: in columns.
        height: in lines; None for as many as it takes.
    """
    head = [*_head(cluster, lake), Text()]
    left = _cluster_parts(cluster, lake) if cluster is not None else []
    right = _lake_parts(cluster, lake)
    room = None if height is None else height - sum(max(1, -(-line.cell_len // width)) for line in head)
    if width < WIDE or height is None:
        return Group(*head, _stacked([*left, *right], room))
    sides = Table.grid(expand=True, padding=(0, 3, 0, 0))
    sides.add_column(ratio=1)
    sides.add_column(ratio=1)
    sides.add_row(_stacked(left, room), _stacked(right, room))
    return Group(*head, sides)


def fit(wanted: Sequence[int], room: int) -> list[int]:
    """Share lines out: who wants few has them, and what is left is divided equally; nobody has less than one.

    >>> fit([2, 10, 20], 20)
    [2, 9, 9]
    """
    given = [1] * len(wanted)
    left = room - len(wanted)
    while left > 0 and (short := [i for i, (has, wants) in enumerate(zip(given, wanted, strict=True)) if has < wants]):
        for i in short[:left]:
            given[i] += 1
        left -= len(short)
    return given


def _stacked(parts: Sequence[Part], room: int | None) -> RenderableType:
    # each has a line with the names of its columns, and an empty one behind it
    lines = [len(p.rows) for p in parts] if room is None else fit([len(p.rows) for p in parts], room - 2 * len(parts))
    return Group(*(_table(part, shown) for part, shown in zip(parts, lines, strict=True)))


def _table(part: Part, lines: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=part.text)
    cells = zip(*part.rows, strict=True) if part.rows else [()] * len(part.columns)
    for place, (name, column) in enumerate(zip(part.columns, cells, strict=True)):
        last = place == len(part.columns) - 1
        justify: Literal["left", "right"] = "left" if place == 0 or (part.text and last) else "right"
        # where there is too little room, the text behind the numbers is what gives way
        gives_way = part.text and last
        least = None if gives_way else min(WIDEST, max(c.cell_len for c in (Text(name), *column)))
        ratio = 1 if gives_way else None
        table.add_column(Text(name), justify=justify, no_wrap=True, overflow="ellipsis", min_width=least, ratio=ratio)
    cut = len(part.rows) > lines
    for row in part.rows[: lines - cut]:
        table.add_row(*row)
    if cut:
        table.add_row(Text(f"… and {len(part.rows) - lines + 1:,} more", _DIM))
    table.add_row()
    return table


def _head(cluster: Cluster | None, lake: Lake | None) -> list[Text]:
    if cluster is None:
        return [Text("aureon top: looking …")]
    at = time.strftime("%H:%M:%S", time.localtime(cluster.at))
    lanes = f", {cluster.kafka.lanes} lanes" if cluster.kafka is not None else ""
    lines = [Text.assemble((f"aureon top  {at}", "bold"), f"  broker {cluster.broker or 'none'}{lanes}")]
    if lake is not None:
        lines[0].append(f"  lake {printable(lake.lake)}")
    if cluster.broker_error is not None:
        lines.append(Text(printable(cluster.broker_error), _BAD))
    elif cluster.kafka is None:
        lines.append(Text("without Aureon's Kafka topics yet: `aureon run` creates them", _WARN))
    if lake is not None and lake.error is not None:
        lines.append(Text(f"lake: {printable(lake.error)}", _WARN))
    silent = sum(c.silent for c in cluster.cells)
    waiting = f"{cluster.kafka.waiting:,}" if cluster.kafka is not None else "?"
    figures = Text(f"{cluster.per_s:,.1f} decided/s, {cluster.under_way:,} rounds under way, {waiting} messages wait; ")
    figures.append(f"{len(cluster.cells) - silent} cells", _GOOD if len(cluster.cells) > silent else _BAD)
    if silent:
        figures.append(f", {silent} silent", _BAD)
    if lake is not None:
        figures.append("; ").append_text(_root(lake, cluster.at))
    return [*lines, figures]


def _root(lake: Lake, now: float) -> Text:
    notes = lake.notes
    if notes.noted_at is None:
        return Text("no supervision root has noted anything", _DIM)
    return Text(f"the root noted something {ago(now - notes.noted_at)} ago", _BAD if notes.silent else _DIM)


def _cluster_parts(cluster: Cluster, lake: Lake | None) -> list[Part]:
    quarantines = lake.notes.quarantines if lake is not None else []
    several = len({n.cell for n in cluster.nodes}) > 1
    cells = Part(("cells", "decided/s", "under way", "decided", "heard", "lanes"), [*map(_cell, cluster.cells)], True)
    nodes = Part(
        ("nodes", "health", "active", "waiting", "errors", "latency", "kept out of"),
        [_node(n, quarantines, several=several) for n in cluster.nodes],
        True,
    )
    return [cells, nodes, _lag(cluster)]


def _cell(cell: CellView) -> tuple[Text, ...]:
    style = _BAD if cell.silent else ""
    return (
        Text(printable(cell.cell), style),
        Text("" if cell.per_s is None else f"{cell.per_s:,.1f}"),
        Text(f"{cell.under_way:,}", style),
        Text(f"{cell.decided:,}", style),
        Text(f"silent for {ago(cell.heard_s)}" if cell.silent else f"{ago(cell.heard_s)} ago", style),
        Text(ranges(cell.lanes) or "none", style),
    )


def _node(node: NodeView, quarantines: Sequence[Quarantine], *, several: bool) -> tuple[Text, ...]:
    kept = [q for q in quarantines if q.node == node.node and q.stage is not Stage.FREE]
    told = [f"{printable(q.topic)}{' (probation)' if q.stage is Stage.PROBATION else ''}" for q in kept]
    told += [f"not asked: {printable(model)}" for model in node.not_asked]
    health = Text("silent", _BAD) if node.silent else Text(node.health.value, _HEALTH[node.health])
    return (
        Text(printable(f"{node.node} ({node.cell})" if several else node.node)),
        health,
        Text(f"{node.active}/{node.limit}"),
        Text(f"{node.waiting:,}"),
        Text(f"{100 * node.errors:.0f} %", _WARN if node.errors else ""),
        Text(f"{node.latency_s:.3g} s"),
        Text(", ".join(told), _WARN),
    )


def _lag(cluster: Cluster) -> Part:
    kafka = cluster.kafka
    if kafka is None:
        return Part(("lag", "waiting", "messages", "most of it in lane"), [])
    most = sorted(enumerate(kafka.waiting_by_lane), key=lambda of_lane: -of_lane[1])
    lanes = ", ".join(f"{lane}: {waiting:,}" for lane, waiting in most[:8] if waiting)
    rows = [
        (Text(name), Text(f"{i.waiting:,}", _WARN if i.waiting else ""), Text(f"{i.messages:,}"), Text())
        for name, i in kafka.inputs.items()
    ]
    rows.append((Text("all inputs"), Text(f"{kafka.waiting:,}"), Text(), Text(lanes)))
    return Part(("lag", "waiting", "messages", "most of it in lane"), rows, True)


def _lake_parts(cluster: Cluster | None, lake: Lake | None) -> list[Part]:
    if lake is None:
        return []
    topics = Part(
        ("topics", "last minute", "decided", "converged", "forced", "dead", ""),
        [
            (
                Text(printable(t.topic) or "(no task)"),
                *(Text(f"{n:,}") for n in (t.last_minute, t.decided, t.converged, t.forced)),
                Text(f"{t.dead:,}", _WARN if t.dead else ""),
                Text("dying" if t.topic in lake.notes.dying else "", _BAD),
            )
            for t in lake.topics
        ],
        True,
    )
    rounds = Part(
        ("rounds", "decided", "converged", "forced", "dead", "share", "of all by then"),
        [
            (
                Text(f"round {r.round}"),
                *(Text(f"{n:,}") for n in (r.decided, r.converged, r.forced, r.dead)),
                *(Text(f"{100 * share:.1f} %") for share in (r.share, r.by_then)),
            )
            for r in lake.rounds
        ],
    )
    now = cluster.at if cluster is not None else lake.at
    alerts = Part(
        ("alerts of the root", "ago", ""),
        [
            (Text(a.kind, _WARN), Text(ago(now - a.at)), Text(printable(f"{a.subject}: {a.text}")))
            for a in lake.notes.alerts
        ],
        True,
    )
    return [topics, rounds, alerts]


def ago(seconds: float) -> str:
    """How long, in the unit that fits.

    >>> ago(7), ago(90), ago(7200), ago(200_000)
    ('7 s', '2 min', '2 h', '2 d')
    """
    seconds = max(0.0, seconds)
    for unit, size, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in rising order, those that follow on each other as one range.

    >>> ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in found)


# -- the terminal --------------------------------------------------------------------------------------------------


def _watch(observer: Observer, console: Console, every_s: float) -> None:
    """Show the cluster until the user has seen enough."""
    cluster, lake = Repeated(observer.cluster, every_s), Repeated(observer.lake, LAKE_EVERY_S)

    def view() -> RenderableType:
        size = console.size
        return screen(cluster.found, lake.found, size.width, size.height)

    try:
        while not _shown_until_asked(console, view, every_s):
            os.kill(os.getpid(), signal.SIGSTOP)  # as Ctrl-Z wants it, with the terminal as it was; `fg` goes on
    finally:
        observer.end()
        if all([cluster.close(), lake.close()]):
            observer.close()


def _shown_until_asked(console: Console, view: Callable[[], RenderableType], every_s: float) -> bool:
    """Show a view again and again; tells whether to end, or to pause."""
    with Terminal() as terminal, _quiet(), Live(view(), console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view(), refresh=True)
            asked = terminal.wait(every_s)
            if asked is not None:
                return asked


class Repeated(Generic[X]):
    """A thread that looks again and again.

    Args:
        look: gives what there is to see; it may take its time.
        every_s: how long after a look the next one is, in seconds.
    """

    def __init__(self, look: Callable[[], X], every_s: float) -> None:
        self._found: X | None = None
        self._failed: Exception | None = None
        self._look = look
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aureon-top", daemon=True)
        self._thread.start()

    @property
    def found(self) -> X | None:
        """The last of it; None before the first look.

        Raises:
            Exception: what ended it.
        """
        if self._failed is not None:
            raise self._failed
        return self._found

    def close(self) -> bool:
        """End; tells whether it has ended, and not just been asked to."""
        self._over.set()
        self._thread.join(timeout=CLOSE_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._found = self._look()
            except Exception as error:  # noqa: BLE001 - it is raised where the view is made
                self._failed = error
                return
            self._over.wait(self._every_s)


class Terminal:
    """What the user wants, told by keys and signals, while this is entered; afterwards all is as it was."""

    ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    PAUSING = frozenset({signal.SIGTSTP})

    def __enter__(self) -> Self:
        self._asked: bool | None = None
        self._wakes, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        heard = (*self.ENDING, *self.PAUSING, signal.SIGWINCH)  # the last one is for its waking
        self._handlers = {s: signal.signal(s, self._on_signal) for s in heard}
        self._wakeup = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        if self._keys is not None:
            self._mode = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        return self

    def __exit__(self, *_: object) -> None:
        if self._keys is not None:
            with contextlib.suppress(termios.error):  # it has been closed
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._mode)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wakes)
        os.close(self._woken)

    def wait(self, seconds: float) -> bool | None:
        """Wait for a key or a signal; tells whether to end (True), to pause (False), or just to look again."""
        sources = [self._wakes] if self._keys is None else [self._wakes, self._keys]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._wakes in ready:
            os.read(self._wakes, 1000)
        if self._asked is None and self._keys in ready:
            typed = os.read(self._keys, 1000) if self._keys is not None else b""
            if not typed or b"q" in typed.lower():  # nothing: the terminal is gone
                return True
        return self._asked

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number in self.ENDING:
            self._asked = True
        elif number in self.PAUSING:
            self._asked = False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log off the screen, unless it goes elsewhere."""
    if sys.stderr.isatty():
        logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
