"""The rows of one file: their hashes, and the roots over them; in a process of its own, where there are many files."""

import hashlib
from contextlib import closing
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from connectors.blobs import BlobStore
from one_lake import tables
from one_lake.encode import lines_of
from one_lake.query import rows_of, session
from one_lake.seals import merkle_root
from one_lake.verify.report import Fault, Finding
from one_lake.verify.seals import Lane
from schemas.blob import reference_in
from schemas.errors import BadRecordError
from schemas.ids import content_hash
from schemas.one import ALL_TABLES, AT_FIRST, ROW_HASH, Record, arrow_schema

MEMORY_LIMIT = "350MB"
"""Of DuckDB; what it joins and sorts beyond it is on the disk."""
ROWS_PER_BATCH = 8192
ROWS_PER_PART = 100_000
MAX_FINDINGS = 20
"""Of one kind in one file that are told of one by one."""


class FileTask(Struct, frozen=True):
    """What to look at, and what it should be."""

    path: str
    table: str
    sha256: str | None
    """None where no seal has one."""
    lanes: tuple[Lane, ...]
    """The rows that it holds, if they are as they were written first; else none."""
    blobs: str | None
    """Where the blob store is, if it is to be asked."""
    differ: bool = False
    """Whether files of its table may lack the last columns."""
    groups: tuple[int, ...] | None = None
    """Of a part of a file: which row groups."""
    is_first: bool = True
    """The only part, or that which looks at the file as a whole."""


class FileReport(Struct):
    """What was found."""

    rows: int = 0
    not_sealed: int = 0
    blobs: int = 0
    blobs_skipped: int = 0
    is_spoilt: bool = False
    """Its rows cannot be read."""
    findings: list[Finding] = []
    faults: dict[Fault, int] = {}

    def add(self, fault: Fault, where: str, detail: str = "") -> None:
        """Take one up; only the first ones are told of."""
        self.faults[fault] = self.faults.get(fault, 0) + 1
        if self.faults[fault] <= MAX_FINDINGS:
            self.findings.append(Finding(fault, where, detail))


def parts_of(task: FileTask) -> list[FileTask]:
    """Cut a large file into parts that can be read at once, where its rows may come in any order."""
    if task.lanes:
        return [task]
    try:
        with pq.ParquetFile(task.path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    except (OSError, pa.ArrowException):
        return [task]
    parts: list[list[int]] = []
    rows = ROWS_PER_PART
    for group, size in enumerate(sizes):
        if rows >= ROWS_PER_PART:
            parts.append([])
            rows = 0
        parts[-1].append(group)
        rows += size
    return [
        msgspec.structs.replace(task, groups=tuple(groups), is_first=number == 0) for number, groups in enumerate(parts)
    ] or [task]


def verify_file(task: FileTask) -> FileReport:
    """Read a file, and compare all that can be said of it alone."""
    report = FileReport()
    path = Path(task.path)
    name = f"{task.table}/{path.name}"
    try:
        digest = tables.sha256_of(path) if task.is_first else task.sha256
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            report.add(Fault.FILE_ALTERED, name, f"cannot be read: {error.strerror}")
        else:
            report.add(Fault.FILE_MISSING, name, _rows_of(task))
        report.is_spoilt = True
        return report
    if task.sha256 is not None and digest is not None and digest != task.sha256:
        report.add(Fault.FILE_ALTERED, name, f"sha256 {digest[:12]}…, and {task.sha256[:12]}… was sealed")
    rows = _Rows(task, report)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_BATCH, task.groups, use_threads=False):
                rows.take(_widened(task.table, batch))
    except (OSError, pa.ArrowException, UnicodeDecodeError, ValueError, KeyError) as error:
        if Fault.FILE_ALTERED not in report.faults:
            report.add(Fault.FILE_ALTERED, name, f"cannot be read: {' '.join(str(error).split())[:200]}")
        report.is_spoilt = True
        return report
    rows.end()
    if task.is_first and digest != task.sha256:
        _check_joins(task, report)
    return report


def _check_joins(task: FileTask, report: FileReport) -> None:
    """Leave a file that nobody vouches for out of what is joined, if that would break on it."""
    kinds, rows = (rows_of(task.table, files, differ=task.differ) for files in ([], [task.path]))
    with closing(session(MEMORY_LIMIT)) as connection:
        try:
            if connection.sql(rows).types == connection.sql(kinds).types:
                connection.execute(f"SELECT max(hash(rows)) FROM ({rows}) rows").fetchall()  # noqa: S608
                return
            why = "its columns are not those of its table"
        except duckdb.Error as error:
            why = " ".join(str(error).split())[:200]
    if Fault.FILE_ALTERED not in report.faults:
        report.add(Fault.FILE_ALTERED, f"{task.table}/{Path(task.path).name}", f"cannot be read: {why}")
    report.is_spoilt = True


def _rows_of(task: FileTask) -> str:
    held = (f"[{lane.lane}]@{lane.first}..{lane.last} ({lane.rows} rows)" for lane in task.lanes)
    return " ".join(held)


def _widened(table: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """A file from before has not all columns; one that was altered may have rows without a lane."""
    schema = arrow_schema(ALL_TABLES[table])
    if batch.schema.equals(schema):
        return batch
    columns = [_column(table, batch, field) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(table: str, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name in batch.schema.names:
        if not field.nullable and batch[field.name].null_count:
            raise ValueError(f"column {field.name} has rows without a value")
        return batch[field.name].cast(field.type)
    if field.nullable:
        return pa.nulls(len(batch), field.type)
    return pa.array([AT_FIRST.get(table, {})[field.name]] * len(batch), field.type)


class _Rows:
    """The rows of a file, batch by batch."""

    def __init__(self, task: FileTask, report: FileReport) -> None:
        self._task = task
        self._report = report
        self._struct = ALL_TABLES[task.table]
        self._hashes: dict[tuple[str, int], list[bytes]] = {}
        self._spans: dict[tuple[str, int], tuple[int, int]] = {}
        self._newest: dict[tuple[str, int], tuple[int, int]] = {}
        self._store = BlobStore(task.blobs) if task.blobs is not None else None

    def take(self, batch: pa.RecordBatch) -> None:
        report = self._report
        report.rows += batch.num_rows
        hashes = batch[ROW_HASH].to_pylist()
        digests = [hashlib.sha256(line) for line in lines_of(self._struct, batch)]
        found = [digest.hexdigest() for digest in digests]
        if found != hashes:
            for at, (is_now, was) in enumerate(zip(found, hashes, strict=True)):
                if was is None:
                    report.not_sealed += 1
                    if self._task.lanes:
                        report.add(Fault.ROW_ALTERED, self._name(batch, at), "it has no hash, and others here have one")
                elif is_now != was:
                    detail = f"its hash is {is_now[:12]}…, and it says {was[:12]}…"
                    report.add(Fault.ROW_ALTERED, self._name(batch, at), detail)
        if self._task.lanes:
            self._gather(batch, [digest.digest() for digest in digests])
        if self._struct is Record:
            self._check_content(batch)

    def _gather(self, batch: pa.RecordBatch, digests: list[bytes]) -> None:
        """Take the hashes up lane by lane."""
        clusters, lanes = batch["cluster"].to_pylist(), batch["lane"].to_pylist()
        offsets = batch["decision_offset"].to_pylist()
        indexes = batch["index"].to_pylist() if "index" in batch.schema.names else [0] * len(lanes)
        for at, digest in enumerate(digests):
            lane, place = (clusters[at] or "", lanes[at]), (offsets[at], indexes[at])
            newest = self._newest.get(lane)
            if newest is not None and place <= newest:
                fault = Fault.ROW_TWICE if place == newest else Fault.ROW_REPLACED
                self._report.add(fault, self._name(batch, at))
            self._newest[lane] = place
            self._spans[lane] = (self._spans[lane][0] if lane in self._spans else place[0], place[0])
            self._hashes.setdefault(lane, []).append(digest)

    def _check_content(self, batch: pa.RecordBatch) -> None:
        columns = ("topic", "logical_id", "generation", "payload", "answer", "content_hash")
        for at, row in enumerate(zip(*(batch[name].to_pylist() for name in columns), strict=True)):
            topic, logical_id, generation, payload, answer, told = row
            try:
                texts = self._whole(payload), self._whole(answer)
            except BadRecordError as error:
                self._report.add(Fault.BLOB_MISSING, self._name(batch, at), str(error))
                continue
            if texts[0] is None or (texts[1] is None and answer is not None):
                self._report.blobs_skipped += 1
                continue
            try:
                found = content_hash(topic, logical_id, generation, texts[0].encode(), texts[1])
            except (msgspec.DecodeError, ValueError) as error:
                self._report.add(Fault.CONTENT_ALTERED, self._name(batch, at), f"its payload: {error}")
                continue
            if found != told:
                self._report.add(Fault.CONTENT_ALTERED, self._name(batch, at), f"{topic}/{logical_id}")

    def _whole(self, text: str | None) -> str | None:
        """What a text stands for; None if nobody is to be asked."""
        reference = reference_in(text) if text is not None else None
        if reference is None:
            return text
        if self._store is None:
            return None
        self._report.blobs += 1
        return self._store.get(reference).decode()

    def end(self) -> None:
        """Compare with what was sealed."""
        sealed = {(lane.cluster, lane.lane): lane for lane in self._task.lanes}
        for key in sorted(sealed.keys() | self._hashes.keys()):
            hashes = self._hashes.get(key, [])
            if key not in sealed:
                first, last = self._spans[key]
                self._report.add(
                    Fault.ROW_ADDED, f"{self._task.table}[{key[1]}]@{first}..{last}", f"{len(hashes)} rows of a lane"
                )
                continue
            self._report_lane(sealed[key], hashes, self._spans.get(key))

    def _report_lane(self, lane: Lane, hashes: list[bytes], span: tuple[int, int] | None) -> None:
        found = compare(self._task.table, lane, hashes, span)
        if found is not None:
            self._report.add(found.fault, found.where, found.detail)

    def _name(self, batch: pa.RecordBatch, at: int) -> str:
        return f"{self._task.table}[{batch['lane'][at].as_py()}]@{batch['decision_offset'][at].as_py()}"


def compare(table: str, lane: Lane, hashes: list[bytes], span: tuple[int, int] | None) -> Finding | None:
    """Compare rows, by their hashes in order, with what a commit sealed of their lane."""
    where = f"{table}[{lane.lane}]@{lane.first}..{lane.last}"
    detail = f"version {lane.version} sealed {lane.rows} rows, and {len(hashes)} are there"
    if len(hashes) < lane.rows:
        return Finding(Fault.ROW_MISSING, where, detail)
    if len(hashes) > lane.rows:
        return Finding(Fault.ROW_ADDED, where, detail)
    if span != (lane.first, lane.last) or merkle_root(hashes).hex() != lane.root:
        return Finding(Fault.ROW_REPLACED, where, f"version {lane.version} sealed others")
    return None
