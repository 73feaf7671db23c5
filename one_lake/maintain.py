"""Maintenance: fewer and sorted files, and what nobody needs any more deleted, while cells write and people read.

    small files -> rows sorted by logical id -> large files, with bloom filters     one commit, sealed; no row changes
    entries of the log -> their seals beside it -> expired entries deleted
    files that no version of the last days has, and no writer holds -> deleted

Safe at any moment: whoever reads goes on with the files of the version he opened, for as long as the retention is; a
process that is killed leaves files that no entry names.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction
from msgspec import Struct

from connectors.file_lock import try_lock
from one_lake import tables
from one_lake.keys import SigningKey, publish
from one_lake.query import rows_of, session
from one_lake.sealed_table import Commit, SealedTable, Signer
from one_lake.seals import actions, archive, digests_of
from one_lake.staged import Gathered, StagedFile, cast, removal
from schemas.errors import BadRecordError, RefusedError, TryAgainError
from schemas.one import ALL_TABLES, ROW_HASH, SUPERSEDED, arrow_schema

TARGET_BYTES = 128 << 20
RETENTION_S = 7 * 24 * 3600.0
MIN_RETENTION_S = 3600.0
"""A query, or a commit that waits for a slow disk, takes less."""

ROW_GROUP = 16_384
"""Rows; a look-up by id reads one group of a file."""
GROUP_BYTES = 32 << 20
"""Of such a group, compressed, at most."""
MEMORY_LIMIT = "500MB"
"""Of the sort, which has one thread: each needs its share. What is beyond it is on the disk."""
_FALSE_POSITIVES = 0.01

Progress = Callable[[str, str], None]
"""Told which table it is at, and what it does there."""


class Maintained(Struct, kw_only=True):
    """What was done to a table."""

    table: str
    rows: int = 0
    files_before: int = 0
    files: int = 0
    bytes_before: int = 0
    bytes: int = 0
    compacted: int = 0
    """Files that were put together."""
    deleted: int = 0
    """Files that nobody needed any more."""
    deleted_bytes: int = 0
    entries_deleted: int = 0
    """Entries of the log that had expired."""
    version: int = 0


def maintain(
    lake_dir: str | Path,
    key: SigningKey,
    *,
    retention_s: float = RETENTION_S,
    target_bytes: int = TARGET_BYTES,
    progress: Progress = lambda *_: None,
) -> list[Maintained]:
    """Maintain all tables of a lake.

    Args:
        lake_dir: the lake.
        key: signs what is committed.
        retention_s: seconds for which a file stays that no version has any more.
        target_bytes: about so large become the files.
        progress: told how far it is.

    Raises:
        RefusedError: there is no lake, or the retention is too short.
        TryAgainError: another process maintains it; or there is no room to sort its rows, or they came out as others.
        BadRecordError: a file is not what was sealed; nothing of its table was changed.
        OSError: the lake cannot be written; it is as it was.
    """
    if retention_s < MIN_RETENTION_S:
        raise RefusedError(
            f"a retention of {retention_s:.0f} s: expected {MIN_RETENTION_S:.0f} s or more, so that no query and no "
            "commit loses its files"
        )
    lake = Path(lake_dir)
    if not tables.is_lake(lake):
        raise tables.no_lake(lake)
    with alone(lake):
        tables.create(lake)
        publish(lake, key)
        try:
            return [
                _maintain_table(lake, table, key, retention_s, target_bytes, progress) for table in tables.present(lake)
            ]
        except DeltaError as error:
            raise tables.as_os_error(error, lake) from error
        except duckdb.Error as error:
            why = str(error).partition("\n")[0]
            raise TryAgainError(f"lake {lake}: its rows cannot be sorted now: {why}; nothing is lost") from error


@contextlib.contextmanager
def alone(lake: Path) -> Iterator[None]:
    """One process at a time that rewrites files: two would do the same work, and one of them in vain.

    Raises:
        TryAgainError: another one does.
    """
    with (lake / "maintain.lock").open("w") as lock:
        if not try_lock(lock.fileno()):
            raise TryAgainError(f"lake {lake}: another process maintains it, or merges another one into it")
        yield


def _maintain_table(
    lake: Path, name: str, key: SigningKey, retention_s: float, target_bytes: int, progress: Progress
) -> Maintained:
    table = SealedTable(lake, name, Signer(key, ""))
    before = _live(table)
    done = Maintained(
        table=name, files_before=len(before), bytes_before=sum(before.values()), rows=_rows(table), version=0
    )
    progress(name, "compacting")
    if name != SUPERSEDED:  # which file a merge has added tells since when its rows are superseded
        done.compacted = _compact(table, target_bytes)
    progress(name, "cleaning up")
    archive(lake, name)
    table.checkpoint()
    entries = len(tables.log_versions(lake, name))
    table.delta.cleanup_metadata()
    done.entries_deleted = entries - len(tables.log_versions(lake, name))
    done.deleted, done.deleted_bytes = _vacuum(table, retention_s)
    after = _live(table)
    done.files, done.bytes, done.version = len(after), sum(after.values()), table.delta.version()
    return done


def _actions(table: SealedTable) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.table(table.delta.get_add_actions(flatten=True)).to_pylist()
    return rows


def _live(table: SealedTable) -> dict[str, int]:
    """The files of the table as of the version that was read last, by name, with their sizes in bytes."""
    return {unquote(row["path"]): row["size_bytes"] for row in _actions(table)}


def _rows(table: SealedTable) -> int:
    return sum(row["num_records"] or 0 for row in _actions(table))


# -- compaction ------------------------------------------------------------------------------------------------------


def _compact(table: SealedTable, target_bytes: int) -> int:
    """Put the small files together, sorted, as many at once as are soon sorted; returns how many they were."""
    done = 0
    for batch in _batches(_live(table), target_bytes):
        if not _put_together(table, batch, target_bytes):
            break
        done += len(batch)
    return done


def _batches(live: Mapping[str, int], target_bytes: int) -> list[dict[str, int]]:
    """The small files, by name with their sizes; each batch has two or more."""
    batches: list[dict[str, int]] = [{}]
    for name, size in live.items():
        if size >= target_bytes * 3 // 4:
            continue
        if sum(batches[-1].values()) >= target_bytes * 2:
            batches.append({})
        batches[-1][name] = size
    return [batch for batch in batches if len(batch) > 1]


def _put_together(table: SealedTable, small: Mapping[str, int], target_bytes: int) -> bool:
    """Put some files together in one commit; False if somebody else has."""
    _check(table, small)
    staged: list[StagedFile] = []
    try:
        adding = _sorted(table, small, target_bytes, staged)
        removing = [removal(name, size, data_change=False) for name, size in small.items()]
        commit = Commit(actions=[*adding, *removing], files=staged)
        while table.try_commit(commit, lambda: None) is None:
            if not small.keys() <= _live(table).keys():
                _discard(staged)
                return False
    except BaseException:
        discard_unlogged(table, staged)
        raise
    table.delta.update_incremental()
    return True


def _check(table: SealedTable, names: Iterable[str]) -> None:
    """What is put together has to be what was sealed: afterwards the file's own digest proves nothing more."""
    digests = digests_of(table.lake_dir, table.name)
    for name in names:
        sealed = digests.get(name)
        if sealed is not None and tables.sha256_of(table.folder / name) != sealed:
            raise BadRecordError(
                f"{table.name}/{name}: not the file that was sealed; `aureon verify` says what is wrong with it"
            )


def _sorted(
    table: SealedTable, small: Mapping[str, int], target_bytes: int, staged: list[StagedFile]
) -> list[AddAction]:
    """Write the rows of some files into new ones, sorted by logical id."""
    schema = arrow_schema(ALL_TABLES[table.name])
    blooms = {name: {"ndv": ROW_GROUP, "fpp": _FALSE_POSITIVES} for name in ("logical_id",)}
    paths = [str(table.folder.absolute() / name) for name in small]
    order = "logical_id, topic, lane, decision_offset" + (', "index"' if "index" in schema.names else "")
    rows = rows_of(table.name, paths, differ=tables.differ(table.delta, table.name))
    actions: list[AddAction] = []
    with session(MEMORY_LIMIT) as connection:
        connection.execute("SET threads = 1")
        before = connection.sql(f"SELECT count(*), sum(hash({ROW_HASH})) FROM ({rows})").fetchall()  # noqa: S608
        # rows of 10 KB and more come in smaller groups, so that one fits into memory
        group = max(2048, min(ROW_GROUP, GROUP_BYTES // max(1, sum(small.values()) // max(1, before[0][0]))))
        reader = connection.sql(f"SELECT * FROM ({rows}) ORDER BY {order}").to_arrow_reader(group)  # noqa: S608
        written: _Sorted | None = None
        for batch in reader:
            if written is None:
                staged.append(StagedFile(table.folder, schema, bloom_filter_options=blooms))
                written = _Sorted(staged[-1], data_change=False)
            written.take(cast(batch, schema))
            if staged[-1].path.stat().st_size >= target_bytes:
                actions.append(written.end())
                written = None
        if written is not None:
            actions.append(written.end())
        new = rows_of(table.name, [str(file.path.absolute()) for file in staged], differ=False)
        after = connection.sql(f"SELECT count(*), sum(hash({ROW_HASH})) FROM ({new})").fetchall()  # noqa: S608
    if before != after:
        raise TryAgainError(
            f"{table.name}: the sorted files have {after} rows and hashes, and those before {before}; these stay"
        )
    return actions


class _Sorted(Gathered):
    """One file of rows sorted by logical id."""

    def take(self, batch: pa.RecordBatch) -> None:
        super().take(batch)
        ids = batch["logical_id"]
        self.least.setdefault("logical_id", ids[0].as_py())
        self.most["logical_id"] = ids[len(ids) - 1].as_py()


def _discard(staged: list[StagedFile]) -> None:
    for file in staged:
        file.discard()


def discard_unlogged(table: SealedTable, staged: list[StagedFile]) -> None:
    """Discard files that the log does not name; where that cannot be told they stay, and are vacuumed later."""
    with contextlib.suppress(Exception):
        table.delta.update_incremental()
        live = {Path(path).name for path in tables.files(table.lake_dir, table.name, table.delta)}
        _discard([file for file in staged if file.path.name not in live])


# -- vacuum ----------------------------------------------------------------------------------------------------------


def _vacuum(table: SealedTable, retention_s: float) -> tuple[int, int]:
    """Delete what no version within the retention has, and no writer holds; returns how many files and bytes."""
    since = time.time() - retention_s
    old: dict[Path, int] = {}
    for path in sorted(table.folder.glob("*.parquet")):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            if state.st_mtime <= since and _is_free(path):
                old[path] = state.st_size
    table.delta.update_incremental()  # only now: what a writer has let go of meanwhile, he has logged
    keep = set(_live(table)) | _removed_since(table, since)
    unneeded = {path: size for path, size in old.items() if path.name not in keep}
    for path in unneeded:
        path.unlink(missing_ok=True)
    return len(unneeded), sum(unneeded.values())


def _is_free(path: Path) -> bool:
    """Whether no writer holds it: one that was stopped for long may log it yet when it goes on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return try_lock(descriptor)
    except OSError:
        return True  # a file system without locks
    finally:
        os.close(descriptor)


def _removed_since(table: SealedTable, since: float) -> set[str]:
    """The files that commits have removed since a time."""
    found: set[str] = set()
    for version in tables.log_versions(table.lake_dir, table.name):
        entry = tables.log_entry(table.lake_dir, table.name, version)
        if entry.stat().st_mtime < since:
            continue
        found.update(unquote(str(removed.get("path", ""))) for removed in actions(entry.read_bytes(), "remove"))
    return found
