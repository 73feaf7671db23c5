"""The lake in SQL: one row a task, what came of it, and a plain word when there is no lake."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

import one_lake
from connectors.blobs import BlobStore
from one_lake import tables
from one_lake.query import recent_rounds
from one_lake.writer import LakeWriter
from schemas.blob import BlobReference
from schemas.errors import RefusedError
from schemas.one import TABLES, Row, micros
from schemas.task import encode
from tests.one_lake.lake_data import branch, dead_letter, decisions, lake_writer, record, round_row


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LakeWriter]:
    """Open a writer on an empty lake in the test's folder."""
    opened = lake_writer(tmp_path)
    yield opened
    opened.close()


def _write(writer: LakeWriter, *rows: Row) -> None:
    writer.add(rows)
    writer.flush()


def _lineage(lake: Path, logical_id: str) -> list[tuple[object, ...]]:
    with one_lake.connect(lake) as connection:
        return connection.execute(
            "SELECT direction, depth, topic, logical_id, status FROM lineage($id)", {"id": logical_id}
        ).fetchall()


def test_no_lake_is_refused_with_the_cure(tmp_path: Path) -> None:
    """The message says where it looked and what to do."""
    with pytest.raises(RefusedError, match=r"no lake at .*nowhere.*: run `aureon run` or set AUREON_LAKE"):
        one_lake.connect(tmp_path / "nowhere")


def test_the_environment_names_the_lake(tmp_path: Path, writer: LakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder AUREON_LAKE counts, and without that the default."""
    _write(writer, record(0, 0))
    monkeypatch.setenv("AUREON_LAKE", str(tmp_path))
    with one_lake.connect() as lake:
        assert lake.sql("SELECT count(*) FROM one").fetchall() == [(1,)]
    monkeypatch.delenv("AUREON_LAKE")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedError, match=r"\.aureon/lake"):
        one_lake.connect()


def test_an_empty_lake_has_the_same_columns_as_a_full_one(tmp_path: Path, writer: LakeWriter) -> None:
    """A query that will work later works now."""

    def columns() -> dict[str, list[tuple[object, ...]]]:
        with one_lake.connect(tmp_path) as lake:
            views = ("one", *TABLES)
            return {view: lake.sql(f"SELECT column_name, column_type FROM (DESCRIBE {view})").fetchall() for view in views}  # noqa: S608, E501  # fmt: skip

    with one_lake.connect(tmp_path) as lake:
        assert lake.sql("SELECT count(*) FROM one").fetchall() == [(0,)]
        assert lake.sql("FROM lineage('nobody')").fetchall() == []
    empty = columns()
    _write(writer, record(0, 0), branch(0, 0, 0), round_row(0, 0), dead_letter(0, 1), round_row(0, 1))
    assert columns() == empty


def test_a_connection_stays_at_its_snapshot_until_refreshed(tmp_path: Path, writer: LakeWriter) -> None:
    """Two queries on one connection see the same lake."""
    _write(writer, *decisions(0, range(3)))
    with one_lake.connect(tmp_path) as lake:
        _write(writer, *decisions(0, range(3, 9)))
        assert lake.sql("SELECT count(*) FROM rounds").fetchall() == [(3,)]
        one_lake.refresh(lake)
        assert lake.sql("SELECT count(*) FROM rounds").fetchall() == [(9,)]


def test_times_are_utc(tmp_path: Path, writer: LakeWriter) -> None:
    """Whatever zone the machine is in."""
    _write(writer, record(0, 0, converged_at=500_000))
    with one_lake.connect(tmp_path) as lake:
        assert lake.sql("SELECT converged_at::VARCHAR FROM one").fetchall() == [("1970-01-01 00:00:00.5+00",)]


def test_lineage_goes_up_to_the_root_and_down_to_every_branch(tmp_path: Path, writer: LakeWriter) -> None:
    """With what became of each: converged, dead or pending."""

    def child(topic: str, logical_id: str, parent_topic: str, parent_id: str) -> dict[str, str]:
        return {"topic": topic, "logical_id": logical_id, "parent_topic": parent_topic, "parent_id": parent_id}

    first = child("coding", "a:branch-0", "math", "a")
    second = child("math", "a:branch-1", "math", "a")
    deeper = child("math", "a:branch-0:branch-0", "coding", "a:branch-0")
    _write(
        writer,
        record(0, 0, logical_id="a"),
        branch(0, 0, 0, **first),
        branch(0, 0, 1, **second),
        record(0, 1, **first),
        branch(0, 1, 0, **deeper),
        dead_letter(0, 2, topic="math", logical_id="a:branch-1"),
        *(round_row(0, offset, logical_id="a") for offset in range(3)),
    )
    assert _lineage(tmp_path, "a:branch-0") == [
        ("up", 1, "math", "a", "converged"),
        ("self", 0, "coding", "a:branch-0", "converged"),
        ("down", 1, "math", "a:branch-0:branch-0", "pending"),
    ]
    assert _lineage(tmp_path, "a") == [
        ("self", 0, "math", "a", "converged"),
        ("down", 1, "coding", "a:branch-0", "converged"),
        ("down", 1, "math", "a:branch-1", "dead"),
        ("down", 2, "math", "a:branch-0:branch-0", "pending"),
    ]
    with one_lake.connect(tmp_path) as lake:
        described = lake.sql("SELECT parent_topic, parent_id, answer, score FROM lineage('a:branch-0')").fetchall()
    assert described == [(None, None, "2", 0.75), ("math", "a", "2", 0.75), ("coding", "a:branch-0", None, None)]


def test_lineage_keeps_topics_apart(tmp_path: Path, writer: LakeWriter) -> None:
    """An id under two topics is two tasks, each with its own branches."""
    _write(
        writer,
        branch(0, 0, 0, topic="x", logical_id="a:branch-0", parent_topic="math", parent_id="a"),
        branch(0, 1, 0, topic="y", logical_id="a:branch-0", parent_topic="coding", parent_id="a"),
    )
    assert _lineage(tmp_path, "a") == [
        ("self", 0, "coding", "a", "pending"),
        ("self", 0, "math", "a", "pending"),
        ("down", 1, "x", "a:branch-0", "pending"),
        ("down", 1, "y", "a:branch-0", "pending"),
    ]
    with one_lake.connect(tmp_path) as lake:
        parents = lake.sql("SELECT topic, parent_topic FROM lineage('a') WHERE direction = 'down'").fetchall()
    assert parents == [("x", "math"), ("y", "coding")]


def test_lineage_says_what_the_latest_life_of_an_id_came_to(tmp_path: Path, writer: LakeWriter) -> None:
    """A redriven dead letter is pending while its next life runs, and converged when that converged."""
    _write(
        writer,
        dead_letter(0, 0, logical_id="again"),
        round_row(0, 0, logical_id="again"),
        dead_letter(0, 1, logical_id="well"),
        round_row(0, 1, logical_id="well"),
        round_row(0, 2, logical_id="again", generation=1),
        record(0, 3, logical_id="well", generation=1),
        round_row(0, 3, logical_id="well", generation=1),
    )
    assert _lineage(tmp_path, "again") == [("self", 0, "math", "again", "pending")]
    assert _lineage(tmp_path, "well") == [("self", 0, "math", "well", "converged")]


def test_lineage_of_a_cycle_and_of_a_deep_chain_comes_to_an_end(tmp_path: Path, writer: LakeWriter) -> None:
    """Neither ought to be there; neither hangs."""

    def edge(offset: int, logical_id: str, parent_id: str) -> Row:
        return branch(0, offset, 0, topic="math", logical_id=logical_id, parent_topic="math", parent_id=parent_id)

    links = [f"link{':branch-0' * number}" for number in range(301)]
    chain = [edge(number, links[number + 1], links[number]) for number in range(300)]
    _write(writer, *chain, edge(300, "egg:branch-0", "egg"), edge(301, "egg", "egg:branch-0"))
    assert {row[3] for row in _lineage(tmp_path, "egg")} == {"egg", "egg:branch-0"}
    assert len(_lineage(tmp_path, links[150])) == 201
    with one_lake.connect(tmp_path) as lake:
        assert len(lake.sql(f"FROM lineage('{links[150]}', max_depth := 1000)").fetchall()) == 301


def test_a_lake_of_another_version_is_refused(tmp_path: Path) -> None:
    """A table with other columns is not written to, nor read by halves."""
    DeltaTable.create(tmp_path / "records", pa.schema([pa.field("lane", pa.int64(), nullable=False)]))
    with pytest.raises(RefusedError, match=r"table `records` is of another version.*answer.*AUREON_LAKE"):
        tables.create(tmp_path)


def test_creating_a_lake_twice_changes_nothing(tmp_path: Path, writer: LakeWriter) -> None:
    """Every start creates what is missing."""
    _write(writer, record(0, 0))
    tables.create(tmp_path)
    with one_lake.connect(tmp_path) as lake:
        assert lake.sql("SELECT count(*) FROM records").fetchall() == [(1,)]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """A blob store beside the lake, where it is by default."""
    made = BlobStore(str(tmp_path / "blobs"))
    made.create()
    return made


@pytest.fixture
def lake_dir(tmp_path: Path) -> Path:
    """A lake in the folder of the test."""
    return tmp_path / "lake"


def _put(store: BlobStore, text: str) -> str:
    return encode(store.put(text.encode())).decode()


def test_large_payloads_and_answers_are_whole_in_every_view(lake_dir: Path, store: BlobStore) -> None:
    """`stored` has them as they are written."""
    payload, answer = '{"prompt": "' + "ü" * 100_000 + '"}', "42" * 50_000
    away = {"payload": _put(store, payload)}
    writer = lake_writer(lake_dir)
    _write(
        writer,
        record(0, 0, answer=_put(store, answer), **away),
        record(0, 1),
        branch(0, 0, 0, **away),
        dead_letter(0, 2, **away),
        dead_letter(0, 3),
        *(round_row(0, offset, answer=_put(store, answer)) for offset in range(2)),
        round_row(0, 2, answer=None),
    )
    writer.close()
    small = '{"question": "1 + 1"}'
    with one_lake.connect(lake_dir) as lake:
        for view in ("one", "records"):
            rows = lake.sql(f"SELECT payload, answer FROM {view} ORDER BY decision_offset").fetchall()  # noqa: S608
            assert rows == [(payload, answer), (small, "2")]
        assert lake.sql("SELECT payload FROM branches").fetchall() == [(payload,)]
        assert lake.sql("SELECT payload FROM dead_letters ORDER BY ALL").fetchall() == [(payload,), (None,)]
        assert lake.sql("SELECT answer FROM rounds ORDER BY ALL").fetchall() == [(answer,), (answer,), (None,)]
        assert lake.sql("SELECT answer FROM lineage('task-0-0')").fetchall() == [(answer,), (None,)]
        assert lake.sql("SELECT payload FROM stored.branches").fetchall() == [(away["payload"],)]
        assert lake.sql("SELECT count(*) FROM one WHERE contains(payload, 'üü')").fetchall() == [(1,)]


def test_a_blob_that_is_gone_or_spoilt_leaves_its_reference_in_place(lake_dir: Path, store: BlobStore) -> None:
    """Anybody can send a reference to nothing: it must not hide the other rows."""
    gone = encode(BlobReference("sha256-" + "0" * 64, 5)).decode()
    spoilt = _put(store, "what was there")
    digest = spoilt.partition("sha256-")[2][:64]
    (lake_dir.parent / "blobs" / "sha256" / digest[:2] / digest[2:]).write_text("what is there!")
    alike = '{"$blob":"mine","prompt":"1+1"}'
    writer = lake_writer(lake_dir)
    _write(writer, *(dead_letter(0, i, payload=text) for i, text in enumerate([gone, spoilt, alike])))
    writer.close()
    with one_lake.connect(lake_dir) as lake:
        rows = lake.sql("SELECT payload FROM dead_letters ORDER BY decision_offset").fetchall()
    assert rows == [(gone,), (spoilt,), (alike,)]


def test_a_store_that_is_away_is_an_error_only_where_it_is_needed(
    lake_dir: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lake itself can be asked without it; the message says what to set."""
    writer = lake_writer(lake_dir)
    _write(writer, record(0, 0, payload=_put(store, "1" * 100_000)), record(0, 1))
    writer.close()
    nowhere = str(lake_dir / "not mounted")
    with one_lake.connect(lake_dir, nowhere) as lake:
        assert lake.sql("SELECT count(*), count(DISTINCT topic) FROM one").fetchall() == [(2, 1)]
        assert lake.sql("SELECT answer FROM one").fetchall() == [("2",), ("2",)]
        with pytest.raises(duckdb.Error, match=r"no blob store at .*not mounted: AUREON_BLOBS"):
            lake.sql("SELECT payload FROM one").fetchall()
    monkeypatch.setenv("AUREON_BLOBS", nowhere)
    with one_lake.connect(lake_dir) as lake, pytest.raises(duckdb.Error, match="not mounted"):
        lake.sql("SELECT payload FROM one").fetchall()
    with one_lake.connect(lake_dir, str(lake_dir.parent / "blobs")) as lake:
        assert lake.sql("SELECT max(length(payload)) FROM one").fetchall() == [(100_000,)]


def test_nothing_is_fetched_for_columns_that_nobody_asks_for(lake_dir: Path, store: BlobStore) -> None:
    """Nor for rows that a condition leaves out."""
    writer = lake_writer(lake_dir)
    _write(writer, record(0, 0, payload=_put(store, "1" * 100_000)), record(0, 1))
    writer.close()
    with one_lake.connect(lake_dir, str(lake_dir / "not mounted")) as lake:
        assert lake.sql("SELECT logical_id FROM one WHERE answer = '2' ORDER BY score").fetchall()
        assert lake.sql("SELECT payload FROM one WHERE decision_offset = 1").fetchall() == [('{"question": "1 + 1"}',)]


def test_the_last_rounds_are_told_in_the_order_of_their_decisions(tmp_path: Path, writer: LakeWriter) -> None:
    """Of all lanes; those that converged with their payload."""
    for offset in range(20):
        lane, at = offset % 2, micros(1_700_000_000.0 + offset)
        _write(writer, round_row(lane, offset, decided_at=at), *([record(lane, offset)] if offset % 3 else []))
    found = recent_rounds(tmp_path, 5)
    assert [(r.lane, r.decision_offset) for r in found] == [(o % 2, o) for o in range(15, 20)]
    assert [r.payload is not None for r in found] == [bool(o % 3) for o in range(15, 20)]
    assert found[-1].decided_at == 1_700_000_019.0
