"""The index of ids of one lane: who owns which id, in one SQLite file of the state folder, with a copy for others."""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from connectors import whole_files
from connectors.file_lock import try_lock
from schemas.errors import RefusedError
from schemas.ids import Owner
from schemas.software import check_version

log = logging.getLogger(__name__)

INDEX_VERSION = 0
"""SQLite's `user_version` of the file."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS owners (key BLOB PRIMARY KEY, topic TEXT, offset INTEGER, digest TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
"""
_FIND = "SELECT topic, offset, digest FROM owners WHERE key = ?"
_FIND_ALL = "SELECT key, topic, offset, digest FROM owners WHERE key IN ({})"
_KEEP = "INSERT OR IGNORE INTO owners VALUES (?, ?, ?, ?)"
_NOTED = "SELECT value FROM meta WHERE name = ?"
_NOTE = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_TABLES = "SELECT sql FROM sqlite_master WHERE type != 'index' ORDER BY name"

# Half a MiB; look-ups wait for each step.
_PAGES_PER_STEP = 128
_STALE_S = 3600.0


class OwnerIndex:
    """Finds the owner of an id; a function of the lane's log up to `next_offset`.

    Unit of parallelism: the lane; its file is locked, so that two processes never share one. Guarantee: what was
    flushed survives kill -9; after a power cut it may be older, and the lane then reads more of its log. Replay:
    puts again what is there.

    Whoever takes over the lane goes on with the copy, in milliseconds; an index of the lake's rows takes seconds of
    processor time. A copy is made beside the lane and is of one moment: what is noted meanwhile stays in memory.

    Args:
        path: the file; created if it is missing.
        copy: where the copy is, for all cells to read, if there is to be one.

    Raises:
        RefusedError: another process has it open, or a newer Aureon wrote it.
    """

    COPY_AFTER = 2_000
    """So many entries of the log are read in a fraction of a second; a copy is made, or taken, for no fewer."""
    COPY_EVERY_S = 20.0
    COPY_SHARE = 0.02
    """Of all time, as much at most goes into copies."""

    def __init__(self, path: Path, copy: Path | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._copy = path, copy
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        if not try_lock(self._lock):
            os.close(self._lock)
            raise RefusedError(f"{path}: another process works on this lane; each cell needs its own state folder")
        self._copying: threading.Thread | None = None
        self._copied = 0
        """For which part of the log the copy stands."""
        self._copy_again_at = 0.0
        self._closed = False
        try:
            self._open()
            if copy is not None:
                self._take(copy)
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise RefusedError(f"{path}: {error}; delete the file: it is made anew from the lake and the log") from None

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        # the lock above is the only one that is needed: with its own, each look-up costs two system calls more
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        # a crash of the process loses nothing with WAL; a power cut may lose the newest, not the file
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA cache_size = -8000")
        check_version(f"{self._path}", _version(self._db), INDEX_VERSION)
        self._db.executescript(_SCHEMA)
        self.is_new = self._note("next_offset", -1) < 0
        """Nothing is known of a life before."""
        self.next_offset = max(self._note("next_offset", 0), 0)
        self._fresh: dict[bytes, Owner] = {}
        self._ahead: dict[bytes, Owner | None] = {}
        """What `look_ahead` found of ids that are not fresh."""

    def _note(self, name: str, default: int) -> int:
        row = self._db.execute(_NOTED, (name,)).fetchone()
        return int(row[0]) if row is not None else default

    def get(self, key: bytes) -> Owner | None:
        """Look an id up."""
        found = self._fresh.get(key)
        if found is not None:
            return found
        if key in self._ahead:
            return self._ahead[key]
        row = self._db.execute(_FIND, (key,)).fetchone()
        return Owner(*row) if row is not None else None

    def look_ahead(self, keys: Collection[bytes]) -> None:
        """Look up some ids that are about to be asked for: one query for all takes half of what one each does."""
        self._ahead = dict.fromkeys(keys)
        if not keys:
            return
        for key, *row in self._db.execute(_FIND_ALL.format(",".join("?" * len(keys))), tuple(keys)):
            self._ahead[key] = Owner(*row)

    def put(self, key: bytes, owner: Owner) -> None:
        """Note the owner of an id that has none yet."""
        self._fresh[key] = owner

    def flush(self, next_offset: int) -> None:
        """Keep what was noted; the index stands for the log before `next_offset`, or further where it did already."""
        if self._copying is not None and self._copying.is_alive():
            return
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
        self._ahead.clear()
        self.next_offset, self.is_new = next_offset, False
        self._leave_copy_if_due()

    def catch_up(self, owners: Iterable[tuple[bytes, Owner]], next_offset: int) -> None:
        """Take what is known elsewhere, in log order, of the log from `next_offset` as it was to the new one."""
        self._db.execute("BEGIN")
        self._db.executemany(_KEEP, ((k, o.kafka_topic, o.offset, o.digest) for k, o in owners))
        self._db.execute(_NOTE, ("next_offset", next_offset))
        self._db.execute("COMMIT")
        self._ahead.clear()
        self.next_offset, self.is_new = next_offset, False

    def close(self) -> None:
        """Let go of the file."""
        self._closed = True
        if self._copying is not None:
            self._copying.join()
        self._db.close()
        os.close(self._lock)

    # -- the copy --------------------------------------------------------------------------------------------------

    def _take(self, copy: Path) -> None:
        """Go on with the copy where that is well ahead; one that is damaged, or of another version, is left alone."""
        try:
            self._copied = _stands_for(copy)
            if self._copied < self.next_offset + self.COPY_AFTER:
                return
            self._check(copy)
            self._db.close()  # which takes what is beside the file with it
            try:
                whole_files.copy(copy, self._path)
            finally:
                self._open()
        except FileNotFoundError:
            return
        except (OSError, sqlite3.Error) as error:
            log.warning("%s cannot be gone on with, the index of ids is made anew: %s", copy, error)
            self._copied = 0

    def _check(self, copy: Path) -> None:
        with contextlib.closing(_reading(copy)) as db:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            is_alike = db.execute(_TABLES).fetchall() == self._db.execute(_TABLES).fetchall()
            if _version(db) != INDEX_VERSION or not is_alike:
                raise sqlite3.DatabaseError("it is of another version")

    def _leave_copy_if_due(self) -> None:
        if self._copy is None or self.next_offset < self._copied + self.COPY_AFTER:
            return
        if time.monotonic() >= self._copy_again_at:
            arguments = self._copy, self.next_offset
            self._copying = threading.Thread(target=self._leave_copy, args=arguments, name="owners-copy", daemon=True)
            self._copying.start()

    def _leave_copy(self, copy: Path, next_offset: int) -> None:
        began = time.monotonic()
        # what SQLite writes is on a disk of this machine; the lake may be elsewhere, where files cannot be locked
        here = self._path.with_suffix(".copy")
        try:
            here.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(here, isolation_level=None)) as target:
                target.execute("PRAGMA synchronous = OFF")
                self._db.backup(target, pages=_PAGES_PER_STEP, progress=self._end_if_closed)
            _drop_stale(copy)
            whole_files.copy(here, copy)
            self._copied = next_offset
        except InterruptedError:
            pass
        except (OSError, sqlite3.Error) as error:
            log.warning("%s: no copy of the index of ids could be left; trying again later: %s", copy, error)
        finally:
            with contextlib.suppress(OSError):
                here.unlink(missing_ok=True)
        now = time.monotonic()
        self._copy_again_at = now + max(self.COPY_EVERY_S, (now - began) / self.COPY_SHARE)

    def _end_if_closed(self, status: int, remaining: int, total: int) -> None:
        """After each step of a copy."""
        del status, remaining, total
        if self._closed:
            raise InterruptedError


def _version(db: sqlite3.Connection) -> int:
    ((version,),) = db.execute("PRAGMA user_version").fetchall()
    return int(version)


def _reading(path: Path) -> sqlite3.Connection:
    """Open a file that nobody writes to: a copy is replaced as a whole."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _stands_for(copy: Path) -> int:
    """For which part of the log a copy stands.

    Raises:
        FileNotFoundError: there is none.
        sqlite3.Error: it is none.
    """
    copy.stat()
    with contextlib.closing(_reading(copy)) as db:
        found = db.execute(_NOTED, ("next_offset",)).fetchone()
    if found is None or not isinstance(found[0], int):
        raise sqlite3.DatabaseError("it does not say for which part of the log it stands")
    return found[0]


def _drop_stale(copy: Path) -> None:
    """Remove what processes that were killed have left."""
    for left in copy.parent.glob(f"{copy.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                left.unlink()
