"""The lake as it was."""

import datetime as dt
from pathlib import Path

import pytest

import one_lake
from one_lake import tables
from one_lake.as_of import moment, names_as_of
from one_lake.maintain import maintain
from one_lake.verify import Fault, verify
from schemas.errors import RefusedError
from schemas.one import TABLES
from tests.one_lake.lake_data import KEY, decisions, expected_names, held, lake_writer, names


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Write a lake in six commits of two lanes."""
    writer = lake_writer(tmp_path)
    for start in range(0, 60, 10):
        for lane in (0, 1):
            writer.add(decisions(lane, range(start, start + 10)))
        writer.flush()
    writer.close()
    return tmp_path


def test_each_version_has_what_it_had(lake: Path) -> None:
    """Also after all files were put together, and more was written."""
    for round_ in range(2):
        for version in range(1, 7):
            for table, rows in held(lake, str(version)).items():
                assert names(rows) == expected_names(table, 2, version * 10), (round_, version)
        maintain(lake, KEY)
        writer = lake_writer(lake)
        writer.add(decisions(0, range(60, 70)))
        writer.flush()
        writer.close()


def test_a_time_names_the_last_commit_before_it(lake: Path) -> None:
    """With or without a zone."""
    at = moment(lake, "3").at
    for told in (
        dt.datetime.fromtimestamp(at + 0.0001, dt.UTC).replace(tzinfo=None).isoformat(),
        dt.datetime.fromtimestamp(at + 0.0001, dt.timezone(dt.timedelta(hours=5))).isoformat(),
    ):
        assert moment(lake, told).versions["rounds"] == 3
    assert moment(lake, "2999-01-01").versions["rounds"] == 6


def test_it_stays_there_when_it_is_refreshed(lake: Path) -> None:
    """And what is made of the tables is bound too."""
    with one_lake.connect(lake, as_of="2") as connection:
        before = connection.sql("SELECT count(*) FROM one").fetchall()
        one_lake.refresh(connection)
        assert connection.sql("SELECT count(*) FROM one").fetchall() == before == [(14,)]
        assert connection.sql("FROM lineage('task-0-30')").fetchall() == []


@pytest.mark.parametrize("as_of", ["0", "7", "1999-01-01", "yesterday"])
def test_what_is_no_moment_of_the_lake_is_refused(lake: Path, as_of: str) -> None:
    """With what would be one."""
    with pytest.raises(RefusedError, match=r"before the first signed|is at version 6$|expected a version of `rounds`"):
        one_lake.connect(lake, as_of=as_of)


@pytest.mark.parametrize("is_maintained", [False, True])
def test_verifying_looks_at_what_was_there(lake: Path, *, is_maintained: bool) -> None:
    """What came later may be spoilt; what was there may not."""
    if is_maintained:
        maintain(lake, KEY)
    report = verify(lake, as_of="3")
    assert report.is_sound, report.first
    assert report.tables["rounds"] == 60
    assert report.head is not None
    assert report.head.version == 3
    writer = lake_writer(lake)
    writer.add(
        [row for row in decisions(0, range(60, 80)) if row.decision_offset != 66 or type(row).__name__ != "Record"]
    )
    writer.flush()
    writer.close()
    assert Fault.RECORD_MISSING in verify(lake).first
    assert verify(lake, as_of="6").is_sound


def test_a_head_of_later_says_nothing_of_a_moment_and_one_that_is_gone_is_missed(lake: Path) -> None:
    """However it is told."""
    (third, sixth) = (verify(lake, as_of=version).head for version in ("3", "6"))
    assert third is not None
    assert sixth is not None
    for heads in ([third, sixth], [third.hash, sixth.hash]):
        report = verify(lake, as_of="3", heads=heads)
        assert report.is_sound, report.first
        assert report.heads == 1
    for table in TABLES:
        tables.log_entry(lake, table, 6).unlink()
    for head in (sixth, sixth.hash):
        assert Fault.HEAD_MISSING in verify(lake, as_of="3", heads=[head]).first


def test_a_moment_of_no_lake_is_refused_with_the_cure(tmp_path: Path) -> None:
    """Before anything is read."""
    with pytest.raises(RefusedError, match=r"^no lake at .*nowhere: run `aureon run` or set AUREON_LAKE$"):
        moment(tmp_path / "nowhere", "1")


def test_the_files_of_a_version_are_those_that_came_up_to_it(lake: Path) -> None:
    """And none that came later."""
    names_at = [names_as_of(lake, "rounds", version) for version in range(7)]
    assert [len(found) for found in names_at] == list(range(7))
    assert names_at[6] == {path.name for path in (lake / "rounds").glob("*.parquet")}
