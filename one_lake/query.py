"""The lake in SQL: a DuckDB connection with a view for each table, and what follows from them.

    records, rounds, branches, dead_letters     as they are written; and superseded, after a merge
    one, answers, nodes, costs, …               what is made of these (`one_lake.views`)

Payloads and answers in the blob store are fetched from it, checked, when a query asks for their column; a blob that is
gone or spoilt leaves its reference in place, so that one of them hides no other row. `stored.records` and so on have
all references as they are written.

Each view reads the files of one version of its table, the newest at `connect` or `refresh`; later commits add files and
never change those. The version of `rounds` is taken first. It is the table that is committed last, so whatever `rounds`
tells of a decision, its record, branches and dead letter are in the other views too. The others may be ahead of
`rounds` by the epoch that was being committed: join from `rounds` to count decisions, and from `one` to count tasks.
"""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from msgspec import Struct

from connectors.blobs import BlobStore
from one_lake import notes, tables
from one_lake.as_of import Moment, moment, names_as_of
from one_lake.views import VIEWS
from schemas.blob import REFERENCE_START, reference_in
from schemas.errors import BadRecordError
from schemas.one import ALL_TABLES, AT_FIRST, SUPERSEDED, arrow_schema

if TYPE_CHECKING:
    import duckdb

_SETTINGS = """
SET TimeZone = 'UTC';
SET temp_directory = '{temp_directory}';
SET max_temp_directory_size = '16GB';
SET parquet_metadata_cache = true;
"""

_LARGE = ("payload", "answer")
"""The columns that may hold references."""

# The newest first, so that little else than times is read of the others.
_RECENT = """
WITH recent AS (
    SELECT cluster, lane, decision_offset
    FROM stored.rounds WHERE $cluster IS NULL OR coalesce(cluster, $cluster) = $cluster
    ORDER BY decided_at DESC, decision_offset DESC LIMIT $limit
)
SELECT
    rounds.lane, rounds.decision_offset, kind, rounds.topic, rounds.logical_id, rounds.generation, rounds.forced,
    rounds.evidence, rounds.answer, candidates, payload, findings, epoch(decided_at)
FROM stored.rounds JOIN recent
ON recent.lane = rounds.lane AND recent.decision_offset = rounds.decision_offset
    AND recent.cluster IS NOT DISTINCT FROM rounds.cluster
LEFT JOIN stored.records ON records.lane = rounds.lane AND records.decision_offset = rounds.decision_offset
    AND records.cluster IS NOT DISTINCT FROM rounds.cluster
ORDER BY decided_at, rounds.decision_offset
"""

_SQL_TYPES = {
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.string(): "VARCHAR",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
}


class RecentRound(Struct, frozen=True, gc=False):
    """Of a round, what tells how well its models did."""

    lane: int
    decision_offset: int
    kind: str
    topic: str
    logical_id: str
    generation: int
    forced: bool
    evidence: str | None
    answer: str | None
    candidates: str
    payload: str | None
    """Of those that converged."""
    findings: str | None
    decided_at: float


def recent_rounds(lake_dir: str | Path, limit: int, cluster: str | None = None) -> list[RecentRound]:
    """Read the last rounds of all lanes, those decided first before the others.

    Args:
        lake_dir: the lake's folder.
        limit: so many of them.
        cluster: whose; None for all that were merged. Lanes and offsets of two clusters tell nothing of each other.
            Rows that name none are from before a lake could be merged.

    Raises:
        RefusedError: there is no lake.
    """
    with connect(lake_dir) as lake:
        return [RecentRound(*row) for row in lake.execute(_RECENT, {"limit": limit, "cluster": cluster}).fetchall()]


def connect(
    lake_dir: str | Path | None = None, blobs: str | None = None, as_of: str | None = None
) -> "duckdb.DuckDBPyConnection":
    """Open the lake for queries, as it is now; also while it is being written.

    Args:
        lake_dir: its folder; by default AUREON_LAKE, or else `.aureon/lake`.
        blobs: the blob store, a folder or a URL; by default AUREON_BLOBS, or else the folder `blobs` beside the lake.
        as_of: as it was at a version of `rounds`, or at a time (ISO 8601, UTC unless it says otherwise).

    Raises:
        RefusedError: there is no lake, or none from that time.
        BadRecordError: a file of it cannot be read.
    """
    import duckdb  # noqa: PLC0415 - as in `session`

    lake = tables.lake_folder(lake_dir).absolute()
    connection = session()
    try:
        connection.execute("SET VARIABLE aureon_lake = $lake", {"lake": str(lake)})
        place = blobs or os.environ.get("AUREON_BLOBS") or str(lake.parent / "blobs")
        connection.create_function("whole", _whole(place), ["VARCHAR"], "VARCHAR")
        connection.execute("CREATE SCHEMA stored")
        if as_of is not None:
            bound(connection, moment(lake, as_of))
        refresh(connection)
        for view in VIEWS:
            connection.execute(view)
        connection.execute(f"CREATE OR REPLACE VIEW supervision AS {notes.view(lake)}")
    except duckdb.Error as error:
        connection.close()
        raise tables.unreadable(lake, "a file", error) from None
    except BaseException:
        connection.close()
        raise
    return connection


def refresh(connection: "duckdb.DuckDBPyConnection") -> None:
    """Move the views of a connection on to what is committed by now."""
    (lake,) = connection.execute("SELECT getvariable('aureon_lake')").fetchall()[0]
    # rounds first: see above
    ((is_bound,),) = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'bounds'").fetchall()
    rows = {table: _stored(lake, table) for table in reversed(tables.present(lake))}
    if is_bound:
        ((superseded,),) = connection.execute("SELECT getvariable('aureon_superseded')").fetchall()
        rows = _as_they_were(lake, rows, superseded)
    rows = {SUPERSEDED: rows_of(SUPERSEDED, [], differ=False), **rows}
    views = [f"CREATE OR REPLACE VIEW stored.{table} AS {of_table}" for table, of_table in rows.items()]
    views += [f"CREATE OR REPLACE VIEW {table} AS SELECT {_columns(table)} FROM stored.{table}" for table in rows]  # noqa: S608
    connection.execute("BEGIN TRANSACTION")
    for view in views:
        connection.execute(view)
    connection.execute("COMMIT")


def session(memory_limit: str | None = None) -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection of its own, in memory, that spills to the system's temporary folder, up to a limit.

    Args:
        memory_limit: as DuckDB writes it; what is beyond it is spilled.
    """
    import duckdb  # noqa: PLC0415 - a cell that begins asks the lake nothing, and this is a twelfth of its imports

    connection = duckdb.connect(config={"memory_limit": memory_limit} if memory_limit else {})
    connection.execute(_SETTINGS.format(temp_directory=quoted(f"{tempfile.gettempdir()}/aureon-duckdb")))
    if memory_limit:  # some 0.5 MB a file, which the limit does not count
        connection.execute("SET parquet_metadata_cache = false")
    return connection


def _whole(place: str) -> Callable[[str], str]:
    """What a text stands for; the store is opened when the first reference is met."""

    @cache
    def store() -> BlobStore:
        return BlobStore(place)

    def whole(text: str) -> str:
        reference = reference_in(text)
        if reference is None:
            return text
        try:
            return store().get(reference).decode()
        except (BadRecordError, UnicodeDecodeError):
            return text

    return whole


def _columns(table: str) -> str:
    """All columns of a table, references exchanged for what they stand for."""
    return ", ".join(
        f"CASE WHEN starts_with({name}, '{REFERENCE_START}') THEN whole({name}) ELSE {name} END AS {name}"
        if name in _LARGE
        else f'"{name}"'
        for name in arrow_schema(ALL_TABLES[table]).names
    )


def bound(connection: "duckdb.DuckDBPyConnection", then: Moment) -> None:
    """Tell a connection how far each lane was at a moment, for `bounded`; and since when records were superseded."""
    connection.execute("CREATE TABLE bounds (cluster VARCHAR, lane BIGINT, last BIGINT)")
    rows = [(cluster, lane, last) for (cluster, lane), last in then.bounds.items()]
    if rows:  # a lake from before commits were signed has no named moment but that of its maintenance
        connection.executemany("INSERT INTO bounds VALUES (?, ?, ?)", rows)
    connection.execute("SET VARIABLE aureon_superseded = $version", {"version": then.versions.get(SUPERSEDED, -1)})


def bounded(rows: str) -> str:
    """Of a query for rows of a table, those that were there at the moment that the connection is bound to.

    Rows without a hash are older than any moment that can be named.
    """
    return (
        f"SELECT rows.* FROM ({rows}) rows LEFT JOIN bounds ON bounds.cluster = rows.cluster "  # noqa: S608
        "AND bounds.lane = rows.lane WHERE row_hash IS NULL OR decision_offset <= bounds.last"
    )


def _stored(lake: str, table: str, names: set[str] | None = None) -> str:
    """The query for the rows of a table; of the files with these names only, where there are some."""
    opened = tables.open_table(lake, table)
    files = [f for f in tables.files(lake, table, opened) if names is None or Path(f).name in names]
    return rows_of(table, files, differ=tables.differ(opened, table))


def _as_they_were(lake: str, rows: dict[str, str], superseded: int) -> dict[str, str]:
    """Queries for the rows of all tables at the moment that a connection is bound to.

    Args:
        lake: its folder.
        rows: the same, as the tables are now.
        superseded: the version of that table then.
    """
    then = {table: bounded(of_table) for table, of_table in rows.items()}
    if SUPERSEDED in rows:
        then[SUPERSEDED] = _stored(lake, SUPERSEDED, names_as_of(lake, SUPERSEDED, superseded))
        then["records"] = standing(then[SUPERSEDED], bounded(f"{rows['records']} UNION ALL {rows[SUPERSEDED]}"))
    return then


def standing(superseded: str, records: str) -> str:
    """The query for records that are not superseded, from the queries for these and for all that there ever were."""
    return f"SELECT * FROM ({records}) ANTI JOIN ({superseded}) USING (cluster, lane, decision_offset)"  # noqa: S608


def rows_of(table: str, files: list[str], *, differ: bool) -> str:
    """Select all columns of a table from some of its files.

    Args:
        table: its name.
        files: their paths.
        differ: some may lack columns.
    """
    schema = arrow_schema(ALL_TABLES[table])
    none = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in schema)
    rows = f"SELECT {none} WHERE false"
    if files:
        columns = ", ".join(f'"{name}"' for name in schema.names)
        listed = ", ".join(f"'{quoted(path)}'" for path in files)
        if differ:
            # the files differ, and there may be none with the last columns; reading them so looks at each of them
            rows += f" UNION ALL BY NAME SELECT * FROM read_parquet([{listed}], union_by_name = true)"  # noqa: S608
            late = AT_FIRST.get(table, {})
            told = (
                f"coalesce({name}, {late[name]!r}) AS {name}" if name in late else f'"{name}"' for name in schema.names
            )
            rows = f"SELECT {', '.join(told)} FROM ({rows})"  # noqa: S608
        else:
            rows = f"SELECT {columns} FROM read_parquet([{listed}])"  # noqa: S608
    return rows


def _sql_type(arrow: pa.DataType) -> str:
    return f"{_sql_type(arrow.value_type)}[]" if pa.types.is_list(arrow) else _SQL_TYPES[arrow]


def quoted(text: str) -> str:
    """Put a text between the quotes of SQL."""
    return text.replace("'", "''")
