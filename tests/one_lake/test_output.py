"""The lake as a sink: an epoch's rows are committed while the next one goes on, and what is begun comes to its end."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import one_lake
from one_lake.output import LaneRows, OneSink
from one_lake.writer import LakeWriter
from schemas.head import Head
from tests.one_lake.lake_data import lake_writer, record, round_row

LIMIT_S = 20.0


class GatedWriter:
    """A writer whose commits wait until they are let go."""

    def __init__(self, lake: Path) -> None:
        self.writer: LakeWriter = lake_writer(lake)
        self.go = threading.Event()
        self.commits = 0
        flush = self.writer.flush

        def gated() -> Head | None:
            assert self.go.wait(LIMIT_S)
            self.commits += 1
            return flush()

        self.writer.flush = gated  # type: ignore[method-assign]


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[GatedWriter]:
    """One, of a new lake."""
    writer = GatedWriter(tmp_path / "one")
    yield writer
    writer.go.set()
    writer.writer.close()


def rows(offset: int) -> list[LaneRows]:
    """What follows from one decision of lane 0."""
    return [LaneRows(0, [record(0, offset), round_row(0, offset)])]


def sink(gated: GatedWriter, heads: list[Head], *, is_ending: bool = False) -> OneSink:
    """Of a writer."""
    return OneSink(lambda: gated.writer, heads.append, lambda: is_ending)


def records(tmp_path: Path) -> int:
    """How many the lake has."""
    with one_lake.connect(tmp_path / "one") as lake:
        return len(lake.sql("SELECT * FROM records").fetchall())


def test_the_end_of_an_epoch_waits_for_the_rows_of_the_one_before(tmp_path: Path, gated: GatedWriter) -> None:
    """And not for its own; the writer says which are there."""
    heads: list[Head] = []
    part = sink(gated, heads).build_part("one", "one", None)
    part.write_batch(rows(0))
    part.snapshot()
    part.write_batch(rows(1))
    assert gated.writer.held(0) == -1
    assert records(tmp_path) == 0

    ended = threading.Thread(target=part.snapshot)
    ended.start()
    ended.join(0.3)
    assert ended.is_alive()
    gated.go.set()
    ended.join(LIMIT_S)
    assert gated.writer.held(0) >= 0
    assert records(tmp_path) >= 1
    part.snapshot()
    assert gated.writer.held(0) == 1
    assert records(tmp_path) == 2
    assert len(heads) == 2
    part.close()


def test_the_last_epoch_waits_for_its_own_rows(tmp_path: Path, gated: GatedWriter) -> None:
    """No other comes that could."""
    gated.go.set()
    part = sink(gated, [], is_ending=True).build_part("one", "one", None)
    part.write_batch(rows(0))
    part.snapshot()
    assert records(tmp_path) == 1
    part.close()


def test_what_was_not_begun_is_not_committed_at_the_end(tmp_path: Path, gated: GatedWriter) -> None:
    """An error may have brought it about; what was begun is."""
    part = sink(gated, []).build_part("one", "one", None)
    part.write_batch(rows(0))
    part.snapshot()
    part.write_batch(rows(1))
    gated.go.set()
    part.close()
    assert gated.commits <= 1
    assert records(tmp_path) == gated.commits


@pytest.mark.parametrize("told_at", ["write", "snapshot", "held"])
def test_a_commit_that_fails_is_told(tmp_path: Path, gated: GatedWriter, told_at: str) -> None:
    """At the next rows, at the end of the next epoch, and to whoever asks what is there: rows may never come again."""
    gated.go.set()
    part = sink(gated, []).build_part("one", "one", None)
    part.write_batch(rows(0))
    for table in (tmp_path / "one").rglob("_delta_log"):
        table.rename(table.with_name("gone"))
    part.snapshot()
    ask: dict[str, Callable[[], object]] = {
        "write": lambda: part.write_batch(rows(1)),
        "snapshot": part.snapshot,
        "held": lambda: gated.writer.held(0),
    }

    def ask_until_told() -> None:
        while True:
            ask[told_at]()

    with pytest.raises(OSError, match="one"):
        ask_until_told()
    part.close()


def test_a_lake_that_cannot_be_opened_is_told_and_let_go(tmp_path: Path) -> None:
    """There is nothing to close."""

    def fails() -> LakeWriter:
        raise OSError(f"no room at {tmp_path}")

    part = OneSink(fails, lambda _head: None, lambda: False).build_part("one", "one", None)
    with pytest.raises(OSError, match="no room at"):
        part.snapshot()
    part.close()
