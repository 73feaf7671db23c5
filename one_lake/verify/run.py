"""Verify a lake as it is at one moment."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from deltalake.exceptions import DeltaError

from connectors.processes import WorkerPool
from one_lake import tables
from one_lake.as_of import Moment, moment, names_as_of
from one_lake.keys import public_keys, trusted
from one_lake.query import bound, bounded, rows_of, session, standing
from one_lake.verify.files import MEMORY_LIMIT, FileReport, FileTask, parts_of, verify_file
from one_lake.verify.links import verify_links
from one_lake.verify.moved import verify_moved
from one_lake.verify.report import Fault, Finding, Report
from one_lake.verify.seals import Keys, TableLog, check_others, check_spans, log_gaps, read_log
from schemas.errors import BadRecordError, RefusedError
from schemas.head import Head
from schemas.one import SUPERSEDED

FEW_BYTES = 8 << 20
"""So many are read in the time in which a process starts."""
MAX_PROCESSES = 8

_NAME = "cluster, lane, decision_offset"

Progress = Callable[[str, int, int], None]
"""What is done, how much of it, of how much."""


def verify(
    lake_dir: str | Path,
    *,
    heads: Sequence[Head | str] = (),
    keys: Sequence[str] = (),
    blobs: str | None = None,
    as_of: str | None = None,
    progress: Progress = lambda *_: None,
) -> Report:
    """Verify a lake, also while it is being written.

    Args:
        lake_dir: the lake.
        heads: what it held at times, as told elsewhere; or the hashes of these.
        keys: the names of the keys to trust; those that follow on them are trusted too. None: all that the lake has.
        blobs: the blob store, to verify what is there too.
        as_of: only what was there at a version of `rounds`, or at a time; what came later is not looked at.
        progress: told how far it is.

    Returns:
        What was verified, and what is wrong.

    Raises:
        RefusedError: there is no lake, or none from that time, or it has no such key.
    """
    lake = Path(lake_dir).absolute()
    known = public_keys(lake)
    if unknown := sorted(set(keys) - known.keys()):
        raise RefusedError(f"lake {lake}: no key {', '.join(unknown)} in it; it has {', '.join(known) or 'none'}")
    counted = Keys(known, trusted(known, keys) if keys else set(known))
    present = tables.present(lake)
    report = Report(tables=dict.fromkeys(present, 0))
    then = moment(lake, as_of) if as_of is not None else None
    logs, differ = _read_logs(lake, present, counted, then, report)
    if len(logs) < len(present):
        return report  # what a table holds is not known
    report.add(check_others(logs))
    report.head = logs["rounds"].head
    # a head of later tells nothing of that moment
    heads = [head for head in heads if (head if isinstance(head, str) else head.hash) not in logs["rounds"].later]
    report.add(_missing_heads(logs["rounds"], heads))
    report.heads = len(heads) - report.faults.get(Fault.HEAD_MISSING, 0)
    report.add(itertools.chain.from_iterable(_not_sealed(log, logs["rounds"]) for log in logs.values()))
    readable = _verify_files(logs, blobs, report, progress, differ=differ)
    progress("links", 0, 1)
    _verify_tables(lake, logs, readable, then, report, differ=differ)
    progress("links", 1, 1)
    return report


def _read_logs(
    lake: Path, present: Sequence[str], keys: Keys, then: Moment | None, report: Report
) -> tuple[dict[str, TableLog], bool]:
    """Read what can be read of the tables' logs; also tell whether some files may lack columns."""
    logs, differ = {}, False
    for table in reversed(present):  # `rounds`, which is committed last, first
        if tables.is_lake(lake) and not tables.is_table(lake, table):
            report.add([Finding(Fault.LOG_GAP, table, "the table is gone")])
            continue
        try:
            opened = tables.open_table(lake, table)
        except (DeltaError, BadRecordError) as error:
            why = str(error.__cause__ or error).partition("\n")[0]
            report.add([*log_gaps(lake, table)] or [Finding(Fault.LOG_GAP, table, why[:200])])
            continue
        differ = differ or tables.differ(opened, table)
        files, last = tables.files(lake, table, opened), opened.version()
        newest = last if then is None else min(last, then.versions.get(table, -1))
        try:
            logs[table], findings = read_log(lake, table, files, last, newest, keys)
        except BadRecordError as error:
            report.add([Finding(Fault.SEAL_ALTERED, table, str(error))])
            continue
        report.add(findings)
        report.add(check_spans(logs[table]))
        report.seals += len(logs[table].hashes)
    return logs, differ


def _verify_tables(
    lake: Path,
    logs: dict[str, TableLog],
    readable: dict[str, list[str]],
    then: Moment | None,
    report: Report,
    *,
    differ: bool,
) -> None:
    """Compare the rows with what was sealed of them, wherever they are, and with each other."""

    def rows(table: str, files: list[str]) -> str:
        of_files = rows_of(table, files, differ=differ)
        return of_files if then is None else bounded(of_files)

    with session(MEMORY_LIMIT) as connection:
        if then is not None:
            bound(connection, then)
        ever = {table: rows(table, files) for table, files in readable.items()}
        superseded = ever.get(SUPERSEDED, rows_of(SUPERSEDED, [], differ=False))
        # a merge commits `superseded` first: until it commits `records`, or for ever if it was killed, a row is in both
        connection.execute(
            f"CREATE TEMP TABLE in_both AS SELECT {_NAME} FROM ({superseded}) "  # noqa: S608
            f"SEMI JOIN ({ever['records']}) USING ({_NAME})"
        )
        gone = f"FROM ({superseded}) ANTI JOIN in_both USING ({_NAME})"
        ever["records"] = f"{ever['records']} UNION ALL {gone}"
        if then is not None and SUPERSEDED in readable:
            names = names_as_of(lake, SUPERSEDED, then.versions.get(SUPERSEDED, -1))
            superseded = rows(SUPERSEDED, [path for path in readable[SUPERSEDED] if Path(path).name in names])
        stands = rows("records", readable["records"]) if then is None else standing(superseded, ever["records"])
        for view, of_table in {**ever, SUPERSEDED: superseded, "standing": stands}.items():
            connection.execute(f"CREATE VIEW {view} AS {of_table}")
        if then is not None:
            for table in readable:
                view = "standing" if table == "records" else table
                ((report.tables[table],),) = connection.execute(f"SELECT count(*) FROM {view}").fetchall()  # noqa: S608
        found = [
            verify_moved(
                connection,
                log,
                set(readable[log.table]),
                rows,
                gone if log.table == "records" and SUPERSEDED in readable else None,
            )
            for log in logs.values()
            if log.table != SUPERSEDED
        ]
        for finding, times in itertools.chain(*found, verify_links(connection)):
            report.count(finding, times)


def _missing_heads(rounds: TableLog, heads: Sequence[Head | str]) -> Iterator[Finding]:
    for digest in sorted({head for head in heads if isinstance(head, str)} - set(rounds.hashes.values())):
        yield Finding(Fault.HEAD_MISSING, f"head {digest[:12]}…", "no seal of `rounds` has that hash")
    for head in sorted((head for head in heads if isinstance(head, Head)), key=lambda head: head.version):
        if rounds.hashes.get(head.version) == head.hash:
            continue
        is_cut_off = head.version > rounds.newest
        told = f"the lake ends at version {rounds.newest}" if is_cut_off else "that version has another seal, or none"
        where = f"rounds version {head.version}"
        yield Finding(Fault.HEAD_MISSING, where, f"{head.hash[:12]}… of key {head.key}: {told}")


def _not_sealed(log: TableLog, rounds: TableLog) -> Iterator[Finding]:
    """Files without a seal, but for those from before commits were signed, of which `rounds` then has some too."""
    is_old = any(_is_before_seals(rounds, version) for version in rounds.added_by.values())
    for path in log.files:
        name = Path(path).name
        version = log.added_by.get(name)
        if name not in log.digests and not (is_old and _is_before_seals(log, version)):
            yield Finding(Fault.FILE_NOT_SEALED, f"{log.table}/{name}", f"added by version {version}")


def _is_before_seals(log: TableLog, version: int | None) -> bool:
    """Whether a version is older than the first seal; version 0 creates the table, and adds no file."""
    return version is not None and 0 < version < min(log.hashes, default=version + 1)


# -- files -----------------------------------------------------------------------------------------------------------


def _verify_files(
    logs: dict[str, TableLog], blobs: str | None, report: Report, progress: Progress, *, differ: bool
) -> dict[str, list[str]]:
    """Read all files; returns, by table, those that can be read."""
    tasks = [
        task
        for table, log in logs.items()
        for path in log.files
        for task in parts_of(
            FileTask(path, table, log.digests.get(Path(path).name), log.home.get(Path(path).name, ()), blobs, differ)
        )
    ]
    spoilt: set[str] = set()
    with ExitStack() as stack:
        for done, (task, found) in enumerate(zip(tasks, _each(tasks, stack), strict=True), 1):
            report.files += task.is_first
            report.tables[task.table] += found.rows
            report.not_sealed += found.not_sealed
            report.blobs += found.blobs
            report.blobs_skipped += found.blobs_skipped
            report.add(found.findings)
            for fault, times in found.faults.items():
                report.faults[fault] += times - sum(f.fault == fault for f in found.findings)
            if found.is_spoilt:
                spoilt.add(task.path)
            progress("files", done, len(tasks))
    return {table: [path for path in log.files if path not in spoilt] for table, log in logs.items()}


def _each(tasks: list[FileTask], stack: ExitStack) -> Iterator[FileReport]:
    processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0)))
    if processes == 1 or sum(_size(task.path) for task in tasks if task.is_first) <= FEW_BYTES:
        return map(verify_file, tasks)
    return stack.enter_context(WorkerPool(processes)).map(verify_file, tasks, chunksize=4)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
