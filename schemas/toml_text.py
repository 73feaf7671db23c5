"""Files of settings in TOML: what is wrong with one, told in its own words."""

import re
import tomllib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from schemas.errors import RefusedError

_AT: Final = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN: Final = "Object contains unknown field "
_MISSING: Final = "Object missing required field "
_LITERAL: Final = "Invalid enum value "


def read_toml(text: bytes) -> dict[str, Any]:
    """Read a document.

    Raises:
        RefusedError: it is none; says where.
    """
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise RefusedError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise RefusedError("not TOML: nested too deeply") from None
    except ValueError as error:  # also of a number with thousands of digits
        raise RefusedError(f"not TOML: {error}") from None


def place_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """Take an error apart: the path of the field, "" for the whole, and what is wrong with it."""
    text = str(error)
    at = _AT.search(text)
    return (at[1], text[: at.start()]) if at is not None else ("", text)


def in_words(problem: str, known: Iterable[str], values: str = "") -> str:
    """Word a problem as the author of the file knows things.

    Args:
        problem: what is wrong.
        known: the fields that there are, where one is unknown.
        values: the words that there are, where something else was one.
    """
    if problem.startswith(_UNKNOWN):
        problem = f"unknown field {problem.removeprefix(_UNKNOWN)}; there are: {', '.join(known)}"
    elif problem.startswith(_MISSING):
        problem = f"needs {problem.removeprefix(_MISSING)}"
    elif problem.startswith(_LITERAL) and values:
        problem = f"{problem.removeprefix(_LITERAL)} is none of {values}"
    return problem.replace("`", "")
