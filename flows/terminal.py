"""What a program says on a terminal, and with which code it ends.

0    done; a run that was asked to stop and stopped
1    it failed; or some lines of a file were bad, and the good ones were sent
2    refused: a wrong argument or setting; the message gives the cure
130  Ctrl-C, where that is no graceful stop
"""

import contextlib
import errno
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from flows import logs
from schemas.errors import AureonError, RefusedError

OK: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT
PIPE_CLOSED: Final = 128 + signal.SIGPIPE

FULL = re.compile("database or disk is full|DiskFull")
"""What SQLite says of the ledger and the index of ids, and Bytewax of its recovery store."""


def ended(program: Callable[[], int]) -> int:
    """Run what a user has called; where it fails, say why, in one line if it can be told so.

    Returns:
        The exit code.
    """
    try:
        try:
            return program()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    except KeyboardInterrupt:
        say("aureon: interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last place where anything can be said about it
        return _report(error)


def _report(error: BaseException) -> int:
    """Say what went wrong in one line, or, if nobody expected it, with all that helps to find out why."""
    chain = list(_chain(error))
    expected = next((e for e in chain if isinstance(e, AureonError)), None)
    if expected is not None:
        say(f"aureon: {expected}")
        return REFUSED if isinstance(expected, RefusedError) else FAILED
    cause = next((e for e in chain if isinstance(e, OSError)), None)
    if cause is not None:
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "; make room and start again: nothing that was decided is lost" if full else ""
        say(f"aureon: {_os_error(cause)}{cure}")
        return FAILED
    if any(FULL.search(str(e)) for e in chain):
        say("aureon: the disk of the state folder (AUREON_STATE) is full; make room and start again: nothing is lost")
        return FAILED
    failed = f"failed: {type(chain[-1]).__name__}: {chain[-1]}"
    if logs.writes_json():
        logs.say_as_record(failed, logging.CRITICAL, error)
    else:
        traceback.print_exception(error)
        say(f"aureon: {failed}")
    return FAILED


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it; what Bytewax raises wraps what a step raised."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


def _os_error(error: OSError) -> str:
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename else said


def say(text: str) -> None:
    """Tell the user something that is no result, on stderr."""
    if logs.writes_json():
        logs.say_as_record(text)
        return
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def say_in_handler(text: str) -> None:
    """The same from a signal's handler: one that came in the middle of such a line cannot, and must not fail."""
    with contextlib.suppress(RuntimeError):
        say(text)


def command_name() -> str:
    """Say how this user calls the command: `aureon` where that is found, else by its place."""
    if shutil.which("aureon"):
        return "aureon"
    called = Path(sys.argv[0])
    if called.name == "aureon":
        return shlex.quote(os.path.relpath(called))
    return f"{shlex.quote(sys.executable)} -m flows.cli"


def show(text: str, end: str = "\n") -> None:
    """Print a result, or a part of it, on stdout."""
    sys.stdout.write(text + end)


def printable(text: str) -> str:
    """A text that others wrote in one line, without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
