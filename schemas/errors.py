"""Every error that Aureon raises for its user, by what the user can do about it.

Three families: a bad record (mend the record), try again (the same step may go through later), outcome
unknown (it may or may not have happened; look before repeating it). A refusal is none of them: the setting,
not a record, has to change, and the message says how.
"""


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
