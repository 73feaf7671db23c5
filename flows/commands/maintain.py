"""`aureon maintain`: fewer and sorted files in the lake, and nothing in it that nobody needs."""

import argparse
import signal
from typing import Any

import msgspec

from flows.commands.arguments import settings_of
from flows.stopping import waited_for
from flows.terminal import OK, say, show
from one_lake.keys import signing_key
from one_lake.maintain import Maintained, maintain
from one_lake.tables import is_lake
from schemas.errors import AureonError, RefusedError

_HOUR = 3600.0
_MB = 1 << 20


def main(options: argparse.Namespace) -> int:
    """Maintain once, or again and again."""
    settings = settings_of(options)
    key = signing_key(settings.state_dir)

    def once() -> None:
        done = maintain(
            settings.lake_dir,
            key,
            retention_s=options.retention_h * _HOUR,
            target_bytes=options.target_mb * _MB,
            progress=(lambda table, what: say(f"{table}: {what}")) if options.verbose else (lambda *_: None),
        )
        if options.json:
            show(msgspec.json.encode(done).decode())
        else:
            _tell(done)

    if options.every is None:
        once()
        return OK
    told = False
    with waited_for(signal.SIGTERM, signal.SIGINT) as asked_to_end:
        while True:
            try:
                if is_lake(settings.lake_dir):
                    once()
                elif not told:
                    say(f"aureon: no lake at {settings.lake_dir} yet; it is maintained from when there is one")
                    told = True
            except RefusedError:
                raise
            except (AureonError, OSError) as error:  # the next time it may go
                say(f"aureon: {error}")
            if asked_to_end(options.every):
                return OK


def _tell(done: list[Maintained]) -> None:
    for table in done:
        rows: list[Any] = [f"{table.table}: {table.rows:,} rows in {table.files:,} files, {_size(table.bytes)}"]
        if table.compacted:
            rows.append(f"{table.compacted:,} files put together ({_size(table.bytes_before)} before)")
        if table.deleted:
            rows.append(f"{table.deleted:,} files deleted that nobody needs, {_size(table.deleted_bytes)}")
        if table.entries_deleted:
            rows.append(f"{table.entries_deleted:,} expired entries of the log deleted")
        show("; ".join(rows))


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
