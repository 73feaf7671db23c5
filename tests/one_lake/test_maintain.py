"""Maintenance: the same rows in fewer files, whoever writes and reads meanwhile."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

import one_lake
from one_lake import maintain as maintaining
from one_lake import tables
from one_lake.maintain import MIN_RETENTION_S, maintain
from one_lake.sealed_table import SealedTable
from one_lake.seals import entries
from one_lake.staged import StagedFile
from one_lake.verify import Fault, verify
from one_lake.writer import LakeWriter
from schemas.errors import BadRecordError, RefusedError, TryAgainError
from schemas.one import TABLES, arrow_schema
from tests.one_lake.lake_data import KEY, decisions, expected_names, held, lake_writer, names

ROOT = Path(__file__).parents[2]
RUN = """
import sys
from pathlib import Path
from one_lake.maintain import maintain
from tests.one_lake.lake_data import KEY
while True:
    maintain(Path(sys.argv[1]), KEY)
"""


def fill(writer: LakeWriter, lanes: int, start: int, end: int) -> None:
    """Commit so many decisions of each lane, ten at a time."""
    for first in range(start, end, 10):
        for lane in range(lanes):
            writer.add(decisions(lane, range(first, first + 10)))
        writer.flush()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Write a lake in twelve commits."""
    folder = tmp_path / "it's a läke"
    writer = lake_writer(folder)
    fill(writer, 2, 0, 120)
    writer.close()
    return folder


def age(lake: Path, seconds: float) -> None:
    """Make all that is in a lake older."""
    for path in lake.rglob("*"):
        at = path.stat().st_mtime - seconds
        os.utime(path, (at, at))


def files(lake: Path, table: str) -> list[Path]:
    """The files in the folder of a table, whether the log names them or not."""
    return sorted(tables.folder(lake, table).glob("*.parquet"))


def test_the_rows_are_the_same_in_fewer_files(lake: Path) -> None:
    """Sorted by logical id; and each of them is as it was sealed."""
    before = held(lake)
    done = maintain(lake, KEY)
    assert [(d.table, d.files_before, d.files, d.compacted) for d in done] == [(t, 12, 1, 12) for t in TABLES]
    assert held(lake) == before
    (path,) = tables.files(lake, "rounds", tables.open_table(lake, "rounds"))
    ids = pq.read_table(path)["logical_id"].to_pylist()
    assert ids == sorted(ids)
    report = verify(lake)
    assert report.is_sound, report.first
    assert report.seals == 4 * 13


def test_a_second_time_there_is_nothing_to_do(lake: Path) -> None:
    """One file stays one file."""
    maintain(lake, KEY)
    before = {table: tables.open_table(lake, table).version() for table in TABLES}
    assert [(d.compacted, d.deleted) for d in maintain(lake, KEY)] == [(0, 0)] * 4
    assert {table: tables.open_table(lake, table).version() for table in TABLES} == before


def test_cells_go_on_writing_where_they_were(lake: Path) -> None:
    """A writer that was open before, and one that replays."""
    writer = lake_writer(lake)
    fill(writer, 2, 120, 130)
    maintain(lake, KEY)
    fill(writer, 2, 120, 150)
    writer.close()
    replay = lake_writer(lake)
    fill(replay, 2, 100, 150)
    replay.close()
    maintain(lake, KEY)
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 2, 150)
    assert verify(lake).is_sound


def test_large_files_stay_as_they_are(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is put together is cut at the size that is asked for."""
    monkeypatch.setattr(maintaining, "ROW_GROUP", 2048)
    writer = lake_writer(lake)
    for start in range(120, 8000, 1970):
        writer.add(decisions(0, range(start, start + 1970)))
        writer.flush()
    writer.close()
    (_, _, _, rounds) = maintain(lake, KEY, target_bytes=300_000)
    assert 1 < rounds.files < 6
    (_, _, _, again) = maintain(lake, KEY, target_bytes=300_000)
    assert again.compacted == 0
    assert verify(lake).is_sound


def test_nothing_is_deleted_that_a_reader_may_still_need(lake: Path) -> None:
    """Until the retention is over."""
    with one_lake.connect(lake) as reader:
        before = reader.sql("SELECT count(*) FROM rounds").fetchall()
        maintain(lake, KEY)
        assert len(files(lake, "rounds")) == 13
        assert reader.sql("SELECT count(*) FROM rounds").fetchall() == before
    age(lake, 2 * MIN_RETENTION_S)
    done = maintain(lake, KEY, retention_s=MIN_RETENTION_S)
    assert [d.deleted for d in done] == [12] * 4
    assert [len(files(lake, table)) for table in TABLES] == [1] * 4
    assert verify(lake).is_sound


def test_what_a_dead_writer_left_is_deleted_and_what_a_living_one_holds_is_not(lake: Path) -> None:
    """However old it is: one that was stopped for a day may log its file when it goes on."""
    schema = arrow_schema(TABLES["rounds"])
    folder = tables.folder(lake, "rounds")
    dead, living = StagedFile(folder, schema), StagedFile(folder, schema)
    for staged in (dead, living):
        staged.finish()
    dead.release()
    age(lake, 2 * MIN_RETENTION_S)
    maintain(lake, KEY, retention_s=MIN_RETENTION_S)
    assert living.path.exists()
    assert not dead.path.exists()
    living.release()


def stopped(lake: Path) -> LakeWriter:
    """A writer that has staged rows, and then stood still for longer than files are kept."""
    writer = lake_writer(lake)
    for lane in (0, 1):
        writer.add(decisions(lane, range(120, 130)))
    for of_table in writer._tables.values():
        of_table.finish_staging()
    while len(files(lake, "rounds")) < 13:
        time.sleep(0.01)
    age(lake, 2 * MIN_RETENTION_S)
    return writer


def test_a_writer_that_was_stopped_for_a_day_logs_what_it_had_staged(lake: Path) -> None:
    """Its file is there, and its rows are, once."""
    writer = stopped(lake)
    maintain(lake, KEY, retention_s=MIN_RETENTION_S)
    writer.flush()
    writer.close()
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 2, 130)
    assert verify(lake).is_sound


def test_a_writer_that_wakes_up_while_files_are_deleted_keeps_his(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He logs a file and lets go of it, between any two looks at what is needed."""
    writer = stopped(lake)
    real = maintaining._is_free, maintaining._removed_since
    sleeping = ["rounds"]

    def woken() -> None:
        if sleeping:
            sleeping.clear()
            writer.flush()

    def looking_at_a_lock(path: Path) -> bool:
        if path.parent.name == "rounds":
            woken()
        return real[0](path)

    def looking_at_the_log(table: SealedTable, since: float) -> set[str]:
        found = real[1](table, since)
        if table.name == "rounds":
            woken()
        return found

    monkeypatch.setattr(maintaining, "_is_free", looking_at_a_lock)
    monkeypatch.setattr(maintaining, "_removed_since", looking_at_the_log)
    maintain(lake, KEY, retention_s=MIN_RETENTION_S)
    writer.close()
    assert not sleeping
    report = verify(lake)
    assert report.is_sound, report.first


def test_seals_outlive_the_entries_that_they_were_in(lake: Path) -> None:
    """The log of a table grows no more than its retention allows, and all is verified as before."""
    maintain(lake, KEY)
    for table in TABLES:
        delta = DeltaTable(tables.folder(lake, table))
        delta.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 seconds"})
    writer = lake_writer(lake)
    fill(writer, 2, 120, 150)
    writer.close()
    age(lake, 100)
    done = maintain(lake, KEY)
    assert all(d.entries_deleted for d in done)
    assert all(tables.log_versions(lake, table)[0] > 0 for table in TABLES)
    for table in TABLES:
        versions = [entry.version for entry in entries(lake, table)]
        assert versions == list(range(tables.open_table(lake, table).version() + 1))
    report = verify(lake)
    assert report.is_sound, report.first
    writer = lake_writer(lake)
    fill(writer, 2, 150, 160)
    writer.close()
    assert verify(lake).is_sound
    for table in TABLES:
        for path in tables.seals_folder(lake, table).iterdir():
            path.unlink()
    assert Fault.LOG_GAP in verify(lake).first


def test_a_spoilt_file_is_not_put_together_with_others(lake: Path) -> None:
    """Afterwards nobody could tell; it is named, and the lake stays as it is."""
    path = files(lake, "rounds")[3]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BadRecordError, match=rf"rounds/{path.name}: not the file that was sealed"):
        maintain(lake, KEY)
    assert len(DeltaTable(tables.folder(lake, "rounds")).file_uris()) == 12


def test_files_that_somebody_else_has_put_together_meanwhile_are_left(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a Delta library, which knows nothing of locks: what was written for nothing is gone, and no row is."""
    before, real, others = held(lake), SealedTable.try_commit, ["once"]

    def overtaken(self: Any, commit: Any, on_failure: Any) -> Any:
        if self.name == "rounds" and others:
            others.pop()
            DeltaTable(self.folder).optimize.compact()
        return real(self, commit, on_failure)

    monkeypatch.setattr(SealedTable, "try_commit", overtaken)
    (*_, rounds) = maintain(lake, KEY)
    assert (rounds.table, rounds.compacted, rounds.files) == ("rounds", 0, 1)
    assert len(files(lake, "rounds")) == 13
    assert held(lake) == before


def test_without_room_to_sort_the_lake_stays_as_it_is(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next time it may go: a service says so in a line, and goes on."""
    before = held(lake)
    with monkeypatch.context() as patch:
        patch.setattr(maintaining, "MEMORY_LIMIT", "1KB")
        with pytest.raises(TryAgainError, match=r"its rows cannot be sorted now: .*Memory.*; nothing is lost$"):
            maintain(lake, KEY)
    assert held(lake) == before
    assert [d.compacted for d in maintain(lake, KEY)] == [12] * 4


def test_rows_that_come_out_as_others_are_not_committed(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that they were put together of stay."""
    before, real = held(lake), maintaining._Sorted.take
    with monkeypatch.context() as patch:
        patch.setattr(maintaining._Sorted, "take", lambda self, batch: real(self, batch.slice(1)))
        with pytest.raises(TryAgainError, match="the sorted files have"):
            maintain(lake, KEY)
    assert held(lake) == before
    assert len(files(lake, "records")) == 12


def test_one_process_maintains_at_a_time(lake: Path) -> None:
    """The other one says so."""
    with maintaining.alone(lake), pytest.raises(TryAgainError, match="another process maintains it"):
        maintain(lake, KEY)


def test_a_retention_that_is_too_short_is_refused(lake: Path, tmp_path: Path) -> None:
    """So is a lake that is not there."""
    with pytest.raises(RefusedError, match=r"expected 3600 s or more"):
        maintain(lake, KEY, retention_s=60)
    with pytest.raises(RefusedError, match="no lake at"):
        maintain(tmp_path / "nowhere", KEY)


class Busy:
    """Threads that write to a lake and read from it until they are stopped."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self.decided = [0, 0, 0]
        """By lane, how many decisions are in the lake."""
        tasks: list[Callable[[], None]] = [partial(self._write, lane) for lane in range(3)]
        self._threads = [threading.Thread(target=self._run, args=(task,)) for task in (*tasks, self._read)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failed:
            raise self._failed[0]

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - raised at the end
            self._failed.append(error)

    def _write(self, lane: int) -> None:
        writer = lake_writer(self._lake)
        while not self._stop.is_set():
            writer.add(decisions(lane, range(self.decided[lane], self.decided[lane] + 10)))
            writer.flush()
            self.decided[lane] += 10
        writer.close()

    def _read(self) -> None:
        seen = 0
        while not self._stop.is_set():
            with one_lake.connect(self._lake) as lake:
                query = "SELECT count(*), count(DISTINCT (lane, decision_offset)) FROM rounds"
                ((rows, ids),) = lake.sql(query).fetchall()
            assert rows == ids
            assert rows >= seen
            seen = rows


def test_writers_readers_and_maintenance_at_once(tmp_path: Path) -> None:
    """No error, no row twice, and none that a reader has seen is gone."""
    lake_writer(tmp_path).close()
    with Busy(tmp_path) as busy:
        for _ in range(5):
            time.sleep(0.5)
            maintain(tmp_path, KEY)
    for table, rows in held(tmp_path).items():
        expected = [
            (row.lane, row.decision_offset)
            for lane, count in enumerate(busy.decided)
            for row in decisions(lane, range(count))
            if type(row) is TABLES[table]
        ]
        assert names(rows) == sorted(expected)
    assert verify(tmp_path).is_sound


def test_killed_at_any_moment_it_leaves_a_sound_lake(lake: Path) -> None:
    """And the next one goes on."""
    chance = random.Random(7)
    writer = lake_writer(lake)
    for start in range(120, 240, 20):
        fill(writer, 2, start, start + 20)
        process = subprocess.Popen([sys.executable, "-c", RUN, str(lake)], cwd=ROOT)
        time.sleep(1.0 + chance.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    writer.close()
    maintain(lake, KEY)
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 2, 240)
    report = verify(lake)
    assert report.is_sound, report.first
