"""What a root noted, in its table."""

from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

import one_lake
from one_lake import notes, tables
from one_lake.notes import NoteWriter, last_number, view
from one_lake.query import session
from schemas.supervision import Noted


def noted(number: int) -> Noted:
    """One note."""
    return Noted(number=number, noted_at=1.0, kind="alert", subject="one", topic="", state="", detail="{}")


def numbers(lake: Path) -> list[int]:
    """Those that are there."""
    with session() as connection:
        return [n for (n,) in connection.execute(f"SELECT number FROM ({view(lake)}) ORDER BY 1").fetchall()]  # noqa: S608


def test_a_look_that_is_there_already_is_left_out(tmp_path: Path) -> None:
    """A root that starts again writes what it may have written; with nothing new there is no commit."""
    NoteWriter(tmp_path).add([noted(1), noted(2)])
    again = NoteWriter(tmp_path)
    again.add([noted(1), noted(2)])
    version = DeltaTable(str(tables.folder(tmp_path, notes.TABLE))).version()
    again.add([noted(2), noted(3)])
    assert numbers(tmp_path) == [1, 2, 3]
    assert DeltaTable(str(tables.folder(tmp_path, notes.TABLE))).version() == version + 1


def test_a_lake_is_asked_wherever_it_is(tmp_path: Path) -> None:
    """Also where addresses have to quote its path."""
    lake = tmp_path / "it's a läke, 100%"
    tables.create(lake)
    NoteWriter(lake).add([noted(1)])
    with one_lake.connect(lake) as connection:
        assert connection.sql("SELECT number FROM supervision").fetchall() == [(1,)]


def test_notes_that_cannot_be_read_keep_nobody_from_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after a power cut, which no record rests on; it is said."""
    tables.create(tmp_path)
    NoteWriter(tmp_path).add([noted(1)])
    max((tables.folder(tmp_path, notes.TABLE) / "_delta_log").glob("*.json")).write_bytes(b"{")
    with one_lake.connect(tmp_path) as connection:
        assert connection.sql("SELECT count(*) FROM one").fetchall() == [(0,)]
        assert connection.sql("SELECT number FROM supervision").fetchall() == []
    assert "what the root noted cannot be read" in caplog.text


def test_many_looks_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is a small file; none is lost."""
    monkeypatch.setattr(notes, "COMPACT_EVERY", 3)
    writer = NoteWriter(tmp_path)
    for number in range(3):
        writer.add([noted(number)])
    assert len(DeltaTable(str(tables.folder(tmp_path, notes.TABLE))).file_uris()) == 1
    assert numbers(tmp_path) == [0, 1, 2]


def test_files_that_were_put_together_are_deleted_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a week, which is set to none here; one comes a minute."""
    monkeypatch.setattr(notes, "COMPACT_EVERY", 3)
    writer = NoteWriter(tmp_path)
    writer.add([noted(0)])
    folder = tables.folder(tmp_path, notes.TABLE)
    DeltaTable(str(folder)).alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    for number in range(1, 20):
        writer.add([noted(number)])
    assert numbers(tmp_path) == list(range(20))
    assert len(list(folder.glob("*.parquet"))) < 6


def test_a_lake_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """Which whoever notes may wait for."""
    writer = NoteWriter(tmp_path)
    assert last_number(tmp_path) == 0
    writer.add([noted(1)])
    assert last_number(tmp_path) == 1
    log = tables.folder(tmp_path, notes.TABLE) / "_delta_log"
    log.rename(log.with_name("gone"))
    log.write_text("no folder")
    with pytest.raises(OSError, match=notes.TABLE):
        writer.add([noted(2)])


def test_what_the_library_says_of_the_log_is_an_error_of_the_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has errors of its own."""

    def fails(*_: object, **__: object) -> None:
        raise DeltaError("no commit")

    writer = NoteWriter(tmp_path)
    monkeypatch.setattr(notes, "write_deltalake", fails)
    with pytest.raises(OSError, match=r"supervision: no commit$"):
        writer.add([noted(1)])
