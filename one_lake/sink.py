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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from msgspec import Struct

from one_lake import tables
from one_lake.encode import encode_rows, record_batch
from one_lake.gate import QualityGate
from one_lake.gating import Gating, Routes
from one_lake.keys import SigningKey, publish
from one_lake.query import rows_of, session
from one_lake.sealed_table import Commit, SealedTable, Signer
from one_lake.seals import Link, SealedLane, merkle_root
from one_lake.staged import StagedFile
from schemas.errors import BadRecordError
from schemas.head import Head
from schemas.one import QUALITY_GATE, ROW_HASH, TABLES, DeadLetterRow, Record, RoundRow, Row, arrow_schema

log = logging.getLogger(__name__)

# A row group, about 4,000 rounds: large enough to compress well, small enough that the last one of an epoch is soon
# written.
CHUNK_BYTES = 1 << 20

_END = 2**63 - 1


class Owner(NamedTuple):
    """Who owns an id: the first winning decision on it."""

    topic: str
    logical_id: str
    generation: int
    kafka_topic: str
    message_offset: int
    payload_digest: str
    decision_offset: int


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
        self._tables = {struct: _TableWriter(self._lake_dir, name, signer) for name, struct in TABLES.items()}
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

    def owners(self, lane: int, first: int = 0, rows_per_batch: int = 10_000) -> Iterator[list[Owner]]:
        """The owners of ids of a lane in decision order, from one decision to the `version` last asked for.

        Memory is bounded: DuckDB sorts, on disk if need be.
        """
        with self._closing_on_error():
            rows = self._rounds.rows()
        return _owners(rows, self._cluster, lane, first, rows_per_batch)

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
            frozenset(_offsets(table.rows(), self._cluster, lane, held.rounds, condition))
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


class _StagedRows(StagedFile):
    """A file of new rows, with what it holds of each lane."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        super().__init__(folder, schema)
        self.spans: dict[int, tuple[int, int]] = {}
        """By lane, the first and the last decision offset."""
        self.hashes: dict[int, list[bytes]] = {}
        """By lane, those of the rows, in order."""

    def take(self, batch: pa.RecordBatch, spans: dict[int, tuple[int, int]]) -> None:
        """Write one row group; within a lane its rows come after those before."""
        self.write(batch)
        for lane, (first, last) in spans.items():
            self.spans[lane] = (self.spans.get(lane, (first, last))[0], last)
        digests = map(bytes.fromhex, batch[ROW_HASH].to_pylist())
        for lane, digest in zip(_ints(batch, "lane").tolist(), digests, strict=True):
            self.hashes.setdefault(lane, []).append(digest)

    def commit(self, others: dict[str, Link]) -> Commit:
        """What is to be logged of it."""
        least = {"lane": min(self.spans), "decision_offset": min(first for first, _ in self.spans.values())}
        most = {"lane": max(self.spans), "decision_offset": max(last for _, last in self.spans.values())}
        return Commit(
            actions=[self.action(least, most, data_change=True)],
            files=[self],
            lanes=tuple(
                SealedLane(lane, *self.spans[lane], len(hashes), merkle_root(hashes).hex())
                for lane, hashes in sorted(self.hashes.items())
            ),
            others=others,
            transactions={application(lane): last for lane, (_, last) in self.spans.items()},
        )


class _TableWriter:
    """One table. All but writing rows as lines happens on its own thread, in the order asked for."""

    def __init__(self, lake_dir: Path, name: str, signer: Signer) -> None:
        self.name = name
        self._struct = TABLES[name]
        self._schema = arrow_schema(self._struct)
        self._has_index = "index" in self._schema.names
        self.commits = self.committed_rows = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"lake-{name}")
        self._lines: list[bytes] = []
        self._bytes = 0
        # the rest belongs to the thread
        self._table = SealedTable(lake_dir, name, signer)
        self._cluster = signer.cluster
        self._staged: _StagedRows | None = None
        self._failed: Exception | None = None
        self._newest: dict[int, tuple[int, int]] = {}
        """By lane, decision offset and index of the newest row that was added or is known to be there."""
        self._logged = 0
        """The last version that this writer made."""

    @property
    def tip(self) -> Link | None:
        """The table's newest seal as of the last commit; to be read when nothing is under way."""
        return self._table.tip

    def add(self, rows: Sequence[Row]) -> None:
        lines = encode_rows(rows)
        self._lines.append(lines)
        self._bytes += len(lines)
        if self._bytes >= CHUNK_BYTES:
            self._hand_over()

    def finish_staging(self) -> None:
        """Have the rest written and the file brought to the disk."""
        if self._lines:
            self._hand_over()
        self._thread.submit(self._step, self._finish)

    def commit(self, others: dict[str, Link]) -> Future[Head | None]:
        """Log the staged file; its seal names those of other tables."""
        done = self._thread.submit(self._commit, others)
        # For the next commit, and nobody waits for it.
        self._thread.submit(self._catch_up)
        return done

    def version(self, lane: int) -> int:
        return self._thread.submit(self._refreshed_version, lane).result()

    def rows(self) -> str:
        """The query for all rows."""
        return self._thread.submit(self._rows).result()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._staged is not None:
            self._staged.discard()
            self._staged = None
        self._lines.clear()

    def _hand_over(self) -> None:
        lines = b"".join(self._lines)
        self._lines.clear()
        self._bytes = 0
        self._thread.submit(self._step, self._stage, lines)

    # -- on the thread ---------------------------------------------------------------------------------------------

    def _step(self, step: Callable[..., None], *arguments: Any) -> None:
        """Do one step, unless one before has failed; `_commit` tells."""
        if self._failed is not None:
            return
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001 - told by `_commit`
            self._failed = error

    def _stage(self, lines: bytes) -> None:
        batch, spans = self._new_rows(record_batch(self._struct, lines))
        if not spans:
            return
        if self._staged is None:
            self._staged = _StagedRows(self._table.folder, self._schema)
        self._staged.take(batch, spans)

    def _finish(self) -> None:
        if self._staged is not None:
            self._staged.finish()

    def _new_rows(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[int, tuple[int, int]]]:
        """Leave out what came before; tell the first and last decision offset of each lane of the rest."""
        lanes, offsets = _ints(batch, "lane"), _ints(batch, "decision_offset")
        indexes = _ints(batch, "index") if self._has_index else np.zeros_like(offsets)
        new = np.zeros(len(lanes), dtype=bool)
        for lane in map(int, np.unique(lanes)):
            where = np.flatnonzero(lanes == lane)
            newest = self._newest.get(lane) or (self._held(lane), _END)
            where = where[_rising(offsets[where], indexes[where], newest)]
            if len(where):
                new[where] = True
                self._newest[lane] = (int(offsets[where[-1]]), int(indexes[where[-1]]))
        if not new.all():
            chosen = _chosen(pa.Table.from_batches([batch]), new).combine_chunks()
            batch = next(iter(chosen.to_batches()), batch.slice(0, 0))
        return batch, _spans(batch)

    def _commit(self, others: dict[str, Link]) -> Head | None:
        staged, self._staged = self._staged, None
        if self._failed is not None:
            if staged is not None:
                staged.discard()
            raise self._failed
        self._table.find_tip()
        while staged is not None:
            staged = self._without_held(staged)
            if staged is None:
                break
            signed = self._table.try_commit(staged.commit(others), staged.discard)
            if signed is not None:
                seal = signed.seal
                self._logged = seal.version
                self.commits += 1
                self.committed_rows += sum(map(len, staged.hashes.values()))
                return Head(cluster=seal.cluster, version=seal.version, hash=signed.hash, key=seal.key, at=seal.at)
        return None

    def _without_held(self, staged: _StagedRows) -> _StagedRows | None:
        """The staged file, or one without the rows that the table holds already."""
        held = {lane: self._held(lane) for lane in staged.spans}
        if all(first > held[lane] for lane, (first, _) in staged.spans.items()):
            return staged
        rows = pq.read_table(staged.path, schema=self._schema)
        floor = np.array([held[lane] for lane in _ints(rows, "lane").tolist()], dtype=np.int64)
        rows = _chosen(rows, _ints(rows, "decision_offset") > floor)
        staged.discard()
        if not rows.num_rows:
            return None
        rest = _StagedRows(self._table.folder, self._schema)
        try:
            for batch in rows.combine_chunks().to_batches():
                rest.take(batch, _spans(batch))
            rest.finish()
        except Exception:
            rest.discard()
            raise
        return rest

    def _held(self, lane: int) -> int:
        return held_in(self._table.delta, self._cluster, lane)

    def _refreshed_version(self, lane: int) -> int:
        self._table.delta.update_incremental()
        return self._held(lane)

    def _rows(self) -> str:
        files = tables.files(self._table.lake_dir, self.name, self._table.delta)
        return rows_of(self.name, files, differ=tables.is_widened(self._table.delta))

    def _catch_up(self) -> None:
        with contextlib.suppress(DeltaError, OSError):
            self._table.catch_up(self._logged)


def _ints(rows: pa.RecordBatch | pa.Table, column: str) -> npt.NDArray[np.int64]:
    values = rows[column]
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.from_dlpack(whole).astype(np.int64, copy=False)


def _chosen(rows: pa.Table, mask: npt.NDArray[np.bool_]) -> pa.Table:
    """The rows that a mask names, run by run: `filter` imports pyarrow.compute, half a second as a cell begins."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2).tolist()
    return pa.concat_tables([rows.slice(first, last - first) for first, last in edges] or [rows.slice(0, 0)])


def _spans(batch: pa.RecordBatch) -> dict[int, tuple[int, int]]:
    """By lane, the first and the last decision offset of a batch."""
    lanes, offsets = _ints(batch, "lane"), _ints(batch, "decision_offset")
    spans = {}
    for lane in map(int, np.unique(lanes)):
        of_lane = offsets[lanes == lane]
        spans[lane] = (int(of_lane[0]), int(of_lane[-1]))
    return spans


def _rising(
    offsets: npt.NDArray[np.int64], indexes: npt.NDArray[np.int64], newest: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Which rows of one lane come after all that were before them, and after the newest one known."""
    offsets_before = np.concatenate(([newest[0]], offsets[:-1]))
    indexes_before = np.concatenate(([newest[1]], indexes[:-1]))
    rising: npt.NDArray[np.bool_] = (offsets > offsets_before) | (
        (offsets == offsets_before) & (indexes > indexes_before)
    )
    if not rising.all():
        # Part of it is a replay.
        for i, row in enumerate(zip(offsets.tolist(), indexes.tolist(), strict=True)):
            rising[i] = row > newest
            newest = max(newest, row)
    return rising


class LaneVersions:
    """Tells what the lake holds of each lane where another process of the same Bytewax cluster writes to it."""

    def __init__(self, lake_dir: Path, cluster: str) -> None:
        self._lake_dir = lake_dir
        self._cluster = cluster
        self._rounds: DeltaTable | None = None
        self._looked_at = 0.0

    def held(self, lane: int) -> int:
        """As `LakeWriter.held`, as of a second ago; -1 where the lake cannot be read."""
        now = time.monotonic()
        with contextlib.suppress(DeltaError, OSError, BadRecordError):
            if self._rounds is None and tables.is_lake(self._lake_dir):
                self._rounds = tables.open_table(self._lake_dir, "rounds")
            elif self._rounds is not None and now - self._looked_at >= 1.0:
                self._rounds.update_incremental()
                self._looked_at = now
        return -1 if self._rounds is None else held_in(self._rounds, self._cluster, lane)


def held_in(table: DeltaTable, cluster: str, lane: int) -> int:
    """The highest decision offset that a table holds of a lane; -1 if none."""
    # the second, where rows of this cluster were taken from another lake before it wrote here
    return max(tables.transaction_version(table, name) for name in (application(lane), taken(cluster, lane)))


def application(lane: int) -> str:
    """The application under whose name the log holds what is there of a lane."""
    return f"lane-{lane}"


def taken(cluster: str, lane: int) -> str:
    """The same of a lane whose rows a merge has taken from another lake."""
    return f"{cluster}/{application(lane)}"


# Rows from before they had a cluster are of the lake's own.
_OF_LANE = "lane = $lane AND coalesce(cluster, $cluster) = $cluster"


def _owners(rows: str, cluster: str, lane: int, first: int, rows_per_batch: int) -> Iterator[list[Owner]]:
    with session() as connection:
        connection.execute(
            f"SELECT {', '.join(Owner._fields)} FROM ({rows}) "  # noqa: S608 - names of this module
            f"WHERE {_OF_LANE} AND decision_offset >= $first AND introduces ORDER BY decision_offset",
            {"lane": lane, "cluster": cluster, "first": first},
        )
        while found := connection.fetchmany(rows_per_batch):
            yield list(map(Owner._make, found))


def _offsets(rows: str, cluster: str, lane: int, above: int, condition: str) -> list[int]:
    """The decision offsets of a lane's rows above one."""
    with session() as connection:
        of_lane = f"({rows}) WHERE {_OF_LANE} AND decision_offset > $above"
        query = f"SELECT decision_offset FROM {of_lane} AND {condition}"  # noqa: S608 - conditions of this module
        found = connection.execute(query, {"lane": lane, "cluster": cluster, "above": above}).fetchall()
    return [offset for (offset,) in found]


def _by_table(ended: Iterable[Record | DeadLetterRow]) -> dict[type[Struct], list[Row]]:
    found: dict[type[Struct], list[Row]] = {Record: [], DeadLetterRow: []}
    for row in ended:
        found[type(row)].append(row)
    return found


def _alert(text: str) -> None:
    log.warning("quality gate: %s", text)
