"""`aureon sql`: a table, JSON, and errors that help."""

import io
import json
import sys
from pathlib import Path

import pytest

from flows import cli
from tests.one_lake.lake_data import lake_writer, record


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with three records."""
    folder = tmp_path_factory.mktemp("lake")
    writer = lake_writer(folder)
    writer.add(record(0, offset, answer=answer) for offset, answer in enumerate(["2", "é", None]))
    writer.flush()
    writer.close()
    return folder


def sql(lake: Path, *arguments: str) -> int:
    """Run the command in this process."""
    return cli.main(["sql", "--lake", str(lake), *arguments])


def test_a_query_gives_a_table(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With all its rows and nothing cut short, since this is no terminal."""
    assert sql(lake, "SELECT logical_id, repeat('x', 500) AS long FROM one ORDER BY 1") == 0
    shown = capsys.readouterr().out
    assert "task-0-0" in shown
    assert "x" * 500 in shown


@pytest.mark.parametrize("rows", [10_000, 10_001])
def test_that_a_table_is_cut_short_is_said(lake: Path, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    """With what gives all of it."""
    assert sql(lake, f"SELECT range FROM range({rows})") == 0  # noqa: S608
    told = capsys.readouterr()
    assert ("--json prints all" in told.err) == (rows > 10_000)
    assert "9999" in told.out


def test_json_is_an_array_of_objects(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With times in ISO 8601 and lists as lists."""
    assert sql(lake, "--json", "SELECT answer, started_at, models FROM one ORDER BY decision_offset") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["answer"] for row in rows] == ["2", "é", None]
    assert rows[0]["started_at"] == "2023-11-14T22:13:20.250000+00:00"
    assert rows[0]["models"] == ["small", "large"]


def test_json_takes_what_json_has_not(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NaN, decimals, sums beyond 64 bits, structures, and two columns of one name."""
    query = (
        "SELECT 'nan'::DOUBLE AS n, 1.50 AS d, (2::HUGEINT ** 70)::HUGEINT AS h, {'a': [1, NULL]} AS s, 1 AS x, "
        "2 AS x, INTERVAL 1 DAY AS i, true AS t"
    )
    assert sql(lake, "--json", query) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["n"], row["d"], row["h"], row["s"], row["x"], row["x_2"], row["t"]) == (
        None,
        1.5,
        2**70,
        {"a": [1, None]},
        1,
        2,
        True,
    )


def test_json_without_rows_is_an_empty_array(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that a program can read it."""
    assert sql(lake, "--json", "SELECT 1 WHERE false") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_wrong_query_is_told_where(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 1 and no traceback."""
    assert sql(lake, "SELECT nothing FROM one") == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("aureon: SQL: Binder Error")
    assert "nothing" in told.err
    assert "Traceback" not in told.err


def test_an_error_in_the_middle_is_told_too(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A query may fail at its first row only."""
    assert sql(lake, "--json", "SELECT answer::INT FROM one") == 1
    assert "Conversion Error" in capsys.readouterr().err


def test_the_query_may_come_from_stdin(
    lake: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those that are long."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 40 + 2 AS n"))
    assert sql(lake, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 42}]


def test_an_empty_query_is_refused_with_an_example(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DuckDB would say nothing at all."""
    assert sql(lake, "  ") == 2
    assert "no query; try: aureon sql" in capsys.readouterr().err


def test_without_a_lake_it_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As on the first day."""
    assert sql(tmp_path / "none", "SELECT 1") == 2
    assert "no lake at" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_statement_without_rows_is_fine(lake: Path) -> None:
    """It prints what DuckDB has to say, or nothing."""
    assert sql(lake, "SET threads = 1") == 0


def test_a_statement_without_rows_prints_nothing(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is no error."""
    assert sql(lake, "-- nothing yet") == 0
    assert capsys.readouterr().out == ""
