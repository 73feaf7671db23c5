"""What has to be true when all is at rest, told from the logs and the lake alone, by nothing that the lane says.

It reads each log from its beginning, as the design's rules 1 to 4 do, with sets where the lane has numbers.
"""

from flows.lane import ALONE, CauseName
from tests.simulation.world import CANCELLED, CONVERGED, DEAD, MOVED, STARTED, TABLES, Entry, Record, World, tables_of

Name = tuple[str, int]
"""Kafka topic and offset, within a lane."""
Id = tuple[str, str, int]
"""Topic, logical id and generation."""
Round = tuple[str, str, int, int, int]
"""The same, with round and attempt."""


class Truth:
    """What the log of one lane says."""

    def __init__(self, entries: list[Entry | None]) -> None:
        self.winning: dict[Name, tuple[int, Entry]] = {}
        self.follows: dict[int, Entry] = {}
        self.owners: dict[Id, tuple[Name, str]] = {}
        self.marks: dict[Name, int] = {}
        for offset, entry in enumerate(entries):
            if entry is not None:
                self._take(offset, entry)

    def _take(self, offset: int, entry: Entry) -> None:
        name = (entry.kafka_topic, entry.offset)
        if name in self.winning:
            return
        if entry.kind is STARTED:
            self.marks[name] = max(self.marks.get(name, 0), entry.level)
            return
        owns = True
        if entry.introduces:
            key = (entry.topic, entry.logical_id, entry.generation)
            owner, digest = self.owners.setdefault(key, (name, entry.payload_digest))
            owns = owner == name
            if not owns and digest != entry.payload_digest:
                return  # a claim to an id that another payload owns counts for nothing: the conflict has to be told
        self.winning[name] = (offset, entry)
        if owns:
            self.follows[offset] = entry


class Check:
    """Checks a world at rest; what is wrong is added to its failures.

    Args:
        world: at rest.
        lost_input: the broker has lost messages, so some tasks may be gone, and only the rest can be exact.
        protect: nothing but poison has failed, so nothing else may have died of it.
    """

    def __init__(self, world: World, *, lost_input: bool, protect: bool) -> None:
        self.world = world
        self.fail = world.failures.append
        self.lost_input = lost_input
        self.protect = protect
        self.truths = [Truth(log) for log in world.logs]
        self.arrived: set[tuple[str, int, CauseName]] = set()

    def all(self, valid: set[Id]) -> None:
        """Check everything.

        Args:
            valid: the ids that users sent with a proper message.
        """
        for (kafka_topic, lane), partition in self.world.inputs.items():
            causes: set[CauseName] = set()
            for offset, record in enumerate(partition):
                if record is not None:
                    self._message(kafka_topic, lane, offset, record, causes)
            self.arrived.update((kafka_topic, lane, cause) for cause in causes)
        self._decisions(valid)
        for table in TABLES:
            self._table(table)
        self.world.failures.extend(self.world.lake.failures)

    def _message(self, kafka_topic: str, lane: int, offset: int, record: Record, causes: set[CauseName]) -> None:
        """Every message has one winning decision, or is a duplicate of one that has."""
        task, truth = record.task, self.truths[lane]
        where = f"{kafka_topic}[{lane}]@{offset} ({task.task_id})"
        cause, genuine = task.cause, False
        if cause is not None:
            genuine = self.world.sealer.holds(task.seal, cause, task.task_id, kafka_topic, lane)
            if genuine:
                if cause in causes or (self.lost_input and any(c[0] == cause[0] and c > cause for c in causes)):
                    return
                causes.add(cause)
                self._cause(kafka_topic, lane, cause, task.task_id, where)
        bad = task.bad or (cause is not None and not genuine)
        bad = bad or (task.generation > 0 and cause is None and not task.redriven)
        winning = truth.winning.get((kafka_topic, offset))
        if winning is None:
            owner = truth.owners.get((task.topic, task.logical_id, task.generation))
            introduces = not bad and (cause is None or task.introduces)
            if not introduces or owner is None or owner[0] == (kafka_topic, offset):
                self.fail(f"{where} is lost: no decision")
            elif owner[1] != task.digest:
                self.fail(f"{where} is in conflict with the owner of its id, and nobody is told")
            return
        entry = winning[1]
        if bad != (entry.reason == "bad_input"):
            self.fail(f"{where} is {'bad' if bad else 'good'} input, and was decided {entry.kind.value} {entry.reason}")
        elif not bad and entry.task_id != task.task_id:
            self.fail(f"{where} was decided as {entry.task_id}")

    def _cause(self, kafka_topic: str, lane: int, cause: CauseName, task_id: str, where: str) -> None:
        """What claims to follow from a decision does follow from it."""
        entry = self.truths[cause[0]].follows.get(cause[1])
        follow_up = entry.follow_ups[cause[2]] if entry is not None and cause[2] < len(entry.follow_ups) else None
        if (
            follow_up is None
            or follow_up.kafka_topic != kafka_topic
            or follow_up.lane != lane
            or follow_up.task.task_id != task_id
        ):
            self.fail(f"{where} follows from {cause}, which is no winning decision with it")

    def _decisions(self, valid: set[Id]) -> None:
        """Each round has one decision from which anything followed; each id ends once; what follows has arrived."""
        ended: dict[Id, int] = {}
        rounds: set[Round] = set()
        seen = set(valid)
        for lane, truth in enumerate(self.truths):
            for offset, entry in truth.follows.items():
                self._follow_ups(lane, offset, entry)
                seen.update((f.task.topic, f.task.logical_id, f.task.generation) for f in entry.follow_ups)
                if entry.reason == "poison":
                    self._poison(truth, lane, entry)
                if entry.kind is MOVED or entry.reason in {"bad_input", "id_conflict"}:
                    continue
                logical = (entry.topic, entry.logical_id, entry.generation)
                this = (*logical, entry.round_index, entry.attempt)
                if this in rounds:
                    self.fail(f"two decisions on round {this}")
                rounds.add(this)
                if entry.kind in {CONVERGED, DEAD, CANCELLED}:
                    ended[logical] = ended.get(logical, 0) + 1
        self._generations()
        for logical in seen | ended.keys():
            times = ended.get(logical, 0)
            if times > 1 or (times == 0 and not self.lost_input):
                self.fail(f"{logical} ended {times} times")

    def _generations(self) -> None:
        """An id has one record in all its lives, and lives again only where it has died."""
        records: dict[tuple[str, str], int] = {}
        lives: set[Id] = set()
        died: set[Id] = set()
        for truth in self.truths:
            for entry in truth.follows.values():
                logical = (entry.topic, entry.logical_id, entry.generation)
                if entry.kind is CONVERGED:
                    records[logical[:2]] = records.get(logical[:2], 0) + 1
                elif entry.kind is DEAD and entry.reason not in {"bad_input", "id_conflict"}:
                    died.add(logical)
                if entry.kind is not MOVED and entry.reason != "bad_input":
                    lives.add(logical)
        for (topic, logical_id), count in records.items():
            if count > 1:
                self.fail(f"{topic}/{logical_id} has {count} records")
        for topic, logical_id, generation in lives:
            if generation and (topic, logical_id, generation - 1) not in died and not self.lost_input:
                self.fail(f"{topic}/{logical_id} lives for the {generation + 1}. time, and has not died before")

    def _follow_ups(self, lane: int, offset: int, entry: Entry) -> None:
        """What a decision spells out has arrived."""
        for index, follow_up in enumerate(entry.follow_ups):
            cause = (lane, offset, index)
            if (follow_up.kafka_topic, follow_up.lane, cause) not in self.arrived and not self.lost_input:
                self.fail(f"{follow_up.task.task_id}, which follows from {cause}, never arrived")

    def _poison(self, truth: Truth, lane: int, entry: Entry) -> None:
        """Nothing dies as poison without its marks."""
        marks = truth.marks.get((entry.kafka_topic, entry.offset), 0)
        where = f"{entry.kafka_topic}[{lane}]@{entry.offset} ({entry.task_id})"
        if marks < ALONE:
            self.fail(f"{where} died as poison and never ran alone")
        if self.protect:
            record = self.world.inputs[entry.kafka_topic, lane][entry.offset]
            if record is not None and not record.task.poison:
                self.fail(f"{where} died as poison and is none: it ran with others")

    def _table(self, table: str) -> None:
        """Each row that follows from a decision is there once, and no other."""
        expected = {
            (lane, offset): entry
            for lane, truth in enumerate(self.truths)
            for offset, entry in truth.follows.items()
            if table in tables_of(entry)
        }
        found: set[tuple[int, int]] = set()
        for lane, offset, entry in self.world.lake.rows[table]:
            if (lane, offset) in found:
                self.fail(f"{table} has the row of {lane}@{offset} twice")
            elif expected.get((lane, offset)) is not entry:
                self.fail(f"{table} has a row of {lane}@{offset} that is not that of a winning decision")
            found.add((lane, offset))
        missing = sorted(expected.keys() - found)
        if missing:
            self.fail(f"{table} lacks the rows of {missing[:5]}")
