"""Runs: what was decided again is kept beside the lake's tables, under a name, and never in them.

    lake/runs/<name>/run.json         what was chosen, of which moment, and by which rules: written once
                     tasks-*.parquet  the tasks, each with the part that it belongs to
                     part-*.parquet   a part that is done; and one without rows, which is there from the start

A part is written whole or not at all, and is a function of the run: so a run that was killed goes on with the parts
that are missing, and two processes that are at one part write the same.
"""

import datetime as dt
import io
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

import one_lake
from connectors.whole_files import ANYBODY, make_once, replace
from one_lake import tables
from one_lake.as_of import time_of
from one_lake.query import quoted
from schemas.decision import NO_OWNERS
from schemas.errors import UNREADABLE, RefusedError
from schemas.one import RunRow, arrow_schema

TASKS_A_PART = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PART = re.compile(r"part-(\d{6})\.parquet")
NO_ROWS = "part-none.parquet"
READ_AT_ONCE = 8192

# A task is known by its cluster, too: two lakes that were merged may both have answered an id.
_TASK = "coalesce(cluster, '') AS cluster, topic, logical_id, generation"
_PAYLOADS = f"""
SELECT {_TASK}, any_value(payload) AS payload FROM (
    SELECT cluster, topic, logical_id, generation, payload FROM stored.records
    UNION ALL SELECT cluster, topic, logical_id, generation, payload FROM stored.superseded
    UNION ALL SELECT cluster, topic, logical_id, generation, payload FROM stored.dead_letters
    WHERE payload IS NOT NULL AND reason NOT IN {NO_OWNERS}
) GROUP BY ALL
"""  # noqa: S608 - columns of this module, and reasons of the schema


class Selection(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which tasks; all that is said has to hold."""

    since: str = ""
    until: str = ""
    """One of its rounds was decided from this time on, and before that: as ISO 8601, UTC unless it says otherwise."""
    topics: tuple[str, ...] = ()
    query: str = ""
    """A query in SQL over the lake, with the columns topic and logical_id."""
    dead: bool = False
    """It ended as a dead letter."""


class Run(Struct, frozen=True, kw_only=True):
    """What a run is."""

    mode: str
    selection: Selection
    rules: dict[str, str]
    """By which it is decided: settings by name, those that count."""
    version: int
    """Of `rounds`: what was decided later is not looked at."""
    tasks: int
    software: str
    created_at: float
    """Seconds since the epoch."""

    @property
    def parts(self) -> int:
        """How many there are."""
        return -(-self.tasks // TASKS_A_PART)


def run_folder(lake_dir: str | Path, name: str) -> Path:
    """Where a run is.

    Raises:
        RefusedError: that is no name.
    """
    if not _NAME.fullmatch(name):
        raise RefusedError(f"{name!r}: expected letters, digits, dots, dashes and underscores, at most 100")
    return tables.runs_folder(lake_dir) / name


def read_run(lake_dir: str | Path, name: str) -> Run | None:
    """Read what a run is; None if there is none.

    Raises:
        RefusedError: what is there is none.
    """
    path = run_folder(lake_dir, name) / "run.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise RefusedError(f"{path}: no run: {error}; name another, or delete its folder") from None


def start_run(
    lake_dir: Path, name: str, mode: str, selection: Selection, rules: dict[str, str], software: str, now: float
) -> Run:
    """Choose the tasks of a run, or find what was chosen before under its name.

    Raises:
        RefusedError: there is no lake, a time or the query is none, or the run that is there is another one.
    """
    there = read_run(lake_dir, name)
    if there is None:
        folder = run_folder(lake_dir, name)
        version = tables.open_table(lake_dir, "rounds").version()
        folder.mkdir(parents=True, exist_ok=True)
        tasks = _choose(lake_dir, version, selection, _tasks_file(lake_dir, name, version))
        run = Run(
            mode=mode,
            selection=selection,
            rules=rules,
            version=version,
            tasks=tasks,
            software=software,
            created_at=now,
        )
        replace(folder / NO_ROWS, _no_rows(), ANYBODY)
        make_once(folder / "run.json", msgspec.json.format(msgspec.json.encode(run)) + b"\n", ANYBODY)
        there = read_run(lake_dir, name) or run
    if (there.mode, there.selection, there.rules) != (mode, selection, rules):
        differ = [
            what
            for what, old, new in (
                ("mode", there.mode, mode),
                ("selection", there.selection, selection),
                *((rule, there.rules.get(rule), rules.get(rule)) for rule in sorted({*there.rules, *rules})),
            )
            if old != new
        ]
        raise RefusedError(
            f"the run {name} was begun with another {', '.join(differ)}: name another run, or go on with "
            f"the rules that it had"
        )
    return there


def _no_rows() -> bytes:
    data = io.BytesIO()
    pq.write_table(arrow_schema(RunRow).empty_table(), data)
    return data.getvalue()


def _tasks_file(lake_dir: Path, name: str, version: int) -> Path:
    return run_folder(lake_dir, name) / f"tasks-{version}.parquet"


def _choose(lake_dir: Path, version: int, selection: Selection, path: Path) -> int:
    """Write down the tasks of a selection, in parts; returns how many they are."""
    conditions, values = ["true"], dict[str, object]()
    for name, comparison in (("since", ">="), ("until", "<")):
        text: str = getattr(selection, name)
        if text:
            conditions.append(f"decided_at {comparison} ${name}")
            values[name] = _time(text)
    if selection.topics:
        conditions.append("list_contains($topics, topic)")
        values["topics"] = list(selection.topics)
    tasks = f"SELECT DISTINCT {_TASK} FROM stored.rounds WHERE {' AND '.join(conditions)} AND topic <> ''"  # noqa: S608
    if selection.dead:
        dead = f"SELECT {_TASK} FROM stored.dead_letters"  # noqa: S608
        tasks = f"FROM ({tasks}) SEMI JOIN ({dead}) USING (cluster, topic, logical_id, generation)"
    draft = path.with_name(f".{secrets.token_hex(8)}")
    with one_lake.connect(lake_dir, as_of=str(version)) as lake:
        try:
            if selection.query:
                lake.execute(f"CREATE TEMP TABLE wanted AS SELECT topic, logical_id FROM ({selection.query})")  # noqa: S608
                tasks = f"FROM ({tasks}) SEMI JOIN wanted USING (topic, logical_id)"
        except duckdb.Error as error:
            told = str(error).partition("\n")[0]  # what follows shows what is made of the query
            raise RefusedError(f"SQL: {told}; expected a query with the columns topic and logical_id") from None
        try:
            lake.execute(
                "COPY (SELECT *, (row_number() OVER (ORDER BY cluster, topic, logical_id, generation) - 1) "  # noqa: S608
                f"// {TASKS_A_PART} AS part FROM ({tasks}) ORDER BY ALL) TO '{quoted(str(draft))}' (FORMAT parquet)",
                values,
            )
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        ((count,),) = lake.execute("SELECT count(*) FROM read_parquet($path)", {"path": str(path)}).fetchall()
    return int(count)


def _time(text: str) -> dt.datetime:
    try:
        return time_of(text)
    except ValueError:
        raise RefusedError(f"{text!r} is no time: expected 2026-11-27, 2026-11-27T15:00 or …+01:00") from None


def parts_done(lake_dir: Path, name: str) -> set[int]:
    """The parts of a run that are done."""
    found = (_PART.fullmatch(path.name) for path in run_folder(lake_dir, name).iterdir())
    return {int(match[1]) for match in found if match}


def keep_part(lake_dir: Path, name: str, part: int, data: bytes) -> None:
    """Keep a part that is done: a Parquet file."""
    replace(run_folder(lake_dir, name) / f"part-{part:06}.parquet", data, ANYBODY)


class Asked(Struct, frozen=True):
    """What is asked of the rounds `r` of a run's tasks, in SQL."""

    columns: tuple[str, ...]
    only: str = "true"
    joins: str = ""


def past_rounds(lake_dir: Path, name: str, run: Run, asked: Asked) -> Iterator[tuple[int, pa.Table]]:
    """Read the rounds of a run's tasks, part by part, those of the parts that are not done.

    Args:
        lake_dir: the lake.
        name: of the run.
        run: what it is.
        asked: which columns of which of them.

    Yields:
        The number of a part, and its rounds: what is asked and the task's `payload`, null where the lake has none yet;
        task after task, the rounds of each in order.
    """
    done = parts_done(lake_dir, name)
    listed = ", ".join(asked.columns)
    with one_lake.connect(lake_dir, as_of=str(run.version)) as lake:
        lake.execute("CREATE TEMP TABLE done (part BIGINT)")
        if done:
            lake.executemany("INSERT INTO done VALUES (?)", [(part,) for part in sorted(done)])
        path = quoted(str(_tasks_file(lake_dir, name, run.version)))
        tasks = f"(FROM read_parquet('{path}') ANTI JOIN done USING (part))"
        rows = lake.sql(
            f"""
            SELECT {listed}, p.payload, t.part FROM stored.rounds r
            JOIN {tasks} t ON t.cluster = coalesce(r.cluster, '') AND t.topic = r.topic
                AND t.logical_id = r.logical_id AND t.generation = r.generation
            LEFT JOIN ({_PAYLOADS}) p ON p.cluster = t.cluster AND p.topic = r.topic
                AND p.logical_id = r.logical_id AND p.generation = r.generation
            {asked.joins}
            WHERE {asked.only}
            ORDER BY t.part, t.cluster, r.topic, r.logical_id, r.generation, r.round_index, r.attempt,
                r.decided_at, r.lane, r.decision_offset
            """  # noqa: S608 - columns and paths of this package
        )
        yield from _by_part(rows.to_arrow_reader(READ_AT_ONCE))


def _by_part(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.Table]]:
    present = -1
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        parts = np.from_dlpack(batch["part"])
        rows = batch.drop_columns(["part"])
        starts = np.flatnonzero(np.diff(parts, prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], batch.num_rows], strict=True):
            number = int(parts[start])
            if number != present and gathered:
                yield present, pa.Table.from_batches(gathered)
                gathered = []
            present = number
            gathered.append(rows.slice(start, end - start))
    if gathered:
        yield present, pa.Table.from_batches(gathered)
