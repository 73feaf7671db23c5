"""Rows into one table: those that it has not yet, in a staged file that is then logged.

    lines -> columns -> what is new of them -> staged file (fsync) -> signed log entry (fsync) -> visible

`LakeWriter` has one of these for each table; each has a thread of its own.
"""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from one_lake import tables
from one_lake.encode import encode_rows, record_batch
from one_lake.lanes import application, held_in
from one_lake.query import rows_of
from one_lake.sealed_table import Commit, SealedTable, Signer
from one_lake.seals import Link, SealedLane, merkle_root
from one_lake.staged import StagedFile
from schemas.head import Head
from schemas.one import ROW_HASH, TABLES, Row, arrow_schema

# A row group, about 4,000 rounds: large enough to compress well, small enough that the last one of an epoch is soon
# written.
CHUNK_BYTES = 1 << 20

_END = 2**63 - 1


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


class TableWriter:
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
        """Take rows; a full chunk is written at once."""
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
        """Look at the newest commit for the highest decision offset of a lane; -1 if none."""
        return self._thread.submit(self._refreshed_version, lane).result()

    def rows(self) -> str:
        """The query for all rows."""
        return self._thread.submit(self._rows).result()

    def close(self) -> None:
        """Let go of the thread, and of what was not committed."""
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
        return rows_of(self.name, files, differ=tables.differ(self._table.delta, self.name))

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
