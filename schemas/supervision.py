"""What the supervision root is told and what it orders: cells, quarantines, alerts, and what it notes in the lake."""

import enum

from msgspec import Struct


class CellState(Struct, frozen=True, gc=False, kw_only=True):
    """How a cell is; it says so on `nodes.heartbeat` every two seconds."""

    cell: str
    """Its name, the same in all its lives."""
    process: str
    """Host and process id: another one after each start."""
    lanes: tuple[int, ...]
    """Those that it has."""
    under_way: int
    """Rounds whose calls are not all answered."""
    decided: int
    """Decisions that it has read back, since the process began."""
    at: float
    """When this was said, in seconds since the epoch."""
    ended: bool = False
    """It was stopped in order: this is its last word, and nobody is to miss it."""


class Stage(enum.StrEnum):
    """How far a node is kept out of a topic."""

    QUARANTINED = "quarantined"
    """It is not asked, but in a share of the rounds, to learn whether it is back."""
    PROBATION = "probation"
    """It is asked as any other, and one look away from quarantine."""
    FREE = "free"


class Quarantine(Struct, frozen=True, gc=False, kw_only=True):
    """The order that keeps a node out of a topic, or lets it in again."""

    node: str
    topic: str
    stage: Stage
    why: str
    since: float
    """Seconds since the epoch."""


class Alert(Struct, frozen=True, gc=False, kw_only=True):
    """Something that a person may want to look at."""

    kind: str
    """cell_silent, cell_back, node_unhealthy, node_back, quarantined, probation, returned, topic_dying"""
    subject: str
    text: str
    at: float
    """Seconds since the epoch."""


class Noted(Struct, frozen=True, gc=False, kw_only=True):
    """A row of `supervision`: what the root knew of one thing at one time, or an alert."""

    number: int
    """Of the look at which it was noted: milliseconds since the epoch, or one more than the look before, where the
    clock was set back."""
    noted_at: float
    """Seconds since the epoch; in SQL a time."""
    kind: str
    """cell, node, quarantine, affinity, topic, alert"""
    subject: str
    """Which cell or node."""
    topic: str
    state: str
    """In one word, where there is one."""
    detail: str
    """JSON, by kind."""


def quarantine_key(node: str, topic: str) -> str:
    """The part of a directive's key behind `quarantine/`: a node's name has no slash."""
    return f"{node}/{topic}"
