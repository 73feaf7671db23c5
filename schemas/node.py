"""Nodes, and what is asked of them: capabilities, state, calls and answers."""

import enum
from typing import Any, Literal

from msgspec import Struct


class NodeHealth(enum.StrEnum):
    """How a node is doing."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    QUARANTINED = "quarantined"


class NodeCapabilities(Struct, frozen=True, gc=False, kw_only=True):
    """What a node declares of itself."""

    node: str
    models: tuple[str, ...]
    topics: tuple[str, ...] = ()
    """The subjects it serves; none named means all."""
    max_concurrency: int = 8
    timeout_s: float = 60.0
    """For one try of one call."""
    price_in: float = 0.0
    """Money per million input tokens."""
    price_out: float = 0.0
    """Money per million output tokens."""
    weight: float = 1.0

    def serves(self, topic: str) -> bool:
        """Tell whether it takes calls on a subject."""
        return not self.topics or topic in self.topics


class NodeState(Struct, frozen=True, gc=False, kw_only=True):
    """How a node is at a time."""

    node: str
    health: NodeHealth
    load: float
    """Active calls over max_concurrency."""
    queue_depth: int
    active_calls: int
    error_rate: float
    latency_s: float
    last_seen: float
    """Seconds since the epoch."""


class Call(Struct, frozen=True, gc=False, kw_only=True):
    """One question to one model on one node in one round."""

    topic: str
    logical_id: str
    generation: int
    round_index: int
    attempt: int
    node: str
    model: str
    sample: int
    prompt: str
    answer_kind: str
    previous_answer: str | None = None
    """The leading answer of the round before."""


AnswerStatus = Literal["ok", "abstained", "failed"]


class Answer(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a call returned: a candidate for the round's result, an abstention, or a failure with its error."""

    node: str
    model: str
    sample: int = 0
    status: AnswerStatus = "ok"
    text: str = ""
    score: float | None = None
    """The model's own estimate that it is right, 0 to 1; None when it gave none."""
    meta: dict[str, Any] | None = None
    error: str = ""
    tries: int = 1
    latency_s: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
