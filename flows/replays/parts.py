"""The parts of a run, decided again: in processes of their own, where there are many."""

import gc
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.blobs import BlobStore
from connectors.processes import WorkerPool
from flows.replays.redecide import ROUNDS, Options, PastRound, Redecider, past_rounds_of
from flows.rules import Rules
from flows.settings import Settings
from one_lake.encode import encode_rows, record_batch
from schemas.one import RunRow

MAX_PROCESSES = 8
FEW_TASKS = 2000
"""So many are decided in the time in which a process starts."""


class Past(NamedTuple):
    """A part of a run, as it was."""

    part: int
    rounds: pa.Table


class Done(NamedTuple):
    """A part of a run, as it would have been."""

    part: int
    data: bytes
    """A Parquet file."""


class Redeciding:
    """Decides parts again.

    Args:
        settings: those of the rules.
        options: what else is asked again.
        tasks: how many there are; where they are many, the processes begin at once.
    """

    def __init__(self, settings: Settings, options: Options, tasks: int) -> None:
        self._settings = settings
        self._options = options
        processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0))) if tasks > FEW_TASKS else 1
        self._most = 2 * processes
        self._under_way: deque[Future[Done]] = deque()
        self._pool: WorkerPool | None = None
        if processes > 1:
            self._pool = WorkerPool(processes, _begin, (settings, options))
            for _ in range(processes):
                self._pool.submit(int)

    asked = ROUNDS
    reused = 0

    def take(self, parts: Iterable[Past]) -> Iterator[Done]:
        """Decide parts again; gives those that are done by now, in order. Waits where too many are under way."""
        for part in parts:
            if self._pool is None:
                _begin(self._settings, self._options)
                yield _decide(part)
                continue
            while len(self._under_way) >= self._most:
                yield self._under_way.popleft().result()
            self._under_way.append(self._pool.submit(_decide, part))
        while self._under_way and self._under_way[0].done():
            yield self._under_way.popleft().result()

    def rest(self) -> Iterator[Done]:
        """Wait for all others."""
        while self._under_way:
            yield self._under_way.popleft().result()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for rules, _ in _present.values():
            rules.close()
        _present.clear()


_present: dict[str, tuple[Rules, Redecider]] = {}
"""What this process decides with."""


def _begin(settings: Settings, options: Options) -> None:
    if not _present:
        gc.freeze()  # what was imported lives to the end, and rows make no cycles
        gc.set_threshold(50_000, 20, 50)
        rules = Rules(settings)
        _present["rules"] = rules, Redecider(rules, options, BlobStore(settings.blobs_url))


def _decide(past: Past) -> Done:
    _, redecider = _present["rules"]
    rows: list[RunRow] = []
    for _, rounds in groupby(past_rounds_of(past.rounds), _task):
        rows += redecider.task(rounds)
    return Done(past.part, as_file(rows))


def _task(past: PastRound) -> tuple[str | None, str, str, int]:
    return past.row.cluster, past.row.topic, past.row.logical_id, past.row.generation


def empty_row(of: NamedTuple, **told: Any) -> RunRow:
    """Make the row of a run for what is no round: it names what it is about, and has no result."""
    nothing: list[str] = []
    values: dict[str, Any] = dict.fromkeys(RunRow.__struct_fields__)
    values |= {"round_index": 0, "attempt": 0, "kind": "", "reason": "", "detail": "", "forced": False, "policy": ""}
    values |= {"flags": nothing, "warnings": nothing, "cut_off": nothing, "calls": 0, "tokens": 0, "cost": 0.0}
    values |= {"decided_at": 0}
    values |= {name: value for name, value in of._asdict().items() if name in values}
    return RunRow(**{**values, **told})


def as_file(rows: Sequence[RunRow]) -> bytes:
    """Write rows of a run as a Parquet file."""
    data = io.BytesIO()
    table = pa.Table.from_batches([record_batch(RunRow, encode_rows(rows))])
    pq.write_table(table, data, compression="zstd")
    return data.getvalue()
