"""intake: is it a task at all, was it seen before, which goes next, how many may be under way.

The source of the flow, one partition a lane: it reads the lane's inputs and its log, drives `flows.lane.Lane`, and
emits what is handed out and what was decided, in batches.
"""

import base64
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Message as ConsumedMessage
from msgspec import Struct

from flows.lane import REDRIVE, Cut, Lane, Message, Owners, Sealer, decode_cut, encode_cut, id_key
from flows.overflow import Overflow
from schemas.blob import REFERENCE_START
from schemas.decision import Decision, DecisionKind, read_decision
from schemas.errors import BadRecordError, LogMismatchError, tells_errors
from schemas.ids import home_lane
from schemas.task import (
    AWAY,
    DEFAULT_PRIORITY,
    PayloadView,
    Redrive,
    TaskDescriptor,
    read_digest,
    read_task,
    redriven_text,
)

log = logging.getLogger(__name__)

RAW_LIMIT = 64 * 1024
"""Of a message that is no task, so many bytes travel with its dead letter; the rest stays in the input."""
READ_BATCH = 200
IDLE_PAUSES_S = (0.001, 0.002, 0.005)
"""Pauses between polls that find nothing: short at first, since an answer is often close."""


# -- what a message is, without I/O --------------------------------------------------------------------------------


class Work(Struct, frozen=True, gc=False):
    """A task that is handed out."""

    task: TaskDescriptor
    view: PayloadView


class Rejected(Struct, frozen=True, gc=False):
    """A message that is no task: what is wrong, and its bytes."""

    error: str
    raw: str
    """In base64, up to `RAW_LIMIT` bytes."""
    task: TaskDescriptor | None = None
    """The task that it would be, if what it refers to were there."""


class Reading(Struct, frozen=True, gc=False):
    """What `classify` has to know of the place where messages are read."""

    lane: int
    lanes: int
    sealer: Sealer
    max_task_bytes: int
    retry_topic: str
    retry_delay_s: float
    overflow: Overflow | None = None


def classify(reading: Reading, kafka_topic: str, offset: int, value: bytes | None, timestamp: float) -> Message:
    """Read one message of an input Kafka topic; what is wrong with it becomes its verdict.

    Args:
        reading: where it was read.
        kafka_topic: its Kafka topic.
        offset: its offset there.
        value: its bytes.
        timestamp: when it was appended, in seconds since the epoch.

    Returns:
        The message for the lane, with a `Work` or a `Rejected` as its body. What the lane knows it by, its task id and
        its cause, follows from its bytes alone, whether or not a blob that it refers to is there.

    Raises:
        TryAgainError: it refers to a blob, and the store cannot be reached.
    """
    value = value or b""
    due_at = timestamp + reading.retry_delay_s if kafka_topic == reading.retry_topic else 0.0
    size = len(value)
    referring: TaskDescriptor | None = None
    cause: tuple[int, int, int] | None = None
    try:
        _check_size(reading, value)
        task, view = read_task(value)
        cause = _checked_cause(reading, kafka_topic, task)
        _check_redrive(reading, task)
        if view is AWAY or _answer_is_away(task):
            referring = task
            task, view = _brought_back(reading, task, view)
            size += _weight(task) - _weight(referring)
        introduces = cause is None or (task.origin is not None and task.origin.introduces)
        digest = read_digest(task) if introduces else ""
    except BadRecordError as error:
        name = f"{kafka_topic}[{reading.lane}]@{offset}"
        return Message(
            kafka_topic=kafka_topic,
            offset=offset,
            task_id="bad-" + hashlib.sha256(value).hexdigest()[:32] if referring is None else referring.task_id,
            topic="" if referring is None else referring.topic,
            cause=cause if referring is not None else None,
            priority=DEFAULT_PRIORITY if referring is None else referring.priority,
            size=min(len(value), RAW_LIMIT),
            verdict="bad_input",
            body=Rejected(f"{name}: {error}", base64.b64encode(value[:RAW_LIMIT]).decode(), referring),
        )
    message = Message(
        kafka_topic=kafka_topic,
        offset=offset,
        task_id=task.task_id,
        topic=task.topic,
        cause=cause,
        priority=task.priority,
        due_at=due_at,
        size=size,
        body=Work(task, view),
    )
    if cause is None and home_lane(task.logical_id, reading.lanes) != reading.lane:
        message.verdict = "moved"
    elif introduces:
        message.key = id_key(task.topic, task.logical_id, task.generation)
        message.digest = digest
    return message


def _check_size(reading: Reading, value: bytes) -> None:
    if len(value) > reading.max_task_bytes:
        raise BadRecordError(f"{len(value):,} bytes; a task may have {reading.max_task_bytes:,}")


def _answer_is_away(task: TaskDescriptor) -> bool:
    origin = task.origin
    return origin is not None and origin.answer is not None and origin.answer.startswith(REFERENCE_START)


def _weight(task: TaskDescriptor) -> int:
    answer = task.origin.answer if task.origin is not None else None
    return len(task.payload) + len(answer or "")


def _brought_back(reading: Reading, task: TaskDescriptor, view: PayloadView) -> tuple[TaskDescriptor, PayloadView]:
    if reading.overflow is None:
        raise BadRecordError("a reference to a blob, and there is no blob store here - at `$.payload`")
    return reading.overflow.task_back(task, view)


def _checked_cause(reading: Reading, kafka_topic: str, task: TaskDescriptor) -> tuple[int, int, int] | None:
    claimed = task.cause
    if claimed is None:
        return None
    cause = (claimed.lane, claimed.offset, claimed.index)
    if not reading.sealer.holds(claimed.seal, cause, task.task_id, kafka_topic, reading.lane, claimed.hash):
        raise BadRecordError("claims a cause that this cluster has not sealed; leave it out - at `$.cause`")
    return cause


def seal_redrive(sealer: Sealer, task: TaskDescriptor, lane: int, offset: int) -> TaskDescriptor:
    """Seal a task as the next generation of an id that ended dead by the decision at an offset of a lane's log."""
    cause = lane, offset, task.generation
    seal = sealer.seal(cause, task.task_id, REDRIVE, lane, redriven_text(task, lane, offset))
    return msgspec.structs.replace(task, redrive=Redrive(lane, offset, seal))


def _check_redrive(reading: Reading, task: TaskDescriptor) -> None:
    claimed = task.redrive
    if claimed is None:
        return
    sealed = seal_redrive(reading.sealer, task, claimed.lane, claimed.offset).redrive
    is_ours = sealed is not None and hmac.compare_digest(sealed.seal.encode(), claimed.seal.encode())
    if task.cause is not None or not is_ours:
        raise BadRecordError("claims a redrive that this cluster has not sealed; leave it out - at `$.redrive`")


# -- the source ----------------------------------------------------------------------------------------------------


class Handed(Struct, frozen=True, gc=False):
    """Messages handed out, and those for which a `started` mark goes to the log first."""

    messages: list[Message]
    marks: list[Message]
    at: float
    """Seconds since the epoch."""


class Decided(Struct, frozen=True, gc=False):
    """Winning decisions as read back from the log of a lane, each with its offset, in order."""

    lane: int
    decisions: list[tuple[int, Decision]]
    hashes: list[str]
    """Of each, the sha256 of its bytes, in hex."""


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

    was_dirty: bool
    """The life before did not end gracefully."""
    was_new: bool
    """Nothing is known of a life before."""

    def flush(self, next_offset: int) -> None:
        """Keep what was noted, for the log before `next_offset`."""
        ...

    def close(self, *, clean: bool) -> None:
        """Let go; say whether the lane ended gracefully."""
        ...


class LaneConnections(Protocol):
    """What one lane needs of the outside; one object makes it from the settings."""

    def reader(self, kafka_topic: str, lane: int, offset: int) -> Reader:
        """Open one partition for reading."""
        ...

    def owners(self, lane: int) -> OwnersIndex:
        """Open the index of ids of a lane."""
        ...

    def log_end(self, lane: int) -> int:
        """Where the log of a lane ends now."""
        ...

    def committed_cut(self, lane: int) -> Cut | None:
        """The cut that was committed last."""
        ...

    def commit_cut(self, cut: Cut) -> None:
        """Commit a cut that is delivered."""
        ...

    def is_cancelled(self, task: TaskDescriptor) -> bool:
        """Tell whether a task, or one that it came of, is cancelled; known is all that was ordered before the start."""
        ...

    def flush(self) -> None:
        """Wait until all that was sent has arrived."""
        ...


class Stopping:
    """Says to every part of the process that it is to end: gracefully at first, at once when asked again."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._deadline: float | None = None

    def ask(self) -> None:
        """Ask to stop; a second time: without waiting for the calls in flight."""
        self._deadline = time.monotonic() + (self._drain_s if self._deadline is None else 0.0)

    @property
    def asked(self) -> bool:
        """Tell whether a stop was asked for."""
        return self._deadline is not None

    @property
    def drained(self) -> bool:
        """Tell whether the time to wait for calls in flight is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline


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
    reading: Callable[[int], Reading]
    inputs: Mapping[str, int]
    results_topic: str
    stopping: Stopping
    span: int
    in_flight: int
    window_bytes: int


@tells_errors
class LaneSource(FixedPartitionedSource[tuple[str, Handed | Decided], bytes]):
    """All lanes of the cell.

    Unit of parallelism: the lane. Guarantee: what is emitted as decided is the log's first decision on a message and
    comes again after a crash, from the last snapshot on; sinks that follow have to know what they have. What is
    handed out comes again until its decision is on the log.
    """

    def __init__(self, parts: LaneParts) -> None:
        self._parts = parts
        self._solitude = Solitude()

    def list_parts(self) -> list[str]:
        """Name the lanes."""
        return [lane_key(lane) for lane in range(self._parts.lanes())]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> "LanePartition":
        """Open a lane where its snapshot, or else its last commit, left it."""
        del step_id
        return LanePartition(self._parts, int(for_part), resume_state, self._solitude)


def lane_key(lane: int) -> str:
    """The Bytewax key of a lane; keys are few, since each leaves a row in the recovery store for good."""
    return f"{lane:04d}"


@tells_errors
class LanePartition(StatefulSourcePartition[tuple[str, Handed | Decided], bytes]):
    """One lane: its readers, its index of ids, its state machine."""

    def __init__(self, parts: LaneParts, lane: int, resume_state: bytes | None, solitude: Solitude) -> None:
        self._parts = parts
        self._key = lane_key(lane)
        self._lane_number = lane
        self._solitude = solitude
        self._connections = parts.connections()
        self._reading = parts.reading(lane)
        self._owners = self._connections.owners(lane)
        cut = decode_cut(resume_state) if resume_state is not None else self._connections.committed_cut(lane)
        if cut is not None and cut.lane != lane:
            raise LogMismatchError(f"the snapshot of lane {lane} is that of lane {cut.lane}")
        unclean = self._owners.was_dirty or (self._owners.was_new and self._connections.log_end(lane) > 0)
        self._lane = Lane(
            lane,
            parts.inputs,
            self._owners,
            cut,
            span=parts.span,
            in_flight=parts.in_flight,
            window_bytes=parts.window_bytes,
            unclean=unclean,
        )
        self._log = self._connections.reader(parts.results_topic, lane, self._lane.log_start)
        self._log_end = self._log.end_offset()
        self._lane.check_log(self._log.begin_offset(), self._log_end)
        # asked for after the end of the log, and before anything that follows from it is sent
        self._inputs = {t: self._connections.reader(t, lane, self._lane.position(t)) for t in parts.inputs}
        self._holds = {t: (reader.begin_offset(), reader.end_offset()) for t, reader in self._inputs.items()}
        self._reads_inputs = False
        self._delivered: Cut | None = None
        self._idle = 0
        self._final_end: int | None = None
        self._begin_reading_at_end_of_log()

    def _begin_reading_at_end_of_log(self) -> None:
        if self._reads_inputs or self._log.position < self._log_end:
            return
        self._lane.begin_reading()
        self._reads_inputs = True
        for kafka_topic, (begin, end) in self._holds.items():
            self._lane.check_input(kafka_topic, begin, end, self._log_end)

    def next_batch(self) -> list[tuple[str, Handed | Decided]]:
        """Read what is there, and emit what was decided and what goes next."""
        batch: list[tuple[str, Handed | Decided]] = []
        decided = self._read_log()
        if decided.decisions:
            batch.append((self._key, decided))
        stopping = self._parts.stopping
        if stopping.asked:
            if self._is_drained() and not batch:
                raise StopIteration
        elif self._reads_inputs:
            self._read_inputs()
            may_hand_out, may_run_alone = self._solitude.ask(self._lane)
            now = time.time()
            messages, marks = self._lane.hand_out(now, may_run_alone=may_run_alone) if may_hand_out else ([], [])
            self._solitude.note(self._lane)
            for message in messages:
                body = message.body
                if message.verdict is None and isinstance(body, Work) and self._connections.is_cancelled(body.task):
                    message.verdict = "cancelled"
            if messages or marks:
                batch.append((self._key, Handed(messages, marks, now)))
        self._idle = 0 if batch else self._idle + 1
        return batch

    def _read_log(self) -> Decided:
        decided = Decided(self._lane_number, [], [])
        lane_log = self._lane.log
        for record in self._log.poll(READ_BATCH):
            offset = record.offset() or 0
            value = record.value() or b""
            try:
                decision = read_decision(value)
            except BadRecordError as error:
                log.warning("%s[%d]@%d: %s; ignored", self._parts.results_topic, self._lane_number, offset, error)
                continue
            if lane_log(offset, decision):
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
            for record in reader.poll(min(room, READ_BATCH)):
                timestamp = record.timestamp()[1] / 1000
                lane.read(classify(reading, kafka_topic, record.offset() or 0, record.value(), timestamp))

    def _is_drained(self) -> bool:
        """At a graceful stop: wait for the calls in flight, then read all that was decided of them."""
        if self._final_end is None:
            if self._lane.under_way and not self._parts.stopping.drained:
                return False
            self._connections.flush()
            self._final_end = self._log.end_offset()
        return self._log.position >= self._final_end

    def next_awake(self) -> datetime | None:
        """At once while there is something to do."""
        if not self._idle:
            return None
        pause = IDLE_PAUSES_S[min(self._idle // 200, len(IDLE_PAUSES_S) - 1)]
        return datetime.now(UTC) + timedelta(seconds=pause)

    def snapshot(self) -> bytes:
        """Take the cut; the one before is delivered by now, and is committed to the consumer group."""
        cut = self._lane.cut()
        self._owners.flush(self._lane.log_next)
        if self._delivered is not None:
            self._connections.commit_cut(self._delivered)
        self._delivered = cut
        return encode_cut(cut)

    def close(self) -> None:
        """Let go of the readers; the index of ids notes whether the end was a graceful one."""
        for reader in (self._log, *self._inputs.values()):
            reader.close()
        self._owners.close(clean=self._final_end is not None)


def mark_of(message: Message) -> Decision:
    """The entry that says: a process that may crash of it has begun to work on this message."""
    return Decision(
        kind=DecisionKind.STARTED,
        kafka_topic=message.kafka_topic,
        offset=message.offset,
        task_id=message.task_id,
        level=message.level,
    )
