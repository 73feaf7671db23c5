"""The world of the simulation: Kafka logs, a lake and state folders, all in memory, with one source of chance.

    users -> inputs[kafka topic, lane] -> Cell(Lane, Lane, …) -> logs[lane] -> the same or another Cell
                       ^                                                          |
                       +---------- next rounds, retries, branches, moved <--------+-> lake

It does nothing by itself: users and faults are in `schedule`, processes in `process`.
"""

from random import Random

from msgspec import Struct

from flows.lane import CauseName, IntakeVerdict, Lane, Sealer, id_key
from schemas.decision import DecisionKind
from schemas.ids import Owner, home_lane

GLOBAL = "tasks.global"
HIGH = "tasks.global.high"
NEXT = "tasks.global.next"
RETRY = "tasks.retry"
INPUTS = {HIGH: 8, NEXT: 4, RETRY: 2, GLOBAL: 1}
TABLES = ("records", "branches", "dead_letters", "rounds")
"""In the order in which they are committed."""
TOPICS = ("math", "code")
COPY_AFTER = 3
"""A copy of the index of ids is taken that is so far ahead."""

CONVERGED, NEXT_ROUND, RETRIED = DecisionKind.CONVERGED, DecisionKind.NEXT_ROUND, DecisionKind.RETRY
DEAD, MOVED, STARTED = DecisionKind.DEAD, DecisionKind.MOVED, DecisionKind.STARTED
CANCELLED = DecisionKind.CANCELLED

_homes: dict[tuple[str, int], int] = {}


def home(logical_id: str, lanes: int) -> int:
    """The home lane, remembered: the same few ids come again and again."""
    lane = _homes.get((logical_id, lanes))
    if lane is None:
        lane = _homes[logical_id, lanes] = home_lane(logical_id, lanes)
    return lane


# -- what is on Kafka ----------------------------------------------------------------------------------------------


class Task(Struct):
    """What a message says."""

    topic: str
    logical_id: str
    digest: str
    generation: int = 0
    round_index: int = 0
    attempt: int = 0
    depth: int = 0
    priority: int = 5
    introduces: bool = False
    cause: CauseName | None = None
    seal: str = ""
    bad: bool = False
    poison: bool = False
    size: int = 1
    ancestors: tuple[tuple[str, str], ...] = ()
    """(topic, logical id) of the tasks that it came of."""
    redriven: bool = False
    """Sent again by the cluster itself, with its seal, as the next generation of an id that ended dead."""

    @property
    def task_id(self) -> str:
        """The round; an attempt is no part of it."""
        return f"{self.logical_id}:r{self.round_index}"


class Parsed(Struct):
    """A message as intake classifies it; it depends on the message and its place alone."""

    task_id: str
    cause: CauseName | None
    key: bytes | None
    verdict: IntakeVerdict | None


class Record(Struct):
    """A message with the time it was appended."""

    task: Task
    at: float
    parsed: Parsed | None = None


class FollowUp(Struct):
    """One message that follows from a decision, but for its cause."""

    kafka_topic: str
    lane: int
    task: Task


class Entry(Struct, kw_only=True):
    """One entry of a log."""

    kind: DecisionKind
    kafka_topic: str
    offset: int
    task_id: str
    introduces: bool = False
    topic: str = ""
    logical_id: str = ""
    generation: int = 0
    round_index: int = 0
    attempt: int = 0
    payload_digest: str = ""
    reason: str = ""
    level: int = 0
    follow_ups: tuple[FollowUp, ...] = ()
    writer: str = ""


def tables_of(entry: Entry) -> list[str]:
    """The tables that a decision has rows in: a function of the decision alone."""
    tables = ["rounds"]
    if entry.kind is CONVERGED:
        tables.append("records")
        if entry.follow_ups:
            tables.append("branches")
    elif entry.kind is DEAD:
        tables.append("dead_letters")
    return tables


Row = tuple[int, int, Entry]
"""Lane, log offset, and the decision itself."""


class Lake:
    """Tables of rows; one commit is atomic and carries one version a lane."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {table: [] for table in TABLES}
        self.versions: dict[str, dict[int, int]] = {table: {} for table in TABLES}
        self.commits = dict.fromkeys(TABLES, 0)
        self.failures: list[str] = []

    def stage(self, table: str, rows: list[Row]) -> tuple[int, list[Row]]:
        """Load the table, and drop what is there already."""
        versions = self.versions[table]
        return self.commits[table], [row for row in rows if row[1] > versions.get(row[0], -1)]

    def log(self, table: str, seen: int, rows: list[Row]) -> bool:
        """Try to commit once; False when anybody else has committed since the table was loaded."""
        if self.commits[table] != seen:
            return False
        self.commit(table, rows)
        return True

    def commit(self, table: str, rows: list[Row]) -> None:
        """Make rows visible."""
        if not rows:
            return
        self.commits[table] += 1
        self.rows[table].extend(rows)
        versions = self.versions[table]
        for lane, offset, entry in rows:
            versions[lane] = max(offset, versions.get(lane, -1))
            if table == "rounds":
                for other in tables_of(entry):
                    if self.versions[other].get(lane, -1) < offset:
                        self.failures.append(f"rounds holds {lane}@{offset} before {other} does")


# -- what survives a process ---------------------------------------------------------------------------------------


class Folder:
    """The state folder of a cell, as far as one lane is concerned."""

    def __init__(self) -> None:
        self.cut: bytes | None = None
        self.older: list[bytes] = []
        self.index: dict[bytes, Owner] = {}
        self.index_next = 0

    def copy(self) -> "Folder":
        """What a backup of it holds."""
        other = Folder()
        other.cut, other.older = self.cut, list(self.older)
        other.index, other.index_next = dict(self.index), self.index_next
        return other

    def take_index(self, copied: "Folder | None") -> None:
        """Go on with a copy of the index of ids, where that is well ahead."""
        if copied is not None and copied.index_next >= self.index_next + COPY_AFTER:
            self.index, self.index_next = dict(copied.index), copied.index_next


class Index:
    """The index of ids: what was flushed to the folder, and what was not yet."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._new: dict[bytes, Owner] = {}
        self.next_offset = folder.index_next

    def get(self, key: bytes) -> Owner | None:
        """Look an id up."""
        return self._new.get(key) or self._folder.index.get(key)

    def put(self, key: bytes, owner: Owner) -> None:
        """Note an owner, in memory."""
        self._new[key] = owner

    def flush(self, next_offset: int) -> None:
        """Make it durable."""
        self._folder.index.update(self._new)
        self._new.clear()
        self.next_offset = self._folder.index_next = max(self.next_offset, next_offset)


# -- the whole -----------------------------------------------------------------------------------------------------


class Chances(Struct):
    """How likely what is, in one schedule; drawn from its seed."""

    gap: float = 0.0
    converge: float = 0.5
    retry: float = 0.15
    dead: float = 0.05
    branch: float = 0.2
    big: float = 0.0
    epoch: float = 0.06
    poison_branch: float = 0.0
    log: int = 5
    """How many entries of the log are read at a time, at most."""


class World:
    """All that is outside the processes.

    Args:
        random: the only source of chance.
        lanes: their number.
        chances: how likely what is.
        span: of every lane.
        in_flight: of every lane.
        at_first: of every lane, in every life.
        delay: of the retries.
        lane_class: `Lane`, or a mutant.
        lake_class: `Lake`, or a mutant.
        tracing: keep a trace.
    """

    def __init__(
        self,
        random: Random,
        lanes: int,
        chances: Chances,
        *,
        span: int,
        in_flight: int,
        at_first: int,
        delay: float,
        lane_class: type[Lane] = Lane,
        lake_class: type[Lake] = Lake,
        tracing: bool = False,
    ) -> None:
        self.random = random
        self.lanes = lanes
        self.chances = chances
        self.span = span
        self.in_flight = in_flight
        self.at_first = at_first
        self.delay = delay
        self.lane_class = lane_class
        self.now = 1000.0
        self.inputs: dict[tuple[str, int], list[Record | None]] = {(t, p): [] for t in INPUTS for p in range(lanes)}
        self.logs: list[list[Entry | None]] = [[] for _ in range(lanes)]
        self.log_begins = [0] * lanes
        self.group: dict[int, bytes] = {}
        self.copies: dict[int, Folder] = {}
        """By lane, the index of ids as it lies in the lake's folder."""
        self.lake = lake_class()
        self.sealer = Sealer(b"simulation")
        self.cancels: list[tuple[str, str]] = []
        """The compacted topic: (topic, logical id) of tasks that are to end with all that comes of them."""
        self.later: list[tuple[float, str, int, Task]] = []
        """For one mutant: messages that somebody forwards when they are due."""
        self.activity = 0
        self.unclean: dict[int, list[dict[str, int]]] = {}
        """By lane: where its inputs ended each time that it was opened after an unclean end."""
        self.failures: list[str] = []
        self.tracing = tracing
        self.trace: list[str] = []

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now:7.0f}  {text}")

    def append(self, kafka_topic: str, lane: int, task: Task) -> int:
        """Append a message to an input."""
        partition = self.inputs[kafka_topic, lane]
        if self.chances.gap and self.random.random() < self.chances.gap:
            partition.extend([None] * (1 + int(self.random.random() ** 3 * 8)))
        partition.append(Record(task, self.now))
        self.activity += 1
        return len(partition) - 1

    def append_log(self, lane: int, entry: Entry) -> int:
        """Append an entry to a log."""
        log = self.logs[lane]
        if self.chances.gap and self.random.random() < self.chances.gap / 2:
            log.append(None)
        log.append(entry)
        self.activity += 1
        return len(log) - 1

    def rebuilt_index(self, lane: int, folder: Folder) -> None:
        """Fill a new folder's index of ids from the rows of `rounds`."""
        for row_lane, _, entry in self.lake.rows["rounds"]:
            if row_lane == lane and entry.introduces:
                key = id_key(entry.topic, entry.logical_id, entry.generation)
                folder.index[key] = Owner(entry.kafka_topic, entry.offset, entry.payload_digest)
        folder.index_next = self.lake.versions["rounds"].get(lane, -1) + 1


# -- who sends dead letters again ----------------------------------------------------------------------------------


class Redriver:
    """Sends what the lake says has ended dead, as the next generation of its id; any number may, at any time."""

    def __init__(self, world: World) -> None:
        self.world = world

    def send(self, row: Row) -> Task | None:
        """Send one, if it may be sent."""
        lane, _, entry = row
        record = self.world.inputs[entry.kafka_topic, lane][entry.offset]
        if record is None or not entry.topic or not self.may(lane, entry, record.task):
            return None
        task = Task(
            entry.topic,
            entry.logical_id,
            record.task.digest,
            entry.generation + 1,
            depth=record.task.depth,
            introduces=True,
            ancestors=record.task.ancestors,
            redriven=True,
        )
        self.world.append(GLOBAL, home(task.logical_id, self.world.lanes), task)
        return task

    def may(self, lane: int, entry: Entry, task: Task) -> bool:
        """Whether the owner of the id has ended with it, and not another message that claimed the same id.

        Its own decision introduces the id, or follows from one that took the owner a round or an attempt further.
        """
        del lane
        if entry.reason in {"bad_input", "id_conflict"}:
            return False
        if entry.introduces:
            return True
        if task.cause is None:
            return False
        log, offset = self.world.logs[task.cause[0]], task.cause[1]
        cause = log[offset] if offset < len(log) else None  # it may be forged
        return cause is not None and cause.kind in {NEXT_ROUND, RETRIED}
