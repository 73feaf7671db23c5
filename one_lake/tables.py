"""Where the lake's tables are and how they are set up; nothing else knows its paths.

lake/records/        _delta_log/*.json    one entry a commit
                     part-*.parquet       invisible until an entry names it
lake/branches/       ...
lake/dead_letters/   ...
lake/rounds/         ...                  written last of all
lake/superseded/     ...                  only where another lake was merged into this one
lake/keys/           *.json               the public keys of those who wrote
lake/seals/rounds/   *.jsonl.gz           the seals of entries that may expire
lake/search/         index.sqlite         the words of the records; may be deleted
lake/runs/<name>/    *.parquet            what was decided again; no part of the lake
"""

import errno
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote

from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError

from connectors.whole_files import sync
from schemas.errors import BadRecordError, RefusedError
from schemas.one import ALL_TABLES, AT_FIRST, TABLES, arrow_schema

DEFAULT_LAKE = Path(".aureon/lake")

# Reading the log costs about 0.3 ms for each commit since the last checkpoint, writing a checkpoint 10 to 20 ms.
CHECKPOINT_INTERVAL = 20

_CONFIGURATION = {
    # compaction may still replace files; rows stay, but for those of `records` that a merge puts elsewhere
    "delta.appendOnly": "true",
    "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
    # What each entry tells of its file. By default all columns, which makes every commit twice as slow at 2,000 files.
    "delta.dataSkippingStatsColumns": "lane,decision_offset",
    "delta.logRetentionDuration": "interval 30 days",  # how far back time travel goes
    "delta.enableExpiredLogCleanup": "false",  # maintenance does that, not every commit
}

_ENTRY = re.compile(r"\d{20}\.json")

WIDENED = "aureon.widened"
"""The property of a table that was created without its last columns."""


def lake_folder(lake_dir: str | Path | None = None) -> Path:
    """Say which lake is meant: the given one, else that of AUREON_LAKE, else the default."""
    return Path(lake_dir or os.environ.get("AUREON_LAKE") or DEFAULT_LAKE)


def folder(lake_dir: str | Path, table: str) -> Path:
    """The folder of one table."""
    return Path(lake_dir) / table


def is_lake(lake_dir: str | Path) -> bool:
    """Tell whether there is one."""
    return is_table(lake_dir, "rounds")


def no_lake(lake_dir: str | Path) -> RefusedError:
    """What whoever needs a lake says where there is none."""
    return RefusedError(f"no lake at {lake_dir}: run `aureon run` or set AUREON_LAKE")


def is_table(lake_dir: str | Path, table: str) -> bool:
    """Tell whether a table is there."""
    return DeltaTable.is_deltatable(str(folder(lake_dir, table)))


def present(lake_dir: str | Path) -> list[str]:
    """The tables of a lake that has been created, in the order in which they are committed."""
    return [t for t in ALL_TABLES if t in TABLES or is_table(lake_dir, t)]


def create(lake_dir: str | Path, *more: str) -> None:
    """Create the tables that are not there yet, and add columns that are new; several processes may do so at once.

    Args:
        lake_dir: the lake.
        more: tables besides those that every lake has.

    Raises:
        RefusedError: a table is there with other columns, or of a lake that was written to one is gone.
    """
    _check_whole(lake_dir)
    for table in dict.fromkeys((*more, *present(lake_dir))):
        struct = ALL_TABLES[table]
        path = folder(lake_dir, table)
        if not is_table(lake_dir, table):
            path.mkdir(parents=True, exist_ok=True)
            try:
                DeltaTable.create(path, arrow_schema(struct), mode="ignore", configuration=_CONFIGURATION)
            except DeltaError:
                # Another process was first, or the folder cannot be written: opening it tells which.
                if not is_table(lake_dir, table):
                    raise
            sync(path / "_delta_log" / f"{0:020}.json")
            for created in (path / "_delta_log", path, path.parent, path.parent.parent):
                sync(created)
        _widen(lake_dir, table)


def _check_whole(lake_dir: str | Path) -> None:
    """Refuse a lake with rows of which a table is gone: made anew, it would be empty, and nobody would see it.

    Raises:
        RefusedError: a table is gone.
    """
    there = [table for table in TABLES if is_table(lake_dir, table)]
    if 0 < len(there) < len(TABLES) and any(open_table(lake_dir, table).version() for table in there):
        # looked at only now: another process that makes the lake makes all of them before it writes to one
        for table in TABLES:
            if not is_table(lake_dir, table):
                raise RefusedError(
                    f"lake {lake_dir}: table `{table}` is gone; put its folder back from a copy, or move the lake away "
                    "and fill one anew from Kafka (flows/guide/operating.md)"
                )


def _widen(lake_dir: str | Path, table: str) -> None:
    """Add the columns that a table of an earlier version of Aureon lacks; its rows have null in them.

    Raises:
        RefusedError: it has other columns.
    """
    opened = open_table(lake_dir, table)
    first = opened.version()
    while lacking := _lacking(opened, table):
        seen = opened.version()
        try:
            # first, so that no table is without it that has files of both kinds
            if not is_widened(opened):
                opened.alter.set_table_properties({WIDENED: "true"}, raise_if_not_exists=False)
            opened.alter.add_columns(lacking)
        except DeltaError:
            opened = open_table(lake_dir, table)
            if opened.version() == seen:  # no other process was first: the folder cannot be written
                raise
    if opened.version() > first:
        for made in range(first + 1, opened.version() + 1):
            sync(log_entry(lake_dir, table, made))
        sync(folder(lake_dir, table) / "_delta_log")


def _lacking(opened: DeltaTable, table: str) -> list[Field] | None:
    """The columns that a table of an earlier version has not; None where it has others than it should."""
    expected = {f.name: f for f in Schema.from_arrow(arrow_schema(ALL_TABLES[table])).fields}
    late = AT_FIRST.get(table, {})
    for field in opened.schema().fields:
        wanted = expected.pop(field.name, None)
        if wanted is None or field not in (wanted, _nullable(wanted) if field.name in late else wanted):
            return None
    if all(f.nullable or f.name in late for f in expected.values()):
        return [_nullable(f) for f in expected.values()]
    return None


def _nullable(field: Field) -> Field:
    return Field(field.name, field.type, nullable=True)


def is_widened(opened: DeltaTable) -> bool:
    """Tell whether a table may have files without its last columns."""
    return WIDENED in opened.metadata().configuration


def differ(opened: DeltaTable, table: str) -> bool:
    """Tell whether files of a table may lack columns, since an earlier version wrote them."""
    return is_widened(opened) or bool(_lacking(opened, table))


def open_table(lake_dir: str | Path, table: str) -> DeltaTable:
    """Open one table at its newest version.

    One that an earlier version of Aureon wrote may lack columns; `create` adds them.

    Raises:
        RefusedError: it is not there, or has other columns.
        BadRecordError: its log cannot be read.
    """
    try:
        opened = DeltaTable(folder(lake_dir, table))
    except TableNotFoundError:
        _check_whole(lake_dir)
        raise no_lake(lake_dir) from None
    except DeltaError as error:
        raise unreadable(lake_dir, f"the log of {table}", error) from error
    if _lacking(opened, table) is None:
        expected = Schema.from_arrow(arrow_schema(ALL_TABLES[table]))
        present, wanted = ({(f.name, str(f.type), f.nullable) for f in s.fields} for s in (opened.schema(), expected))
        unknown = sorted({name for name, _, _ in present} - {name for name, _, _ in wanted})
        if unknown:
            raise RefusedError(
                f"lake {lake_dir}: table `{table}` has columns that this version of Aureon does not know "
                f"({', '.join(unknown)}): a newer one writes to it; upgrade this one"
            )
        different = sorted({name for name, _, _ in present ^ wanted})
        raise RefusedError(
            f"lake {lake_dir}: table `{table}` is of another version of Aureon (columns that differ: "
            f"{', '.join(different)}); use that one, or set AUREON_LAKE to another folder"
        )
    return opened


def unreadable(lake_dir: str | Path, what: str, error: Exception) -> BadRecordError:
    """Say that something in a lake cannot be read; of what a library says, the first line without its stack."""
    why = str(error).partition("\n")[0]
    return BadRecordError(f"lake {lake_dir}: {what} cannot be read: {why}; `aureon verify` tells what is damaged")


def files(lake_dir: str | Path, table: str, opened: DeltaTable) -> list[str]:
    """The Parquet files of a table as of the version it was opened at, in the order in which they were added."""
    root = folder(lake_dir, table).absolute()
    # As addresses they are quoted; all lie in the folder itself, for no table is partitioned.
    return [str(root / unquote(uri.rpartition("/")[2])) for uri in reversed(opened.file_uris())]


def keys_folder(lake_dir: str | Path) -> Path:
    """Where the public keys are."""
    return Path(lake_dir) / "keys"


def seals_folder(lake_dir: str | Path, table: str) -> Path:
    """Where the seals of a table are kept when entries of its log expire."""
    return Path(lake_dir) / "seals" / table


def search_index(lake_dir: str | Path) -> Path:
    """Where the index of the records' words is."""
    return Path(lake_dir) / "search" / "index.sqlite"


def owners_copy(lake_dir: str | Path, lane: int) -> Path:
    """Where the copy of a lane's index of ids is, for whichever cell has the lane next."""
    return Path(lake_dir) / "owners" / f"lane-{lane:04d}.sqlite"


def runs_folder(lake_dir: str | Path) -> Path:
    """Where the runs of replays are."""
    return Path(lake_dir) / "runs"


def log_entry(lake_dir: str | Path, table: str, version: int) -> Path:
    """The log entry that made a version of a table."""
    return folder(lake_dir, table) / "_delta_log" / f"{version:020}.json"


def log_versions(lake_dir: str | Path, table: str) -> list[int]:
    """The versions of a table whose log entries are there, in order."""
    entries = (folder(lake_dir, table) / "_delta_log").iterdir()
    return sorted(int(entry.stem) for entry in entries if _ENTRY.fullmatch(entry.name))


def sha256_of(path: Path) -> str:
    """Digest a file; in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def transaction_version(table: DeltaTable, application: str) -> int:
    """The version that an application committed last to a table; -1 if none."""
    version = table.transaction_version(application)
    return -1 if version is None else version


class Followed:
    """A table that somebody reads on and on, opened anew every so often.

    One that is only ever read on keeps every entry since it was opened, and goes through them again at each look:
    100 ms after 900 commits.
    """

    def __init__(self, lake_dir: str | Path, table: str) -> None:
        self._lake_dir, self._name = lake_dir, table
        self._open()

    def _open(self) -> None:
        self._table = open_table(self._lake_dir, self._name)
        self._opened_at = self._table.version()

    def read_on(self) -> DeltaTable:
        """Take in what was committed since, and give the table.

        Raises:
            DeltaError: its log cannot be read.
            BadRecordError: the same, when it is opened anew.
        """
        self._table.update_incremental()
        if self._table.version() >= self._opened_at + CHECKPOINT_INTERVAL:
            self._open()
        return self._table


def as_os_error(error: Exception, lake_dir: str | Path) -> OSError:
    """Give the error the lake's name and what to do."""
    # delta-rs draws its causes as a coloured tree over several lines.
    detail = " ".join(re.sub(r"\x1b\[\d+m|↳", "", str(error)).split())
    code = re.search(r"os error (\d+)", detail)
    number = getattr(error, "errno", None) or (int(code[1]) if code else errno.EIO)
    return OSError(
        number,
        f"lake {lake_dir}: {os.strerror(number)}; nothing is lost, start again when it can be written ({detail})",
    )
