"""The call ledger: which calls were begun and what they returned, durable before anything acts on it.

Each row is one group commit: whatever was begun or answered while the one before was written. So a row costs one
`fdatasync` however many calls it holds, and looking back is done once, at the start, for the lives before this one.
"""

import asyncio
import hashlib
import logging
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.errors import UNREADABLE, RefusedError, TryAgainError
from schemas.node import Answer, Call
from schemas.software import check_version

log = logging.getLogger(__name__)

LEDGER_VERSION = 1
TRIM_EVERY = 50
"""Commits between two looks at what is no longer needed."""
BUSY_S = 10.0
"""For the processes of one cell, which share the file; a commit takes milliseconds."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS commits (position INTEGER PRIMARY KEY AUTOINCREMENT, writer TEXT, at REAL,
    size INTEGER, body BLOB);
CREATE TABLE IF NOT EXISTS days (day TEXT, lane INTEGER, calls INTEGER, tokens INTEGER, cost REAL,
    PRIMARY KEY (day, lane)) WITHOUT ROWID;
"""
_APPEND = "INSERT INTO commits (writer, at, size, body) VALUES (?, ?, ?, ?)"
_CHARGE = """
INSERT INTO days VALUES (?, ?, ?, ?, ?) ON CONFLICT (day, lane) DO UPDATE
SET calls = calls + excluded.calls, tokens = tokens + excluded.tokens, cost = cost + excluded.cost
"""

_DELETE_IT = "delete the file: finished calls of rounds without a decision are then paid again"

CallName = tuple[str, str, int]
"""Node, model, sample: which call of its round."""


class Begun(Struct, frozen=True, gc=False, array_like=True):
    """A call that is about to begin, with what it is expected to take."""

    round_key: bytes
    call: CallName
    tokens: int = 0
    cost: float = 0.0


class Ended(Struct, frozen=True, gc=False, array_like=True):
    """A call that has ended; a failed one is noted, and not used again."""

    round_key: bytes
    answer: Answer
    tokens: int = 0
    cost: float = 0.0
    """What its tries took beyond what was expected of them; one that may have cost something for nothing took that."""


class Charge(Struct, frozen=True, gc=False, array_like=True):
    """What is charged to a lane's share of a day; negative where less was taken than expected."""

    day: str
    lane: int
    calls: int
    tokens: int
    cost: float


class Commit(Struct, frozen=True, gc=False, array_like=True):
    """The body of one row."""

    version: int
    begun: tuple[Begun, ...]
    ended: tuple[Ended, ...]


class Past:
    """What is known of one round from earlier lives of the cell, or from before its lane was lost."""

    __slots__ = ("answers", "calls", "cost", "in_flight", "tokens")

    def __init__(self) -> None:
        self.answers: dict[CallName, Answer] = {}
        """Finished calls: they are not asked again."""
        self.in_flight: Counter[CallName] = Counter()
        """Begun and not ended, as far as is known."""
        self.calls = 0
        """All that were begun."""
        self.tokens = 0
        self.cost = 0.0
        """Taken by those that ended, and expected of those that did not."""

    def begin(self, begun: Begun) -> None:
        """Take in a call that began."""
        self.in_flight[begun.call] += 1
        self.calls += 1
        self.tokens += begun.tokens
        self.cost += begun.cost

    def end(self, ended: Ended) -> None:
        """Take in one that ended."""
        answer = ended.answer
        name = answer.node, answer.model, answer.sample
        self.in_flight.pop(name, None)
        self.tokens += ended.tokens
        self.cost += ended.cost
        if answer.status != "failed":
            self.answers[name] = answer


def round_key(call: Call) -> bytes:
    """Name the round of a call by its content: 128 bits over topic, logical id, generation, round, attempt, prompt."""
    told = [
        f"{call.generation}\0{call.round_index}\0{call.attempt}\0{call.topic}\0{call.logical_id}\0{call.prompt}",
        *[f"\0{message.role}\0{message.content}" for message in call.messages],
    ]
    return hashlib.blake2b("".join(told).encode(errors="surrogatepass"), digest_size=16).digest()


def call_name(call: Call) -> CallName:
    """Name a call within its round."""
    return call.node, call.model, call.sample


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Commit).decode


class CallLedger:
    """The ledger of one cell, in one SQLite file of its state folder.

    Unit of parallelism: the process; those of one cell share the file. Guarantee: what `begin` and `end` were told is
    on the disk when they call back; that survives kill -9 and, as far as the disk keeps its word, a power cut. Replay:
    the lives before are told by `past`; a call that is in there as finished is not asked again.

    All methods but the constructor and `spent_on` belong to the event loop that the calls run on.

    Args:
        path: the file; created if it is missing.
        max_bytes: older commits go beyond this.
        max_age_s: older commits go.

    Raises:
        RefusedError: the file is no ledger, or one of another version.
        TryAgainError: another process holds it.
    """

    def __init__(self, path: Path, max_bytes: int = 1 << 28, max_age_s: float = 86400.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._writer_id = uuid.uuid4().hex
        self._executor = ThreadPoolExecutor(1, "ledger")
        self._past = self._open()
        self._begun: list[Begun] = []
        self._ended: list[Ended] = []
        self._charges: list[Charge] = []
        self._waiting: list[Callable[[], None]] = []
        self._writer: asyncio.Task[None] | None = None
        self._needed: dict[int, int] = {}
        self._commits = 0
        self.entries = self._count()
        """Rows of the file, as far as this process knows."""
        self.failed: BaseException | None = None
        """Why nothing can be written any more; whoever waits for a call has to be told."""
        self.reused = 0
        """Finished calls of earlier lives that did not have to be asked again."""
        self.repeated = 0
        """Calls in flight when an earlier life ended that had to be."""

    def _open(self) -> dict[bytes, Past]:
        """Open the file and read it.

        While another process recovers or removes the write-ahead log, SQLite says "busy" at once, whatever time it was
        given (https://www.sqlite.org/wal.html, section 9): two processes of a cell that start together meet that.
        """
        deadline = time.monotonic() + BUSY_S
        while True:
            self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=BUSY_S)
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(_SCHEMA)
                return self._read()
            except sqlite3.DatabaseError as error:
                self._db.close()
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise RefusedError(f"{self._path}: {error}; {_DELETE_IT}") from None
                if time.monotonic() > deadline:
                    raise TryAgainError(f"{self._path}: {error}: another process has held it for long") from None
            time.sleep(0.02)

    def _read(self) -> dict[bytes, Past]:
        past: dict[bytes, Past] = {}
        oldest = time.time() - self._max_age_s
        self.position = 1
        for position, body in self._db.execute("SELECT position, body FROM commits WHERE at >= ?", (oldest,)):
            self.position = position + 1
            try:
                commit = _decode(body)
            except UNREADABLE as error:
                raise RefusedError(
                    f"{self._path}: commit {position} cannot be read ({error}): end the work with the version that "
                    f"wrote it, or {_DELETE_IT}"
                ) from None
            check_version(f"{self._path}: commit {position}", commit.version, LEDGER_VERSION)
            for begun in commit.begun:
                known = past.setdefault(begun.round_key, Past())
                known.begin(begun)
            for ended in commit.ended:
                past.setdefault(ended.round_key, Past()).end(ended)
        return past

    def _count(self) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM commits").fetchone()
        return int(count)

    def bytes_on_disk(self) -> int:
        """How large the file is, with what SQLite keeps beside it."""
        files = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    # -- the lives before ------------------------------------------------------------------------------------------

    @property
    def has_past(self) -> bool:
        """Whether anything of earlier lives has not been asked for yet."""
        return bool(self._past)

    def past(self, key: bytes) -> Past | None:
        """Tell once what earlier lives knew of a round."""
        return self._past.pop(key, None)

    def give_back(self, key: bytes, past: Past) -> None:
        """Remember what is known of a round that this life abandons, for when its lane comes back to it."""
        self._past[key] = past

    # -- this life -------------------------------------------------------------------------------------------------

    def begin(self, begun: Begun, then: Callable[[], None] | None = None) -> None:
        """Note a call that is about to begin; `then` is called once that is durable."""
        self._begun.append(begun)
        self._add(then)

    def end(self, ended: Ended, then: Callable[[], None]) -> None:
        """Note a call that has ended; `then` is called once that is durable."""
        self._ended.append(ended)
        self._add(then)

    def charge(self, charge: Charge) -> None:
        """Charge a lane's share of a day, with the next commit."""
        self._charges.append(charge)

    def spent_on(self, day: str) -> dict[int, tuple[int, int, float]]:
        """Tell what each lane has spent on a day: calls, tokens, money."""
        rows = self._db.execute("SELECT lane, calls, tokens, cost FROM days WHERE day = ?", (day,))
        return {lane: (calls, tokens, cost) for lane, calls, tokens, cost in rows}

    def _add(self, then: Callable[[], None] | None) -> None:
        if then is not None:
            self._waiting.append(then)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._begun or self._ended:
                begun, self._begun = self._begun, []
                ended, self._ended = self._ended, []
                charges, self._charges = self._charges, []
                waiting, self._waiting = self._waiting, []
                # encoded here: what these threads share they hand from one processor's cache to the other's
                body = _encode(Commit(LEDGER_VERSION, tuple(begun), tuple(ended)))
                try:
                    writing = loop.run_in_executor(self._executor, self._write, body, charges)
                except RuntimeError:  # the interpreter ends, and has ended that thread
                    self.position = self._write(body, charges)
                else:
                    self.position = await writing
                for then in waiting:
                    then()
        except Exception as error:
            self.failed = error
            log.exception("%s: nothing can be written any more", self._path)
            raise
        finally:
            self._writer = None

    def _write(self, body: bytes, charges: Iterable[Charge]) -> int:
        """Write one commit; return the position of the next one."""
        now = time.time()
        self._commits += 1
        trims = self._commits % TRIM_EVERY == 0
        try:
            # one statement alone is a transaction; after each this thread waits for its turn among those that compute
            if charges or trims:
                self._db.execute("BEGIN IMMEDIATE")
            position = self._db.execute(_APPEND, (self._writer_id, now, len(body), body)).lastrowid or 0
            if charges:
                self._db.executemany(_CHARGE, [(c.day, c.lane, c.calls, c.tokens, c.cost) for c in charges])
            if trims:
                self._trim(now, position)
            if charges or trims:
                self._db.execute("COMMIT")
            self.entries += 1
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise TryAgainError(f"{self._path}: {error}; no answer can be kept, so none is acted on") from error
        return position + 1

    def _trim(self, now: float, newest: int) -> None:
        """Delete what nobody needs: of this life, what was decided; of others, what is too old; of all, too much.

        A clock that is set forth makes nothing of this life old.
        """
        needed = min(self._needed.values(), default=newest)
        gone = self._db.execute("DELETE FROM commits WHERE position < ? AND writer = ?", (needed, self._writer_id))
        self.entries -= gone.rowcount
        old = now - self._max_age_s, self._writer_id
        self.entries -= self._db.execute("DELETE FROM commits WHERE at < ? AND writer != ?", old).rowcount
        (size,) = self._db.execute("SELECT coalesce(sum(size), 0) FROM commits").fetchone()
        if size > self._max_bytes:
            log.warning(
                "%s: %d bytes, more than %d: the older half goes; a round that began in it is asked again after a kill",
                self._path,
                size,
                self._max_bytes,
            )
            half = "SELECT (min(position) + max(position)) / 2 FROM commits"
            gone = self._db.execute(f"DELETE FROM commits WHERE position < min(({half}), ?)", (newest,))  # noqa: S608
            self.entries -= gone.rowcount

    def keep_none(self, lane: int) -> None:
        """Say that a lane needs nothing of this life."""
        self._needed.pop(lane, None)

    def keep_from(self, lane: int, position: int) -> None:
        """Say that a lane needs no commit of this life before a position: all decisions on those are on the log."""
        self._needed[lane] = position

    async def close(self) -> None:
        """Write what is left, and let go of the file."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
        self._executor.shutdown()
        self._db.close()
