"""The task as it travels on Kafka: JSON, of which only `topic` and `payload` are required."""

import enum
import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from schemas.blob import read_reference
from schemas.errors import BadRecordError
from schemas.ids import MAX_ID_BYTES, RESERVED_ENDING, RQMLRoundId, content_id, payload_digest

Topic = Annotated[str, Meta(min_length=1, max_length=200, description="The subject of the task: math, coding, …")]
Whole = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""What is counted; the lake's columns have no room for more."""
Moment = Annotated[float, Meta(ge=0, le=253_402_300_799)]
"""Seconds since the epoch, to the end of the year 9999."""
Priority = Annotated[int, Meta(ge=0, le=9, description="Lower runs first.")]

DEFAULT_PRIORITY = 5
URGENT_PRIORITY = 2
"""Tasks up to this priority travel on the Kafka topic that is read ahead of the backlog."""


class TaskStatus(enum.StrEnum):
    """Where a logical task stands, as the lake tells; pending is all that has begun and not ended."""

    PENDING = "pending"
    CONVERGED = "converged"
    DEAD = "dead"
    CANCELLED = "cancelled"


class AnswerKind(enum.StrEnum):
    """How two answers to a task are compared."""

    NUMBER = "number"
    EXPRESSION = "expression"
    CHOICE = "choice"
    CODE = "code"
    TEXT = "text"


class Cause(Struct, frozen=True, gc=False, array_like=True):
    """The decision that a message follows from: `[lane, offset, index, seal, hash]`.

    The seal is a keyed hash over the others and the task id, so that nobody but the cluster can claim one.
    """

    lane: Whole
    offset: Whole
    index: Whole
    seal: str
    hash: str = ""
    """sha256, in hex, of the decision as it is on the log; "" in messages from before it was told."""


class Allowance(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What may be spent; what is left out is not limited."""

    calls: Annotated[Whole, Meta(description="Requests to models, further tries included.")] | None = None
    tokens: Annotated[Whole, Meta(description="Input and output tokens together.")] | None = None
    cost: Annotated[float, Meta(ge=0, le=1e15, description="Money, in the currency of the nodes' prices.")] | None = (
        None
    )


class Ancestor(Struct, frozen=True, gc=False, array_like=True):
    """A task that another one came of: `[topic, logical_id]`."""

    topic: str
    logical_id: str


class Origin(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """What Aureon itself adds to a message that follows from a decision; users never write it.

    Earlier rounds travel as a digest (best answer, its score, what was wrong with it, what was spent), never as their
    full nesting.
    """

    introduces: bool = False
    """True when this message is the first with its id in its home lane (it was moved there, or is a branch)."""
    ancestors: tuple[Ancestor, ...] = ()
    """The tasks that this one came of: the root task first, the parent last; none for a root task."""
    branches_left: int = 0
    """How many more branches this task and all that follows from it may spawn."""
    allowance: Allowance | None = None
    """What this task and all that follows from it may still spend; None where nothing has been decided yet."""
    answer: str | None = None
    score: float = 0.0
    confidence: float = 0.0
    critique: str = ""
    """What validation and supervision found wrong with the round before."""
    calls: Whole = 0
    tokens: Whole = 0
    cost: float = 0.0
    started_at: Moment = 0.0
    """When the first round of this logical id was handed out, in seconds since the epoch."""
    errors: tuple[str, ...] = ()
    """What went wrong in the attempts before, oldest first."""
    root_id: str = ""
    root_topic: str = ""
    parent_id: str = ""
    parent_topic: str = ""
    depth: int = 0
    """These five are read and never written: the first published version had them in the place of `ancestors`."""

    def __post_init__(self) -> None:
        """Take the ancestors from what the first version told of them."""
        if not self.root_id:
            return
        if self.depth:
            msgspec.structs.force_setattr(self, "ancestors", _ancestors_at_first(self))
        for name, nothing in _AT_FIRST.items():
            msgspec.structs.force_setattr(self, name, nothing)


_AT_FIRST = {"root_id": "", "root_topic": "", "parent_id": "", "parent_topic": "", "depth": 0}


def _ancestors_at_first(origin: Origin) -> tuple[Ancestor, ...]:
    """Root and parent are told; the id of one between them is its child's, less the ending, and its topic a guess."""
    between, below = [], origin.parent_id
    for _ in range(origin.depth - 2):
        below = below.rpartition(":branch-")[0]
        between.append(Ancestor(origin.parent_topic, below))
    parent = [Ancestor(origin.parent_topic, origin.parent_id)] if origin.depth > 1 else []
    return Ancestor(origin.root_topic, origin.root_id), *reversed(between), *parent


class TaskHead(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A task but for its payload and its cause: so much of a message that follows from it a decision spells out."""

    topic: Topic
    logical_id: Annotated[str, Meta(description="What the task is about; left out: a hash of topic and payload.")] = ""
    task_id: Annotated[str, Meta(description="`{logical_id}:r{round_index}`; may be left out.")] = ""
    priority: Priority = DEFAULT_PRIORITY
    round_index: Whole = 0
    attempt: Whole = 0
    generation: Whole = 0
    metadata: dict[str, str] = {}
    budget: Annotated[
        Allowance | None, Meta(description="What the task may spend, with all its rounds, retries and branches.")
    ] = None
    sources: Annotated[
        tuple[Ancestor, ...], Meta(max_length=64, description="The records that it was made from: [topic, logical id].")
    ] = ()
    origin: Annotated[Origin | None, Meta(description="Aureon's own; users leave it out.")] = None


class Redrive(Struct, frozen=True, gc=False, array_like=True):
    """The decision by which the generation before ended dead: `[lane, offset, seal]`.

    The seal is a keyed hash over all of the message, so that nobody but the cluster can start another generation.
    """

    lane: int
    offset: int
    seal: str


class TaskDescriptor(TaskHead, frozen=True, gc=False, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One unit of work, as it is written to `tasks.global`."""

    payload: Annotated[Raw, Meta(description="A JSON object with `prompt` or `messages`.")]
    cause: Annotated[Cause | None, Meta(description="Aureon's own; users leave it out.")] = None
    redrive: Annotated[Redrive | None, Meta(description="Aureon's own; users leave it out.")] = None


class PromptMessage(Struct, frozen=True, gc=False):
    """One message of a chat."""

    role: str
    content: str


FORM_CHECKS = frozenset({"json", "number", "python"})
"""Verifiers that are always registered. They see whether an answer has the right form, and so can only refuse it."""


TESTS = "tests"
"""The verifier that runs the payload's own tests."""


class PayloadView(Struct, frozen=True, gc=False):
    """Of a payload, what Aureon reads; all else is the user's and travels untouched."""

    prompt: str | None = None
    messages: tuple[PromptMessage, ...] | None = None
    answer_kind: AnswerKind = AnswerKind.TEXT
    verifier: str | None = None
    tests: str | None = None
    """Of a question for code: a program that is run after the answer, and fails where that is wrong."""
    tolerance: Annotated[float, Meta(ge=0.0, lt=1.0)] | None = None
    """Of a question for a number: how far two answers may be apart and be the same, relative to the larger."""
    whole: Raw = msgspec.field(name="$whole", default=Raw(b"{}"))
    """All of a payload that names a verifier, as it came."""

    @property
    def text(self) -> str:
        """The question as one text."""
        if self.prompt is not None:
            return self.prompt
        return "\n\n".join(m.content for m in self.messages or ())

    @property
    def fields(self) -> dict[str, Any]:
        """All of a payload that names a verifier, with what in it is the user's: for that verifier to look at."""
        found: dict[str, Any] = msgspec.json.decode(self.whole)
        return found


AWAY = PayloadView()
"""Of a payload that is still in the blob store."""

_decode_task = msgspec.json.Decoder(TaskDescriptor).decode
_decode_head = msgspec.json.Decoder(TaskHead).decode
_decode_view = msgspec.json.Decoder(PayloadView).decode
encode = msgspec.json.Encoder().encode
"""Write any of Aureon's structures as JSON."""


def read_payload(payload: bytes) -> PayloadView:
    """Read of a payload what Aureon needs of it.

    Raises:
        BadRecordError: no JSON object, no question in it, or a field of another type; the path is named.
    """
    try:
        view = _decode_view(payload)
    except msgspec.ValidationError as error:
        text = str(error)
        located = text.replace("`$", "`$.payload") if "`$" in text else f"{text} - at `$.payload`"
        if located.startswith("Invalid enum value") and located.endswith("`$.payload.answer_kind`"):
            located += f": there are {', '.join(AnswerKind)}"
        raise BadRecordError(located) from None
    except UnicodeDecodeError as error:
        raise BadRecordError(f"not UTF-8: {error.reason} at byte {error.start} of a text - at `$.payload`") from None
    except msgspec.DecodeError as error:
        raise BadRecordError(f"not JSON - at `$.payload`: {error}") from None
    except RecursionError:
        raise BadRecordError("nested too deeply - at `$.payload`") from None
    if not view.text.strip():
        raise BadRecordError("empty: needs `prompt` (text) or `messages` (a list) - at `$.payload`")
    return view if view.verifier is None else msgspec.structs.replace(view, whole=Raw(payload))


def read_task(message: bytes) -> tuple[TaskDescriptor, PayloadView]:
    """Read a message of an input Kafka topic; ids that were left out are filled in.

    Whether a message that claims a cause may do so is for the lane to say; the rules for users' messages are checked
    here.

    Returns:
        The task, and of its payload what Aureon needs; `AWAY` where the payload is a reference to a blob.

    Raises:
        BadRecordError: the message is no task; says what was expected and where.
    """
    try:
        task = _decode_task(message)
    except msgspec.ValidationError as error:
        raise BadRecordError(str(error)) from None
    except UnicodeDecodeError as error:
        raise BadRecordError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except msgspec.DecodeError as error:
        raise BadRecordError(f"not JSON: {error}") from None
    except RecursionError:
        raise BadRecordError("nested too deeply") from None
    try:
        view = read_payload(task.payload)
    except BadRecordError:
        if read_reference(bytes(task.payload)) is None:
            raise
        view = AWAY
        if not task.logical_id:  # the id that is left out is a hash of the payload, and no id may depend on a store
            raise BadRecordError("needed where the payload is a reference to a blob - at `$.logical_id`") from None
    if task.cause is not None and task.logical_id and task.task_id:
        return task, view
    if task.redrive is not None:
        return _checked_redrive(task), view
    return _fill_in(task), view


def read_head(head: Raw) -> TaskHead:
    """Read what a decision spells out of a message; it was written by `encode`."""
    return _decode_head(head)


def with_cause(head: Raw, payload: Raw, cause: Cause) -> bytes:
    """Write the message that a decision spells out: its head, with the payload and the cause put before it."""
    return b'{"cause":[%d,%d,%d,"%b","%b"],"payload":%b,%b' % (
        cause.lane,
        cause.offset,
        cause.index,
        cause.seal.encode(),
        cause.hash.encode(),
        bytes(payload),
        bytes(head)[1:],
    )


def read_digest(task: TaskDescriptor) -> str:
    """Digest the payload of a task, so that two payloads under one id can be told apart.

    Raises:
        BadRecordError: it is JSON that cannot be read whole: nested too deeply, or a number beyond all floats.
    """
    try:
        return payload_digest(bytes(task.payload))
    except RecursionError:
        raise BadRecordError("nested too deeply - at `$.payload`") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise BadRecordError(f"{error} - at `$.payload`") from None


def _checked_redrive(task: TaskDescriptor) -> TaskDescriptor:
    if task.generation < 1 or task.round_index or task.attempt or not task.logical_id or not task.task_id:
        raise BadRecordError("a redrive begins the next generation of an id, at round 0, attempt 0 - at `$.redrive`")
    return task


def redriven_text(task: TaskDescriptor, lane: int, offset: int) -> str:
    """What the seal of a redrive is over: sha256, in hex, of the whole message without its seal."""
    unsealed = msgspec.structs.replace(task, redrive=Redrive(lane, offset, ""))
    return hashlib.sha256(encode(unsealed)).hexdigest()


def _fill_in(task: TaskDescriptor) -> TaskDescriptor:
    if task.origin is not None:
        raise BadRecordError("Aureon's own; leave it out - at `$.origin`")
    if not task.topic.isprintable():
        raise BadRecordError("topic has a control character - at `$.topic`")
    logical_id = task.logical_id or _content_id(task)
    if len(logical_id.encode()) > MAX_ID_BYTES:
        raise BadRecordError(f"longer than {MAX_ID_BYTES} bytes - at `$.logical_id`")
    if not logical_id.isprintable():
        raise BadRecordError("has a control character - at `$.logical_id`")
    if RESERVED_ENDING.search(logical_id):
        raise BadRecordError(f"{logical_id!r} ends in `:r<n>` or `:branch-<n>`, which is reserved - at `$.logical_id`")
    if task.round_index or task.attempt:
        raise BadRecordError(
            f"a task starts at round 0, attempt 0, not {task.round_index}, {task.attempt} - at `$.round_index`"
        )
    if task.generation:
        raise BadRecordError("only a redrive starts another generation - at `$.generation`")
    task_id = str(RQMLRoundId(logical_id, 0))
    if task.task_id and task.task_id != task_id:
        raise BadRecordError(f"{task.task_id!r} is not {task_id!r} - at `$.task_id`")
    return msgspec.structs.replace(task, logical_id=logical_id, task_id=task_id)


def _content_id(task: TaskDescriptor) -> str:
    read_digest(task)
    return content_id(task.topic, bytes(task.payload))


class BranchProposal(Struct, frozen=True, gc=False):
    """A follow-up task that a result asks for, in its `meta.branches`."""

    topic: Topic
    payload: Raw
    priority: Priority = DEFAULT_PRIORITY
    score: float = 0.0


EvidenceKind = Literal["verifier", "cross-model", "self", "none"]
"""What a convergence rests on: a check, several models, one model's own word."""
