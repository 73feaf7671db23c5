"""Batch replays: past rounds decided again, into a run beside the lake.

    past rounds ─► decide again ─► run

Run it with `aureon replay`, or by itself; the settings are those of a cell, and no broker is needed:

    python -m bytewax.run "flows.replay:flow('nightly', since='2026-11-27', topics='math,coding')"
"""

import atexit
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from flows.replays.parts import Done, Past, Redeciding
from flows.replays.redecide import COLUMNS, Options, named
from flows.rules import Rules
from flows.settings import Settings, read_settings
from one_lake.runs import Run, Selection, keep_part, past_rounds, start_run
from schemas.errors import tells_errors
from schemas.software import software_version

RE_DECIDE = "re-decide"
# -- the flow ------------------------------------------------------------------------------------------------------


def replay_flow(rounds: "PastRounds", redeciding: Redeciding, run: "RunSink") -> Dataflow:
    """Build the flow. Every item is a part of the run: a thousand tasks."""
    flow = Dataflow("replay")

    past = op.input("past_rounds", flow, rounds)
    # Past
    parts = op.key_on("parts", past, lambda _: "run")
    done = op.stateful_batch("redecide", parts, lambda _state: _Deciding(redeciding))
    # the run with what is Done
    op.output("run", op.key_rm("done", done), run)
    return flow


@tells_errors
class _Deciding(StatefulBatchLogic[Past, Done, None]):
    """Has parts decided beside the flow; what is under way at a crash is not done, and comes again."""

    def __init__(self, redeciding: Redeciding) -> None:
        self._redeciding = redeciding

    def on_batch(self, values: list[Past]) -> tuple[Iterable[Done], bool]:
        return list(self._redeciding.take(values)), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[Done], bool]:
        return list(self._redeciding.rest()), StatefulBatchLogic.DISCARD

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
    """

    def __init__(self, lake_dir: Path, name: str, run: Run) -> None:
        self._asked = lake_dir, name, run

    def list_parts(self) -> list[str]:
        """Give the one."""
        return ["rounds"]

    def build_part(self, _step_id: str, _for_part: str, _resume_state: None) -> "_PastPartition":
        """Begin to read."""
        return _PastPartition(past_rounds(*self._asked, COLUMNS))


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
        progress: told what became of the rounds of a part.
    """

    def __init__(self, lake_dir: Path, name: str, progress: Callable[[dict[str, int]], None] = lambda _: None) -> None:
        self._keep = lambda part, data: keep_part(lake_dir, name, part, data)
        self._progress = progress

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "_RunPartition":
        """Nothing is opened."""
        return _RunPartition(self._keep, self._progress)


@tells_errors
class _RunPartition(StatelessSinkPartition[Done]):
    def __init__(self, keep: Callable[[int, bytes], None], progress: Callable[[dict[str, int]], None]) -> None:
        self._keep = keep
        self._progress = progress

    def write_batch(self, items: list[Done]) -> None:
        for done in items:
            self._keep(done.part, done.data)
            self._progress(done.outcomes)


# -- running it by itself ------------------------------------------------------------------------------------------


def flow(
    run: str = "",
    since: str = "",
    until: str = "",
    topics: str = "",
    query: str = "",
    *,
    dead: bool = False,
) -> Dataflow:
    """What `python -m bytewax.run flows.replay` runs: a run, from the settings that the environment describes.

    Args:
        run: its name; begun anew or gone on with. By default that of the day.
        since: of rounds that were decided from this time on (ISO 8601, UTC).
        until: and before that.
        topics: of these topics, separated by commas.
        query: of the tasks that a query over the lake gives, with the columns topic and logical_id.
        dead: of tasks that ended as dead letters.

    Raises:
        RefusedError: there is no lake, or what is chosen is none.
    """
    settings = read_settings({})
    name = run or time.strftime("re-decide-%Y-%m-%d", time.gmtime())
    chosen = Selection(
        since=since,
        until=until,
        topics=tuple(filter(None, (t.strip() for t in topics.split(",")))),
        query=query,
        dead=dead,
    )
    rules = named(Rules(settings), Options())
    there = start_run(settings.lake_dir, name, RE_DECIDE, chosen, rules, software_version(), time.time())
    redeciding = Redeciding(settings, Options(), there.tasks)
    atexit.register(redeciding.close)
    return redecide_flow(settings, name, there, redeciding)


def redecide_flow(
    settings: Settings,
    name: str,
    run: Run,
    redeciding: Redeciding,
    progress: Callable[[dict[str, int]], None] = lambda _: None,
) -> Dataflow:
    """The flow of one run."""
    return replay_flow(PastRounds(settings.lake_dir, name, run), redeciding, RunSink(settings.lake_dir, name, progress))
