"""What a run came to, beside what was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from msgspec import Struct

import one_lake
from flows.comparing.equivalence import comparison_for, group
from one_lake.runs import Run, parts_done
from schemas.decision import NO_OWNERS
from schemas.errors import UNREADABLE, BadRecordError, RefusedError
from schemas.task import read_payload

_ROWS_AT_ONCE = 2000

# Of each task, the last round that it came to; `reached` are those that a run did not end before. What another message
# came to under the id of a task counts only where there is nothing else.
_LAST = f"""
SELECT coalesce(cluster, '') AS cluster, topic, logical_id, generation,
    arg_max(struct_pack(kind, answer, forced, confidence),
        (reason NOT IN {NO_OWNERS}, round_index, attempt, decided_at, lane, decision_offset))
        AS last,
    count(*) FILTER (kind NOT IN ('moved')) AS rounds, sum(calls)::BIGINT AS calls, sum(tokens)::BIGINT AS tokens,
    fsum(cost) AS cost
FROM {{rows}} GROUP BY ALL
"""  # noqa: S608 - reasons of the schema


class Totals(Struct, kw_only=True):
    """What tasks came to, and took."""

    records: int = 0
    forced: int = 0
    dead: int = 0
    open: int = 0
    """Not ended: in a run, those that would have another round."""
    rounds: int = 0
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    known: int = 0
    """Records of which the truth is known."""
    right: int = 0
    """Of these."""
    wrong_unforced: int = 0
    """Of these, wrong ones that were not forced."""


class RunReport(Struct, kw_only=True):
    """A run beside what was."""

    run: str
    mode: str
    is_complete: bool
    tasks: int
    outcomes: dict[str, int]
    """Of rounds."""
    changes: dict[str, int]
    """Tasks that ended otherwise, by `was -> is`; `answer` for records with another answer."""
    was: Totals
    now: Totals
    impossible: str = ""
    """Of the first round that could not be decided again: what was missing."""


def report(
    lake_dir: Path, name: str, run: Run, blobs: str, truths: Mapping[tuple[str, str], str] | None = None
) -> RunReport:
    """Compare a run with what was.

    Args:
        lake_dir: the lake.
        name: of the run.
        run: what it is.
        blobs: the blob store.
        truths: by topic and logical id, the true answer, where it is known; a topic "" stands for any.

    Raises:
        RefusedError: there is no lake.
    """
    done = parts_done(lake_dir, name)
    with one_lake.connect(lake_dir, blobs, as_of=str(run.version)) as lake:
        if not done:
            return RunReport(
                run=name,
                mode=run.mode,
                is_complete=not run.tasks,
                tasks=run.tasks,
                outcomes={},
                changes={},
                was=Totals(),
                now=Totals(),
            )
        lake.execute(f"CREATE TEMP VIEW again AS FROM run('{name}')")
        _compare(lake)
        outcomes = dict(lake.execute("SELECT outcome, count(*) FROM again GROUP BY ALL ORDER BY ALL").fetchall())
        changes = dict(
            lake.execute(
                "SELECT was.kind || ' -> ' || now.kind, count(*) FROM compared WHERE was.kind <> now.kind GROUP BY ALL "
                "UNION ALL SELECT 'answer', count(*) FROM compared WHERE was.kind = 'converged' AND now.kind = "
                "'converged' AND was.answer IS DISTINCT FROM now.answer HAVING count(*) > 0 ORDER BY ALL"
            ).fetchall()
        )
        impossible = lake.execute(
            "SELECT topic || '/' || logical_id || ': ' || note FROM again WHERE outcome = 'impossible' LIMIT 1"
        ).fetchone()
        told = RunReport(
            run=name,
            mode=run.mode,
            is_complete=len(done) == run.parts,
            tasks=run.tasks,
            outcomes=outcomes,
            changes=changes,
            was=_totals(lake, "was"),
            now=_totals(lake, "now"),
            impossible=impossible[0] if impossible is not None else "",
        )
        if truths:
            _mark(lake, truths, told)
    return told


def _compare(lake: duckdb.DuckDBPyConnection) -> None:
    tasks = "(SELECT DISTINCT coalesce(cluster, '') AS cluster, topic, logical_id, generation FROM again)"
    of_tasks = (
        f"(FROM stored.rounds r SEMI JOIN {tasks} t ON t.cluster = coalesce(r.cluster, '') AND t.topic = r.topic "
        "AND t.logical_id = r.logical_id AND t.generation = r.generation)"
    )
    reached = "(FROM again WHERE outcome <> 'not_reached')"
    lake.execute(f"CREATE TEMP TABLE last_was AS {_LAST.format(rows=of_tasks)}")
    lake.execute(f"CREATE TEMP TABLE last_now AS {_LAST.format(rows=reached)}")
    lake.execute(
        "CREATE TEMP VIEW compared AS SELECT topic, logical_id, generation, cluster, w.last AS was, n.last AS now "
        "FROM last_was w JOIN last_now n USING (cluster, topic, logical_id, generation)"
    )


def _totals(lake: duckdb.DuckDBPyConnection, which: str) -> Totals:
    row = lake.execute(
        "SELECT count(*) FILTER (last.kind = 'converged'), "  # noqa: S608
        "count(*) FILTER (last.kind = 'converged' AND last.forced), "
        "count(*) FILTER (last.kind = 'dead'), count(*) FILTER (last.kind IN ('next_round', 'retry', 'moved')), "
        f"sum(rounds)::BIGINT, sum(calls)::BIGINT, sum(tokens)::BIGINT, round(fsum(cost), 9) FROM last_{which}"
    ).fetchall()[0]
    records, forced, dead, still_open, rounds, calls, tokens, cost = row
    return Totals(
        records=records, forced=forced, dead=dead, open=still_open, rounds=rounds, calls=calls, tokens=tokens, cost=cost
    )


def _mark(lake: duckdb.DuckDBPyConnection, truths: Mapping[tuple[str, str], str], told: RunReport) -> None:
    """Count the records that are right, where the truth is known."""
    rows = lake.execute(
        """
        SELECT c.topic, c.logical_id, any_value(p.payload), any_value(CASE WHEN was.kind = 'converged' THEN
            struct_pack(answer := whole(was.answer), forced := was.forced) END),
            any_value(CASE WHEN now.kind = 'converged' THEN
            struct_pack(answer := whole(now.answer), forced := now.forced) END)
        FROM compared c JOIN (
            SELECT cluster, topic, logical_id, generation, payload FROM records
            UNION ALL SELECT cluster, topic, logical_id, generation, payload FROM superseded
            UNION ALL SELECT cluster, topic, logical_id, generation, payload FROM dead_letters
        ) p ON coalesce(p.cluster, '') = c.cluster AND p.topic = c.topic AND p.logical_id = c.logical_id
            AND p.generation = c.generation
        GROUP BY c.topic, c.logical_id, c.generation, c.cluster
        """
    )
    while some := rows.fetchmany(_ROWS_AT_ONCE):
        for topic, logical_id, payload, was, now in some:
            truth = truths.get((topic, logical_id), truths.get(("", logical_id)))
            if truth is not None:
                _count(told.was, payload, truth, was)
                _count(told.now, payload, truth, now)


def _count(totals: Totals, payload: str, truth: str, record: Mapping[str, Any] | None) -> None:
    if record is None:
        return
    try:
        view = read_payload(payload.encode())
    except BadRecordError:
        return
    totals.known += 1
    if group(view.answer_kind, [truth, record["answer"]], comparison_for(view)) == [0, 0]:
        totals.right += 1
    elif not record["forced"]:
        totals.wrong_unforced += 1


class _Truth(Struct, frozen=True):
    logical_id: str
    truth: str | float | int | bool
    topic: str = ""


def read_truths(path: Path) -> dict[tuple[str, str], str]:
    """Read true answers, one JSON object a line: `logical_id`, `truth`, and `topic` where ids are not unique.

    Raises:
        RefusedError: the file cannot be read.
        BadRecordError: a line is none; it is named.
    """
    found = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RefusedError(f"--truth: {path}: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = msgspec.json.decode(line, type=_Truth)
        except UNREADABLE as error:
            raise BadRecordError(f"{path}:{number}: {error}") from None
        found[told.topic, told.logical_id] = told.truth if isinstance(told.truth, str) else str(told.truth)
    return found


class RedriveReport(Struct, kw_only=True):
    """What became of dead letters that were sent again, by now."""

    run: str
    is_complete: bool
    redriven: int = 0
    left: dict[str, int] = {}
    """Those that were not sent, by why."""
    records: int = 0
    dead: int = 0
    open: int = 0


def redrive_report(lake_dir: Path, name: str, run: Run) -> RedriveReport:
    """Tell what became of a redrive, in the lake as it is now.

    Raises:
        RefusedError: there is no lake.
    """
    done = parts_done(lake_dir, name)
    told = RedriveReport(run=name, is_complete=len(done) == run.parts)
    if not done:
        return told
    with one_lake.connect(lake_dir) as lake:
        left = f"SELECT note, count(*) FROM run('{name}') WHERE outcome = 'left' GROUP BY ALL ORDER BY ALL"  # noqa: S608
        told.left = dict(lake.execute(left).fetchall())
        lives = f"""
            SELECT count(*), count(*) FILTER (x.logical_id IS NOT NULL),
                count(*) FILTER (x.logical_id IS NULL AND d.logical_id IS NOT NULL)
            FROM run('{name}') r
            LEFT JOIN stored.records x ON x.topic = r.topic AND x.logical_id = r.logical_id
                AND x.generation = r.generation + 1
            LEFT JOIN (SELECT DISTINCT topic, logical_id, generation FROM stored.dead_letters) d
            ON d.topic = r.topic AND d.logical_id = r.logical_id AND d.generation = r.generation + 1
            WHERE outcome = 'redriven'
        """  # noqa: S608 - a name that was checked
        ((told.redriven, told.records, told.dead),) = lake.execute(lives).fetchall()
    told.open = told.redriven - told.records - told.dead
    return told
