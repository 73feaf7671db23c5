r"""Rows into the lake: staged while an epoch goes on, committed at its end, each row once.

A row is named by its lane and decision offset. Each commit records, in the entry of the log that adds the rows, the
highest decision offset that the table holds of each lane; what is at or below it is there already. Rows are a function
of the decision log, so whoever hands in a row again (a replay, or a process that was thought dead) hands in the same.

    rows -> lines -> columns -> staged file (fsync) -> signed log entry (fsync) -> visible
    \-- add ----------------------------------/\-- flush -----------/
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import wait
from pathlib import Path

from deltalake.exceptions import DeltaError
from msgspec import Struct

from one_lake import tables
from one_lake.gate import QualityGate
from one_lake.gating import Gating, Routes
from one_lake.keys import SigningKey, publish
from one_lake.lanes import OwnerRow, offsets, owners, spent_in
from one_lake.sealed_table import Signer
from one_lake.table_writer import TableWriter
from schemas.head import Head
from schemas.one import QUALITY_GATE, TABLES, DeadLetterRow, Record, RoundRow, Row

log = logging.getLogger(__name__)


class LakeFigures(Struct):
    """What a writer has done so far; to be looked at from any thread."""

    commits: dict[str, int]
    rows: dict[str, int]
    """Both by table."""
    flushes: int = 0
    flush_s: float = 0.0
    """How long those took that had something to commit."""
    committed_at: float = 0.0
    """When the last one was through, in seconds since the epoch."""
    judged: int = 0
    """Records that the quality gate has judged."""
    refused: int = 0


class LakeWriter:
    """Adds rows to the lake, exactly once, and signs them; used from one thread at a time.

    Unit of parallelism: any number of writers, in any number of processes, also on the same lanes. The rows of a
    lane are handed in in rising decision order, from at or below `version(lane)` + 1, without gaps, and all rows of a
    decision between the same two flushes.

    Guarantee: after `flush` all rows added before it are visible and on disk, each once. A process that dies between
    two flushes leaves files that no log entry names; nobody reads them. After an error the writer stays closed: what it
    held comes again from the log.

    Args:
        lake_dir: the lake's folder; it is created if it is not there.
        key: signs each commit.
        cluster: the cluster whose decisions the rows follow from.
        gate: judges each record before it is written, if there is one; it is closed with the writer.

    Raises:
        OSError: the lake cannot be written.
    """

    def __init__(self, lake_dir: str | Path, key: SigningKey, cluster: str, gate: QualityGate | None = None) -> None:
        try:
            tables.create(lake_dir)
            publish(lake_dir, key)
        except (OSError, DeltaError) as error:
            raise tables.as_os_error(error, lake_dir) from error
        self._lake_dir = Path(lake_dir)
        self._cluster = cluster
        signer = Signer(key, cluster)
        self._tables = {struct: TableWriter(self._lake_dir, name, signer) for name, struct in TABLES.items()}
        *self._first, self._rounds = self._tables.values()
        self._gate = gate
        self._gating = None if gate is None else Gating(gate.judge, self._routes, _alert)
        self._added: dict[int, int] = {}
        """By lane, the last decision whose rows were added since the last flush."""
        self._held: dict[int, int] = {}
        self._failed: Exception | None = None
        self._flushes, self._flush_s, self._committed_at = 0, 0.0, 0.0

    def begin(self, lane: int) -> None:
        """Look anew at what the lake holds of a lane, before its next rows: others may have written of it."""
        if self._gating is not None:
            self._gating.forget(lane)

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows of any tables; they are encoded and staged while the epoch goes on.

        Raises:
            BadRecordError: a row holds a text that is none.
        """
        with self._closing_on_error():
            of_table: dict[type[Struct], list[Row]] = {struct: [] for struct in self._tables}
            for row in rows:
                of_table[type(row)].append(row)
                self._added[row.lane] = row.decision_offset
            if self._gating is not None:
                of_table |= self._through_gate(self._gating, of_table)
            for struct, some in of_table.items():
                if some:
                    self._tables[struct].add(some)

    def flush(self) -> Head | None:
        """Commit everything that was added: one commit a table that has rows, `rounds` last.

        Returns:
            The lake's head, if that moved.

        Raises:
            BadRecordError: a row holds what its column cannot.
            OSError: the lake cannot be written (full disk, no permission). What is visible is whole: no table but
                `rounds` may be ahead, and a replay adds what is missing.
        """
        began = time.monotonic()
        with self._closing_on_error():
            if self._gating is not None:
                for struct, some in _by_table(self._gating.drain()).items():
                    if some:
                        self._tables[struct].add(some)
            committing = []
            for table in self._first:
                table.finish_staging()
                committing.append(table.commit({}))
            self._rounds.finish_staging()
            wait(committing)
            for commit in committing:
                commit.result()
            others = {table.name: link for table in self._first if (link := table.tip) is not None}
            head = self._rounds.commit(others).result()
        for lane, offset in self._added.items():
            self._held[lane] = max(offset, self._held.get(lane, -1))
        self._added.clear()
        if head is not None:
            self._flushes += 1
            self._flush_s += time.monotonic() - began
            self._committed_at = time.time()
        return head

    def figures(self) -> LakeFigures:
        """Tell what was done so far."""
        writers, gating = self._tables.values(), self._gating
        return LakeFigures(
            commits={writer.name: writer.commits for writer in writers},
            rows={writer.name: writer.committed_rows for writer in writers},
            flushes=self._flushes,
            flush_s=self._flush_s,
            committed_at=self._committed_at,
            judged=0 if gating is None else gating.judged_records,
            refused=0 if gating is None else gating.refused_records,
        )

    def held(self, lane: int) -> int:
        """Tell up to which decision all rows of a lane that were added here are in the lake; any thread may ask.

        Returns:
            The decision offset; -1 if there is none.

        Raises:
            Exception: that which has closed this writer.
        """
        if self._failed is not None:
            raise self._failed
        return self._held.get(lane, -1)

    def version(self, lane: int) -> int:
        """The highest decision offset that `rounds`, and so every table, holds of a lane; -1 if none.

        A lane that takes over from another process asks here: it looks at the newest commit.
        """
        with self._closing_on_error():
            return self._rounds.version(lane)

    def owners(self, lane: int, first: int = 0, rows_per_batch: int = 10_000) -> Iterator[list[OwnerRow]]:
        """The owners of ids of a lane in decision order, from one decision to the `version` last asked for.

        Memory is bounded: DuckDB sorts, on disk if need be.
        """
        with self._closing_on_error():
            rows = self._rounds.rows()
        return owners(rows, self._cluster, lane, first, rows_per_batch)

    def spent_in(self, lane: int, since: float, until: float) -> tuple[int, int, float]:
        """Tell what the rounds of a lane took that were decided in a time, as `one_lake.lanes.spent_in` does."""
        with self._closing_on_error():
            self._rounds.version(lane)  # as of the newest commit
            rows = self._rounds.rows()
        return spent_in(rows, self._cluster, lane, since, until)

    def close(self) -> None:
        """Let go of the threads, and of what was added and not flushed."""
        if self._gating is not None:
            self._gating.close()
        if self._gate is not None:
            self._gate.close()
        for table in self._tables.values():
            table.close()
        self._failed = self._failed or ValueError("this lake writer is closed")

    @staticmethod
    def _through_gate(gating: Gating, of_table: dict[type[Struct], list[Row]]) -> dict[type[Struct], list[Row]]:
        """Hand over what is to be judged; returns what was judged by now."""
        ended = [
            row for row in (*of_table[Record], *of_table[DeadLetterRow]) if isinstance(row, Record | DeadLetterRow)
        ]
        ended.sort(key=lambda row: (row.lane, row.decision_offset))
        gating.add(ended, (row for row in of_table[RoundRow] if isinstance(row, RoundRow)))
        return _by_table(gating.judged())

    def _routes(self, lane: int) -> Routes:
        """What the tables hold of a lane."""
        records, dead_letters = self._tables[Record], self._tables[DeadLetterRow]
        held = Routes(self._rounds.version(lane), records.version(lane), dead_letters.version(lane))
        if max(held.records, held.dead_letters) <= held.rounds:
            return held
        there = [
            frozenset(offsets(table.rows(), self._cluster, lane, held.rounds, condition))
            for table, condition in ((records, "true"), (dead_letters, f"reason = '{QUALITY_GATE}'"))
        ]
        return Routes(held.rounds, held.records, held.dead_letters, *there)

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        if self._failed is not None:
            raise self._failed
        try:
            yield
        except Exception as error:
            # before it is closed: whoever asks from another thread is told why
            if not isinstance(error, OSError | DeltaError):
                self._failed = error
                self.close()
                raise
            self._failed = tables.as_os_error(error, self._lake_dir)
            self.close()
            raise self._failed from error


def _by_table(ended: Iterable[Record | DeadLetterRow]) -> dict[type[Struct], list[Row]]:
    found: dict[type[Struct], list[Row]] = {Record: [], DeadLetterRow: []}
    for row in ended:
        found[type(row)].append(row)
    return found


def _alert(text: str) -> None:
    log.warning("quality gate: %s", text)
