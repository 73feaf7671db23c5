"""The lake as it was: at a version of `rounds`, or at a time.

What a commit brought is named by lane and decision offset, and its seal has both; so the rows that were there are told
from later ones wherever they are by now, also when the files and the entries of that time are long gone.
"""

import datetime as dt
from pathlib import Path

from msgspec import Struct

from one_lake import tables
from one_lake.seals import entries
from schemas.errors import RefusedError


class Moment(Struct, frozen=True, kw_only=True):
    """A moment in the life of a lake."""

    versions: dict[str, int]
    """By table, its version then; of a table that had none, -1."""
    at: float
    """When `rounds` was committed: seconds since the epoch."""
    bounds: dict[tuple[str, int], int]
    """By cluster and lane, the last decision offset that was there."""


def moment(lake_dir: str | Path, as_of: str) -> Moment:
    """Find a moment.

    Args:
        lake_dir: the lake.
        as_of: a version of `rounds`, or a time as ISO 8601 writes it, UTC unless it says otherwise.

    Raises:
        RefusedError: it is neither, or from before the first signed commit, or a version that has yet to come.
    """
    if not tables.is_lake(lake_dir):
        raise tables.no_lake(lake_dir)
    version, until = _read(as_of)
    found = None
    last = -1
    others: dict[str, int] = {}
    bounds: dict[tuple[str, int], int] = {}
    for entry in entries(lake_dir, "rounds"):
        last = entry.version
        if entry.signed is None:
            continue
        seal = entry.signed.seal
        if (version is not None and seal.version > version) or seal.at > until:
            break
        found = seal
        others |= {table: link.version for table, link in seal.others.items()}
        for lane in seal.lanes:
            place = lane.cluster or seal.cluster, lane.lane
            bounds[place] = max(lane.last, bounds.get(place, -1))
    if found is None:
        raise RefusedError(f"as of {as_of}: that is before the first signed commit of the lake {lake_dir}")
    if version is not None and version > last:
        raise RefusedError(f"as of {as_of}: the lake {lake_dir} is at version {last}")
    return Moment(versions={**others, "rounds": found.version}, at=found.at, bounds=bounds)


def names_as_of(lake_dir: str | Path, table: str, version: int) -> set[str]:
    """The names of the files that a table had got up to a version."""
    added: set[str] = set()
    for entry in entries(lake_dir, table):
        if entry.version > version:
            break
        added.update(entry.added)
    return added


def time_of(text: str) -> dt.datetime:
    """Read a time as ISO 8601 writes it, UTC unless it says otherwise.

    Raises:
        ValueError: it is none.
    """
    time = dt.datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)


def _read(as_of: str) -> tuple[int | None, float]:
    if as_of.isdecimal():
        return int(as_of), float("inf")
    try:
        return None, time_of(as_of).timestamp()
    except ValueError:
        raise RefusedError(
            f"as of {as_of!r}: expected a version of `rounds`, 42, or a time, 2026-11-27T15:00 (UTC) or "
            "2026-11-27T16:00+01:00"
        ) from None
