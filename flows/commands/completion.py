"""`aureon completion`: a script by which a shell completes commands, flags, choices and files.

It is written once, and static: no TAB starts Python.
"""

import argparse
import typing
from collections.abc import Iterator

import shtab

from flows.commands.arguments import make_parser
from flows.commands.schema import SCHEMAS
from flows.settings import Settings
from flows.terminal import OK, show

_FOLDERS = ("home", "state", "lake", "blobs")
_FILES = ("key_file", "nodes", "supervision", "branching", "gate")
"""Settings that name one."""
_METAVARS = {"FILE": shtab.FILE, "HEAD": shtab.FILE, "FOLDER": shtab.DIRECTORY, "LAKE": shtab.DIRECTORY}


def main(options: argparse.Namespace) -> int:
    """Print the script of a shell."""
    parser = make_parser()
    kinds = typing.get_type_hints(Settings)
    for action in _actions(parser):
        setting = action.dest.removeprefix("setting_")
        if typing.get_origin(kinds.get(setting)) is typing.Literal:
            action.choices = typing.get_args(kinds[setting])
        elif setting in _FOLDERS or setting in _FILES:
            action.complete = shtab.DIRECTORY if setting in _FOLDERS else shtab.FILE  # type: ignore[attr-defined]
        elif isinstance(action.metavar, str) and action.metavar in _METAVARS:
            action.complete = _METAVARS[action.metavar]  # type: ignore[attr-defined]
        elif (action.dest, action.metavar) == ("name", "NAME"):  # of `aureon schema`
            action.choices = list(SCHEMAS)
    show(shtab.complete(parser, shell=options.shell))
    return OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments, those of commands too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from _actions(command)
        else:
            yield action
