"""intake: is it a task at all, was it seen before, which goes next, how many may be under way.

Here is what a message is; which goes next is for `flows.lane` to say, and the source that reads the lane's inputs and
its log is `flows.lane_source`.
"""

import base64
import hashlib
import hmac

import msgspec
from msgspec import Struct

from flows.items import Rejected, Work
from flows.lane import REDRIVE, Message, Sealer, id_key
from flows.overflow import Overflow
from schemas.blob import REFERENCE_START
from schemas.decision import WIRE_VERSION, Decision, DecisionKind
from schemas.errors import BadRecordError
from schemas.ids import home_lane
from schemas.task import (
    AWAY,
    DEFAULT_PRIORITY,
    Cause,
    PayloadView,
    Redrive,
    TaskDescriptor,
    read_digest,
    read_task,
    redriven_text,
)

RAW_LIMIT = 64 * 1024
"""Of a message that is no task, so many bytes travel with its dead letter; the rest stays in the input."""


# -- what a message is, without I/O --------------------------------------------------------------------------------


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
        body = Rejected(f"{name}: {error}", base64.b64encode(value[:RAW_LIMIT]).decode(), referring)
        if referring is None and (own := _own(reading, kafka_topic, value)) is not None:
            # not what may be a dead letter; with its cause, so that a copy of what was decided stays a duplicate
            cause = own.cause.lane, own.cause.offset, own.cause.index
            body = msgspec.structs.replace(body, is_own=True)
        return Message(
            kafka_topic=kafka_topic,
            offset=offset,
            task_id="bad-" + hashlib.sha256(value).hexdigest()[:32] if referring is None else referring.task_id,
            topic="" if referring is None else referring.topic,
            cause=cause if referring is not None or body.is_own else None,
            priority=DEFAULT_PRIORITY if referring is None else referring.priority,
            size=min(len(value), RAW_LIMIT),
            verdict="bad_input",
            lane=reading.lane,
            body=body,
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
        lane=reading.lane,
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


class _Own(Struct, frozen=True, gc=False):
    """Of a message that cannot be read, what shows that the cluster itself wrote it."""

    task_id: str
    cause: Cause


_read_own = msgspec.json.Decoder(_Own).decode


def _own(reading: Reading, kafka_topic: str, value: bytes) -> _Own | None:
    """Tell whether the cluster itself wrote a message that cannot be read: a newer Aureon, then."""
    try:
        own = _read_own(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    cause = own.cause.lane, own.cause.offset, own.cause.index
    is_sealed = reading.sealer.holds(own.cause.seal, cause, own.task_id, kafka_topic, reading.lane, own.cause.hash)
    return own if is_sealed else None


def _check_redrive(reading: Reading, task: TaskDescriptor) -> None:
    claimed = task.redrive
    if claimed is None:
        return
    sealed = seal_redrive(reading.sealer, task, claimed.lane, claimed.offset).redrive
    is_ours = sealed is not None and hmac.compare_digest(sealed.seal.encode(), claimed.seal.encode())
    if task.cause is not None or not is_ours:
        raise BadRecordError("claims a redrive that this cluster has not sealed; leave it out - at `$.redrive`")


def mark_of(message: Message) -> Decision:
    """The entry that says: a process that may crash of it has begun to work on this message."""
    return Decision(
        kind=DecisionKind.STARTED,
        kafka_topic=message.kafka_topic,
        offset=message.offset,
        task_id=message.task_id,
        level=message.level,
        version=WIRE_VERSION,
    )
