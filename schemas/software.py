"""Which version of Aureon this is."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def software_version() -> str:
    """Name it, as it is kept with each decision: `aureon 0.1.0`; looking it up takes some milliseconds, once."""
    try:
        return f"aureon {version('aureon')}"
    except PackageNotFoundError:
        return "aureon unknown: not installed"
