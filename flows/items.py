"""What passes from step to step.

    intake ─ Handed ─► route ─ Routed ─► infer ─ Answered ─► validate, supervise ─ Supervised ─► plan ─► the log
       ▲                                                                                                    │
       └─ Decided ─► derive, and what learns ◄──────────────────────────────────────────────────────────────┘

A step knows what the one before hands on, and no step.
"""

from msgspec import Struct

from flows.budget import NOTHING, Spent
from flows.checks import Checks
from flows.lane import Message
from schemas.decision import NOTHING_SEEN, Decision, RoundResult, Seen
from schemas.node import Answer, Call
from schemas.task import Allowance, PayloadView, TaskDescriptor


class Work(Struct, frozen=True, gc=False):
    """A task that is handed out."""

    task: TaskDescriptor
    view: PayloadView


class Rejected(Struct, frozen=True, gc=False):
    """A message that is no task: what is wrong, and its bytes."""

    error: str
    raw: str
    """In base64, its beginning where it is long."""
    task: TaskDescriptor | None = None
    """The task that it would be, if what it refers to were there."""
    is_own: bool = False
    """The cluster itself wrote it: a newer Aureon, since this software cannot read it."""


class Handed(Struct, frozen=True, gc=False):
    """Messages handed out, and those for which a `started` mark goes to the log first."""

    messages: list[Message]
    marks: list[Message]
    at: float
    """Seconds since the epoch."""


class Routed(Struct, frozen=True, gc=False):
    """A message with the calls of its round; none where intake or the router already knows what becomes of it."""

    message: Message
    handed_at: float
    calls: tuple[Call, ...]
    reserves: tuple[Call, ...] = ()
    """Asked one by one: when a call fails for good, and while answers do not suffice where the round escalates."""
    escalates: bool = False
    routing: str = ""
    """What is asked and why, and what is not."""
    allowance: Allowance | None = None
    """What the round may spend; None where nothing is limited."""
    refusal: tuple[str, str] | None = None
    """Why no model can be asked: reason and detail."""


class Answered(Struct, frozen=True, gc=False):
    """A round with the answers to its calls, in the order in which they were asked."""

    routed: Routed
    answers: tuple[Answer, ...]
    spent: Spent = NOTHING
    checks: Checks | None = None
    """What the verifier said, where it takes its time and was asked ahead."""
    exceeded: str = ""
    """Which budget kept a call from being asked."""
    cancelled: bool = False
    """The task was cancelled while its calls were under way."""
    dropped: bool = False
    """Its lane is another cell's by now: nothing is to be decided of it here."""


class Supervised(Struct, frozen=True, gc=False):
    """A round with its result, as supervision lets it pass; no result where no model was asked."""

    answered: Answered
    result: RoundResult | None
    seen: Seen = NOTHING_SEEN
    """What the policies looked up."""


class Decided(Struct, frozen=True, gc=False):
    """Winning decisions as read back from the log of a lane, each with its offset, in order."""

    lane: int
    decisions: list[tuple[int, Decision]]
    hashes: list[str]
    """Of each, the sha256 of its bytes, in hex."""
    begins: bool = False
    """The lane is this cell's from now on; others may have written of it since it was last."""
