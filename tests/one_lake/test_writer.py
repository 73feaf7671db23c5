"""The writer: every row once, whatever dies and whoever else writes."""

import math
import random
import subprocess
import sys
import threading
import types
import typing
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deltalake import DeltaTable
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import one_lake
from one_lake import tables
from one_lake.encode import encode_rows
from one_lake.table_writer import CHUNK_BYTES
from one_lake.writer import LakeWriter
from schemas.errors import BadRecordError
from schemas.one import ROW_HASH, TABLES, Json, Timestamp, micros
from tests.one_lake.lake_data import (
    branch,
    decision,
    decisions,
    expected_names,
    held,
    lake_writer,
    names,
    record,
    round_row,
)

ROOT = Path(__file__).parents[2]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Name a lake, in a folder with a name that has to be quoted."""
    return tmp_path / "it's a läke"


@pytest.fixture
def writer(lake: Path) -> Iterator[LakeWriter]:
    """Open a writer on the lake."""
    opened = lake_writer(lake)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def long_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, LakeWriter]]:
    """Open one lake for all examples of a property; its decision offsets go on rising."""
    lake = tmp_path_factory.mktemp("lake")
    writer = lake_writer(lake)
    yield lake, writer
    writer.close()


def _values(hint: Any) -> st.SearchStrategy[Any]:
    if hint in (Timestamp, Json):
        return st.text() if hint == Json else st.integers(micros(-62_135_596_800), micros(253_402_300_799))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if arm is type(None) else _values(arm) for arm in typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Literal:
        return st.text()
    if typing.get_origin(hint) is typing.Annotated:  # what the quality gate expects, which the sink does not look at
        return _values(typing.get_args(hint)[0])
    if typing.get_origin(hint) is list:
        return st.lists(st.text(), max_size=3)
    return {
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),  # JSON has neither, and rows come from decisions
        bool: st.booleans(),
        str: st.text(),
    }[hint]


def _rows(struct: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    hints = typing.get_type_hints(struct, include_extras=True)
    return st.fixed_dictionaries({name: _values(hint) for name, hint in hints.items() if name != ROW_HASH})


def _same(written: Any, read: Any, *, is_time: bool) -> bool:
    if is_time:
        return bool(written == (read - EPOCH) // timedelta(microseconds=1))
    if isinstance(written, float):
        return bool(written == read or (math.isnan(written) and math.isnan(read)))
    return bool(written == read)


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_rows_come_back_as_they_went_in(long_lake: tuple[Path, LakeWriter], table: str, data: st.DataObject) -> None:
    """Whatever text, numbers, nulls and lists a row holds, SQL hands out the same."""
    lake, writer = long_lake
    struct = TABLES[table]
    drawn = data.draw(st.lists(_rows(struct), min_size=1, max_size=5))
    with one_lake.connect(lake) as before:
        first = before.sql(f"SELECT coalesce(max(decision_offset), -1) + 1 FROM {table}").fetchall()[0][0]  # noqa: S608
    for number, values in enumerate(drawn):
        values |= {"lane": 0, "decision_offset": first + number}
    writer.add([struct(**values) for values in drawn])  # type: ignore[misc]
    writer.flush()
    told = [name for name in struct.__struct_fields__ if name != ROW_HASH]
    columns = ", ".join(f'"{name}"' for name in told)
    with one_lake.connect(lake) as after:
        read = after.sql(
            f"SELECT {columns} FROM {table} WHERE decision_offset >= {first} ORDER BY decision_offset"  # noqa: S608
        ).fetchall()
    hints = typing.get_type_hints(struct, include_extras=True)
    assert len(read) == len(drawn)
    for values, row in zip(drawn, read, strict=True):
        for name, other in zip(told, row, strict=True):
            assert _same(values[name], other, is_time=hints[name] == Timestamp), name


def test_a_replay_of_the_same_rows_adds_nothing(lake: Path) -> None:
    """The same decisions once more, in another writer and in other epochs, change nothing."""
    first = lake_writer(lake)
    first.add(decisions(0, range(100)))
    first.flush()
    first.close()
    before = held(lake)
    second = lake_writer(lake)
    for start in range(0, 100, 7):
        second.add(decisions(0, range(start, min(start + 7, 100))))
        second.flush()
    second.close()
    assert held(lake) == before
    assert names(before["rounds"]) == expected_names("rounds", 1, 100)


def test_a_replay_within_one_epoch_adds_nothing(lake: Path, writer: LakeWriter) -> None:
    """A lane that leaves and comes back before the epoch ends hands in its rows twice."""
    writer.add(decisions(0, range(50)))
    writer.add(decisions(0, range(20, 60)))
    writer.add(decisions(0, range(59, 60)))
    writer.flush()
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 1, 60)


def test_a_decision_keeps_all_its_branches_over_a_chunk(lake: Path, writer: LakeWriter) -> None:
    """A chunk may end between two branches of one decision."""
    decisions_of_a_chunk = CHUNK_BYTES // len(encode_rows([branch(0, 0, index) for index in range(3)]))
    for offset in range(2 * decisions_of_a_chunk):
        for index in range(3):
            writer.add([branch(0, offset, index)])
    writer.flush()
    assert len(held(lake)["branches"]) == 3 * 2 * decisions_of_a_chunk


def test_a_replay_completes_what_was_committed_in_some_tables_only(lake: Path) -> None:
    """A process that dies after `records` and before `rounds` leaves the rest to its replay."""
    dying = lake_writer(lake)
    dying.add([row for row in decisions(0, range(30)) if type(row) is not TABLES["rounds"]])
    dying.flush()
    assert dying.version(0) == -1
    dying.close()
    replay = lake_writer(lake)
    replay.add(decisions(0, range(40)))
    replay.flush()
    replay.close()
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 1, 40)


def test_two_writers_on_one_lane_write_each_decision_once(lake: Path) -> None:
    """A process that was thought dead hands in the same rows as the one that took its lane."""
    owner, zombie = lake_writer(lake), lake_writer(lake)
    for writer, end in ((owner, 40), (zombie, 60), (owner, 90), (zombie, 70)):
        writer.add(decisions(0, range(20 if end == 90 else 0, end)))
        writer.flush()
    owner.close()
    zombie.close()
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 1, 90)


def test_a_commit_that_another_writer_was_ahead_of_is_tried_again(lake: Path) -> None:
    """Writers on other lanes take the version that a writer wanted; both commits stand."""
    one, other = lake_writer(lake), lake_writer(lake)
    one.add(decisions(0, range(30)))
    other.add(decisions(1, range(30)))
    one.flush()
    other.flush()
    assert (one.version(0), one.version(1), other.version(0), other.version(1)) == (29, 29, 29, 29)
    one.close()
    other.close()
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 2, 30)
        assert tables.open_table(lake, table).version() == 2


def test_an_epoch_without_rows_commits_nothing(lake: Path, writer: LakeWriter) -> None:
    """No row, no version."""
    writer.add([])
    writer.flush()
    writer.add([round_row(0, 0)])
    writer.flush()
    assert [tables.open_table(lake, table).version() for table in TABLES] == [0, 0, 0, 1]


def test_a_row_that_does_not_fit_is_named(writer: LakeWriter) -> None:
    """The message holds table, lane, offset and field."""
    writer.add([record(3, 41, calls=2**63)])
    with pytest.raises(BadRecordError, match=r"records\[3\]@41: .* at \$\.calls"):
        writer.flush()


@pytest.mark.parametrize(
    "field,value",
    [("score", "7"), ("topic", None), ("topic", 7), ("converged_at", math.nan), ("calls", "1"), ("answer", "\ud800")],
)
def test_values_are_not_bent_to_fit(writer: LakeWriter, field: str, value: object) -> None:
    """A value of another type, a missing one and one out of range are refused, not converted."""

    def write() -> None:
        writer.add([record(0, 0), record(0, 1, **{"content_hash": "", field: value})])
        writer.flush()

    with pytest.raises(BadRecordError, match=rf"records\[0\]@1: .* at \$\.{field}"):
        write()


def _start(lake: Path, lanes: str, decided: int, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.one_lake.lake_process", str(lake), lanes, str(decided), str(seed)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_processes_killed_at_any_moment_write_each_decision_once(lake: Path) -> None:
    """Two processes write the same two lanes, overlapping, and one or the other is killed again and again."""
    chance = random.Random(7)
    decided = 1_500
    processes = [_start(lake, "0,1", decided, seed) for seed in (0, 1)]
    for seed in range(2, 8):
        victim = processes.pop(0)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        threading.Event().wait(chance.uniform(0, 0.5))
        victim.kill()
        victim.communicate()
        processes.append(_start(lake, "0,1", decided, seed))
    for process in processes:
        process.communicate(timeout=150)
        assert process.returncode == 0
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 2, decided)


def test_processes_on_different_lanes_write_at_once(lake: Path) -> None:
    """Both create the lake, and neither waits for the other or loses a commit."""
    processes = [_start(lake, lanes, 500, 0) for lanes in ("0,2", "1,3")]
    for process in processes:
        process.communicate(timeout=150)
        assert process.returncode == 0
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 4, 500)


def test_a_reader_sees_no_row_vanish_or_change(lake: Path) -> None:
    """While two writers write, each refresh only adds rows, and every round that converged has its record."""
    one, other = lake_writer(lake), lake_writer(lake)

    def write(writer: LakeWriter, lane: int) -> None:
        for start in range(0, 240, 10):
            writer.add(decisions(lane, range(start, start + 10)))
            writer.flush()

    threads = [threading.Thread(target=write, args=pair) for pair in ((one, 0), (other, 1))]
    seen: dict[str, set[Any]] = {table: set() for table in TABLES}
    sizes = set()
    with one_lake.connect(lake) as reader:
        for thread in threads:
            thread.start()
        writing = True
        while writing:
            writing = any(thread.is_alive() for thread in threads)
            one_lake.refresh(reader)
            for table, before in seen.items():
                now = set(reader.sql(f"SELECT t::VARCHAR FROM {table} t").fetchall())  # noqa: S608
                assert before <= now
                seen[table] = now
            sizes.add(len(seen["rounds"]))
            behind = reader.sql("SELECT * FROM rounds ANTI JOIN records USING (lane, decision_offset) "
                                "WHERE kind = 'converged'").fetchall()  # fmt: skip
            assert behind == []
    one.close()
    other.close()
    assert max(sizes) == 480
    assert len(sizes) >= 2  # the writers do not wait for who reads


@pytest.mark.unmeasured
def test_a_full_disk_leaves_the_lake_whole(lake: Path, writer: LakeWriter) -> None:
    """No file may grow beyond a limit: the writer says so and names the lake; then a replay goes through."""
    writer.add(decisions(0, range(10)))
    writer.flush()
    before = held(lake)
    program = (
        "import resource, sys; from pathlib import Path; from tests.one_lake.lake_data import decisions\n"
        "from tests.one_lake.lake_data import lake_writer\n"
        "writer = lake_writer(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "writer.add(decisions(0, range(10, 5000)))\n"
        "writer.flush()\n"
    )
    failed = subprocess.run(
        [sys.executable, "-c", program, str(lake)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    last_line = failed.stderr.strip().splitlines()[-1]
    assert last_line.startswith("OSError: [Errno 27] lake ")
    assert str(lake) in last_line
    assert held(lake)["rounds"] == before["rounds"]
    for table in TABLES:
        logged = tables.files(lake, table, tables.open_table(lake, table))
        assert sorted(map(str, (lake / table).glob("*.parquet"))) == sorted(logged)
    replay = lake_writer(lake)
    replay.add(decisions(0, range(5000)))
    replay.flush()
    replay.close()
    for table, rows in held(lake).items():
        assert names(rows) == expected_names(table, 1, 5000)


def test_writing_imports_neither_pandas_nor_arrows_compute(lake: Path) -> None:
    """Arrow does so by itself where it may, in the first commit, and meanwhile the cell decides nothing."""
    script = (
        "import sys; from pathlib import Path; from tests.one_lake.lake_data import lake_writer\n"
        "from tests.one_lake.lake_data import decisions\n"
        "for first in (0, 20):  # the second one begins with a replay\n"
        "    writer = lake_writer(Path(sys.argv[1]))\n"
        "    writer.add(decisions(0, range(first and first - 5, first + 20))); writer.flush(); writer.close()\n"
        "print({'pandas', 'pyarrow.compute'} & sys.modules.keys())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(lake)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "set()\n"
    assert names(held(lake)["rounds"]) == expected_names("rounds", 1, 40)


def test_a_lake_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """With what to do; it may be the disk that is full."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken/one: Not a directory; nothing is lost, start again when"):
        lake_writer(tmp_path / "taken" / "one")


def test_a_writer_tells_what_it_has_done(writer: LakeWriter) -> None:
    """By table, and since when nothing was committed."""
    assert writer.figures().committed_at == 0.0
    writer.add(decisions(0, range(9)))
    writer.flush()
    writer.flush()
    figures = writer.figures()
    assert (figures.flushes, figures.judged, figures.refused) == (1, 0, 0)
    assert figures.commits == dict.fromkeys(TABLES, 1)
    assert figures.rows["rounds"] == 9
    assert figures.rows["records"] == 3
    assert figures.flush_s > 0.0
    assert figures.committed_at > 0.0


def test_a_writer_that_failed_stays_closed(writer: LakeWriter) -> None:
    """It no longer knows what of its rows is there; the log hands them out again."""
    writer.add([record(0, 0, topic=None)])
    with pytest.raises(BadRecordError):
        writer.flush()
    with pytest.raises(BadRecordError):
        writer.add(decision(0, 1))
    with pytest.raises(BadRecordError):
        writer.flush()


def test_staged_files_that_no_entry_names_are_invisible(lake: Path, writer: LakeWriter) -> None:
    """What a killed process leaves behind does not show, not even half a file."""
    writer.add(decisions(0, range(9)))
    writer.flush()
    before = held(lake)
    (lake / "rounds" / "part-half.parquet").write_bytes(b"PAR1 half a file")
    assert held(lake) == before


def test_many_commits_are_not_read_again_and_again(
    lake: Path, writer: LakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a checkpoint every so many commits; opening, and a writer that stays open, read on from the last."""
    opened_at = []
    open_table = tables.open_table

    def noting(lake_dir: Path, table: str) -> DeltaTable:
        opened = open_table(lake_dir, table)
        opened_at.append(opened.version())
        return opened

    monkeypatch.setattr(tables, "open_table", noting)
    commits = 3 * tables.CHECKPOINT_INTERVAL + 5
    for offset in range(commits):
        writer.add([round_row(0, offset)])
        writer.flush()
    assert writer.version(0) == commits - 1
    assert opened_at == [tables.CHECKPOINT_INTERVAL * number for number in (1, 2, 3)]
    log = lake / "rounds" / "_delta_log"
    last = msgspec.json.decode((log / "_last_checkpoint").read_bytes())["version"]
    assert commits - last < tables.CHECKPOINT_INTERVAL
    # Without the entries before it, all is still known.
    for entry in log.glob("*.json"):
        if int(entry.stem) <= last:
            entry.unlink()
    opened = DeltaTable(lake / "rounds")
    assert opened.transaction_version("lane-0") == commits - 1
    assert len(opened.file_uris()) == commits
