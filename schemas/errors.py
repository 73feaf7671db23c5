"""Every error that Aureon raises for its user, by what the user can do about it.

Three families: a bad record (mend the record), try again (the same step may go through later), outcome
unknown (it may or may not have happened; look before repeating it). A refusal is none of them: the setting,
not a record, has to change, and the message says how.
"""

import functools
import inspect
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

X = TypeVar("X")

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that are not what was expected: no JSON, of another type, no text, nested too deeply."""


class AureonError(Exception):
    """Base of all errors with a message for people."""


class BadRecordError(AureonError):
    """A record that is not what its schema says; the message names the record and the field."""


class TryAgainError(AureonError):
    """Something outside is away or busy; nothing has changed."""


class OutcomeUnknownError(AureonError):
    """Something was asked for and the answer never came; it may have happened."""


class RefusedError(AureonError):
    """Aureon will not start or go on like this; the message gives the cure."""


class LogMismatchError(AureonError):
    """The decision log and the input contradict each other: the broker lost what it had acknowledged."""


def failure_of(error: Exception) -> str:
    """Say in one line what went wrong in somebody else's code, and where."""
    told = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is that of the caller
    if not frames or isinstance(error, SyntaxError):  # which tells the place itself
        return told
    return f"{told} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


step_log = logging.getLogger("aureon.step")
"""Where `tells_errors` writes; silenced by who runs a flow in one process and tells the error itself."""


def tells_errors(kind: type[X]) -> type[X]:
    """Have what the public methods of a class raise logged: for classes whose methods Bytewax calls.

    In a cluster of several processes Bytewax loses the error of a step: every process ends with a panic that says
    "Send thread panic", and nothing else.
    """
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(kind, name, _telling(method))
    return kind


def _telling(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def told(*args: Any, **named: Any) -> Any:
        try:
            return method(*args, **named)
        except StopIteration:  # a source's way to say that it is at its end
            raise
        except AureonError as error:
            step_log.error("%s: %s", method.__qualname__, error)
            raise
        except Exception:
            step_log.exception("%s", method.__qualname__)
            raise

    return told
