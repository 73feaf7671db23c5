"""The `aureon` command: help, arguments, exit codes, and what it says when something goes wrong."""

import argparse
import errno
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import cli
from flows.settings import Settings
from schemas.errors import AureonError, RefusedError, TryAgainError
from tests.aureon_command import AUREON, ROOT, aureon, environment

COMMANDS = (
    "demo",
    "run",
    "up",
    "supervise",
    "broker",
    "submit",
    "cancel",
    "status",
    "top",
    "ui",
    "nodes",
    "sql",
    "search",
    "verify",
    "audit",
    "maintain",
    "merge",
    "keys",
    "replay",
    "eval",
    "schema",
)
README = (ROOT / "README.md").read_text()


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command with its parser."""
    for action in cli.make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no commands")


def test_there_are_just_these_commands() -> None:
    """A new one has to be tested and documented."""
    assert tuple(commands()) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with 0, says what the command does, and describes every argument."""
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    parser = commands()[command]
    assert parser.description
    assert parser.description.split()[0] in shown
    for action in parser._actions:
        assert action.help, action.dest


def test_help_of_aureon_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """So that one finds them."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^\s+{command}\s", shown, re.MULTILINE)


def test_help_loads_no_kafka_no_lake_and_no_dataflow() -> None:
    """That is what makes it quick."""
    program = "import sys, flows.cli; flows.cli.make_parser().format_help(); print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, check=True, text=True)
    heavy = {"bytewax", "confluent_kafka", "duckdb", "pyarrow", "deltalake", "rich", "sympy", "aiohttp"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_documents_every_command(command: str) -> None:
    """A command that is not in README does not exist for most people."""
    assert f"`aureon {command}" in README or f"aureon {command} " in README


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_every_setting_is_a_flag_of_run_with_its_variable_and_default(name: str) -> None:
    """And of demo, but for those that are within its home; and of up, but for those that tell its cells apart."""
    flag = "--" + name.replace("_", "-")
    options = {o: action for action in commands()["run"]._actions for o in action.option_strings}
    assert f"[AUREON_{name.upper()}" in (options[flag].help or "")
    demo = {o for action in commands()["demo"]._actions for o in action.option_strings}
    assert (flag in demo) is (name not in ("state", "lake", "blobs", "key_file"))
    up = {o for action in commands()["up"]._actions for o in action.option_strings}
    assert (flag in up) is (name not in ("state", "cell"))
    assert f"AUREON_{name.upper()}" in README


def test_a_flag_goes_before_its_variable() -> None:
    """And a variable before the default."""
    options = cli.make_parser().parse_args(["run", "--max-rounds", "7"])
    settings = cli.settings_of(options, {"AUREON_MAX_ROUNDS": "5", "AUREON_WORKERS": "2"})
    assert (settings.max_rounds, settings.workers, settings.max_attempts) == (7, 2, 3)


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with the exit code of a wrong usage."""
    assert cli.main([]) == cli.REFUSED
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["fly"], ["run", "--max-round", "3"], ["status", "--watch", "0"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    """Flags are not guessed from their beginnings: a new flag would change what a script does."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2


def test_a_wrong_setting_is_named_as_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    """By its flag here."""
    assert cli.main(["status", "--home", "x", "--lake", "", "--json"]) in (0, 2)  # an empty one counts as not given
    capsys.readouterr()
    assert cli.main(["run", "--max-rounds", "many"]) == cli.REFUSED
    assert "aureon: --max-rounds='many': expected a whole number from 1 to 1,000,000,000" in capsys.readouterr().err


def test_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """It is that of the installed package."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("aureon ")


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let every command raise."""

    def main(_options: argparse.Namespace) -> int:
        if isinstance(error, KeyboardInterrupt):
            raise error
        raise RuntimeError("as the engine wraps it") from error

    monkeypatch.setitem(sys.modules, "flows.commands.schema", SimpleNamespace(main=main))


@pytest.mark.parametrize(
    "error, code",
    [(RefusedError("set this"), 2), (TryAgainError("set this"), 1), (AureonError("set this"), 1)],
)
def test_an_expected_error_is_one_line(
    error: AureonError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However deep it is in what the engine raises."""
    failing(monkeypatch, error)
    assert cli.main(["schema"]) == code
    assert capsys.readouterr().err == "aureon: set this\n"


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to do about it."""
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/lake/x"))
    assert cli.main(["schema"]) == cli.FAILED
    said = capsys.readouterr().err
    assert said.startswith("aureon: /lake/x: No space left on device; make room")
    assert said.count("\n") == 1


def test_an_unexpected_error_comes_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody has to find out why."""
    failing(monkeypatch, ZeroDivisionError("somewhere"))
    assert cli.main(["schema"]) == cli.FAILED
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("aureon: failed: ZeroDivisionError: somewhere\n")


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As shells do it."""
    failing(monkeypatch, KeyboardInterrupt())
    assert cli.main(["schema"]) == 130
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
    assert process.wait(30) == 141


def test_the_log_has_a_level(tmp_path: Path) -> None:
    """And a wrong one is refused."""
    assert aureon("schema", "--log-level", "loud", cwd=tmp_path).returncode == 2
    assert aureon("schema", "--log-level", "debug", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("arguments", [["status", "--home", "\udcff"], ["sql", "SELECT '\udce5'"]])
def test_an_argument_that_is_no_utf_8_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By its place: what it says nobody can show."""
    assert cli.main(arguments) == cli.REFUSED
    assert capsys.readouterr().err == f"aureon: argument {len(arguments)}: it is no UTF-8\n"


def test_a_variable_that_is_no_utf_8_is_refused() -> None:
    """By its name."""
    with pytest.raises(RefusedError, match=r"^AUREON_HOME: it is no UTF-8$"):
        cli.settings_of(cli.make_parser().parse_args(["status"]), {"AUREON_HOME": "\udcff"})
