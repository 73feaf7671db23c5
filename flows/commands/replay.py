"""`aureon replay`: past rounds decided again, asked again, or sent again, and what that comes to."""

import argparse
import time
from pathlib import Path

import msgspec

from flows.commands.arguments import settings_of
from flows.replay import REDRIVE, replay
from flows.replays.redecide import Options
from flows.replays.report import RunReport, Totals, read_truths, redrive_report, report
from flows.settings import Settings
from flows.terminal import FAILED, OK, say, show
from one_lake.runs import Run, Selection, parts_done, read_run, run_folder
from schemas.errors import RefusedError


def main(options: argparse.Namespace) -> int:
    """Begin a run, or go on with one, and tell what it came to."""
    settings = settings_of(options)
    if options.action == "list":
        return _list(settings, as_json=options.json)
    truths = read_truths(Path(options.truth)) if options.truth else None
    if options.action == "report" and not options.run:
        raise RefusedError("name the run: aureon replay report --run NAME; `aureon replay list` lists them")
    name: str = options.run or f"{options.action}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    if options.action != "report":
        asked = Options(verifiers=options.verify_again, comparisons=options.compare_again)
        run = replay(settings, name, options.action, _selection(options), asked)
    elif (there := read_run(settings.lake_dir, name)) is not None:
        run = there
    else:
        raise RefusedError(f"no run {name!r} of the lake {settings.lake_dir}; `aureon replay list` lists them")
    if run.mode == REDRIVE:
        return _tell_redrive(settings, name, run, as_json=options.json)
    told = report(settings.lake_dir, name, run, settings.blobs_url, truths)
    if options.json:
        show(msgspec.json.encode(told).decode())
    else:
        _tell(told)
    return OK if told.is_complete else FAILED


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(
        since=options.since or "",
        until=options.until or "",
        topics=tuple(options.topic or ()),
        query=options.select or "",
        dead=options.dead,
    )


# -- telling -------------------------------------------------------------------------------------------------------


def _list(settings: Settings, *, as_json: bool) -> int:
    folder = run_folder(settings.lake_dir, "x").parent
    names = sorted(path.name for path in folder.iterdir() if (path / "run.json").exists()) if folder.is_dir() else []
    runs = [(name, run) for name in names if (run := read_run(settings.lake_dir, name)) is not None]
    if as_json:
        listed = [{"name": n, **msgspec.to_builtins(r), "done": len(parts_done(settings.lake_dir, n))} for n, r in runs]
        show(msgspec.json.encode(listed).decode())
        return OK
    for name, run in runs:
        done = len(parts_done(settings.lake_dir, name))
        begun = time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.created_at))
        state = "" if done == run.parts else f"; {done:,} of {run.parts:,} parts are done"
        show(f"{name}  {run.mode}, {run.tasks:,} tasks, begun {begun} UTC{state}")
    if not runs:
        say("no runs")
    return OK


def _tell_redrive(settings: Settings, name: str, run: Run, *, as_json: bool) -> int:
    told = redrive_report(settings.lake_dir, name, run)
    if as_json:
        show(msgspec.json.encode(told).decode())
    else:
        show(f"run {name}: {told.redriven:,} dead letters redriven")
        for why, count in told.left.items():
            show(f"  {count:,} left: {why}")
        show(f"of these by now: {told.records:,} records, {told.dead:,} dead again, {told.open:,} to come")
    return OK if told.is_complete else FAILED


def _tell(told: RunReport) -> None:
    outcomes = ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in told.outcomes.items())
    show(f"run {told.run}: {told.tasks:,} tasks; rounds: {outcomes or 'none'}")
    for change, count in told.changes.items():
        show(f"  {count:,} tasks: {'another answer' if change == 'answer' else change}")
    if told.impossible:
        show(f"  could not be decided again: {told.impossible}")
    if told.outcomes:
        show(f"was: {_line(told.was)}\nnow: {_line(told.now)}")
    if not told.is_complete:
        show("not complete: the same command goes on with it")


def _line(totals: Totals) -> str:
    parts = [
        f"{totals.records:,} records ({totals.forced:,} forced)",
        f"{totals.dead:,} dead",
        f"{totals.open:,} open",
        f"{totals.rounds:,} rounds",
        f"{totals.calls:,} calls",
        f"{totals.tokens:,} tokens",
        f"cost {totals.cost:.4g}",
    ]
    if totals.known:
        parts.append(
            f"right {totals.right:,} of {totals.known:,} ({totals.right / totals.known:.1%}), "
            f"{totals.wrong_unforced:,} wrong and not forced"
        )
    return "; ".join(parts)
