"""The log of one table: its commits, their seals, and whether these are a chain."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from one_lake import tables
from one_lake.keys import PublicKey
from one_lake.seals import Entry, Seal, SignedSeal, entries
from one_lake.verify.report import Fault, Finding
from schemas.errors import BadRecordError
from schemas.head import Head


class Lane(Struct, frozen=True, gc=False, order=True):
    """The rows of one lane in one commit, as they were sealed."""

    cluster: str
    lane: int
    first: int
    last: int
    rows: int
    root: str
    version: int


class TableLog(Struct, kw_only=True):
    """What the log of a table says."""

    table: str
    files: list[str]
    """Of the version that is verified: paths."""
    digests: dict[str, str] = {}
    """By name of a file, the sha256 that a seal has of it."""
    home: dict[str, tuple[Lane, ...]] = {}
    """By name of a file, the lanes of the commit that added it, whose only file it was."""
    lanes: list[Lane] = []
    """All that was sealed."""
    hashes: dict[int, str] = {}
    """By version, the hash of its seal."""
    others: list[tuple[int, str, int, str]] = []
    """Seals that its own seals name: by which version; table, version and hash."""
    head: Head | None = None
    """Its newest seal."""
    added_by: dict[str, int] = {}
    """By name of a file, the version that added it."""
    newest: int = -1
    later: set[str] = set()
    """The hashes of seals that came after that."""


class Keys(Struct, frozen=True):
    """Whose word counts."""

    known: Mapping[str, PublicKey]
    trusted: set[str]


def read_log(
    lake_dir: Path, table: str, files: list[str], last: int, newest: int, keys: Keys
) -> tuple[TableLog, list[Finding]]:
    """Read the log of a table up to a version, and check its seals.

    Args:
        lake_dir: the lake.
        table: its name.
        files: of its last version.
        last: that version.
        newest: the version that is verified; of what came later, only the files are told from its own.
        keys: whose seals count.

    Returns:
        What the log says, and what is wrong with it.
    """
    log = TableLog(table=table, files=files, newest=newest)
    findings: list[Finding] = []
    before: tuple[int, str] | None = None
    expected = 0
    later: set[str] = set()
    for entry in entries(lake_dir, table):
        version = entry.version
        if version > last:
            break
        if version > newest:
            later |= _take_later(log, entry)
            continue
        if version != expected:
            findings.append(Finding(Fault.LOG_GAP, f"{table} version {expected}", f"the next one is {version}"))
        expected = version + 1
        name = f"{table} version {version}"
        log.added_by |= dict.fromkeys(entry.added, version)
        signed = entry.signed
        if signed is None:
            continue
        try:
            seal = signed.seal
        except BadRecordError as error:
            findings.append(Finding(Fault.SEAL_ALTERED, name, str(error)))
            continue
        findings += _check(signed, seal, name, table, version, keys)
        link = (seal.previous.version, seal.previous.hash) if seal.previous is not None else None
        if link != before:
            told = f"it follows on {_told(link)}, and before it is {_told(before)}"
            findings.append(Finding(Fault.CHAIN_BROKEN, name, told))
        before = version, signed.hash
        _take(log, seal, version, signed.hash)
    if expected <= newest:
        findings.append(Finding(Fault.LOG_GAP, f"{table} version {expected}", f"the table is at version {newest}"))
    log.files = [path for path in files if Path(path).name not in later]
    return log, findings


def log_gaps(lake_dir: Path, table: str) -> Iterator[Finding]:
    """Where entries of a table's log are missing between others."""
    versions = tables.log_versions(lake_dir, table)
    for before, after in itertools.pairwise(versions):
        if after != before + 1:
            yield Finding(Fault.LOG_GAP, f"{table} version {before + 1}", f"the next one is {after}")


def _told(link: tuple[int, str] | None) -> str:
    return "none" if link is None else f"that of version {link[0]} ({link[1][:12]}…)"


def _check(signed: SignedSeal, seal: Seal, name: str, table: str, version: int, keys: Keys) -> Iterator[Finding]:
    key = keys.known.get(seal.key)
    if (seal.table, seal.version) != (table, version):
        yield Finding(Fault.SEAL_ALTERED, name, f"its seal is that of {seal.table} version {seal.version}")
    if key is None:
        yield Finding(Fault.KEY_UNKNOWN, name, f"the key {seal.key}")
    elif not signed.is_of(key):
        yield Finding(Fault.SEAL_ALTERED, name, f"the signature is not that of the key {seal.key}")
    elif seal.key not in keys.trusted:
        yield Finding(Fault.KEY_NOT_TRUSTED, name, f"the key {seal.key}")


def _take(log: TableLog, seal: Seal, version: int, digest: str) -> None:
    log.hashes[version] = digest
    log.head = Head(cluster=seal.cluster, version=version, hash=digest, key=seal.key, at=seal.at)
    log.digests |= {file.name: file.sha256 for file in seal.files}
    lanes = tuple(Lane(s.cluster or seal.cluster, s.lane, s.first, s.last, s.rows, s.root, version) for s in seal.lanes)
    log.lanes += lanes
    if len(seal.files) == 1 and lanes and seal.merge is None:
        log.home[seal.files[0].name] = lanes
    log.others += [(version, table, link.version, link.hash) for table, link in seal.others.items()]


def _take_later(log: TableLog, entry: Entry) -> set[str]:
    """The files with rows that came later; others may have been put together of what was there."""
    log.added_by |= dict.fromkeys(entry.added, entry.version)
    if entry.signed is None:
        return set()
    log.later.add(entry.signed.hash)
    seal = entry.signed.seal
    log.digests |= {file.name: file.sha256 for file in seal.files}
    return {file.name for file in seal.files} if seal.lanes and seal.merge is None else set()


def check_others(logs: Mapping[str, TableLog]) -> Iterator[Finding]:
    """Whether each seal that another table's seal names is there."""
    for log in logs.values():
        for by, table, version, digest in log.others:
            there = logs[table].hashes.get(version) if table in logs else None
            if there != digest:
                told = "there is none" if there is None else "there is another"
                yield Finding(
                    Fault.CHAIN_BROKEN, f"{table} version {version}", f"{log.table} version {by} names its seal; {told}"
                )


def check_spans(log: TableLog) -> Iterator[Finding]:
    """Whether each lane's commits follow on each other, so that none has a row of another."""
    before: Lane | None = None
    for lane in sorted(log.lanes):
        is_same = before is not None and (lane.cluster, lane.lane) == (before.cluster, before.lane)
        if is_same and before is not None and lane.first <= before.last:
            where = f"{log.table}[{lane.lane}]@{lane.first}"
            yield Finding(Fault.ROW_TWICE, where, f"versions {before.version} and {lane.version} both sealed it")
        before = lane
