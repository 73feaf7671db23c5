"""Decisions: what is appended to `tasks.results`, and all that follows from them."""

import enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from schemas.errors import UNREADABLE, BadRecordError
from schemas.node import Answer
from schemas.software import check_version, version_in
from schemas.task import (
    DEFAULT_PRIORITY,
    Allowance,
    Ancestor,
    Cause,
    EvidenceKind,
    Moment,
    Origin,
    Priority,
    Whole,
    read_head,
)

WIRE_VERSION = 1
"""Of decisions, and of the tasks that follow from them."""
FindingAction = Literal["accept", "flag", "more_reasoning", "cap", "reject", "stop_topic"]
"""What a supervision policy may do: nothing, a note, another round that reasons more, a bound to the score, keep the
result out of ONE, and that with all further tasks of its topic for a while."""
NO_OWNERS = ("bad_input", "id_conflict")
"""Reasons of dead letters whose message owns no id: what they name may live, or be done, under another message."""
NO_PAYLOAD = Raw(b"")
"""Left out."""


class DecisionKind(enum.StrEnum):
    """What became of one task message. `started` decides nothing: it marks a message handed out after a crash."""

    CONVERGED = "converged"
    NEXT_ROUND = "next_round"
    RETRY = "retry"
    DEAD = "dead"
    CANCELLED = "cancelled"
    MOVED = "moved"
    STARTED = "started"


class Dissent(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An answer that does not lead."""

    answer: str
    """As its first candidate wrote it, up to a limit."""
    confidence: float
    """The probability that it is right, 0 to 1."""
    votes: int
    """Candidates that gave it."""


class Finding(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a supervision policy did about a result, and why."""

    policy: str
    """The policy with its parameters."""
    action: FindingAction
    reason: str
    """For the prompt of the next round and for people."""
    evidence: str = ""
    """What it saw, up to a limit."""
    cap: float | None = None
    """The most that the score may be."""
    pause_s: float = 0.0
    """For how long the topic is stopped."""


class RoundResult(Struct, frozen=True, gc=False, omit_defaults=True):
    """What the ensemble made of one round, with its evidence."""

    answer: str | None
    """The leading answer; None when nobody answered."""
    score: float
    """What the convergence policy looks at, 0 to 1."""
    confidence: float
    """The probability that the leading answer is right, 0 to 1."""
    agreement: float
    """The share of the candidates that are equivalent to the leading one, 0 to 1."""
    evidence: EvidenceKind
    verifier: str | None = None
    verified: bool | None = None
    candidates: tuple[Answer, ...] = ()
    leading: tuple[int, ...] = ()
    """Which of the candidates are equivalent to the answer."""
    groups: tuple[int, ...] = ()
    """The group of equivalent ones of each answer that was given, where time decides whether a proof is found."""
    checks: tuple[bool | None, ...] = ()
    """What the verifier said of each candidate; None where it was not asked, or gave no verdict."""
    abstained: int = 0
    """Candidates without an answer: failures and abstentions."""
    effective_votes: float = 0.0
    """How many independent models would tell as much as those who gave the answer."""
    dissent: tuple[Dissent, ...] = ()
    """The other answers, the likeliest first."""
    z_score: float | None = None
    """What those who gave the answer thought of it themselves, in standard deviations from what each of them usually
    thinks on the topic; None where they did not say."""
    parameters: str = ""
    """The version of what was learned that the confidence rests on."""
    flags: tuple[str, ...] = ()
    """What supervision noted, in words."""
    findings: tuple[Finding, ...] = ()
    """What supervision noted: by which policy, with its evidence."""
    warnings: tuple[str, ...] = ()
    """What was wrong with an answer's own data and was left out."""


class Seen(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a decision was made from besides answers and its message, as far as anything asked for it."""

    spent: str = ""
    """Which budget left nothing for another call, in words."""
    allowance: Allowance | None = None
    """What the round might spend."""
    health: dict[int, tuple[int, int]] = {}
    """Of the last so many results of the topic: those that were rejected, and those that were known."""
    accepted: tuple[str, str | None, str] | None = None
    """The record that the same question had: its logical id, answer and evidence."""
    outlook: tuple[float, float, float] | None = None
    """What one more round was expected to bring and to take: gain, calls, cost."""


NOTHING_SEEN = Seen()


class Before(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a round was told of those before it."""

    answer: str | None = None
    score: float = 0.0
    confidence: float = 0.0
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0


class Inputs(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a round's decision was made from besides its question and its candidates, so that it can be made again."""

    seen: Seen = NOTHING_SEEN
    before: Before | None = None
    checks: tuple[bool | None, ...] = ()
    """What the verifier said of each candidate; None where it was not asked, or gave no verdict."""
    groups: tuple[int, ...] = ()
    """As `RoundResult.groups`."""


class FollowUp(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One message that follows from a decision, and where it goes."""

    kafka_topic: str
    lane: int
    task_id: str
    task: Raw
    """A `TaskHead`: all of the message but its payload and its cause."""
    payload: Raw = NO_PAYLOAD
    """Left out where it is that of the decision."""
    score: float = 0.0


class Decision(Struct, frozen=True, gc=False, omit_defaults=True):
    """One entry of the log of a lane.

    It names the message it decides by (`kafka_topic`, `offset`) within the lane, and holds all that follows: the
    messages in `follow_ups`, the rows of the lake in the rest.
    """

    kind: DecisionKind
    kafka_topic: str
    offset: Whole
    task_id: str
    introduces: bool = False
    """True when the message is the first with its id, so that this decision makes it the owner of the id."""
    topic: str = ""
    logical_id: str = ""
    generation: Whole = 0
    round_index: Whole = 0
    attempt: Whole = 0
    priority: Priority = DEFAULT_PRIORITY
    payload: Raw = NO_PAYLOAD
    payload_digest: str = ""
    metadata: dict[str, str] = {}
    budget: Allowance | None = None
    sources: tuple[Ancestor, ...] = ()
    """The records that the task was made from."""
    origin: Origin | None = None
    cause: Cause | None = None
    """Of the message."""
    reason: str = ""
    detail: str = ""
    forced: bool = False
    policy: str = ""
    """The convergence policy with its parameters."""
    result: RoundResult | None = None
    content_hash: str = ""
    """Of a converged task: sha256 over topic, logical id, generation, payload and answer in canonical JSON."""
    routing: str = ""
    """Which models were asked, and why these."""
    prompt_hash: str = ""
    """sha256, in hex, of the chat that the models were asked with, as JSON."""
    supervision: str = ""
    """The blob that lists the supervision policies with their parameters."""
    software: str = ""
    """The version of Aureon that decided."""
    seen: Seen | None = None
    calls: Whole = 0
    """Requests to models, further tries and those that a crash cut off included."""
    tokens: Whole = 0
    """Input and output."""
    cost: float = 0.0
    decided_at: Moment = 0.0
    """Seconds since the epoch."""
    latency_s: Annotated[float, Meta(ge=-1e9, le=1e9)] = 0.0
    """From handing the message out to the decision."""
    follow_ups: tuple[FollowUp, ...] = ()
    cut_off: tuple[str, ...] = ()
    """Branches that were proposed and not taken, each with the reason."""
    raw: str = ""
    """Of a message that is no task: its bytes, in base64, up to a limit."""
    level: int = 0
    """Of a mark: how its message runs, with all others (1), among few (2), with none (3)."""
    version: int = 1
    """Left out where it is 1; whoever writes a decision says `WIRE_VERSION`."""


class DeadLetter(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What is written to `tasks.dead_letter`: the task, why it ended, and what was tried."""

    task_id: str
    topic: str
    logical_id: str
    generation: int
    reason: str
    detail: str
    kafka_topic: str
    lane: int
    offset: int
    """The message, by name."""
    decision_offset: int
    payload: Raw = NO_PAYLOAD
    raw: str = ""
    metadata: dict[str, str] = {}
    history: tuple[str, ...] = ()
    died_at: float = 0.0


_decode = msgspec.json.Decoder(Decision).decode


def read_decision(message: bytes) -> Decision:
    """Read one entry of the log.

    Raises:
        BadRecordError: it is none; someone else wrote to `tasks.results`.
        RefusedError: a newer Aureon wrote it; to pass over it would be to decide its message again.
    """
    try:
        message.decode()  # what is kept as it is, the payload, is not looked into
        decision = _decode(message)
        if decision.kind is DecisionKind.CONVERGED:  # the lake's rows of its branches tell what is in them
            for branch in decision.follow_ups:
                read_head(branch.task)
    except UNREADABLE as error:
        check_version("a decision", version_in(message), WIRE_VERSION)
        raise BadRecordError(f"no decision: {error}") from None
    if decision.version > WIRE_VERSION:
        check_version("a decision", decision.version, WIRE_VERSION)
    result = decision.result
    if decision.kind is DecisionKind.CONVERGED and result is None:
        raise BadRecordError("no decision: converged, and without a result")
    if result is not None and not all(0 <= place < len(result.candidates) for place in result.leading):
        raise BadRecordError("no decision: an answer leads that is none of the candidates - at `$.result.leading`")
    return decision
