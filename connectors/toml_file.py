"""A file of TOML that a user wrote: read, and what is wrong with it told in the file's own words."""

import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from schemas.errors import RefusedError

X = TypeVar("X")

_AT = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN = "Object contains unknown field "
_MISSING = "Object missing required field "
_LITERAL = "Invalid enum value "


def read_file(path: Path, parse: Callable[[bytes], X], named_by: str = "") -> X:
    """Read a file.

    Args:
        path: where it is.
        parse: reads its text; what it refuses is told with the file's name.
        named_by: the variable that says where it is.

    Raises:
        RefusedError: it cannot be read, or something in it is wrong.
    """
    try:
        return parse(path.read_bytes())
    except OSError as error:
        hint = f"; {named_by} names it" if named_by else ""
        raise RefusedError(f"{path}: {error.strerror or error}{hint}") from None
    except RefusedError as error:
        raise RefusedError(f"{path.name}: {error}") from None


def parse_toml(text: bytes) -> dict[str, Any]:
    """Read the text of a file.

    Raises:
        RefusedError: it is no TOML.
    """
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise RefusedError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise RefusedError("not TOML: nested too deeply") from None
    except ValueError as error:  # also of a number with thousands of digits
        raise RefusedError(f"not TOML: {error}") from None


def place_and_problem(error: msgspec.ValidationError) -> tuple[str, str]:
    """Take apart what a validation error says: where, as in `node[0].id`, or "" for the whole; and what is wrong."""
    text = str(error)
    at = _AT.search(text)
    return ("", text) if at is None else (at[1], text[: at.start()])


def about_fields(problem: str, there_are: Iterable[str], values: str = "") -> str:
    """Word a problem as the author of the file knows things.

    Args:
        problem: what is wrong.
        there_are: the fields that there are, where one is unknown.
        values: the words that there are, where something else was one.
    """
    if problem.startswith(_UNKNOWN):
        problem = f"unknown field {problem.removeprefix(_UNKNOWN)}; there are: {', '.join(there_are)}"
    elif problem.startswith(_MISSING):
        problem = f"needs {problem.removeprefix(_MISSING)}"
    elif problem.startswith(_LITERAL) and values:
        problem = f"{problem.removeprefix(_LITERAL)} is none of {values}"
    return problem.replace("`", "")
