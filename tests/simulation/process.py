"""A process of the simulation: a `Cell` that drives its lanes as `flows.lane_source` does, with one producer.

Every effect is a step of its own, so a schedule may kill or stop a process between any two of them. Answers are drawn
anew at every call: a replay decides differently.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from flows.cut import Cut, decode_cut, encode_cut, newest
from flows.lane import Lane, Message, id_key
from schemas.decision import DecisionKind
from schemas.ids import branch_id
from tests.simulation.world import (
    CANCELLED,
    CONVERGED,
    COPY_AFTER,
    DEAD,
    GLOBAL,
    INPUTS,
    MOVED,
    NEXT,
    NEXT_ROUND,
    RETRIED,
    RETRY,
    STARTED,
    TABLES,
    TOPICS,
    Entry,
    Folder,
    FollowUp,
    Index,
    Parsed,
    Row,
    Task,
    World,
    home,
    tables_of,
)

MAX_ROUNDS = 3
MAX_ATTEMPTS = 3
MAX_DEPTH = 1
TOO_LARGE = 100


class CrashError(Exception):
    """The process ends here, as with kill -9."""


class Slot:
    """One lane within a cell."""

    def __init__(self, number: int, lane: Lane, index: Index, folder: Folder) -> None:
        self.number = number
        self.lane = lane
        self.index = index
        self.folder = folder
        self.log_at = lane.log_start
        self.log_end = 0
        self.input_ends: dict[str, int] = {}
        self.reading = False
        self.read_at: dict[str, int] = {}
        self.in_flight: list[Message] = []
        self.snapshot: bytes = b""
        """The last cut that a snapshot was given."""
        self.committed: bytes = b""
        """The last one that was committed to the group."""
        self.last_row = -1
        """The offset of the last decision that rows followed from."""
        self.cuts: deque[tuple[Cut, int]] = deque()
        """Those taken since, each with the last row before it: the oldest is the newest whose rows are held."""


class Cell:
    """One process: drives its lanes, owns one producer and one batch of rows.

    Its producer is gapless and in order to each partition; what is queued at a kill is lost, what was delivered is a
    prefix of it.
    """

    def __init__(self, world: World, name: str, folders: dict[int, Folder]) -> None:
        self.world = world
        self.name = name
        self.queues: dict[tuple[str, int], deque[Entry | Task]] = {}
        self.rows: dict[str, list[Row]] = {table: [] for table in TABLES}
        """Those of the open epoch."""
        self.epoch_rows: dict[str, list[Row]] = {table: [] for table in TABLES}
        """Those of an epoch that has ended: they are committed beside the next one."""
        self.committing: deque[Callable[[], None]] = deque()
        self.held: dict[int, int] = {}
        """By lane, up to which decision the lake holds all rows, as far as this process knows."""
        self.newest: dict[tuple[str, int], int] = {}
        """By table and lane, the offset of the last row that was taken."""
        self.ending: deque[Callable[[], None]] = deque()
        self.staged: tuple[int, list[Row]] = (0, [])
        self.stopping = False
        self.ended = False
        self.cancels_before = frozenset(world.cancels)
        """Those that were ordered before this process began."""
        self.cancels = self.cancels_at_start()
        self.slots = [self.open(number, folder) for number, folder in folders.items()]

    def cancels_at_start(self) -> frozenset[tuple[str, str]]:
        """The topic is read to its end before anything is handed out."""
        return self.cancels_before

    def follow_cancels(self) -> None:
        """Read on; calls of tasks that are cancelled now are abandoned."""
        if len(self.cancels) < len(self.world.cancels):
            self.cancels = frozenset(self.world.cancels)
            for slot in self.slots:
                self.note_cancelled(slot.in_flight)

    def note_cancelled(self, messages: "list[Message]") -> None:
        """A task that is cancelled, or came of one that is, is asked nothing."""
        if self.cancels:
            for message in messages:
                if message.verdict is None and _covers(self.cancels, message.body):
                    message.verdict = "cancelled"

    def open(self, number: int, folder: Folder) -> Slot:
        """Resume a lane from the newer of what the folder and the group commit hold."""
        world = self.world
        committed = _decoded(world.group.get(number))
        cut = self.choose(_decoded(folder.cut), committed)
        index = self.open_index(number, folder, cut)
        unclean = not committed.orderly if committed is not None else bool(world.logs[number])
        lane = world.lane_class(
            number,
            INPUTS,
            index,
            cut,
            span=world.span,
            in_flight=world.in_flight,
            at_first=world.at_first,
            few=3,
            unclean=unclean,
        )
        slot = Slot(number, lane, index, folder)
        slot.cuts.append((msgspec.structs.replace(cut if cut is not None else lane.cut(), orderly=False), -1))
        slot.snapshot = encode_cut(slot.cuts[0][0])
        self.note_opened(slot)
        slot.log_end = len(world.logs[number])
        lane.check_log(world.log_begins[number], slot.log_end)
        slot.log_at = max(slot.log_at, world.log_begins[number])
        slot.input_ends = {kafka_topic: len(world.inputs[kafka_topic, number]) for kafka_topic in INPUTS}
        if unclean:
            world.unclean.setdefault(number, []).append(slot.input_ends)
        self._begin_reading(slot)
        return slot

    def choose(self, kept: Cut | None, committed: Cut | None) -> Cut | None:
        """Choose where to resume."""
        return newest(kept, committed)

    def note_opened(self, slot: Slot) -> None:
        """Before anything is handed out: from now on this life may end with messages under way."""
        self.commit_group(slot)

    def let_go(self, slot: Slot) -> None:
        """Leave a lane to another process while this one goes on: what is queued and staged of it goes its way."""
        self.slots.remove(slot)
        self.end_orderly(slot)

    def open_index(self, number: int, folder: Folder, cut: Cut | None) -> Index:
        """Open the index of ids."""
        del cut
        folder.take_index(self.world.copies.get(number))
        return Index(folder)

    def _begin_reading(self, slot: Slot) -> None:
        if slot.reading or slot.log_at < slot.log_end:
            return
        slot.lane.begin_reading(slot.input_ends)
        slot.reading = True
        for kafka_topic in INPUTS:
            slot.lane.check_input(kafka_topic, 0, slot.input_ends[kafka_topic], slot.log_end)
            slot.read_at[kafka_topic] = slot.lane.position(kafka_topic)

    # -- one step at a time

    def step(self) -> None:
        """Do one thing, whichever chance says."""
        if self.ending:
            self.ending.popleft()()
            return
        random = self.world.random.random
        if self.committing and random() < 0.3:
            self.committing.popleft()()
            return
        slots = self.slots
        if not slots:  # all its lanes are elsewhere, and what it has of them goes its way
            self.deliver_some(5) if random() < 0.8 else self.end_epoch()
            return
        slot = slots[int(random() * len(slots))] if len(slots) > 1 else slots[0]
        what = random()
        some = 1 + int(random() * 5)
        if what < self.world.chances.epoch:
            self.end_epoch()
        elif what < 0.3 and slot.log_at < len(self.world.logs[slot.number]):
            self.read_log(slot, min(some, self.world.chances.log))
        elif what < 0.45:
            self.read_inputs(slot, some)
        elif what < 0.6:
            self.hand_out(slot)
        elif what < 0.8 and slot.in_flight:
            self.work(slot, some)
        else:
            self.deliver_some(some)

    def run_through(self) -> None:
        """Do everything that there is to do once."""
        self.end_all()
        before = self.world.activity
        for slot in self.slots:
            self.read_log(slot, 1 << 30)
            self.read_inputs(slot, 1 << 30)
            self.hand_out(slot)
            self.work(slot, 1 << 30)
        for place in list(self.queues):
            self.deliver(place, 1 << 30)
        if self.world.activity != before or self.rows["rounds"]:
            self.end_epoch()
            self.end_all()

    def end_all(self) -> None:
        """Bring the end of an epoch behind, and its commit."""
        for steps in (self.ending, self.committing):
            while steps:
                steps.popleft()()

    def read_log(self, slot: Slot, limit: int) -> None:
        """Read some entries; from those that win all follows."""
        log = self.world.logs[slot.number]
        start = max(slot.log_at, self.world.log_begins[slot.number])
        end = min(len(log), start + limit)
        for offset in range(start, end):
            entry = log[offset]
            if entry is not None and slot.lane.log(offset, entry):
                self.follow(slot.number, offset, entry)
                slot.last_row = offset
        self.world.activity += end - slot.log_at
        slot.log_at = end
        self._begin_reading(slot)

    def follow(self, lane: int, offset: int, entry: Entry) -> None:
        """Send what follows from a decision: a function of the decision and its offset."""
        seal = self.world.sealer.seal
        for index, follow_up in enumerate(entry.follow_ups):
            cause = (lane, offset, index)
            said = follow_up.task
            task = Task(
                said.topic,
                said.logical_id,
                said.digest,
                said.generation,
                said.round_index,
                said.attempt,
                said.depth,
                said.priority,
                said.introduces,
                cause,
                seal(cause, said.task_id, follow_up.kafka_topic, follow_up.lane),
                False,
                said.poison,
                said.size,
            )
            self.send(follow_up.kafka_topic, follow_up.lane, task)
        for table in tables_of(entry):
            self.add_row(table, (lane, offset, entry))

    def add_row(self, table: str, row: Row) -> None:
        """Take a row for the next commit; one that was taken before comes again when a lane comes back."""
        if row[1] > self.newest.get((table, row[0]), -1):
            self.newest[table, row[0]] = row[1]
            self.rows[table].append(row)

    def classify(self, kafka_topic: str, lane: int, task: Task) -> Parsed:
        """Say what a message is, as intake does."""
        cause = task.cause
        if task.bad or not self.may_be(task) or (cause is not None and not self.seal_holds(kafka_topic, lane, task)):
            return Parsed(f"bad-{task.logical_id}-{task.digest}-{task.cause}", None, None, "bad_input")
        if cause is None and home(task.logical_id, self.world.lanes) != lane:
            return Parsed(task.task_id, None, None, "moved")
        key = None
        if cause is None or task.introduces:
            key = id_key(task.topic, task.logical_id, task.generation)
        return Parsed(task.task_id, cause, key, None)

    def may_be(self, task: Task) -> bool:
        """Only a redrive starts another generation, and that has to be the cluster's own."""
        return task.generation == 0 or task.cause is not None or task.redriven

    def seal_holds(self, kafka_topic: str, lane: int, task: Task) -> bool:
        """Tell whether a claimed cause is one."""
        if task.cause is None:
            return False
        return self.world.sealer.holds(task.seal, task.cause, task.task_id, kafka_topic, lane)

    def read_inputs(self, slot: Slot, limit: int) -> None:
        """Read some messages of each input, as far as there is room."""
        if not slot.reading:
            return
        world, lane, number = self.world, slot.lane, slot.number
        for kafka_topic in INPUTS:
            partition = world.inputs[kafka_topic, number]
            at, end = slot.read_at[kafka_topic], len(partition)
            if at >= end:
                continue
            room = min(limit, lane.room(kafka_topic))
            while room > 0 and at < end:
                record = partition[at]
                if record is not None:
                    if record.parsed is None:
                        record.parsed = self.classify(kafka_topic, number, record.task)
                    parsed, task = record.parsed, record.task
                    lane.read(
                        Message(
                            kafka_topic=kafka_topic,
                            offset=at,
                            task_id=parsed.task_id,
                            topic="" if parsed.verdict == "bad_input" else task.topic,
                            cause=parsed.cause,
                            key=parsed.key,
                            digest=task.digest,
                            priority=task.priority,
                            due_at=record.at + world.delay if kafka_topic == RETRY else 0.0,
                            size=1,
                            verdict=parsed.verdict,
                            body=task,
                        )
                    )
                    room -= 1
                at += 1
                world.activity += 1
            slot.read_at[kafka_topic] = at
            lane.pass_over(kafka_topic, at)
            source: Any = lane._inputs[kafka_topic]
            if len(source.window) > world.span:
                world.failures.append(f"a window of {len(source.window)} messages, with a span of {world.span}")

    def hand_out(self, slot: Slot) -> None:
        """Hand out; ask for the marks that have to come first. While one lane runs a message alone, no other does."""
        if not slot.reading or self.stopping:
            return
        others = 0
        if len(self.slots) > 1:
            first = next((s for s in self.slots if s.lane.wants_alone), slot)
            if first is not slot:
                return
            others = sum(s.lane.under_way for s in self.slots if s is not slot)
        handed, marks = slot.lane.hand_out(self.world.now, may_run_alone=not others)
        self.note_cancelled(handed)
        slot.in_flight.extend(handed)
        for message in marks:
            self.check_mark(slot.number, message)
            self.send_entry(
                slot.number,
                Entry(
                    kind=STARTED,
                    kafka_topic=message.kafka_topic,
                    offset=message.offset,
                    task_id=message.task_id,
                    level=message.level,
                    writer=self.name,
                ),
            )
        self.world.activity += len(handed) + len(marks)

    def check_mark(self, number: int, message: Message) -> None:
        """It goes up a level by an unclean end, and by none that was before it came."""
        world, kafka_topic, offset = self.world, message.kafka_topic, message.offset
        times = sum(ends[kafka_topic] > offset for ends in world.unclean.get(number, ()))
        if message.level > times:
            level = message.level
            world.failures.append(f"{kafka_topic}[{number}]@{offset} is at level {level} after {times} unclean ends")

    def work(self, slot: Slot, limit: int) -> None:
        """End some of the calls in flight, in any order."""
        flying = slot.in_flight
        random = self.world.random.random
        for _ in range(min(limit, len(flying))):
            at = int(random() * len(flying))
            message = flying[at]
            flying[at] = flying[-1]
            flying.pop()
            if message.body.poison and message.verdict is None:
                raise CrashError(f"{message.body.task_id} is poison")
            self.send_entry(slot.number, self.decide(slot.number, message))

    def decide(self, lane: int, message: Message) -> Entry:
        """Draw an answer; spell out all that follows; measure it."""
        task: Task = message.body
        kind, reason, follow_ups = self.answer(lane, message, task)
        entry = Entry(
            kind=kind,
            kafka_topic=message.kafka_topic,
            offset=message.offset,
            task_id=message.task_id,
            introduces=message.key is not None and message.verdict != "id_conflict",
            topic=task.topic,
            logical_id=task.logical_id,
            generation=task.generation,
            round_index=task.round_index,
            attempt=task.attempt,
            payload_digest=task.digest,
            reason=reason,
            follow_ups=follow_ups,
            writer=self.name,
        )
        return self.measured(entry)

    def measured(self, entry: Entry) -> Entry:
        """A decision that cannot be carried out must not win."""
        if any(f.task.size > TOO_LARGE for f in entry.follow_ups):
            entry.kind, entry.reason, entry.follow_ups = DEAD, "too_large", ()
        return entry

    def answer(self, lane: int, message: Message, task: Task) -> tuple[DecisionKind, str, tuple[FollowUp, ...]]:
        """What became of a message, by chance where the models are asked."""
        if message.verdict == "moved":
            to = home(task.logical_id, self.world.lanes)
            return MOVED, "moved", (FollowUp(message.kafka_topic, to, _next(task, introduces=True)),)
        if message.verdict is not None:
            return (CANCELLED if message.verdict == "cancelled" else DEAD), message.verdict, ()
        if _covers(self.cancels_before, task):
            self.world.failures.append(f"{task.task_id} was asked, and was cancelled before {self.name} began")
        chances, random = self.world.chances, self.world.random.random
        what = random()
        size = TOO_LARGE + 1 if chances.big and random() < chances.big else 1
        if what < chances.dead + chances.retry:
            if what < chances.dead or task.attempt + 1 >= MAX_ATTEMPTS:
                return DEAD, "failed", ()
            return RETRIED, "", (FollowUp(RETRY, lane, _next(task, attempt=task.attempt + 1)),)
        if what < 1.0 - chances.converge and task.round_index + 1 < MAX_ROUNDS:
            return NEXT_ROUND, "", (FollowUp(NEXT, lane, _next(task, round_index=task.round_index + 1, size=size)),)
        return CONVERGED, "", self._branches(task, size)

    def generation_of_branches(self, task: Task) -> int:
        """The first one: a task that branches has never branched before."""
        del task
        return 0

    def _branches(self, task: Task, size: int) -> tuple[FollowUp, ...]:
        chances, random = self.world.chances, self.world.random.random
        branches = []
        if task.depth < MAX_DEPTH and random() < chances.branch:
            for index in range(1 + int(random() * 2)):
                name = branch_id(task.logical_id, index)
                branch = Task(
                    TOPICS[int(random() * 2)],
                    name,
                    f"d{int(random() * 1000)}",
                    self.generation_of_branches(task),
                    depth=task.depth + 1,
                    introduces=True,
                    poison=bool(chances.poison_branch) and random() < chances.poison_branch,
                    size=size,
                    ancestors=(*task.ancestors, (task.topic, task.logical_id)),
                )
                branches.append(FollowUp(GLOBAL, home(name, self.world.lanes), branch))
        return tuple(branches)

    # -- the producer

    def send(self, kafka_topic: str, lane: int, task: Task) -> None:
        """Queue a message."""
        self._queue(kafka_topic, lane).append(task)

    def send_entry(self, lane: int, entry: Entry) -> None:
        """Queue an entry of the log."""
        self._queue("tasks.results", lane).append(entry)

    def _queue(self, kafka_topic: str, lane: int) -> "deque[Entry | Task]":
        place = (kafka_topic, lane)
        queue = self.queues.get(place)
        if queue is None:
            queue = self.queues[place] = deque()
        return queue

    def deliver_some(self, limit: int) -> None:
        """Deliver the first few messages of one queue."""
        places = [place for place, queue in self.queues.items() if queue]
        if places:
            self.deliver(places[int(self.world.random.random() * len(places))], limit)

    def deliver(self, place: tuple[str, int], limit: int) -> None:
        """Deliver the first messages of a queue."""
        queue = self.queues[place]
        for _ in range(min(limit, len(queue))):
            self.deliver_one(place, queue)

    def deliver_one(self, place: tuple[str, int], queue: "deque[Entry | Task]") -> None:
        """Deliver the first message of a queue; one that cannot be delivered stops the process."""
        item = queue[0]
        if isinstance(item, Entry):
            queue.popleft()
            offset = self.world.append_log(place[1], item)
            self.appended(place[1], offset, item)
        else:
            if item.size > TOO_LARGE:
                raise CrashError(f"{item.task_id} is too large for the broker")
            queue.popleft()
            self.put(place[0], place[1], item)

    def put(self, kafka_topic: str, lane: int, task: Task) -> None:
        """Append a message that follows from a decision."""
        self.world.append(kafka_topic, lane, task)

    def appended(self, lane: int, offset: int, entry: Entry) -> None:
        """The broker has acknowledged an entry of the log."""
        if self.world.tracing:
            follow_ups = [f"{f.kafka_topic}[{f.lane}] {f.task.task_id}" for f in entry.follow_ups]
            self.world.note(
                f"{self.name} log[{lane}]@{offset} {entry.kind.value} {entry.reason} "
                f"{entry.kafka_topic}@{entry.offset} {entry.topic}/{entry.task_id} -> {follow_ups}"
            )

    # -- the end of an epoch

    table_order: tuple[str, ...] = TABLES

    def end_epoch(self) -> None:
        """Snapshot, flush the sinks, and only then make the snapshot the place to resume from; each a step.

        Rows are committed beside the next epoch; that waits with its own until they are. So a snapshot holds the newest
        cut whose rows are known to be there.
        """
        self.ending.append(self._snapshot)

    def _snapshot(self) -> None:
        self.follow_cancels()
        for slot in self.slots:
            cut = slot.lane.cut()
            self.flush_index(slot, cut)
            self.drop_older(slot)
            self.commit_group(slot)
            if len(slot.cuts) > 1 and slot.cuts[-1][1] == slot.last_row:
                slot.cuts.pop()
            slot.cuts.append((cut, slot.last_row))
            self.drop_older(slot)
            slot.snapshot = self.resumable(slot)
        self.ending.append(self._flush)
        if self.rows["rounds"]:  # a sink that nothing was written to is not asked
            self.ending.append(self._begin_commit)
        self.ending.append(self._durable)

    def drop_older(self, slot: Slot) -> None:
        """Leave of the cuts the newest whose rows are all there, and those after it."""
        while len(slot.cuts) > 1 and self.rows_are_held(slot, slot.cuts[1][1]):
            slot.cuts.popleft()

    def rows_are_held(self, slot: Slot, last_row: int) -> bool:
        """Whether the lake holds all rows up to one."""
        return last_row <= self.held.get(slot.number, -1)

    def resumable(self, slot: Slot) -> bytes:
        """The newest cut from which all comes again that is not there yet."""
        return encode_cut(slot.cuts[0][0])

    def _begin_commit(self) -> None:
        if self.committing:
            self.committing.popleft()()
            self.ending.appendleft(self._begin_commit)
            return
        self.epoch_rows, self.rows = self.rows, {table: [] for table in TABLES}
        for table in self.table_order:
            if self.epoch_rows[table]:
                self.committing.append(self._stager(table))
                self.committing.append(self._logger(table))
        self.committing.append(self._note_held)
        if self.stopping:
            self.ending.appendleft(self._end_commit)

    def _end_commit(self) -> None:
        if self.committing:
            self.committing.popleft()()
            self.ending.appendleft(self._end_commit)

    def _note_held(self) -> None:
        for lane, offset, _ in self.epoch_rows["rounds"]:
            self.held[lane] = max(offset, self.held.get(lane, -1))

    def flush_index(self, slot: Slot, cut: Cut) -> None:
        """Make the index of ids durable, named by the log offset that it stands for."""
        del cut
        slot.index.flush(slot.lane.log_next)
        self.copy_index(slot)

    def copy_index(self, slot: Slot) -> None:
        """Leave a copy of it where all cells read, once it has grown."""
        copied = self.world.copies.get(slot.number)
        if slot.folder.index_next >= COPY_AFTER + (copied.index_next if copied is not None else 0):
            self.world.copies[slot.number] = slot.folder.copy()

    def commit_group(self, slot: Slot) -> None:
        """Commit the newest cut of an epoch before this one whose rows are there: its messages are delivered."""
        slot.committed = self.world.group[slot.number] = encode_cut(slot.cuts[0][0])

    def end_orderly(self, slot: Slot) -> None:
        """Commit the last cut once more, with the word that nothing that was under way brought this life down."""
        cut = msgspec.structs.replace(decode_cut(slot.committed), orderly=True)
        self.world.group[slot.number] = encode_cut(cut)

    def _flush(self) -> None:
        for place, queue in self.queues.items():
            if queue:
                self.deliver(place, 1 + int(self.world.random.random() * 8))
                self.ending.appendleft(self._flush)
                return

    def _stager(self, table: str) -> Callable[[], None]:
        def stage() -> None:
            self.staged = self.stage(table, self.epoch_rows[table])

        return stage

    def stage(self, table: str, rows: list[Row]) -> tuple[int, list[Row]]:
        """Write the file, invisible yet."""
        return self.world.lake.stage(table, rows)

    def _logger(self, table: str) -> Callable[[], None]:
        def log() -> None:
            if not self.world.lake.log(table, *self.staged):
                self.committing.appendleft(log)
                self.committing.appendleft(self._stager(table))

        return log

    def _durable(self) -> None:
        for slot in self.slots:
            folder = slot.folder
            if folder.cut is not None:
                folder.older.append(folder.cut)
            folder.cut = slot.snapshot
            if self.stopping:
                self.end_orderly(slot)
        if self.stopping:
            self.ended = True

    def stop(self) -> None:
        """Stop gracefully: hand out nothing more, deliver and read what is decided, snapshot once more."""
        while self.ending:
            self.ending.popleft()()
        self.stopping = True
        for slot in self.slots:
            slot.in_flight.clear()
        for place in list(self.queues):
            self.deliver(place, 1 << 30)
        for slot in self.slots:
            self.read_log(slot, 1 << 30)
        self.end_epoch()


def _decoded(data: bytes | None) -> Cut | None:
    return decode_cut(data) if data is not None else None


def _next(task: Task, **changes: Any) -> Task:
    """The same task further on."""
    return Task(
        task.topic,
        task.logical_id,
        task.digest,
        task.generation,
        changes.get("round_index", task.round_index),
        changes.get("attempt", 0),
        task.depth,
        task.priority,
        changes.get("introduces", False),
        None,
        "",
        False,
        task.poison and changes.get("introduces", False),
        changes.get("size", 1),
        task.ancestors,
    )


def _covers(cancelled: frozenset[tuple[str, str]], task: Task) -> bool:
    return (task.topic, task.logical_id) in cancelled or any(a in cancelled for a in task.ancestors)
