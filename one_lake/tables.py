"""Where the lake's tables are and how they are set up; nothing else knows its paths.

lake/records/        _delta_log/*.json    one entry a commit
                     part-*.parquet       invisible until an entry names it
lake/branches/       ...
lake/dead_letters/   ...
lake/rounds/         ...                  written last of all
"""

import os
from pathlib import Path
from urllib.parse import unquote

from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError

from schemas.errors import RefusedError
from schemas.one import TABLES, arrow_schema

DEFAULT_LAKE = Path(".aureon/lake")

# Reading the log costs about 0.3 ms for each commit since the last checkpoint, writing a checkpoint 10 to 20 ms.
CHECKPOINT_INTERVAL = 20

_CONFIGURATION = {
    "delta.appendOnly": "true",  # compaction may still replace files; rows stay
    "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
    # What each entry tells of its file. By default all columns, which makes every commit twice as slow at 2,000 files.
    "delta.dataSkippingStatsColumns": "lane,decision_offset",
    "delta.logRetentionDuration": "interval 30 days",  # how far back time travel goes
    "delta.enableExpiredLogCleanup": "false",  # maintenance does that, not every commit
}


def lake_folder(lake_dir: str | Path | None = None) -> Path:
    """Say which lake is meant: the given one, else that of AUREON_LAKE, else the default."""
    return Path(lake_dir or os.environ.get("AUREON_LAKE") or DEFAULT_LAKE)


def folder(lake_dir: str | Path, table: str) -> Path:
    """The folder of one table."""
    return Path(lake_dir) / table


def create(lake_dir: str | Path) -> None:
    """Create the tables that are not there yet; several processes may do so at once.

    Raises:
        RefusedError: a table is there with other columns.
    """
    for table, struct in TABLES.items():
        path = folder(lake_dir, table)
        if not DeltaTable.is_deltatable(str(path)):
            path.mkdir(parents=True, exist_ok=True)
            try:
                DeltaTable.create(path, arrow_schema(struct), mode="ignore", configuration=_CONFIGURATION)
            except DeltaError:
                # Another process was first, or the folder cannot be written: opening it tells which.
                if not DeltaTable.is_deltatable(str(path)):
                    raise
            sync(path / "_delta_log" / f"{0:020}.json")
            for created in (path / "_delta_log", path, path.parent, path.parent.parent):
                sync(created)
        open_table(lake_dir, table)


def open_table(lake_dir: str | Path, table: str) -> DeltaTable:
    """Open one table at its newest version.

    Raises:
        RefusedError: it is not there, or has other columns.
    """
    try:
        opened = DeltaTable(folder(lake_dir, table))
    except TableNotFoundError:
        raise RefusedError(f"no lake at {lake_dir}: run `aureon run` or set AUREON_LAKE") from None
    expected = Schema.from_arrow(arrow_schema(TABLES[table]))
    if opened.schema() != expected:
        present, wanted = ({(f.name, str(f.type), f.nullable) for f in s.fields} for s in (opened.schema(), expected))
        different = sorted({name for name, _, _ in present ^ wanted})
        raise RefusedError(
            f"lake {lake_dir}: table `{table}` is of another version of Aureon (columns that differ: "
            f"{', '.join(different) or 'their order'}); set AUREON_LAKE to a new folder"
        )
    return opened


def files(lake_dir: str | Path, table: str, opened: DeltaTable) -> list[str]:
    """The Parquet files of a table as of the version it was opened at, in the order in which they were added."""
    root = folder(lake_dir, table).absolute()
    # As addresses they are quoted; all lie in the folder itself, for no table is partitioned.
    return [str(root / unquote(uri.rpartition("/")[2])) for uri in reversed(opened.file_uris())]


def log_entry(lake_dir: str | Path, table: str, version: int) -> Path:
    """The log entry that made a version of a table."""
    return folder(lake_dir, table) / "_delta_log" / f"{version:020}.json"


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
