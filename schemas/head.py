"""What stands for all of a lake as of one moment."""

from msgspec import Struct


class Head(Struct, frozen=True, gc=False, kw_only=True):
    """The newest seal of the lake's `rounds`, which has a hash of all that was written before it."""

    cluster: str
    version: int
    """The version of `rounds` that the sealed commit made."""
    hash: str
    """sha256 of the seal, in hex."""
    key: str
    """The name of the key that signed it."""
    at: float
    """Seconds since the epoch."""
