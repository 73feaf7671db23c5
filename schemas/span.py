"""A span: one piece of a task's way, with when it began and ended, for traces."""

from msgspec import Struct


class Span(Struct, frozen=True, gc=False, kw_only=True):
    """One span of a trace."""

    trace_id: int
    """128 bits."""
    span_id: int
    """64 bits."""
    parent_id: int | None = None
    """None for the root of its trace."""
    name: str
    began: float
    ended: float
    """Both in seconds since the epoch."""
    attributes: dict[str, str | int | float | bool]
    failed: str = ""
    """Why, in a word; empty where it did not."""
    outside: bool = False
    """It was spent waiting for something outside this process."""
