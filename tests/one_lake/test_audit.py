"""The audit: what is not as expected of the whole lake is told, and the pages show it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from tests.aureon_command import aureon
from tests.one_lake.lake_data import lake_writer, record, round_row


def write(lake: Path, *records: dict[str, Any]) -> None:
    """Write a lake of these records."""
    writer = lake_writer(lake)
    for offset, changes in enumerate(records):
        told = {"labels": [changes.get("topic", "math")], "logical_id": f"t{offset}", **changes}
        writer.add([record(0, offset, **told), round_row(0, offset, logical_id=told["logical_id"])])
    writer.flush()
    writer.close()


def test_a_sound_lake_meets_all_of_it(tmp_path: Path) -> None:
    """And a second audit, too, whose pages take the place of the first one's."""
    write(tmp_path / "lake", {}, {"topic": "code"}, {})
    for _ in range(2):
        done = aureon("audit", "--home", tmp_path, "--docs", tmp_path / "pages", cwd=tmp_path, timeout_s=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"3 records of 2 topics: (\d\d) of \1 expectations are met", done.stdout)
        assert done.stderr == ""
    page = (tmp_path / "pages" / "index.html").read_text()
    assert "topics" in page
    assert len(list((tmp_path / "pages" / "validations").rglob("*.html"))) == 3


def test_what_is_wrong_is_told_and_shown_and_does_no_harm(tmp_path: Path) -> None:
    """In whichever record it is; what a model wrote is text in a page."""
    evil = "<script>alert(1)</script>"
    write(
        tmp_path / "lake",
        {"topic": evil, "score": 1.5, "answer": evil},
        {"topic": evil, "forced": True, "logical_id": "t0", "answer": None},
        {"topic": evil, "forced": True, "evidence": "self", "confidence": 0.1, "converged_at": 1_600_000_000_000_000},
    )
    done = aureon("audit", "--home", tmp_path, "--json", cwd=tmp_path, timeout_s=120)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    missed = {
        (c["suite"], c["expectation"].split("column=")[-1].split(",")[0].strip("')"))
        for c in told["checks"]
        if not c["is_met"]
    }
    assert {
        ("lake", "ids_twice"),
        ("topics", "greatest_share"),
        ("topics", "forced_share"),
        ("topics", "without_answer"),
        ("topics", "ended_before_they_began"),
        ("records", "score"),
        ("records", "answer"),
    } <= missed
    for page in (tmp_path / "audit").rglob("*.html"):
        assert evil not in page.read_text(), page


def test_without_a_lake_it_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything large is imported."""
    assert cli.main(["audit", "--home", str(tmp_path)]) == 2
    assert "no lake at" in capsys.readouterr().err
    assert not (tmp_path / "audit").exists()
