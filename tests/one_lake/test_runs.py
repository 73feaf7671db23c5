"""What a run reads of the lake, part by part."""

import pyarrow as pa

from one_lake.runs import _by_part


def batch(*rows: tuple[int, str]) -> pa.RecordBatch:
    """Rows of some parts."""
    return pa.RecordBatch.from_pylist(
        [{"part": part, "id": name} for part, name in rows],
        schema=pa.schema([("part", pa.int64()), ("id", pa.string())]),
    )


def test_a_part_is_whole_wherever_its_batches_end() -> None:
    """Over several of them, and where one is empty."""
    batches = [batch((0, "a"), (0, "b"), (2, "c")), batch(), batch((2, "d")), batch((5, "e"))]
    found = [(part, rows["id"].to_pylist()) for part, rows in _by_part(iter(batches))]
    assert found == [(0, ["a", "b"]), (2, ["c", "d"]), (5, ["e"])]


def test_of_nothing_there_is_no_part() -> None:
    """Nor an empty one."""
    assert list(_by_part(iter([]))) == []
    assert list(_by_part(iter([batch()]))) == []
