"""Records found by their words, or by what they mean: an index beside the tables, made of them and brought up to date.

    records above what is indexed, lane by lane -> words (SQLite FTS5)
                                                -> vectors, where the extra `embeddings` is installed

The index is no part of the lake: whoever deletes it gets it again from the records. It is brought up to date by one
process at a time, a batch at a time; one that is killed goes on where it was.
"""

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
from msgspec import Struct

from connectors.embeddings import DIMENSIONS, Vectors
from one_lake import tables
from schemas.errors import BadRecordError, RefusedError
from schemas.task import read_payload

FORMAT = 1
BATCH = 5_000
"""Records in a transaction."""
MAX_TEXT = 20_000
"""Characters of a question or an answer that are indexed."""
WAIT_S = 60.0
"""For another process that brings the index up to date."""
_SCALE = 127.0
_VECTORS_AT_ONCE = 65_536
_CONSIDERED = 50
"""So many times more near records are looked at than are asked for, of which some may be of other topics or times."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS bounds (cluster TEXT, lane INTEGER, last INTEGER, PRIMARY KEY (cluster, lane));
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, cluster TEXT, lane INTEGER, decision_offset INTEGER, topic TEXT, logical_id TEXT
);
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5(question, answer, tokenize = "unicode61 remove_diacritics 2");
PRAGMA user_version = {FORMAT};
"""
# Between the two commits of a merge, a record is in both.
_EVER = "FROM records UNION ALL FROM superseded ANTI JOIN records USING (cluster, lane, decision_offset)"
_NEW = f"""
SELECT decision_offset, topic, logical_id, payload, answer FROM ({_EVER})
WHERE coalesce(cluster, '') = $cluster AND lane = $lane AND decision_offset > $last ORDER BY decision_offset
"""  # noqa: S608
# The answer tells more of a record than its question.
_FIND = """
SELECT r.id, r.topic, r.logical_id, snippet(texts, 0, '', '', '…', 32), snippet(texts, 1, '', '', '…', 32),
    -bm25(texts, 1.0, 2.0)
FROM texts JOIN records r ON r.id = texts.rowid {bounds}
WHERE texts MATCH $words AND {stands} AND ($topic IS NULL OR r.topic = $topic) ORDER BY 6 DESC LIMIT $limit
"""
_BY_ID = """
SELECT r.id, r.topic, r.logical_id, substr(texts.question, 1, 300), substr(texts.answer, 1, 300)
FROM records r JOIN texts ON texts.rowid = r.id {bounds}
WHERE r.id IN ({ids}) AND {stands} AND ($topic IS NULL OR r.topic = $topic)
"""
_BOUNDED = "JOIN moment m ON m.cluster = r.cluster AND m.lane = r.lane AND r.decision_offset <= m.last"
_STANDS = "(r.cluster, r.lane, r.decision_offset) NOT IN (SELECT cluster, lane, decision_offset FROM superseded)"
_WORD = re.compile(r'"([^"]*)"|(\S+)')

Progress = Callable[[int], None]
"""Told how many records were indexed so far."""


class Hit(Struct, frozen=True):
    """A record that was found."""

    topic: str
    logical_id: str
    question: str
    answer: str
    """Parts of them."""
    score: float
    """The higher, the better; of words BM25, of meaning the cosine."""


class When(Struct, frozen=True, kw_only=True):
    """What of the records counts."""

    bounds: Mapping[tuple[str, int], int] | None = None
    """By cluster and lane, the last decision offset that counts; None: all."""
    superseded: Sequence[tuple[str, int, int]] = ()
    """Cluster, lane and decision offset of those that do not count."""


class SearchIndex:
    """The index of a lake.

    Args:
        lake_dir: the lake.
        path: another place for it than in the lake's folder.

    Raises:
        RefusedError: what is there is no index.
    """

    def __init__(self, lake_dir: str | Path, path: Path | None = None) -> None:
        self._path = path or tables.search_index(lake_dir)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self._path, timeout=WAIT_S, isolation_level=None)
        try:
            self._set_up()
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise RefusedError(f"{self._path}: no index ({error}); delete it, it is made anew") from None
            raise

    def _set_up(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        ((version,),) = self._db.execute("PRAGMA user_version").fetchall()
        if version not in (0, FORMAT):
            raise RefusedError(f"{self._path}: an index of another version of Aureon; delete it, it is made anew")
        if not version:
            self._vectors_path.unlink(missing_ok=True)  # of an index that was deleted, whose ids were others
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    # -- bringing it up to date ----------------------------------------------------------------------------------------

    def update(self, lake: duckdb.DuckDBPyConnection, progress: Progress = lambda _: None) -> int:
        """Take up what is new in a lake; returns how many records that were.

        Args:
            lake: from `one_lake.connect`.
            progress: told how far it is.
        """
        done = 0
        lanes = lake.execute(
            f"SELECT coalesce(cluster, ''), lane, max(decision_offset) FROM ({_EVER}) GROUP BY ALL ORDER BY ALL"  # noqa: S608
        ).fetchall()
        for cluster, lane, last in lanes:
            while self._last(cluster, lane) < last:
                before = self._last(cluster, lane)
                rows = lake.execute(_NEW, {"cluster": cluster, "lane": lane, "last": before})
                while batch := rows.fetchmany(BATCH):
                    done += self._take(cluster, lane, batch)
                    progress(done)
        return done

    def _last(self, cluster: str, lane: int) -> int:
        found = self._db.execute("SELECT last FROM bounds WHERE cluster = ? AND lane = ?", (cluster, lane)).fetchone()
        return -1 if found is None else int(found[0])

    def _take(self, cluster: str, lane: int, rows: Sequence[tuple[Any, ...]]) -> int:
        """Index rows of a lane, in one transaction; what another process was first with is left out."""
        with self._transaction():
            last = self._last(cluster, lane)
            new = [row for row in rows if row[0] > last]
            for offset, topic, logical_id, payload, answer in new:
                place = (cluster, lane, offset, topic, logical_id)
                added = self._db.execute(
                    "INSERT INTO records (cluster, lane, decision_offset, topic, logical_id) VALUES (?, ?, ?, ?, ?)",
                    place,
                )
                texts = (added.lastrowid, _question(payload), (answer or "")[:MAX_TEXT])
                self._db.execute("INSERT INTO texts (rowid, question, answer) VALUES (?, ?, ?)", texts)
            self._db.execute("INSERT OR REPLACE INTO bounds VALUES (?, ?, ?)", (cluster, lane, max(last, rows[-1][0])))
        return len(new)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # -- asking it -----------------------------------------------------------------------------------------------------

    def find(self, text: str, limit: int, topic: str | None = None, when: When = When()) -> list[Hit]:  # noqa: B008 - frozen
        """Find records by their words: all of them have to be there, those in quotes beside each other.

        Args:
            text: the words; one with `*` behind it is the beginning of one.
            limit: so many at most, the best first.
            topic: of this topic only.
            when: which records count.

        Raises:
            RefusedError: there is no word in the text.
        """
        words = _words(text)
        if not words:
            raise RefusedError(f"nothing to search for in {text!r}")
        self._bind(when)
        query = _FIND.format(bounds=_BOUNDED if when.bounds is not None else "", stands=_STANDS)
        rows = self._db.execute(query, {"words": words, "topic": topic, "limit": limit}).fetchall()
        return [Hit(*row[1:]) for row in rows]

    def similar(self, text: str, limit: int, topic: str | None = None, when: When = When()) -> list[Hit]:  # noqa: B008
        """Find records whose question and answer mean something near; as `find`.

        Raises:
            RefusedError: the extra `embeddings` is not installed.
        """
        import numpy as np  # noqa: PLC0415 - only this needs it

        vectors = Vectors()
        self._update_vectors(vectors)
        self._bind(when)
        wanted = vectors.of(text)
        path = self._vectors_path
        if not path.exists() or not path.stat().st_size:
            return []
        table = np.memmap(path, np.int8, "r").reshape(-1, DIMENSIONS)
        near = np.concatenate(
            [
                table[start : start + _VECTORS_AT_ONCE].astype(np.float32) @ wanted
                for start in range(0, len(table), _VECTORS_AT_ONCE)
            ]
        )
        most = min(len(near), limit * _CONSIDERED)
        best = np.argpartition(-near, most - 1)[:most]
        ids = ", ".join(str(int(place) + 1) for place in best)
        query = _BY_ID.format(ids=ids, bounds=_BOUNDED if when.bounds is not None else "", stands=_STANDS)
        rows = self._db.execute(query, {"topic": topic}).fetchall()
        hits = [
            Hit(its_topic, logical_id, question, answer, float(near[id_ - 1]) / _SCALE)
            for id_, its_topic, logical_id, question, answer in rows
        ]
        return sorted(hits, key=lambda hit: -hit.score)[:limit]

    @property
    def _vectors_path(self) -> Path:
        return self._path.with_suffix(".vectors")

    def _update_vectors(self, vectors: Vectors) -> None:
        """Append the vectors of the records that have none; one a record, in the order of their ids."""
        import numpy as np  # noqa: PLC0415 - only this needs it

        with self._transaction(), self._vectors_path.open("ab") as file:  # a transaction: one process at a time
            there = file.tell() // DIMENSIONS
            file.truncate(there * DIMENSIONS)  # what a killed process left of one
            rows = self._db.execute("SELECT question, answer FROM texts WHERE rowid > ? ORDER BY rowid", (there,))
            while batch := rows.fetchmany(BATCH):
                of_batch = np.stack([vectors.of(f"{question} {answer}") for question, answer in batch])
                file.write(np.rint(of_batch * _SCALE).astype(np.int8).tobytes())

    def _bind(self, when: When) -> None:
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS moment (cluster TEXT, lane INTEGER, last INTEGER)")
        self._db.execute("DELETE FROM moment")
        rows = [(cluster, lane, last) for (cluster, lane), last in (when.bounds or {}).items()]
        self._db.executemany("INSERT INTO moment VALUES (?, ?, ?)", rows)
        self._db.execute(
            "CREATE TEMP TABLE IF NOT EXISTS superseded "
            "(cluster TEXT, lane INTEGER, decision_offset INTEGER, PRIMARY KEY (cluster, lane, decision_offset))"
        )
        self._db.execute("DELETE FROM superseded")
        self._db.executemany("INSERT INTO superseded VALUES (?, ?, ?)", when.superseded)


def _question(payload: str) -> str:
    try:
        return read_payload(payload.encode()).text[:MAX_TEXT]
    except BadRecordError:  # a reference whose blob is gone
        return ""


def _words(text: str) -> str:
    """What FTS5 is asked: each word quoted, so that none of it is taken for an operator."""
    found = []
    for phrase, word in _WORD.findall(text):
        told = phrase or word
        prefix = "*" if not phrase and told.endswith("*") else ""
        if any(map(str.isalnum, told)):
            quoted = told.rstrip("*").replace('"', '""')
            found.append(f'"{quoted}"{prefix}')
    return " ".join(found)
