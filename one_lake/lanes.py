"""What the lake holds of each lane: up to which decision, and which ids it owns."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from one_lake import tables
from one_lake.query import session
from schemas.errors import BadRecordError


class OwnerRow(NamedTuple):
    """Who owns an id: the first winning decision on it."""

    topic: str
    logical_id: str
    generation: int
    kafka_topic: str
    message_offset: int
    payload_digest: str
    decision_offset: int


class LaneVersions:
    """Tells what the lake holds of each lane where another process of the same Bytewax cluster writes to it."""

    def __init__(self, lake_dir: Path, cluster: str) -> None:
        self._lake_dir = lake_dir
        self._cluster = cluster
        self._rounds: tables.Followed | None = None
        self._now: DeltaTable | None = None
        self._looked_at = 0.0

    def held(self, lane: int) -> int:
        """As `LakeWriter.held`, as of a second ago; -1 where the lake cannot be read."""
        now = time.monotonic()
        with contextlib.suppress(DeltaError, OSError, BadRecordError):
            if self._rounds is None and tables.is_lake(self._lake_dir):
                self._rounds = tables.Followed(self._lake_dir, "rounds")
                self._now = self._rounds.read_on()
            elif self._rounds is not None and now - self._looked_at >= 1.0:
                self._now, self._looked_at = self._rounds.read_on(), now
        return -1 if self._now is None else held_in(self._now, self._cluster, lane)


def held_in(table: DeltaTable, cluster: str, lane: int) -> int:
    """The highest decision offset that a table holds of a lane; -1 if none."""
    # the second, where rows of this cluster were taken from another lake before it wrote here
    return max(tables.transaction_version(table, name) for name in (application(lane), taken(cluster, lane)))


def application(lane: int) -> str:
    """The application under whose name the log holds what is there of a lane."""
    return f"lane-{lane}"


def taken(cluster: str, lane: int) -> str:
    """The same of a lane whose rows a merge has taken from another lake."""
    return f"{cluster}/{application(lane)}"


# Rows from before they had a cluster are of the lake's own.
_OF_LANE = "lane = $lane AND coalesce(cluster, $cluster) = $cluster"
_OF_TIME = "decided_at >= to_timestamp($since) AND decided_at < to_timestamp($until)"
_SPENT = "coalesce(sum(calls), 0)::BIGINT, coalesce(sum(tokens), 0)::BIGINT, coalesce(sum(cost), 0)"


def owners(rows: str, cluster: str, lane: int, first: int, rows_per_batch: int) -> Iterator[list[OwnerRow]]:
    """The owners of ids of a lane in decision order, from one decision on.

    Args:
        rows: the query for all rows of `rounds`.
        cluster: of the lane.
        lane: its number.
        first: decision offset.
        rows_per_batch: so many at a time; DuckDB sorts, on disk if need be.
    """
    with session() as connection:
        connection.execute(
            f"SELECT {', '.join(OwnerRow._fields)} FROM ({rows}) "  # noqa: S608 - names of this module
            f"WHERE {_OF_LANE} AND decision_offset >= $first AND introduces ORDER BY decision_offset",
            {"lane": lane, "cluster": cluster, "first": first},
        )
        while found := connection.fetchmany(rows_per_batch):
            yield list(map(OwnerRow._make, found))


def spent_in(rows: str, cluster: str, lane: int, since: float, until: float) -> tuple[int, int, float]:
    """What the rounds of a lane took that were decided in a time: calls, tokens, money.

    Args:
        rows: the query for all rows of `rounds`.
        cluster: of the lane.
        lane: its number.
        since: seconds since the epoch.
        until: likewise, exclusive.
    """
    with session() as connection:
        of_lane = f"({rows}) WHERE {_OF_LANE}"
        query = f"SELECT {_SPENT} FROM {of_lane} AND {_OF_TIME}"  # noqa: S608 - conditions of this module
        told = {"lane": lane, "cluster": cluster, "since": since, "until": until}
        ((calls, tokens, cost),) = connection.execute(query, told).fetchall()
    return calls, tokens, cost


def offsets(rows: str, cluster: str, lane: int, above: int, condition: str) -> list[int]:
    """The decision offsets of a lane's rows above one."""
    with session() as connection:
        of_lane = f"({rows}) WHERE {_OF_LANE} AND decision_offset > $above"
        query = f"SELECT decision_offset FROM {of_lane} AND {condition}"  # noqa: S608 - conditions of this module
        found = connection.execute(query, {"lane": lane, "cluster": cluster, "above": above}).fetchall()
    return [offset for (offset,) in found]
