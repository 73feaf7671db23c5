"""Records on their way through the gate, in batches."""

import threading

import pyarrow as pa
import pytest

from one_lake import gating
from one_lake.gate import Judged, Refused
from one_lake.gating import Gating, Routes
from schemas.one import DeadLetterRow, Record
from tests.one_lake.lake_data import dead_letter, record

LIMIT_S = 30.0


def test_a_full_batch_is_judged_while_more_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, without anybody waiting for it; and what there is to be said is said."""
    monkeypatch.setattr(gating, "BATCH", 2)
    go, told = threading.Event(), list[str]()

    def judge(rows: pa.RecordBatch) -> Judged:
        assert go.wait(LIMIT_S)
        refused = [Refused(1, "score: got 2.0")] if rows.num_rows == 2 else []
        return Judged(refused=refused, alerts=[f"{rows.num_rows} rows"])

    gate = Gating(judge, lambda _lane: Routes(-1, -1, -1), told.append)
    gate.add([record(0, 0), record(0, 1)], [])
    assert gate.judged() == []
    go.set()
    gate.add([record(0, 2)], [])
    first, second, *rest = gate.drain()
    gate.close()
    assert isinstance(first, Record)
    assert isinstance(second, DeadLetterRow)
    assert (second.decision_offset, second.detail) == (1, "score: got 2.0")
    assert told == ["2 rows", "1 rows"]
    assert [row.decision_offset for row in rest] == [2]


def test_a_batch_of_dead_letters_alone_is_not_judged() -> None:
    """There is nothing in it to judge."""

    def judge(_rows: pa.RecordBatch) -> Judged:
        raise AssertionError("asked about no record")

    gate = Gating(judge, lambda _lane: Routes(-1, -1, -1), lambda _text: None)
    gate.add([dead_letter(0, 0)], [])
    assert gate.drain() == [dead_letter(0, 0)]
    assert gate.judged_records == 0
    gate.close()


def test_what_was_judged_is_handed_over_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it goes."""
    monkeypatch.setattr(gating, "BATCH", 1)
    go, judged = threading.Event(), threading.Event()
    calls: list[int] = []

    def judge(_rows: pa.RecordBatch) -> Judged:
        calls.append(1)
        if len(calls) == 2:
            judged.set()  # so the first batch is done
            assert go.wait(LIMIT_S)
        return Judged(refused=[], alerts=[])

    gate = Gating(judge, lambda _lane: Routes(-1, -1, -1), lambda _text: None)
    gate.add([record(0, 0)], [])
    gate.add([record(0, 1)], [])
    assert judged.wait(LIMIT_S)
    assert gate.judged() == [record(0, 0)]
    go.set()
    assert gate.drain() == [record(0, 1)]
    gate.close()
