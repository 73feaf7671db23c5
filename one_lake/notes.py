"""What the supervision root noted, in a table of the lake of its own: `supervision`.

It is no part of what is verified: nobody's record rests on it.

- **Unit of parallelism:** one root. **Guarantee:** the rows of a look are visible together, each once. **Replay:** a
  look that is there already is left out; looks are numbered, and the table's log carries the last one.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError

from one_lake import tables
from schemas.one import arrow_schema
from schemas.supervision import Noted

log = logging.getLogger(__name__)

TABLE = "supervision"
_APPLICATION = "root"
COMPACT_EVERY = 100
"""Commits; one comes a minute, and with each alert."""


def view(lake_dir: str | Path) -> str:
    """The query for all notes; none where no root has noted anything."""
    path, schema = tables.folder(lake_dir, TABLE), arrow_schema(Noted)
    try:
        files = tables.files(lake_dir, TABLE, DeltaTable(str(path))) if DeltaTable.is_deltatable(str(path)) else []
    except DeltaError as error:
        log.warning("%s: what the root noted cannot be read, all else can: %s", path, str(error).partition("\n")[0])
        files = []
    if not files:
        types = {"int64": "BIGINT", "double": "TIMESTAMPTZ"}  # the one double is told as the time that it is
        columns = [f'NULL::{types.get(str(f.type), "VARCHAR")} AS "{f.name}"' for f in schema]
        return f"SELECT {', '.join(columns)} WHERE false"
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    rest = ", ".join(f'"{name}"' for name in schema.names if name != "noted_at")
    return f"SELECT to_timestamp(noted_at) AS noted_at, {rest} FROM read_parquet([{listed}])"  # noqa: S608


def last_number(lake_dir: str | Path) -> int:
    """The number of the last look that was noted; 0 where there is none.

    Raises:
        OSError: the lake cannot be read.
    """
    path = tables.folder(lake_dir, TABLE)
    try:
        there = DeltaTable(str(path)).transaction_version(_APPLICATION) if DeltaTable.is_deltatable(str(path)) else 0
    except DeltaError as error:
        raise OSError(f"{path}: {error}") from error
    return there or 0


class NoteWriter:
    """Adds what was noted.

    Args:
        lake_dir: the lake's folder; the table is made when the first note comes.
    """

    def __init__(self, lake_dir: str | Path) -> None:
        self._path = tables.folder(lake_dir, TABLE)
        self._table: DeltaTable | None = None

    def add(self, notes: Sequence[Noted]) -> None:
        """Write notes, in the order of their numbers.

        Raises:
            OSError: the lake cannot be written.
        """
        try:
            self._add(notes)
        except DeltaError as error:
            raise OSError(f"{self._path}: {error}") from error

    def _add(self, notes: Sequence[Noted]) -> None:
        if self._table is None:
            schema = arrow_schema(Noted)
            self._path.mkdir(parents=True, exist_ok=True)
            self._table = DeltaTable.create(str(self._path), schema, mode="ignore")
        table = self._table
        table.update_incremental()
        there = table.transaction_version(_APPLICATION)
        new = [n for n in notes if there is None or n.number > there]
        if not new:
            return
        rows = pa.Table.from_pylist([msgspec.to_builtins(n) for n in new], schema=arrow_schema(Noted))
        properties = CommitProperties(app_transactions=[Transaction(_APPLICATION, new[-1].number)])
        write_deltalake(table, rows, mode="append", commit_properties=properties)
        table.update_incremental()
        if table.version() % COMPACT_EVERY == 0:
            self._table = None  # opened anew: one that is only ever read on keeps every entry since it was opened
            table.optimize.compact()
            # those that were put together a week ago; `full`, since a checkpoint forgets them at that age, too
            table.vacuum(dry_run=False, full=True)
