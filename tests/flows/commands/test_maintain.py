"""`aureon maintain`: once, and again and again."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from flows import cli
from one_lake.verify import verify
from tests.aureon_command import running, until
from tests.one_lake.lake_data import decisions, lake_writer


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a lake of three commits."""
    writer = lake_writer(tmp_path / "lake")
    for start in range(0, 30, 10):
        writer.add(decisions(0, range(start, start + 10)))
        writer.flush()
    writer.close()
    return tmp_path


def test_it_tells_what_it_did(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By table; and the lake is sound."""
    assert cli.main(["maintain", "--home", str(home)]) == 0
    shown = capsys.readouterr().out
    assert "rounds: 30 rows in 1 files, 0.0 MB; 3 files put together" in shown
    assert cli.main(["maintain", "--home", str(home), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(t["table"], t["rows"], t["compacted"]) for t in told][-1] == ("rounds", 30, 0)
    assert verify(home / "lake").is_sound


@pytest.mark.parametrize("flags", [("--retention-h", "0.5"), ("--retention-h", "x"), ("--target-mb", "0")])
def test_what_makes_no_sense_is_refused(home: Path, flags: tuple[str, str]) -> None:
    """By the command or by the parser."""
    try:
        code = cli.main(["maintain", "--home", str(home), *flags])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2


def test_again_and_again_until_it_is_stopped(home: Path) -> None:
    """With an end that is none of an error."""
    with running("maintain", "--every", "0.2", "--home", home, cwd=home) as process:
        until(lambda: (home / "said.txt").read_text().count("rounds: 30 rows in 1 files") >= 3, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_one_that_is_started_before_the_first_cell_waits_for_the_lake(tmp_path: Path) -> None:
    """As a service may be."""
    with running("maintain", "--every", "0.2", "--home", tmp_path, cwd=tmp_path) as process:
        until(lambda: "no lake at" in (tmp_path / "said.txt").read_text(), 60)
        time.sleep(0.5)
        assert (tmp_path / "said.txt").read_text().count("no lake at") == 1
        writer = lake_writer(tmp_path / "lake")
        writer.add(decisions(0, range(10)))
        writer.flush()
        writer.close()
        until(lambda: "rounds: 10 rows in 1 files" in (tmp_path / "said.txt").read_text(), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (tmp_path / "said.txt").read_text().count("no lake at") == 1


def test_files_that_nobody_needs_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With how much room they took."""
    assert cli.main(["maintain", "--home", str(home)]) == 0
    long_ago = time.time() - 7200
    for path in (home / "lake" / "rounds").rglob("*"):
        if path.is_file():
            os.utime(path, (long_ago, long_ago))
    left = home / "lake" / "rounds" / "left-by-a-crash.parquet"
    left.write_bytes(b"x" * 1000)
    os.utime(left, (long_ago, long_ago))
    capsys.readouterr()
    assert cli.main(["maintain", "--home", str(home), "--retention-h", "1"]) == 0
    assert re.search(r"rounds: 30 rows .*; [1-9] files deleted that nobody needs", capsys.readouterr().out)
    assert not left.exists()
    assert verify(home / "lake").is_sound
