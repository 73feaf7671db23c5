"""The reader that the loss audit looks at the lake with."""

from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from one_lake import tables
from tests.chaos.audit import PollingReader
from tests.one_lake.lakes_apart import converged, write


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake of three records, in three files."""
    return write(tmp_path / "lake", "a", *(converged("a", n, f"t{n}") for n in range(3)))


def spoiled(lake: Path, name: str) -> DeltaTable:
    """A table that takes what ours do not."""
    table = tables.open_table(lake, name)
    table.alter.set_table_properties({"delta.appendOnly": "false"})
    return table


def found(reader: PollingReader, *, whole: bool = False) -> int:
    """What has vanished since the last look."""
    before = reader.vanished
    reader.look(whole=whole)
    return reader.vanished - before


def test_what_stays_and_what_comes_has_not_vanished(lake: Path) -> None:
    """Nor has what is in other files now."""
    reader = PollingReader(lake)
    assert found(reader) == 0
    write(lake, "a", converged("a", 3, "t3"))
    assert found(reader) == 0
    tables.open_table(lake, "records").optimize.compact()
    assert found(reader) == 0
    assert found(reader, whole=True) == 0


def test_a_row_that_is_gone_is_counted(lake: Path) -> None:
    """Once."""
    reader = PollingReader(lake)
    reader.look()
    spoiled(lake, "records").delete("decision_offset = 1")
    assert found(reader) == 1
    assert found(reader, whole=True) == 0


def test_a_row_that_has_changed_is_counted(lake: Path) -> None:
    """By its hash."""
    reader = PollingReader(lake)
    reader.look()
    spoiled(lake, "rounds").update(updates={"row_hash": "'other'"}, predicate="decision_offset = 2")
    assert found(reader) == 1


def test_a_row_that_is_there_twice_is_counted(lake: Path) -> None:
    """When the second one comes."""
    reader = PollingReader(lake)
    reader.look()
    table = tables.open_table(lake, "branches")
    again = table.to_pyarrow_table(filters=[("decision_offset", "=", 0)])
    write_deltalake(table, again, mode="append")
    assert found(reader) == 1
