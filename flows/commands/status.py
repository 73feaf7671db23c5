"""`aureon status`: what is waiting, under way, converged and dead, whether a cell runs or not."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from connectors.heartbeats import latest_states
from flows.budget import NOTHING, Spent
from flows.cluster import config_of
from flows.commands.arguments import settings_of
from flows.figures import (
    KafkaFigures,
    KafkaLook,
    TopicFigures,
    cluster_id,
    every,
    folder_size,
    lake_by_topic,
    reach,
    total,
)
from flows.running import running_pid
from flows.settings import CELLS, Settings
from flows.terminal import OK, show
from schemas.errors import AureonError, RefusedError
from schemas.node import NodeState
from schemas.supervision import CellState

PREFLIGHT_S = 3.0
"""A broker that takes longer is reported as away: whoever asks for the status wants it now."""
HEARD_WITHIN_S = 10.0
"""Cells say every two seconds how their nodes are; one that has not for so long is not there."""
MIN_WIDTH = 100
"""Columns; where a terminal has fewer, it wraps the lines. A table that is squeezed cannot be read at all."""


class Status(Struct, frozen=True, kw_only=True):
    """All that `aureon status` tells; `--json` prints it as it is."""

    broker: str | None
    broker_error: str | None = None
    kafka: KafkaFigures | None = None
    waiting: int | None = None
    """Messages of all inputs without a committed decision."""
    cell_pid: int | None = None
    """The process of `aureon run` on this state folder."""
    cell_pids: dict[str, int] = {}
    """The processes of the cells of `aureon up` in this home, by their numbers."""
    cluster_id: str | None = None
    lake: str
    lake_error: str | None = None
    lake_bytes: int = 0
    lake_files: int = 0
    cells: list[CellState] = []
    """The cells that there are, as each said in the last seconds."""
    nodes: list[NodeState] = []
    """How the nodes are, as each cell said in the last seconds."""
    today: Spent = NOTHING
    """What was spent since midnight, UTC."""
    day_budget: str = ""
    """What may be, as `AUREON_DAY_BUDGET` has it here."""
    total: TopicFigures = TopicFigures()
    topics: dict[str, TopicFigures] = {}


def main(options: argparse.Namespace) -> int:
    """Show the status once, or again and again."""
    settings = settings_of(options)
    show = _print_json if options.json else _print
    if options.watch is None:
        show(gather(settings))
        return OK
    try:
        for _ in every(options.watch):
            status = gather(settings)
            if sys.stdout.isatty() and not options.json:
                Console().clear()
            show(status)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass  # that is how one stops watching
    return OK


def gather(settings: Settings) -> Status:
    """Ask everybody; who does not answer is reported as such."""
    lake_dir = settings.lake_dir
    found: dict[str, Any] = {
        "broker": None,
        "cell_pid": running_pid(settings.state_dir),
        "cell_pids": _cells_of_up(settings),
        "cluster_id": cluster_id(lake_dir) or cluster_id(settings.state_dir),
        "lake": str(lake_dir),
        "day_budget": settings.day_budget,
    }
    try:
        config = config_of(settings)
        found["broker"] = config["bootstrap.servers"]
        reach(config, PREFLIGHT_S)
        kafka = KafkaLook(config, settings.group).figures()
        found["kafka"], found["waiting"] = kafka, kafka.waiting if kafka else None
        if kafka is not None:
            found["cells"], found["nodes"] = latest_states(config, time.time() - HEARD_WITHIN_S)
    except AureonError as error:
        found["broker_error"] = str(error)
    try:
        topics, found["today"] = lake_by_topic(lake_dir, time.time())
        files, size = folder_size(lake_dir)
        found |= {"topics": topics, "total": total(topics), "lake_files": files, "lake_bytes": size}
    except RefusedError as error:
        found["lake_error"] = str(error)
    return Status(**found)


def _cells_of_up(settings: Settings) -> dict[str, int]:
    folders = sorted(f for f in (Path(settings.home) / CELLS).glob("*") if f.name.isdecimal())
    pids = {folder.name: running_pid(folder) for folder in folders}
    return {number: pid for number, pid in pids.items() if pid is not None}


def _print_json(status: Status) -> None:
    show(msgspec.json.encode(status).decode())


def _print(status: Status) -> None:
    console = Console(highlight=False, width=max(Console().width, MIN_WIDTH))
    for label, text in _lines(status):
        console.print(f"{label:<10} {text}", soft_wrap=True, markup=False)
    if status.kafka is not None:
        console.print()
        console.print(_inputs_table(status.kafka))
    if status.cells:
        console.print()
        console.print(_cells_table(status.cells))
    if status.nodes:
        console.print()
        console.print(_nodes_table(status.nodes))
    if status.topics:
        console.print()
        console.print(_topics_table(status))


def _lines(status: Status) -> list[tuple[str, str]]:
    lines = []
    if status.broker_error is not None:
        lines.append(("broker", status.broker_error))
    elif status.kafka is None:
        lines.append(("broker", f"{status.broker}, without Aureon's Kafka topics yet: `aureon run` creates them"))
    else:
        lines.append(("broker", f"{status.broker}, {status.kafka.lanes} lanes"))
    if status.cell_pids:
        told = ", ".join(f"{number} pid {pid}" for number, pid in status.cell_pids.items())
        lines.append(("cells", f"{len(status.cell_pids)} of `aureon up` running: {told}"))
    if status.cell_pid is not None or not status.cell_pids:
        lines.append(("cell", "not running here" if status.cell_pid is None else f"running, pid {status.cell_pid}"))
    if status.cluster_id is not None:
        lines.append(("cluster", status.cluster_id))
    if status.lake_error is not None:
        lines.append(("lake", status.lake_error))
    else:
        lines.append(("lake", f"{status.lake}, {status.lake_bytes / 1e6:,.1f} MB in {status.lake_files:,} files"))
        today = status.today
        spent = f"{today.calls:,} calls, {today.tokens:,} tokens, {today.cost:,.6g} of money"
        lines.append(("today", spent + (f"; there may be {status.day_budget}" if status.day_budget else "")))
    if status.waiting is not None:
        done = status.total
        ended = f"{done.converged:,} converged ({done.forced:,} forced), {done.dead:,} dead"
        ended += f", {done.cancelled:,} cancelled" if done.cancelled else ""
        waiting = f"{status.waiting:,} messages waiting or under way"
        lines.append(("tasks", f"{waiting}, {ended}, {done.open:,} begun and not ended"))
    return lines


def _inputs_table(kafka: KafkaFigures) -> Table:
    table = _table("Kafka topic", "messages", "decided", "waiting or under way")
    for name, figures in kafka.inputs.items():
        table.add_row(name, *(f"{n:,}" for n in (figures.messages, figures.decided, figures.waiting)))
    table.add_row("tasks.results (the log)", f"{kafka.log_entries:,}", "", "")
    return table


def _topics_table(status: Status) -> Table:
    table = _table("topic", "converged", "forced", "dead", "cancelled", "open", "branches", "rounds", "calls")
    rows = list(status.topics.items())
    for name, f in [*rows, ("total", status.total)] if len(rows) > 1 else rows:
        counts = (f.converged, f.forced, f.dead, f.cancelled, f.open, f.branches, f.rounds, f.calls)
        table.add_row(name or "(no task)", *(f"{n:,}" for n in counts), end_section=name == rows[-1][0])
    return table


def _cells_table(cells: Sequence[CellState]) -> Table:
    table = _table("cell", "process", "lanes", "under way", "decided")
    for cell in cells:
        lanes = ", ".join(map(str, cell.lanes)) or "none"
        table.add_row(cell.cell, cell.process, lanes, f"{cell.under_way:,}", f"{cell.decided:,}")
    return table


def _nodes_table(states: Sequence[NodeState]) -> Table:
    asked_not = any(s.open for s in states)
    columns = ("health", "active", "waiting", "errors", "timeouts", "latency", "tokens/s", "calls", "seen")
    table = _table("node", *columns, *(("not asked",) if asked_not else ()))
    several = len({s.cell for s in states}) > 1
    for s in states:
        table.add_row(
            f"{s.node} ({s.cell})" if several else s.node,
            s.health.value,
            f"{s.active_calls}/{s.limit}",
            f"{s.queue_depth:,}",
            f"{100 * s.error_rate:.0f} %",
            f"{100 * s.timeout_rate:.0f} %",
            f"{s.latency_s:.3g} s",
            f"{s.tokens_per_s:,.0f}",
            f"{s.calls:,}",
            f"{max(0.0, s.at - s.last_seen):.0f} s ago" if s.last_seen else "never",
            *((", ".join(s.open),) if asked_not else ()),
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
