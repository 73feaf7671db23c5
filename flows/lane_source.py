"""The source of the flow, one partition a lane: it drives `flows.lane.Lane` while the lane is this cell's.

Bytewax lists its partitions once, and which lanes a cell has may change: every cell lists them all, and those that are
not its own lie dormant.

    dormant ─► opening ─► open ─► leaving ─► dormant
       ▲  (in a thread)    │                    ▲
       └───────────────────┘ lost               │ what was under way is decided, or its time is over
"""

import contextlib
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Message as ConsumedMessage
from msgspec import Struct

from connectors.told_errors import tells_errors
from flows.cut import Cut, decode_cut, encode_cut, newest
from flows.items import Decided, Handed, Rejected, Work
from flows.lane import Lane, Owners, Window, id_key, log_start
from flows.steps.intake import Reading, classify
from flows.stopping import Stopping
from schemas.decision import Decision, read_decision
from schemas.errors import BadRecordError, LogMismatchError, RefusedError, TryAgainError
from schemas.task import TaskDescriptor

log = logging.getLogger(__name__)

READ_BATCH = 200
IDLE_PAUSES_S = (0.001, 0.002, 0.005)
"""Pauses between polls that find nothing: short at first, since an answer is often close."""
POLLS_OF_EACH = 20
DORMANT_PAUSE_S = 0.05
OPENERS = 4
"""Lanes that are opened or closed at a time, beside those that work."""
OPEN_AGAIN_S = 1.0
TELL_AGAIN_S = 30.0
"""What keeps a lane from being opened is told so often while it stays the same."""
AT_FIRST = 16
"""So many messages at a time a lane begins with where others work already, and doubles that with each time that calls
take, so that what has waited for it does not keep the others waiting; TCP's slow start (RFC 5681) does the same. One
topic leaves a place to others where there are so many (`flows.lane.SHARE`): calls that hang hold up only their own."""
SETTLED_S = 2.0
"""So long after its opening a lane counts as one that works already: those of a start open at about the same time."""
LET_GO_LIMIT_S = 10.0
"""How long a stop waits for a lane's last commit."""

Item = tuple[str, Handed | Decided]


class Reader(Protocol):
    """Reads one partition of one Kafka topic, in order, from an offset on."""

    @property
    def position(self) -> int:
        """The next offset."""
        ...

    def poll(self, n: int) -> Sequence[ConsumedMessage]:
        """Take what is there, up to `n` messages; never waits."""
        ...

    def begin_offset(self) -> int:
        """The first offset that there is."""
        ...

    def end_offset(self) -> int:
        """The offset that the next message will get."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class OwnersIndex(Owners, Protocol):
    """The index of ids with its durable side."""

    def look_ahead(self, keys: Collection[bytes]) -> None:
        """Look up some ids that are about to be asked for."""
        ...

    def flush(self, next_offset: int) -> None:
        """Keep what was noted, for the log before `next_offset`."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class LaneConnections(Protocol):
    """What one lane needs of the outside; one object makes it from the settings."""

    def reader(self, kafka_topic: str, lane: int, offset: int) -> Reader:
        """Open one partition for reading."""
        ...

    def owners(self, lane: int, resume_from: int) -> OwnersIndex:
        """Open the index of ids of a lane that goes on from an offset of its log."""
        ...

    def committed_cut(self, lane: int) -> Cut | None:
        """The cut that was committed last."""
        ...

    def check_lake(self, lane: int, rows: int) -> None:
        """See that the lake has the rows of a lane that it is known to have had.

        Raises:
            TryAgainError: it has not.
        """
        ...

    def commit_cut(self, cut: Cut) -> None:
        """Commit a cut that is delivered, soon."""
        ...

    def commit_now(self, cut: Cut) -> None:
        """Commit the first cut of a lane's life here, or the last one; on the broker when this returns.

        Raises:
            TryAgainError: the broker does not take it.
        """
        ...

    def forget_cut(self, lane: int) -> None:
        """Commit nothing more of a lane."""
        ...

    def is_cancelled(self, task: TaskDescriptor) -> bool:
        """Tell whether a task, or one that it came of, is cancelled; known is all that was ordered before the start."""
        ...

    def flush(self) -> None:
        """Wait until all that was sent has arrived."""
        ...


class Ownership(Protocol):
    """Which lanes this cell has."""

    def tenure(self, lane: int) -> int:
        """Number the times that the cell was given a lane; 0 while the lane is not its own.

        Raises:
            AureonError: there is no telling any more.
        """
        ...

    def is_leaving(self, lane: int) -> bool:
        """Tell whether a lane that it has is to go to another cell, which waits for `left`."""
        ...

    def left(self, lane: int) -> None:
        """Say that nothing more is done in a lane that is leaving."""
        ...

    def expect(self, lane: int) -> None:
        """Say that a lane can be worked on in this process."""
        ...

    @property
    def is_sure(self) -> bool:
        """Tell whether what it has was confirmed not long ago; a process that was stopped may have lost all of it."""
        ...


class Solitude:
    """Sees to it that what runs apart has the whole process to itself: what ends a process takes all of it along."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[int, int] = {}
        self._holder: int | None = None

    def note(self, lane: Lane) -> None:
        """Note how much a lane has under way, after it has handed out."""
        with self._lock:
            self._under_way[lane.lane] = lane.under_way

    def forget(self, number: int) -> None:
        """A lane is not here any more."""
        with self._lock:
            self._under_way.pop(number, None)
            if self._holder == number:
                self._holder = None

    def ask(self, lane: Lane) -> tuple[bool, bool]:
        """Tell whether a lane may hand out, and whether it may run something apart."""
        with self._lock:
            self._under_way[lane.lane] = lane.under_way
            if lane.wants_alone:
                if self._holder is None:
                    self._holder = lane.lane
                mine = self._holder == lane.lane
                return mine, mine and not any(n for other, n in self._under_way.items() if other != lane.lane)
            if self._holder == lane.lane:
                self._holder = None
            return self._holder is None, False


class LaneParts(Struct, frozen=True):
    """What every partition of the source shares."""

    lanes: Callable[[], int]
    connections: Callable[[], LaneConnections]
    ownership: Callable[[], Ownership]
    reading: Callable[[int], Reading]
    opened: Callable[[int], None]
    """Told of a lane that was opened here, before anything of it is handed out."""
    drop: Callable[[int], None]
    """Abandons the calls of a lane."""
    stuck: Callable[[int], int]
    """Tells at a stop how many messages of a lane wait for calls that do not begin any more."""
    inputs: Mapping[str, int]
    results_topic: str
    stopping: Stopping
    span: int
    in_flight: int
    window_bytes: int
    rows_held: Callable[[int], int]
    """Tells up to which decision of a lane the lake is known to hold all rows that followed here; -1 if none."""
    keep_learned: Callable[[], None]
    """Keeps what was learned of decisions; told before each cut, for those before it are not read again."""
    places: dict[int, "LanePartition"] = {}
    """Where whoever wants to see how the lanes are finds them, by number."""


@tells_errors
class LaneSource(FixedPartitionedSource[Item, bytes]):
    """All lanes of the cluster.

    Unit of parallelism: the lane. Guarantee: what is emitted as decided is the log's first decision on a message and
    comes again after a crash, from the last snapshot on; sinks that follow have to know what they have. What is
    handed out comes again until its decision is on the log. A lane that another cell takes goes on there in the same
    way.
    """

    def __init__(self, parts: LaneParts) -> None:
        self._parts = parts
        self._solitude = Solitude()
        self._openers = ThreadPoolExecutor(OPENERS, thread_name_prefix="lanes")

    def list_parts(self) -> list[str]:
        """Name the lanes."""
        return [lane_key(lane) for lane in range(self._parts.lanes())]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> "LanePartition":
        """Make a place for a lane, which is opened where its snapshot or the last commit left it."""
        del step_id
        return LanePartition(self._parts, int(for_part), resume_state, self._solitude, self._openers)


def lane_key(lane: int) -> str:
    """The Bytewax key of a lane; keys are few, since each leaves a row in the recovery store for good."""
    return f"{lane:04d}"


@tells_errors
class LanePartition(StatefulSourcePartition[Item, bytes]):
    """One lane, open or dormant."""

    def __init__(
        self,
        parts: LaneParts,
        number: int,
        resume_state: bytes | None,
        solitude: Solitude,
        openers: ThreadPoolExecutor,
    ) -> None:
        self._parts = parts
        self._number = number
        self._solitude = solitude
        self._openers = openers
        self._reading = parts.reading(number)
        self._ownership = parts.ownership()
        self._ownership.expect(number)
        self._kept = resume_state or b""
        """The last cut of a life here."""
        self._tenure = 0
        self._opening: Future[OpenLane] | None = None
        self._open_again_at = 0.0
        self._refused, self._refused_at = "", 0.0
        self._lane: OpenLane | None = None
        self._opened_at = 0.0
        self._leaves_by: float | None = None
        self._closing: Future[None] | None = None
        self._idle = 0
        self.turned_at = time.monotonic()
        """When this lane last had its turn."""
        parts.places[number] = self

    @property
    def tenure(self) -> int:
        """As its ownership tells; 0 while the lane is not this cell's."""
        return self._ownership.tenure(self._number)

    @property
    def open_lane(self) -> "OpenLane | None":
        """The lane, while it is open; to be looked at from any thread."""
        return self._lane

    @property
    def is_settled(self) -> bool:
        """Tell whether the lane has been open for a while."""
        return self._lane is not None and time.monotonic() - self._opened_at > SETTLED_S

    def next_batch(self) -> list[Item]:
        """Go on with the lane where it is open; open it, or leave it, where that has changed."""
        self.turned_at = time.monotonic()
        tenure = self._ownership.tenure(self._number)
        lane = self._lane
        if lane is None:
            batch = self._dormant(tenure)
        elif tenure != self._tenure:
            log.warning("lane %d was lost to another cell", self._number)
            self._let_go(lane, orderly=False)
            batch = []
        elif self._has_left(lane):
            self._let_go(lane, orderly=True)
            batch = []
        else:
            batch = lane.next_batch(may_hand_out=self._leaves_by is None and self._ownership.is_sure)
        self._idle = 0 if batch else self._idle + 1
        return batch

    def _dormant(self, tenure: int) -> list[Item]:
        """Do what is to be done while the lane is not open.

        Raises:
            StopIteration: nothing is, and the cell is to end.
            AureonError: the lane cannot be opened.
        """
        if self._closing is not None:
            if not self._closing.done():
                return []
            self._closing.result()
            self._closing = None
        if self._opening is not None:
            return self._take_opened(self._opening, tenure)
        if self._parts.stopping.asked:
            raise StopIteration
        if self._ownership.is_leaving(self._number):
            self._ownership.left(self._number)
        elif tenure and time.monotonic() >= self._open_again_at:
            self._tenure = tenure
            kept = decode_cut(self._kept) if self._kept else None
            at_first = AT_FIRST if any(place.is_settled for place in list(self._parts.places.values())) else None
            self._opening = self._openers.submit(OpenLane, self._parts, self._reading, kept, self._solitude, at_first)
        return []

    def _take_opened(self, opening: "Future[OpenLane]", tenure: int) -> list[Item]:
        if not opening.done():
            return []
        self._opening = None
        try:
            lane = opening.result()
        except TryAgainError as error:
            self._open_again_at = time.monotonic() + OPEN_AGAIN_S
            if str(error) != self._refused or time.monotonic() - self._refused_at >= TELL_AGAIN_S:
                self._refused, self._refused_at = str(error), time.monotonic()
                log.warning("lane %d: %s; trying again", self._number, error)
            return []
        self._lane, self._opened_at, self._leaves_by = lane, time.monotonic(), None
        if tenure != self._tenure:
            self._let_go(lane, orderly=False)
            return []
        return [(lane_key(self._number), Decided(self._number, [], [], begins=True))]

    def _has_left(self, lane: "OpenLane") -> bool:
        """Tell whether a lane that is to go has nothing under way any more, or no more time."""
        if not self._ownership.is_leaving(self._number):
            self._leaves_by = None
            return False
        now = time.monotonic()
        if self._leaves_by is None:
            self._leaves_by = now + self._parts.stopping.drain_s
        return not lane.under_way or now >= self._leaves_by

    def _let_go(self, lane: "OpenLane", *, orderly: bool) -> None:
        """Close the lane; what is still under way is abandoned, and handed out again by whoever has it next."""
        self._kept, self._lane, self._leaves_by = encode_cut(lane.delivered), None, None
        self._parts.drop(self._number)
        self._solitude.forget(self._number)
        self._closing = self._openers.submit(lane.close, orderly=orderly)

    def next_awake(self) -> datetime | None:
        """At once while there is something to do."""
        if not self._idle:
            return None
        if self._lane is None and self._opening is None and self._closing is None:
            pause = DORMANT_PAUSE_S
        else:
            pause = IDLE_PAUSES_S[min(self._idle // POLLS_OF_EACH, len(IDLE_PAUSES_S) - 1)]
        return datetime.now(UTC) + timedelta(seconds=pause)

    def snapshot(self) -> bytes:
        """Take the cut; of a lane that is not open, keep the one that there was."""
        return self._lane.snapshot() if self._lane is not None else self._kept

    def close(self) -> None:
        """Let go of the lane; whether the end was an orderly one is committed."""
        self._parts.places.pop(self._number, None)
        lane, self._lane = self._lane, None
        if self._opening is not None and not self._opening.cancel():
            with contextlib.suppress(Exception):  # the flow ends; what kept it from opening matters no more
                lane = self._opening.result(LET_GO_LIMIT_S)
        if lane is None:
            return
        closing = self._openers.submit(lane.close, orderly=lane.has_ended)
        with contextlib.suppress(TimeoutError):  # the broker is away; the next life marks what it hands out
            closing.result(LET_GO_LIMIT_S)


class OpenLane:
    """A lane that is this cell's: its readers, its index of ids, its state machine.

    Args:
        parts: what all lanes share.
        reading: which lane, and how its messages are read.
        kept: the cut of the last snapshot here.
        solitude: of the process.
        at_first: how many messages are handed out at a time at first; None for as many as ever.

    Raises:
        TryAgainError: the broker does not answer, or the lane is another cell's by now.
        LogMismatchError: the broker does not have what it had acknowledged.
        RefusedError: another process has the folder of the lane.
    """

    def __init__(
        self, parts: LaneParts, reading: Reading, kept: Cut | None, solitude: Solitude, at_first: int | None
    ) -> None:
        self._parts = parts
        self._key = lane_key(reading.lane)
        self._number = reading.lane
        self._solitude = solitude
        self._connections = connections = parts.connections()
        self._reading = reading
        with contextlib.ExitStack() as opened:
            self._open(connections, kept, at_first, opened)
            opened.pop_all()

    def _open(
        self, connections: LaneConnections, kept: Cut | None, at_first: int | None, opened: contextlib.ExitStack
    ) -> None:
        parts, number = self._parts, self._number
        committed = connections.committed_cut(number)
        cut = newest(kept, committed)
        if cut is not None and cut.lane != number:
            raise LogMismatchError(f"the snapshot of lane {number} is that of lane {cut.lane}")
        if cut is not None and cut.rows >= 0:
            connections.check_lake(number, cut.rows)
        self._owners = connections.owners(number, cut.resume_from if cut is not None else 0)
        opened.callback(self._owners.close)
        self._log = connections.reader(parts.results_topic, number, log_start(cut, self._owners))
        opened.callback(self._log.close)
        self._log_end = self._log.end_offset()
        self._lane = Lane(
            number,
            parts.inputs,
            self._owners,
            cut,
            span=parts.span,
            in_flight=parts.in_flight,
            at_first=at_first,
            window_bytes=parts.window_bytes,
            unclean=not committed.orderly if committed is not None else self._log_end > 0,
        )
        self._lane.check_log(self._log.begin_offset(), self._log_end)
        # asked for after the end of the log, and before anything that follows from it is sent
        self._inputs: dict[str, Reader] = {}
        for kafka_topic in parts.inputs:
            reader = connections.reader(kafka_topic, number, self._lane.position(kafka_topic))
            opened.callback(reader.close)
            self._inputs[kafka_topic] = reader
        self._holds = {t: (reader.begin_offset(), reader.end_offset()) for t, reader in self._inputs.items()}
        self.delivered = msgspec.structs.replace(cut if cut is not None else self._lane.cut(), orderly=False)
        """The last cut before which all is delivered."""
        self._last_row = -1
        """The offset of the last decision here that rows followed from."""
        self._rows_before = self.delivered.rows
        """The same of whoever had the lane before."""
        self._cuts = deque([(self.delivered, self._last_row)])
        """The newest cut whose rows are in the lake, and those taken since; each with the last row before it."""
        parts.opened(number)
        # before anything is handed out: from now on this life may end with messages under way
        connections.commit_now(self.delivered)
        opened.callback(connections.forget_cut, number)
        self.reads_inputs = False
        """Its log was read to where it ended when the lane was opened."""
        self._final_end: int | None = None
        self._begin_reading_at_end_of_log()

    @property
    def under_way(self) -> int:
        """How many messages are handed out and undecided."""
        return self._lane.under_way

    @property
    def log_position(self) -> int:
        """The first entry of the log that was not read."""
        return self._lane.log_next

    @property
    def duplicates(self) -> int:
        """Messages of this life here that were dropped, since another one had their cause or their id."""
        return self._lane.duplicates

    def windows(self) -> dict[str, Window]:
        """How far each input is."""
        return self._lane.windows()

    @property
    def has_ended(self) -> bool:
        """Tell whether a graceful stop has come to its end here."""
        return self._final_end is not None

    def _begin_reading_at_end_of_log(self) -> None:
        if self.reads_inputs or self._log.position < self._log_end:
            return
        self._lane.begin_reading({kafka_topic: end for kafka_topic, (_, end) in self._holds.items()})
        self.reads_inputs = True
        for kafka_topic, (begin, end) in self._holds.items():
            self._lane.check_input(kafka_topic, begin, end, self._log_end)

    def next_batch(self, *, may_hand_out: bool) -> list[Item]:
        """Read what is there, and emit what was decided and what goes next.

        Raises:
            StopIteration: the cell is to end, and all is read.
        """
        batch: list[Item] = []
        decided = self._read_log()
        if decided.decisions:
            batch.append((self._key, decided))
        if self._parts.stopping.asked:
            if self._is_drained() and not batch:
                raise StopIteration
        elif self.reads_inputs and may_hand_out:
            self._read_inputs()
            handed = self._hand_out(time.time())
            if handed.messages or handed.marks:
                batch.append((self._key, handed))
        return batch

    def _hand_out(self, now: float) -> Handed:
        may_hand_out, may_run_alone = self._solitude.ask(self._lane)
        messages, marks = self._lane.hand_out(now, may_run_alone=may_run_alone) if may_hand_out else ([], [])
        self._solitude.note(self._lane)
        for message in messages:
            body = message.body
            if isinstance(body, Rejected) and body.is_own:
                raise RefusedError(f"{body.error}: a newer Aureon wrote it; upgrade this one")
            if message.verdict is None and isinstance(body, Work) and self._connections.is_cancelled(body.task):
                message.verdict = "cancelled"
        return Handed(messages, marks, now)

    def _read_log(self) -> Decided:
        decided = Decided(self._number, [], [])
        entries: list[tuple[int, bytes, Decision]] = []
        for record in self._log.poll(READ_BATCH):
            offset = record.offset() or 0
            value = record.value() or b""
            try:
                entries.append((offset, value, read_decision(value)))
            except BadRecordError as error:
                place = self._parts.results_topic, self._number, offset
                log.warning("%s[%d]@%d: %s; ignored", *place, error, extra={"lane": self._number})
        if not self.reads_inputs:  # later on, who introduces an id is under way, and nobody asks who owns it
            self._owners.look_ahead(
                [id_key(d.topic, d.logical_id, d.generation) for _, _, d in entries if d.introduces]
            )
        for offset, value, decision in entries:
            if self._lane.log(offset, decision):
                self._last_row = offset
                decided.decisions.append((offset, decision))
                decided.hashes.append(hashlib.sha256(value).hexdigest())
        self._begin_reading_at_end_of_log()
        return decided

    def _read_inputs(self) -> None:
        lane, reading = self._lane, self._reading
        for kafka_topic, reader in self._inputs.items():
            room = lane.room(kafka_topic)
            if room <= 0:
                continue
            messages = [
                classify(reading, kafka_topic, record.offset() or 0, record.value(), record.timestamp()[1] / 1000)
                for record in reader.poll(min(room, READ_BATCH))
            ]
            self._owners.look_ahead([m.key for m in messages if m.key is not None])
            for message in messages:
                lane.read(message)
            lane.pass_over(kafka_topic, reader.position)

    def _is_drained(self) -> bool:
        """At a graceful stop: wait for the calls in flight, then read all that was decided of them."""
        if self._final_end is None:
            waits = self._lane.under_way > self._parts.stuck(self._number)
            if waits and not self._parts.stopping.drained:
                return False
            self._connections.flush()
            try:
                self._final_end = self._log.end_offset()
            except TryAgainError as error:
                if self._parts.stopping.drained:
                    raise
                log.warning("lane %d: %s; asking again", self._number, error)
                return False
        return self._log.position >= self._final_end

    def snapshot(self) -> bytes:
        """Take the cut, and answer with the newest whose rows are in the lake: they are committed beside the engine.

        The messages of an epoch arrive at its end. So of those taken in earlier epochs, all is delivered of the newest
        whose rows are there: it is committed to the consumer group.
        """
        cut = msgspec.structs.replace(self._lane.cut(), rows=max(self._rows_before, self._last_row))
        self._owners.flush(self._lane.log_next)
        self._parts.keep_learned()
        self._drop_older_cuts()
        if self.delivered is not self._cuts[0][0]:
            self.delivered = self._cuts[0][0]
            self._connections.commit_cut(self.delivered)
        if len(self._cuts) > 1 and self._cuts[-1][1] == self._last_row:
            self._cuts.pop()
        self._cuts.append((cut, self._last_row))
        self._drop_older_cuts()
        return encode_cut(self._cuts[0][0])

    def _drop_older_cuts(self) -> None:
        held = self._parts.rows_held(self._number)
        while len(self._cuts) > 1 and self._cuts[1][1] <= held:
            self._cuts.popleft()

    def close(self, *, orderly: bool) -> None:
        """Let go of all; commit where the lane stands if nothing that was under way has brought this life down."""
        for reader in (self._log, *self._inputs.values()):
            reader.close()
        self._owners.close()
        if not orderly:
            self._connections.forget_cut(self._number)
            return
        try:
            self._connections.commit_now(msgspec.structs.replace(self.delivered, orderly=True))
        except TryAgainError as error:
            log.info("lane %d: %s; what was under way will be marked when it is handed out", self._number, error)
