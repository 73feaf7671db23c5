"""The index of ids of one lane: who owns which id, in one SQLite file of the state folder."""

import fcntl
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from flows.lane import Owner
from schemas.errors import RefusedError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS owners (key BLOB PRIMARY KEY, topic TEXT, offset INTEGER, digest TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
"""
_FIND = "SELECT topic, offset, digest FROM owners WHERE key = ?"
_KEEP = "INSERT OR IGNORE INTO owners VALUES (?, ?, ?, ?)"
_NOTE = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class OwnerIndex:
    """Finds the owner of an id; a function of the lane's log up to `next_offset`.

    Unit of parallelism: the lane; its file is locked, so that two processes never share one. Guarantee: what was
    flushed survives kill -9; after a power cut it may be older, and the lane then reads more of its log. Replay:
    puts again what is there.

    Args:
        path: the file; created if it is missing.

    Raises:
        RefusedError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise RefusedError(
                f"{path}: another process works on this lane; each cell needs its own state folder"
            ) from None
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # the lock above is the only one that is needed: with its own, each look-up costs two system calls more
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        # a crash of the process loses nothing with WAL; a power cut may lose the newest, not the file
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA cache_size = -8000")
        self._db.executescript(_SCHEMA)
        self.is_new = self._note("next_offset", -1) < 0
        """Nothing is known of a life before."""
        self.next_offset = max(self._note("next_offset", 0), 0)
        self._fresh: dict[bytes, Owner] = {}

    def _note(self, name: str, default: int) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row is not None else default

    def get(self, key: bytes) -> Owner | None:
        """Look an id up."""
        found = self._fresh.get(key)
        if found is not None:
            return found
        row = self._db.execute(_FIND, (key,)).fetchone()
        return Owner(*row) if row is not None else None

    def put(self, key: bytes, owner: Owner) -> None:
        """Note the owner of an id that has none yet."""
        self._fresh[key] = owner

    def flush(self, next_offset: int) -> None:
        """Keep what was noted; the index stands for the log before `next_offset`, or further where it did already."""
        next_offset = max(next_offset, self.next_offset)
        if not self._fresh and next_offset == self.next_offset and not self.is_new:
            return
        # in key order the pages of the tree are written once each
        rows = [(k, o.kafka_topic, o.offset, o.digest) for k, o in sorted(self._fresh.items())]
        self._db.execute("BEGIN")
        self._db.executemany(_KEEP, rows)
        self._db.execute(_NOTE, ("next_offset", next_offset))
        self._db.execute("COMMIT")
        self._fresh.clear()
        self.next_offset, self.is_new = next_offset, False

    def catch_up(self, owners: Iterable[tuple[bytes, Owner]], next_offset: int) -> None:
        """Take what is known elsewhere, in log order, of the log from `next_offset` as it was to the new one."""
        self._db.execute("BEGIN")
        self._db.executemany(_KEEP, ((k, o.kafka_topic, o.offset, o.digest) for k, o in owners))
        self._db.execute(_NOTE, ("next_offset", next_offset))
        self._db.execute("COMMIT")
        self.next_offset, self.is_new = next_offset, False

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
        os.close(self._lock)
