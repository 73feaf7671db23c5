"""The seals of commits: what they hold, and how they follow on each other."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_lake import tables
from one_lake.encode import encode_rows
from one_lake.keys import public_keys, signing_key
from one_lake.seals import SignedSeal, actions, archive, entries, merkle_root, newest_seal, seal_in
from schemas.errors import BadRecordError
from schemas.one import TABLES
from tests.one_lake.lake_data import CLUSTER, KEY, decisions, lake_writer, record


def seals(lake: Path, table: str) -> list[SignedSeal]:
    """All seals of a table, in order."""
    return [entry.signed for entry in entries(lake, table) if entry.signed is not None]


def _tree(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word but for the leaves."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _tree(leaves[:split]) + _tree(leaves[split:])).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70))
def test_the_root_is_that_of_the_standard(leaves: list[bytes]) -> None:
    """Level by level gives the same as halves."""
    assert merkle_root(leaves) == _tree(leaves)


def test_the_root_of_nothing_is_that_of_the_standard() -> None:
    """The digest of an empty string."""
    assert merkle_root([]).hex() == hashlib.sha256().hexdigest()


def test_a_row_has_the_hash_of_its_line(tmp_path: Path) -> None:
    """Whoever has the row can tell."""
    writer = lake_writer(tmp_path)
    writer.add([record(0, 0, answer="é")])
    writer.flush()
    writer.close()
    (file,) = tables.folder(tmp_path, "records").glob("*.parquet")
    line = encode_rows([record(0, 0, answer="é")]).rstrip()
    assert pq.read_table(file)["row_hash"].to_pylist() == [hashlib.sha256(line).hexdigest()]


def test_each_commit_is_sealed_and_its_seal_follows_on_the_one_before(tmp_path: Path) -> None:
    """By its hash; the files are as it says, and the head names the other tables."""
    writer = lake_writer(tmp_path)
    heads = []
    for start in range(0, 30, 10):
        writer.add([row for lane in (0, 1) for row in decisions(lane, range(start, start + 10))])
        heads.append(writer.flush())
    assert writer.flush() is None
    writer.close()
    public = public_keys(tmp_path)[KEY.name]
    for table in TABLES:
        before, of_table = None, seals(tmp_path, table)
        assert len(of_table) == 3
        for signed in of_table:
            seal = signed.seal
            assert signed.is_of(public)
            assert (seal.table, seal.cluster, seal.key) == (table, CLUSTER, KEY.name)
            assert (seal.previous and seal.previous.hash) == (before and before.hash)
            for file in seal.files:
                assert tables.sha256_of(tables.folder(tmp_path, table) / file.name) == file.sha256
            before = signed
    newest = {table: seals(tmp_path, table)[-1] for table in TABLES}
    head = newest["rounds"]
    assert [h and h.hash for h in heads] == [s.hash for s in seals(tmp_path, "rounds")]
    assert {table: link.hash for table, link in head.seal.others.items()} == {
        table: signed.hash for table, signed in newest.items() if table != "rounds"
    }
    assert [(s.lane, s.first, s.last, s.rows) for s in head.seal.lanes] == [(0, 20, 29, 10), (1, 20, 29, 10)]


def test_writers_that_take_turns_make_one_chain(tmp_path: Path) -> None:
    """Each with its own key, in a table that is one sequence of versions."""
    other = signing_key(tmp_path / "state")
    writers = [lake_writer(tmp_path / "lake"), lake_writer(tmp_path / "lake", other)]
    for start in range(0, 40, 10):
        for lane, writer in enumerate(writers):
            writer.add(decisions(lane, range(start, start + 10)))
            writer.flush()
    for writer in writers:
        writer.close()
    chain = seals(tmp_path / "lake", "rounds")
    assert [s.seal.key for s in chain] == [KEY.name, other.name] * 4
    assert [s.seal.previous and s.seal.previous.hash for s in chain[1:]] == [s.hash for s in chain[:-1]]
    assert public_keys(tmp_path / "lake").keys() == {KEY.name, other.name}


def test_an_entry_without_a_seal_has_none() -> None:
    """Nor has one in which something else has its name."""
    assert seal_in(b'{"commitInfo":{}}') is None
    assert seal_in(json.dumps({"add": {"aureon.seal": "x"}}).encode()) is None
    assert seal_in(json.dumps({"commitInfo": {"aureon.seal": 7}}).encode()) is None


def test_entries_that_expire_while_they_are_read_are_read_from_the_archive(tmp_path: Path) -> None:
    """None is missing: else a lake that is being maintained would look as if somebody had cut it."""
    writer = lake_writer(tmp_path)
    for start in range(0, 50, 10):
        writer.add(decisions(0, range(start, start + 10)))
        writer.flush()
    writer.close()
    reading = entries(tmp_path, "rounds")
    assert next(reading).version == 0
    archive(tmp_path, "rounds")
    for version in range(5):
        tables.log_entry(tmp_path, "rounds", version).unlink()
    assert [entry.version for entry in reading] == [1, 2, 3, 4, 5]
    reading = entries(tmp_path, "rounds")
    assert next(reading).version == 0
    (first,) = tables.seals_folder(tmp_path, "rounds").iterdir()
    first.rename(first.with_name(first.name.replace("5.jsonl", "6.jsonl")))
    assert [entry.version for entry in reading] == [1, 2, 3, 4, 5]


def test_an_archive_that_is_known_already_is_not_read(tmp_path: Path) -> None:
    """Reading on costs what is new."""
    writer = lake_writer(tmp_path)
    for start in range(0, 30, 10):
        writer.add(decisions(0, range(start, start + 10)))
        writer.flush()
    archive(tmp_path, "rounds")
    writer.add(decisions(0, range(30, 40)))
    writer.flush()
    writer.close()
    (path,) = tables.seals_folder(tmp_path, "rounds").iterdir()
    path.write_bytes(b"nonsense")
    assert [entry.version for entry in entries(tmp_path, "rounds", 3)] == [4]
    with pytest.raises(BadRecordError, match="no archive of seals"):
        list(entries(tmp_path, "rounds", 2))


def test_the_newest_seal_is_found_in_the_archive_where_its_entry_expired(tmp_path: Path) -> None:
    """And none where there never was one."""
    writer = lake_writer(tmp_path)
    writer.add(decisions(0, range(10)))
    writer.flush()
    writer.close()
    archive(tmp_path, "rounds")
    for version in (0, 1):
        tables.log_entry(tmp_path, "rounds", version).unlink()
    found = newest_seal(tmp_path, "rounds", 1)
    assert found is not None
    assert found.seal.version == 1
    assert newest_seal(tmp_path, "rounds", 0) is None


def test_an_entry_that_is_nested_too_deeply_is_none() -> None:
    """Whoever wrote it."""
    with pytest.raises(ValueError, match="nested too deeply"):
        list(actions(b'{"add": ' + b"[" * 100_000, "add"))
