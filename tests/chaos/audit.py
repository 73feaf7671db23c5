"""What Kafka and the lake hold, message by message and row by row, against promises 1 and 2."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import one_lake
from connectors.topics import RESULTS
from flows.cluster import INPUTS
from one_lake import tables
from one_lake.query import session
from schemas.decision import Decision, DecisionKind, read_decision
from schemas.errors import BadRecordError
from schemas.one import TABLES
from schemas.task import TaskDescriptor
from tests.chaos.beside import Beside
from tests.chaos.log_reader import LogReader

Name = tuple[int, str, int]
"""(lane, Kafka topic, offset)."""
ROW = "lane BIGINT, decision_offset BIGINT, index BIGINT"
"""What names a row of a table of the lake."""


class Audit(msgspec.Struct):
    """Counts, each of which should be 0 but for the first ones."""

    messages: int = 0
    decisions: int = 0
    duplicates: int = 0
    records: int = 0
    branches: int = 0
    dead: int = 0
    poison: int = 0
    undecided: int = 0
    lost: int = 0
    two_winners: int = 0
    two_records: int = 0
    wrong_records: int = 0
    missing_rows: int = 0
    examples: list[str] = []

    def faults(self) -> int:
        """How many of the counts that should be 0 are made up of."""
        return self.undecided + self.lost + self.two_winners + self.two_records + self.wrong_records + self.missing_rows


class LogFollower:
    """Reads the inputs and the log of every lane as they grow, with a client in a process of its own.

    Args:
        brokers: where.
        lanes: how many.
        from_now: only what comes from now on.
    """

    def __init__(self, brokers: str, lanes: int, *, from_now: bool = False) -> None:
        self._reader = Beside(partial(LogReader, brokers))
        places = [(t, lane) for lane in range(lanes) for t in (*INPUTS, RESULTS)]
        ends = self._reader.ask(LogReader.ends, places) if from_now else [0] * len(places)
        self._positions = dict(zip(places, ends, strict=True))
        self.log_starts = {lane: self._positions[RESULTS, lane] for lane in range(lanes)}
        """The first entry of each lane's log that is looked at."""
        self.messages: dict[Name, bytes] = {}
        self.winners: dict[Name, tuple[int, Decision]] = {}
        self.appended_at: dict[Name, float] = {}
        """When each was, or else was read, in seconds since the epoch: the clock of whoever decided may be off."""

    def poll(self) -> None:
        """Read all to its end, or for some seconds where that does not come."""
        for message in self._reader.ask(LogReader.read, self._positions):
            self._take(*message)

    def _take(self, kafka_topic: str, lane: int, offset: int, at: float, value: bytes) -> None:
        self._positions[kafka_topic, lane] = offset + 1
        if kafka_topic != RESULTS:
            self.messages[lane, kafka_topic, offset] = value
            return
        decision = read_decision(value)
        if decision.kind is not DecisionKind.STARTED:
            name = (lane, decision.kafka_topic, decision.offset)
            self.winners.setdefault(name, (offset, decision))
            self.appended_at.setdefault(name, at)

    def close(self) -> None:
        """Let go."""
        self._reader.close()


def audit(follower: LogFollower, lake: Path) -> Audit:
    """Count all that went wrong."""
    result = Audit(messages=len(follower.messages), decisions=len(follower.winners))
    _, effective = _owners(follower)
    open_ = undecided(follower)
    result.undecided = len(open_)
    result.duplicates = len(follower.messages) - len(follower.winners) - len(open_)
    result.examples.extend(f"undecided: {name}" for name in open_)
    _check_decisions(result, follower, effective)
    _check_lake(result, effective, lake, follower.log_starts)
    return result


def undecided(follower: LogFollower) -> list[Name]:
    """Messages that have no decision and are no duplicate of one that has."""
    duplicates = _duplicates_by_cause(follower)
    owners, _ = _owners(follower)
    found = []
    for name, value in follower.messages.items():
        if name in follower.winners or name in duplicates:
            continue
        task = _task(value)
        owner = owners.get((name[0], task.topic, _id(task), task.generation)) if task is not None else None
        if owner is None or owner == name:
            found.append(name)
    return found


def _check_decisions(result: Audit, follower: LogFollower, effective: Mapping[Name, tuple[int, Decision]]) -> None:
    """All that follows has arrived, no round was decided twice, and every task has ended."""
    arrived = {_cause(value) for value in follower.messages.values()}
    rounds: Counter[Any] = Counter()
    ended: set[tuple[str, str]] = set()
    for (lane, _topic, _offset), (log_offset, decision) in effective.items():
        if decision.kind is not DecisionKind.MOVED and decision.logical_id and decision.reason != "id_conflict":
            key = (decision.topic, decision.logical_id, decision.generation, decision.round_index, decision.attempt)
            rounds[key] += 1
        for index in range(len(decision.follow_ups)):
            if (lane, log_offset, index) not in arrived:
                result.lost += 1
                result.examples.append(f"follow-up {lane}@{log_offset}.{index} of {decision.task_id} never arrived")
        if decision.kind in {DecisionKind.CONVERGED, DecisionKind.DEAD, DecisionKind.CANCELLED}:
            ended.add((decision.topic, decision.logical_id))
        result.dead += decision.kind is DecisionKind.DEAD
        result.poison += decision.reason == "poison"
    for key, count in rounds.items():
        if count > 1:
            result.two_winners += 1
            result.examples.append(f"two winning decisions: {key}")
    for value in follower.messages.values():
        task = _task(value)
        if task is not None and (task.topic, _id(task)) not in ended:
            result.lost += 1
            result.examples.append(f"never ended: {task.topic}/{_id(task)}")


def _check_lake(
    result: Audit, effective: Mapping[Name, tuple[int, Decision]], lake: Path, starts: Mapping[int, int]
) -> None:
    decisions = {(name[0], offset): decision for name, (offset, decision) in effective.items()}
    with one_lake.connect(lake) as db:
        db.execute("CREATE TABLE starts (lane BIGINT, start BIGINT)")
        db.executemany("INSERT INTO starts VALUES (?, ?)", list(starts.items()))
        looked_at = "JOIN starts USING (lane) WHERE decision_offset >= start"
        rounds = db.execute(f"SELECT lane, decision_offset FROM rounds {looked_at}").fetchall()  # noqa: S608
        records = db.execute(
            "SELECT lane, decision_offset, topic, logical_id, answer "  # noqa: S608
            f"FROM stored.records {looked_at}"
        ).fetchall()
        result.branches = db.execute("SELECT count(*) FROM branches").fetchall()[0][0]
    result.records = len(records)
    held = Counter(rounds)
    for place in decisions:
        if held[place] != 1:
            result.missing_rows += 1
            result.examples.append(f"{held[place]} rows of decision {place}")
    result.missing_rows += len(held.keys() - decisions.keys())
    seen: Counter[tuple[str, str]] = Counter()
    for lane, offset, topic, logical_id, answer in records:
        seen[topic, logical_id] += 1
        decision = decisions.get((lane, offset))
        told = decision.result.answer if decision is not None and decision.result is not None else None
        if decision is None or decision.kind is not DecisionKind.CONVERGED or told != answer:
            result.wrong_records += 1
            result.examples.append(f"record {topic}/{logical_id} is not its decision {lane}@{offset}")
    result.two_records += sum(1 for count in seen.values() if count > 1)
    converged = sum(d.kind is DecisionKind.CONVERGED for d in decisions.values())
    result.missing_rows += abs(converged - len(records))


def _owners(
    follower: LogFollower,
) -> tuple[dict[tuple[int, str, str, int], Name], dict[Name, tuple[int, Decision]]]:
    """Who owns each id, by the order of the log; and the winning decisions from which something follows."""
    owners: dict[tuple[int, str, str, int], Name] = {}
    effective = {}
    for name, (offset, decision) in sorted(follower.winners.items(), key=lambda w: (w[0][0], w[1][0])):
        if decision.introduces:
            key = (name[0], decision.topic, decision.logical_id, decision.generation)
            if owners.setdefault(key, name) != name:
                continue
        effective[name] = (offset, decision)
    return owners, effective


def _duplicates_by_cause(follower: LogFollower) -> set[Name]:
    found: set[Name] = set()
    seen: set[tuple[int, str, Any]] = set()
    for (lane, kafka_topic, offset), value in sorted(follower.messages.items()):
        cause = _cause(value)
        if cause is not None:
            if (lane, kafka_topic, cause) in seen:
                found.add((lane, kafka_topic, offset))
            seen.add((lane, kafka_topic, cause))
    return found


def _task(value: bytes) -> TaskDescriptor | None:
    try:
        return msgspec.json.decode(value, type=TaskDescriptor)
    except (msgspec.MsgspecError, BadRecordError):
        return None


def _id(task: TaskDescriptor | None) -> str:
    return task.logical_id if task is not None else ""


def _cause(value: bytes) -> tuple[int, int, int] | None:
    task = _task(value)
    if task is None or task.cause is None:
        return None
    cause = task.cause
    return cause.lane, cause.offset, cause.index


class PollingReader:
    """Looks at the lake again and again. What it saw once must stay, and unchanged: a hash tells of all of a row.

    A look reads what is new, so it costs no more where millions of rows are behind it.
    """

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._db = session()
        self._db.execute("SET threads = 1")  # whoever is looked at needs the others
        self._db.execute("SET enable_progress_bar = false")  # shown where DuckDB takes a process for somebody's shell
        self._files: dict[str, set[str]] = {name: set() for name in TABLES}
        for name in TABLES:
            self._db.execute(f"CREATE TABLE {name} ({ROW}, hash VARCHAR, file VARCHAR)")
        self.looks = 0
        self.vanished = 0

    def look(self, *, whole: bool = False) -> int:
        """Take the newest snapshot of each table; of files that were there before only their names, or all again.

        Returns:
            How many rows had vanished or changed, in any look.
        """
        for name in TABLES:
            if tables.is_lake(self._lake):
                files = set(tables.files(self._lake, name, tables.open_table(self._lake, name)))
                self._look_at(name, files, self._files[name] if whole else self._files[name] - files)
        self.looks += 1
        return self.vanished

    def _look_at(self, name: str, files: set[str], gone: set[str]) -> None:
        new = files - (self._files[name] - gone)
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE new ({ROW}, hash VARCHAR, file VARCHAR)")
        if new:
            index = "index" if "index" in TABLES[name].__struct_fields__ else "0"
            self._db.execute(
                f"INSERT INTO new SELECT lane, decision_offset, {index}, row_hash, filename "  # noqa: S608
                "FROM read_parquet($files, filename = true)",
                {"files": sorted(new)},
            )
        self._db.execute("CREATE OR REPLACE TEMP TABLE gone AS SELECT unnest($files) AS file", {"files": sorted(gone)})
        # files are written anew with the same rows in them
        self.vanished += self._count(
            f"FROM {name} SEMI JOIN gone USING (file) ANTI JOIN new USING (lane, decision_offset, index, hash)"
        )
        self._db.execute(f"DELETE FROM {name} WHERE file IN (FROM gone)")  # noqa: S608
        self._db.execute(f"INSERT INTO {name} FROM new")
        self._files[name] = files
        of_new = f"FROM {name} SEMI JOIN new USING (lane, decision_offset, index)"
        self.vanished += self._count(of_new) - self._count(
            f"FROM (SELECT DISTINCT lane, decision_offset, index {of_new})"
        )

    def _count(self, rows: str) -> int:
        ((count,),) = self._db.execute(f"SELECT count(*) {rows}").fetchall()
        return int(count)


class ReaderBeside:
    """The same in a process of its own: to open a large table takes a second, in which no thread beside it runs."""

    def __init__(self, lake: Path) -> None:
        self._process = Beside(partial(PollingReader, lake), nice=10)  # whoever is looked at goes first
        self._looking = self._process.submit(PollingReader.look)

    def look(self) -> None:
        """Have it look, unless it does; what it cannot read now it reads later."""
        if self._looking.done():
            self._looking = self._process.submit(PollingReader.look)

    def finish(self) -> int:
        """Look at all of it once more; returns how many rows had vanished or changed, in any look."""
        try:
            return self._process.submit(PollingReader.look, whole=True).result()
        finally:
            self._process.close()
