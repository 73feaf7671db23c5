"""`aureon merge`: another lake into this one."""

import argparse
from pathlib import Path

import msgspec

from connectors.blobs import BlobStore
from flows.commands.arguments import settings_of
from flows.terminal import OK, say, show
from one_lake import tables
from one_lake.criteria import CRITERIA, read_criteria
from one_lake.keys import signing_key
from one_lake.merge import Merged, merge
from schemas.errors import RefusedError


def main(options: argparse.Namespace) -> int:
    """Take the blobs first, then the rows that refer to them."""
    settings = settings_of(options)
    by = read_criteria(options.by) if options.by else tuple(CRITERIA)
    if not tables.is_lake(options.other):
        raise RefusedError(f"no lake at {options.other}: name the folder of a lake, such as …/.aureon/lake")
    taken = _take_blobs(options.other_blobs, Path(options.other), settings.blobs_url)
    done = merge(
        settings.lake_dir,
        options.other,
        signing_key(settings.state_dir),
        by=by,
        progress=(lambda table, what: say(f"{table}: {what}")) if options.verbose else (lambda *_: None),
    )
    if options.json:
        show(msgspec.json.encode({**msgspec.to_builtins(done), "blobs": taken}).decode())
    else:
        _tell(done, taken)
    return OK


def _take_blobs(place: str | None, other: Path, own: str) -> int:
    """Take what the other lake's rows refer to; returns how many blobs were new."""
    theirs = place or str(other.absolute().parent / "blobs")
    if place is None and not Path(theirs).exists():
        say(f"aureon: no blob store at {theirs}, so nothing was taken from one; --other-blobs says where it is")
        return 0
    if theirs == own or Path(theirs).absolute() == Path(own).absolute():
        return 0
    return BlobStore(own).take_from(BlobStore(theirs))


def _tell(done: Merged, blobs: int) -> None:
    rows = ", ".join(f"{count:,} {table}" for table, count in done.rows.items() if count)
    show(f"taken: {rows or 'nothing new'}" + (f"; {blobs:,} blobs" if blobs else ""))
    if done.superseded:
        show(f"{done.superseded:,} records gave way to others of the same id: SELECT * FROM conflicts")  # noqa: S608
    show(f"the other lake's head: version {done.head.version}, {done.head.hash[:12]}…, key {done.head.key}")
