"""What the lake tells of a lane."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from one_lake.lanes import LaneVersions, OwnerRow
from one_lake.writer import LakeWriter
from tests.one_lake.lake_data import CLUSTER, decisions, lake_writer, round_row


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Name a lake."""
    return tmp_path / "lake"


@pytest.fixture
def writer(lake: Path) -> Iterator[LakeWriter]:
    """Open a writer on the lake."""
    opened = lake_writer(lake)
    yield opened
    opened.close()


def test_owners_come_in_decision_order(lake: Path, writer: LakeWriter) -> None:
    """The index of ids is rebuilt from the rows that introduce an id, lane by lane."""
    for start in range(0, 90, 30):
        for lane in (0, 1):
            writer.add(decisions(lane, range(start, start + 30)))
        writer.flush()
    assert writer.version(1) == 89
    batches = list(writer.owners(1, rows_per_batch=10))
    owners = [owner for batch in batches for owner in batch]
    assert max(map(len, batches)) == 10
    assert [owner.decision_offset for owner in owners] == list(range(0, 90, 2))
    digest = round_row(1, 4).payload_digest
    assert owners[2] == OwnerRow("math", "task-1-4", 0, "tasks.global", 4, digest, 4)


def test_what_a_lane_has_spent_in_a_time_is_told(writer: LakeWriter) -> None:
    """By its own cluster."""
    assert writer.spent_in(0, 0.0, 2e9) == (0, 0, 0.0)
    writer.add([round_row(0, n, calls=3, tokens=7, cost=0.5) for n in range(2)])
    writer.add([round_row(1, 0, calls=3), round_row(0, 2, calls=3, cluster="other")])
    writer.flush()
    decided_at = 1_700_000_001.5
    assert writer.spent_in(0, decided_at, decided_at + 1) == (6, 14, 1.0)
    assert writer.spent_in(0, decided_at - 1, decided_at) == (0, 0, 0.0)


def test_an_empty_lake_has_no_owners(writer: LakeWriter) -> None:
    """Nothing is there, and that is no error."""
    assert writer.version(0) == -1
    assert list(writer.owners(0)) == []


def test_another_process_sees_what_was_committed_as_of_a_second_ago(
    lake: Path, writer: LakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not look into the log each time it is asked."""
    assert LaneVersions(lake.with_name("nowhere"), CLUSTER).held(0) == -1
    versions, now = LaneVersions(lake, CLUSTER), [100.0]
    monkeypatch.setattr("one_lake.lanes.time.monotonic", lambda: now[0])
    assert versions.held(0) == -1
    writer.add([round_row(0, 0)])
    writer.flush()
    assert versions.held(0) == 0
    writer.add([round_row(0, 1)])
    writer.flush()
    now[0] += 0.5
    assert versions.held(0) == 0
    now[0] += 0.6
    assert versions.held(0) == 1
