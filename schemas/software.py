"""Which version of Aureon this is, and what it makes of what another one wrote; `VERSIONS.md` has the rule."""

from functools import cache

import msgspec
from msgspec import Struct

from schemas.errors import RefusedError


@cache
def software_version() -> str:
    """Name it, as it is kept with each decision: `aureon 0.1.0`; looking it up takes some milliseconds, once."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - a tenth of `aureon --help`

    try:
        return f"aureon {version('aureon')}"
    except PackageNotFoundError:
        return "aureon unknown: not installed"


class _Numbered(Struct, frozen=True):
    version: int = 1


_read_number = msgspec.json.Decoder(_Numbered).decode


def check_version(what: str, found: int, known: int) -> None:
    """See whether something that was read can be understood.

    Args:
        what: it is, for people.
        found: the number of its version.
        known: the number of the newest version that this software knows.

    Raises:
        RefusedError: a newer Aureon wrote it.
    """
    if found > known:
        raise RefusedError(
            f"{what} has version {found}, and this software reads {known}: a newer Aureon wrote it; upgrade this one"
        )


def version_in(document: bytes) -> int:
    """The number in an object of JSON, whatever else is in it; 1 where there is none, 0 where it is no such object."""
    try:
        return _read_number(document).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
