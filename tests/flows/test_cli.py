"""The `aureon` command: what it runs, what it says when something goes wrong, and how it ends."""

import argparse
import errno
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.cli import main
from flows.commands.arguments import make_parser, settings_of
from flows.terminal import FAILED, REFUSED
from schemas.errors import AureonError, RefusedError, TryAgainError
from tests.aureon_command import AUREON, aureon, environment


def test_help_loads_no_kafka_no_lake_and_no_dataflow() -> None:
    """That is what makes it quick."""
    program = "import sys, flows.cli as cli; cli.make_parser().format_help(); print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, check=True, text=True)
    heavy = {"bytewax", "confluent_kafka", "duckdb", "pyarrow", "deltalake", "rich", "sympy", "aiohttp"}
    assert not heavy & set(done.stdout.split())


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with the exit code of a wrong usage."""
    assert main([]) == REFUSED
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["fly"], ["run", "--max-round", "3"], ["status", "--watch", "0"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    """Flags are not guessed from their beginnings: a new flag would change what a script does."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_a_wrong_setting_is_named_as_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    """By its flag here."""
    assert main(["status", "--home", "x", "--lake", "", "--json"]) in (0, 2)  # an empty one counts as not given
    capsys.readouterr()
    assert main(["run", "--max-rounds", "many"]) == REFUSED
    assert "aureon: --max-rounds='many': expected a whole number from 1 to 1,000,000,000" in capsys.readouterr().err


def test_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """It is that of the installed package."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("aureon ")


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let every command raise."""

    def fails(_options: argparse.Namespace) -> int:
        if isinstance(error, KeyboardInterrupt):
            raise error
        raise RuntimeError("as the engine wraps it") from error

    monkeypatch.setitem(sys.modules, "flows.commands.schema", SimpleNamespace(main=fails))


@pytest.mark.parametrize(
    "error, code",
    [(RefusedError("set this"), 2), (TryAgainError("set this"), 1), (AureonError("set this"), 1)],
)
def test_an_expected_error_is_one_line(
    error: AureonError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However deep it is in what the engine raises."""
    failing(monkeypatch, error)
    assert main(["schema"]) == code
    assert capsys.readouterr().err == "aureon: set this\n"


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to do about it."""
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/lake/x"))
    assert main(["schema"]) == FAILED
    said = capsys.readouterr().err
    assert said.startswith("aureon: /lake/x: No space left on device; make room")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("called `Result::unwrap()` on an `Err` value: SqliteFailure(Error { code: DiskFull }, None)"),
    ],
)
def test_a_full_disk_under_the_state_folder_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither SQLite nor the engine says which file it is."""
    failing(monkeypatch, error)
    assert main(["schema"]) == FAILED
    said = capsys.readouterr().err
    assert said.startswith("aureon: the disk of the state folder (AUREON_STATE) is full; make room")
    assert said.count("\n") == 1


def test_an_unexpected_error_comes_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody has to find out why."""
    failing(monkeypatch, ZeroDivisionError("somewhere"))
    assert main(["schema"]) == FAILED
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("aureon: failed: ZeroDivisionError: somewhere\n")


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As shells do it."""
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["schema"]) == 130
    assert capsys.readouterr().err == "aureon: interrupted\n"


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """`aureon schema decision | head -1` says nothing but its line."""
    process = subprocess.Popen(
        [*AUREON, "schema", "decision"], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_the_log_has_a_level(tmp_path: Path) -> None:
    """And a wrong one is refused."""
    assert aureon("schema", "--log-level", "loud", cwd=tmp_path).returncode == 2
    assert aureon("schema", "--log-level", "debug", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("arguments", [["status", "--home", "\udcff"], ["sql", "SELECT '\udce5'"]])
def test_an_argument_that_is_no_utf_8_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By its place: what it says nobody can show."""
    assert main(arguments) == REFUSED
    assert capsys.readouterr().err == f"aureon: argument {len(arguments)}: it is no UTF-8\n"


def test_a_variable_that_is_no_utf_8_is_refused() -> None:
    """By its name."""
    with pytest.raises(RefusedError, match=r"^AUREON_HOME: it is no UTF-8$"):
        settings_of(make_parser().parse_args(["status"]), {"AUREON_HOME": "\udcff"})
