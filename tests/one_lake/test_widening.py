"""A lake that an earlier version of Aureon wrote: it opens, is added to, and nothing of it is lost."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Field, Transaction, write_deltalake

import one_lake
from one_lake import tables
from one_lake.query import recent_rounds
from schemas.one import TABLES, arrow_schema
from tests.one_lake.lake_data import decisions, lake_writer, round_row

# Of what is new since it was written, the first column of `rounds`.
AGES = {"before what was found": "effective_votes", "before signatures": "cluster"}
WRITER = "import sys; from tests.one_lake.lake_data import lake_writer; lake_writer(sys.argv[1]).close()"


def schema_before(table: str, first_new: str) -> pa.Schema:
    """The columns of a table up to one."""
    columns = list(arrow_schema(TABLES[table]))
    names = [column.name for column in columns]
    return pa.schema(columns[: names.index(first_new if first_new in names else "cluster")])


@pytest.fixture(params=list(AGES.values()), ids=list(AGES))
def old_lake(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A lake without the last columns, with one decision in it."""
    lake = tmp_path / "lake"
    for table in TABLES:
        path = tables.folder(lake, table)
        path.mkdir(parents=True)
        before = schema_before(table, request.param)
        DeltaTable.create(path, before, configuration=tables._CONFIGURATION)
        if table == "rounds":
            row = {f: getattr(round_row(0, 0), f) for f in before.names}
            done = CommitProperties(app_transactions=[Transaction("lane-0", 0)])
            write_deltalake(path, pa.Table.from_pylist([row], before), mode="append", commit_properties=done)
    return lake


def rounds(lake: Path) -> list[tuple[Any, ...]]:
    """What the view tells."""
    with one_lake.connect(lake) as connection:
        query = "SELECT decision_offset, answer, findings, effective_votes FROM rounds ORDER BY decision_offset"
        return connection.sql(query).fetchall()


def test_a_lake_from_before_can_be_asked(old_lake: Path) -> None:
    """Also where no cell of this version has opened it: what it has no column for is null."""
    assert rounds(old_lake) == [(0, "2", None, None)]
    (row,) = recent_rounds(old_lake, 10)
    assert row.findings is None


def test_a_lake_from_before_is_widened_and_added_to(old_lake: Path) -> None:
    """Where it stood: what it holds is not written again, and both kinds of rows are told."""
    writer = lake_writer(old_lake)
    assert writer.version(0) == 0
    assert [o.decision_offset for batch in writer.owners(0) for o in batch] == [0]
    writer.add([round_row(0, 0, findings="[]"), round_row(0, 1, findings='[{"policy":"bias"}]', effective_votes=1.5)])
    writer.flush()
    assert writer.version(0) == 1
    assert [o.decision_offset for batch in writer.owners(0) for o in batch] == [0, 1]
    writer.close()
    assert rounds(old_lake) == [(0, "2", None, None), (1, "2", '[{"policy":"bias"}]', 1.5)]
    assert DeltaTable(tables.folder(old_lake, "rounds")).to_pyarrow_table().num_rows == 2
    assert [r.decision_offset for r in recent_rounds(old_lake, 10)] == [0, 1]


def test_one_that_was_widened_before_anything_was_added_can_be_asked(old_lake: Path) -> None:
    """No file has the new columns then."""
    lake_writer(old_lake).close()
    assert rounds(old_lake) == [(0, "2", None, None)]
    lake_writer(old_lake).close()
    assert DeltaTable(tables.folder(old_lake, "rounds")).version() == 3  # made, written, marked, widened; and not again


def test_several_processes_may_widen_it_at_once(old_lake: Path) -> None:
    """Each finds it as it should be."""
    started = [subprocess.Popen([sys.executable, "-c", WRITER, str(old_lake)]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0] * 4
    assert rounds(old_lake) == [(0, "2", None, None)]


@pytest.mark.parametrize("steps", [1, 2])
def test_another_process_may_come_in_between(old_lake: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """It has marked the table, or widened it as well, since this one looked at it."""
    looked, others = tables._lacking, [steps]

    def look(opened: DeltaTable, table: str) -> list[Field] | None:
        lacking = looked(opened, table)
        if table == "rounds" and lacking and others:
            other = DeltaTable(tables.folder(old_lake, table))
            other.alter.set_table_properties({tables.WIDENED: "true"}, raise_if_not_exists=False)
            if others.pop() == 2:
                other.alter.add_columns(lacking)
        return lacking

    monkeypatch.setattr(tables, "_lacking", look)
    lake_writer(old_lake).close()
    assert rounds(old_lake) == [(0, "2", None, None)]
    assert DeltaTable(tables.folder(old_lake, "rounds")).version() == 3


def test_a_new_lake_is_not_read_as_a_widened_one(tmp_path: Path) -> None:
    """That would look at each of its files."""
    writer = lake_writer(tmp_path)
    writer.add(decisions(0, range(3)))
    writer.flush()
    writer.close()
    opened = tables.open_table(tmp_path, "rounds")
    assert not tables.is_widened(opened)
