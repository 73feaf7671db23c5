"""Every error that Aureon raises for its user, by what the user can do about it.

Three families: a bad record (mend the record), try again (the same step may go through later), outcome
unknown (it may or may not have happened; look before repeating it). A refusal is none of them: the setting,
not a record, has to change, and the message says how.
"""

import traceback
from pathlib import Path
from typing import Final

import msgspec

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
