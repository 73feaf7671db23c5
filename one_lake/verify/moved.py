"""Rows that are not where they were written: those of files that were put together, and any that nobody sealed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from one_lake.query import quoted
from one_lake.verify.files import compare
from one_lake.verify.report import Fault, Finding
from one_lake.verify.seals import Lane, TableLog
from schemas.one import ROW_HASH, TABLES

_ROWS_AT_ONCE = 16_384
_Ints = npt.NDArray[np.int64]


def verify_moved(
    lake: duckdb.DuckDBPyConnection,
    log: TableLog,
    readable: set[str],
    rows: Callable[[str, list[str]], str],
    elsewhere: str | None = None,
) -> Iterator[tuple[Finding, int]]:
    """Compare the rows of rewritten files with what was sealed of them before.

    Args:
        lake: a connection with a view for each table.
        log: of the table.
        readable: the files whose rows can be read.
        rows: the query for the rows of a table in some files.
        elsewhere: the query for rows of the table that went to another one.

    Yields:
        Findings, and how often each was found.
    """
    names = [Path(path).name for path in log.files]
    at_home = {lane.version for name in names for lane in log.home.get(name, ())}
    sealed: dict[str, list[Lane]] = {}
    for lane in sorted(lane for lane in log.lanes if lane.version not in at_home):
        sealed.setdefault(lane.cluster, []).append(lane)
    moved = [path for path, name in zip(log.files, names, strict=True) if path in readable and name not in log.home]
    if moved or (elsewhere and log.lanes):
        queries = [rows(log.table, moved)] if moved else []
        queries += [_sealed(elsewhere, log)] if elsewhere and log.lanes else []
        lake.execute(f"CREATE OR REPLACE TEMP VIEW moved AS {' UNION ALL '.join(queries)}")
        clusters = lake.execute(f"SELECT DISTINCT coalesce(cluster, '') FROM moved WHERE {ROW_HASH} IS NOT NULL")  # noqa: S608
        for (cluster,) in clusters.fetchall():
            yield from _of_cluster(lake, log.table, cluster, sealed.pop(cluster, []))
    for lanes in sealed.values():
        for lane in lanes:
            yield from _compared(log.table, lane, [], None)
    yield from _without_hash(lake, log)


def _sealed(rows: str, log: TableLog) -> str:
    """Of a query for rows, those of which the log tells already: a merge writes the others to the other table first."""
    ends: dict[tuple[str, int], int] = {}
    for lane in log.lanes:
        ends[lane.cluster, lane.lane] = max(lane.last, ends.get((lane.cluster, lane.lane), -1))
    told = ", ".join(f"('{quoted(cluster)}', {lane}, {last})" for (cluster, lane), last in ends.items())
    return (
        f"SELECT r.* FROM ({rows}) r JOIN (VALUES {told}) s(cluster, lane, last) "  # noqa: S608
        "ON s.cluster = coalesce(r.cluster, '') AND s.lane = r.lane AND decision_offset <= s.last"
    )


def _of_cluster(
    lake: duckdb.DuckDBPyConnection, table: str, cluster: str, lanes: Sequence[Lane]
) -> Iterator[tuple[Finding, int]]:
    """Go through the rows of one cluster in the order in which they were decided."""
    index = '"index"' if "index" in TABLES[table].__struct_fields__ else "0"
    rows = lake.sql(
        f"SELECT lane, decision_offset, {index}::BIGINT AS index, unhex({ROW_HASH}) AS digest FROM moved "  # noqa: S608
        f"WHERE coalesce(cluster, '') = $cluster AND {ROW_HASH} IS NOT NULL ORDER BY ALL",
        params={"cluster": cluster},
    )
    first = _places(np.array([s.lane for s in lanes]), np.array([s.first for s in lanes]))
    last = _places(np.array([s.lane for s in lanes]), np.array([s.last for s in lanes]))
    at = 0
    hashes: list[bytes] = []
    span: tuple[int, int] | None = None
    newest = (-1, -1)
    for batch in rows.to_arrow_reader(_ROWS_AT_ONCE):
        numbers, offsets, indexes = (np.from_dlpack(batch[i]).astype(np.int64, copy=False) for i in range(3))
        places = _places(numbers, offsets)
        before = np.concatenate(([newest[0]], places[:-1])), np.concatenate(([newest[1]], indexes[:-1]))
        twice = (places == before[0]) & (indexes == before[1])
        newest = int(places[-1]), int(indexes[-1])
        belongs_to = np.searchsorted(last, places)
        inside = belongs_to < len(lanes)
        inside[inside] = places[inside] >= first[belongs_to[inside]]
        yield from _named(Fault.ROW_TWICE, table, numbers[twice], offsets[twice], "")
        added = ~inside & ~twice
        yield from _named(Fault.ROW_ADDED, table, numbers[added], offsets[added], "no commit has sealed it")
        good = np.flatnonzero(inside & ~twice)
        if not len(good):
            continue
        digests = batch["digest"].to_pylist()
        starts = np.flatnonzero(np.diff(belongs_to[good], prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(good)], strict=True):
            some = good[start:end]
            while at < belongs_to[some[0]]:
                yield from _compared(table, lanes[at], hashes, span)
                at, hashes, span = at + 1, [], None
            hashes += [digests[i] for i in some]
            span = (int(offsets[some[0]]) if span is None else span[0], int(offsets[some[-1]]))
    for lane in lanes[at:]:
        yield from _compared(table, lane, hashes, span)
        hashes, span = [], None


def _places(lanes: _Ints, offsets: _Ints) -> _Ints:
    """Lane and offset as one number: a lane has fewer than 2**48 decisions, and a cluster fewer than 2**15 lanes."""
    places: _Ints = (lanes.astype(np.int64) << 48) + offsets.astype(np.int64)
    return places


def _named(fault: Fault, table: str, lanes: _Ints, offsets: _Ints, detail: str) -> Iterator[tuple[Finding, int]]:
    if len(lanes):
        yield Finding(fault, f"{table}[{lanes[0]}]@{offsets[0]}", detail), len(lanes)


def _compared(
    table: str, lane: Lane, hashes: list[bytes], span: tuple[int, int] | None
) -> Iterator[tuple[Finding, int]]:
    finding = compare(table, lane, hashes, span)
    if finding is not None:
        yield finding, 1


def _without_hash(lake: duckdb.DuckDBPyConnection, log: TableLog) -> Iterator[tuple[Finding, int]]:
    """Rows without a hash among those with one: they are older than these, or forged."""
    first: dict[int, int] = {}
    for lane in log.lanes:
        first[lane.lane] = min(lane.first, first.get(lane.lane, lane.first))
    lanes = ", ".join(f"({lane}, {offset})" for lane, offset in first.items())
    if not lanes:
        return
    ((count, at),) = lake.execute(
        f"SELECT count(*), min((t.lane, decision_offset)) FROM {log.table} t JOIN (VALUES {lanes}) s(lane, first) "  # noqa: S608
        f"ON s.lane = t.lane WHERE {ROW_HASH} IS NULL AND decision_offset >= first"
    ).fetchall()
    if count:
        where = f"{log.table}[{at[0]}]@{at[1]}"
        yield Finding(Fault.ROW_ADDED, where, "it has no hash, and others before it have one"), count
