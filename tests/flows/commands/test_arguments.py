"""The arguments of `aureon`: every command has help, and every setting a flag."""

import argparse
import re

import pytest

from flows.cli import main
from flows.commands.arguments import make_parser, settings_of
from flows.settings import Settings

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
    "completion",
)


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command with its parser."""
    for action in make_parser()._actions:
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
        main([command, "--help"])
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
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^\s+{command}\s", shown, re.MULTILINE)


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


def test_a_flag_goes_before_its_variable() -> None:
    """And a variable before the default."""
    options = make_parser().parse_args(["run", "--max-rounds", "7"])
    settings = settings_of(options, {"AUREON_MAX_ROUNDS": "5", "AUREON_WORKERS": "2"})
    assert (settings.max_rounds, settings.workers, settings.max_attempts) == (7, 2, 3)
