"""What the tables say of each other: each decision has its rows, each row its decision, each round its cause.

Two sets of rows are compared first by their number and the sum of their hashes, which takes no memory; only where these
differ are they joined, to name the rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import duckdb

from one_lake.verify.report import Fault, Finding
from schemas.one import QUALITY_GATE

_ROWS_AT_ONCE = 4_000_000
"""So many ids are kept at once when doubles are looked for."""


class _Pair(NamedTuple):
    """Rows of `rounds`, and the rows of another table that follow from the same decisions."""

    missing: Fault
    forged: Fault
    table: str
    kind: str
    told: str
    """What both say of a decision."""


_PAIRS = (
    _Pair(
        Fault.RECORD_MISSING,
        Fault.RECORD_FORGED,
        "records",
        "converged",
        "hash(coalesce(decision_hash, ''), topic, logical_id, generation, round_index, policy, answer, score)",
    ),
    _Pair(
        Fault.DEAD_LETTER_MISSING,
        Fault.DEAD_LETTER_FORGED,
        "dead_letters",
        "dead",
        "hash(coalesce(decision_hash, ''), topic, logical_id, generation, round_index)",
    ),
)

# Up to where `rounds` tells of a lane; the others may be ahead of it, by what is being committed.
_HELD = """
CREATE TEMP TABLE held AS
SELECT coalesce(cluster, '') AS cluster, lane, max(decision_offset) AS last FROM rounds GROUP BY ALL
"""
# Records that the quality gate refused are dead letters.
_REFUSED = """
CREATE TEMP TABLE refused AS
SELECT DISTINCT coalesce(cluster, '') AS cluster, lane, decision_offset FROM dead_letters WHERE reason = '{reason}'
"""
_OF_ROUNDS = """
CREATE OR REPLACE TEMP VIEW a AS
SELECT coalesce(t.cluster, '') AS cluster, t.lane, t.decision_offset, {told} AS told
FROM rounds t LEFT JOIN refused r
ON r.cluster = coalesce(t.cluster, '') AND r.lane = t.lane AND r.decision_offset = t.decision_offset
WHERE CASE WHEN kind = 'converged' AND r.lane IS NOT NULL THEN 'dead' ELSE kind END = '{kind}'
"""
_OF_TABLE = """
CREATE OR REPLACE TEMP VIEW b AS
SELECT coalesce(t.cluster, '') AS cluster, t.lane, decision_offset, {told} AS told
FROM {table} t JOIN held ON held.cluster = coalesce(t.cluster, '') AND held.lane = t.lane AND decision_offset <= last
"""
_SUM = "SELECT count(*), sum(hash(cluster, lane, decision_offset, told)) FROM {view}"
_ONLY_IN = "FROM {left} ANTI JOIN {right} USING (cluster, lane, decision_offset)"
_DIFFERENT = "FROM a JOIN b USING (cluster, lane, decision_offset) WHERE a.told <> b.told"

_BRANCHES = """
FROM branches t JOIN held ON held.cluster = coalesce(t.cluster, '') AND held.lane = t.lane AND decision_offset <= last
ANTI JOIN (SELECT * FROM rounds WHERE kind = 'converged') r
ON coalesce(r.cluster, '') = coalesce(t.cluster, '') AND r.lane = t.lane AND r.decision_offset = t.decision_offset
    AND coalesce(r.decision_hash, '') = coalesce(t.decision_hash, '')
    AND r.topic = t.parent_topic AND r.logical_id = t.parent_id
"""

# A round of another cell may be in the lake before the one that it follows from.
_CAUSES = """
FROM (
    SELECT coalesce(cluster, '') AS cluster, lane, decision_offset, cause_lane, cause_offset, cause_hash
    FROM rounds WHERE cause_hash IS NOT NULL
) t
JOIN held ON held.cluster = t.cluster AND held.lane = cause_lane AND cause_offset <= last
LEFT JOIN (SELECT coalesce(cluster, '') AS cluster, lane, decision_offset, decision_hash FROM rounds) c
ON c.cluster = t.cluster AND c.lane = cause_lane AND c.decision_offset = cause_offset
WHERE c.decision_hash IS DISTINCT FROM cause_hash
"""

_DOUBLES = """
FROM (
    SELECT topic, logical_id, {generation} count(*) AS times, min(lane) AS lane, min(decision_offset) AS decision_offset
    FROM {table} WHERE {condition} AND hash(topic, logical_id) % {parts} = {part}
    GROUP BY topic, logical_id {grouped} HAVING count(*) > 1
) t
"""


def verify_links(lake: duckdb.DuckDBPyConnection) -> Iterator[tuple[Finding, int]]:
    """Compare the tables of a lake.

    Args:
        lake: a connection with a view for each table: `records` with those that are superseded, `standing` without
            them, `superseded` with these.

    Yields:
        The first finding of each kind, and how many there are.
    """
    lake.execute(_HELD)
    lake.execute(_REFUSED.format(reason=QUALITY_GATE))
    for pair in _PAIRS:
        lake.execute(_OF_ROUNDS.format(told=pair.told, kind=pair.kind))
        lake.execute(_OF_TABLE.format(told=pair.told, table=pair.table))
        sums = [lake.execute(_SUM.format(view=view)).fetchall() for view in "ab"]
        if sums[0] != sums[1]:
            yield from _first(lake, pair.missing, "rounds", _ONLY_IN.format(left="a", right="b"))
            yield from _first(lake, pair.forged, pair.table, _ONLY_IN.format(left="b", right="a"))
            yield from _first(lake, Fault.ROW_DIFFERS, pair.table, _DIFFERENT, "a.")
    yield from _first(lake, Fault.BRANCH_FORGED, "branches", _BRANCHES, "t.")
    cause = "'it follows from ' || cause_lane || '@' || cause_offset"
    yield from _first(lake, Fault.CAUSE_DIFFERS, "rounds", _CAUSES, "t.", cause)
    yield from _doubles(lake, Fault.ID_TWICE, "standing", "true")
    yield from _doubles(lake, Fault.OWNER_TWICE, "rounds", "introduces", "generation, cluster")
    alone = "FROM superseded ANTI JOIN standing USING (topic, logical_id)"
    yield from _first(lake, Fault.SUPERSEDED_ALONE, "superseded", alone, "", "topic || '/' || logical_id")


def _first(
    lake: duckdb.DuckDBPyConnection, fault: Fault, table: str, rows: str, of: str = "", detail: str = "''"
) -> Iterator[tuple[Finding, int]]:
    """The first of some rows, and how many they are."""
    columns = f"{of}lane, {of}decision_offset"
    query = f"SELECT count(*), min_by(struct_pack(l := {of}lane, o := {of}decision_offset, d := {detail}), ({columns}))"
    ((count, first),) = lake.execute(f"{query} {rows}").fetchall()
    if count:
        yield Finding(fault, f"{table}[{first['l']}]@{first['o']}", first["d"]), count


def _doubles(
    lake: duckdb.DuckDBPyConnection, fault: Fault, table: str, condition: str, more: str = ""
) -> Iterator[tuple[Finding, int]]:
    ((rows,),) = lake.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchall()  # noqa: S608
    parts = rows // _ROWS_AT_ONCE + 1
    for part in range(parts):
        doubles = _DOUBLES.format(
            table=table,
            condition=condition,
            parts=parts,
            part=part,
            generation=f"{more}," if more else "",
            grouped=f", {more}" if more else "",
        )
        name = "records" if table == "standing" else table
        yield from _first(lake, fault, name, doubles, "t.", "topic || '/' || logical_id || ': ' || times || ' times'")
