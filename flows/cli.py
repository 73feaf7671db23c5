"""The `aureon` command: it runs one of `flows.commands`, and imports no other."""

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence

from flows import logs
from flows.commands.arguments import flags_of, make_parser
from flows.settings import PREFIX, is_text
from flows.terminal import REFUSED, ended
from schemas.errors import RefusedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: those of the process, if left out.

    Returns:
        The exit code; `flows.terminal` says what each means.
    """
    return ended(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if bad := [n for n, argument in enumerate(given, 1) if not is_text(argument)]:
        raise RefusedError(f"argument {bad[0]}: it is no UTF-8")
    parser = make_parser()
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help(sys.stderr)
        return REFUSED
    _set_up_logging(options)
    gc.disable()  # of what is imported nothing becomes free: to look for it takes a tenth of the time
    module = importlib.import_module(f"flows.commands.{options.command}")
    gc.enable()
    code: int = module.main(options)
    return code


def _set_up_logging(options: argparse.Namespace) -> None:
    level = options.log_level or ("info" if options.verbose else "warning")
    form = flags_of(options).get("log_format") or os.environ.get(f"{PREFIX}LOG_FORMAT")
    logs.set_up(level, "json" if form == "json" else "text")  # what is neither, the settings refuse


if __name__ == "__main__":
    sys.exit(main())
