"""Nodes, and what is asked of them: capabilities, state, calls and answers."""

import enum
from typing import Any, Literal

from msgspec import Struct

from schemas.task import PromptMessage


class NodeHealth(enum.StrEnum):
    """How a node is doing."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class NodeCapabilities(Struct, frozen=True, gc=False, kw_only=True):
    """What a node declares of itself."""

    node: str
    models: tuple[str, ...]
    topics: tuple[str, ...] = ()
    """The subjects it serves; none named means all."""
    max_concurrency: int = 8
    adaptive: bool = True
    """Whether fewer calls run at a time while its latency is raised. Not where calls differ in length by nature."""
    timeout_s: float = 60.0
    """For one try of one call."""
    price_in: float = 0.0
    """Money per million input tokens."""
    price_out: float = 0.0
    """Money per million output tokens."""
    max_tokens: int = 1024
    """The most output tokens of one call."""
    load_cost: float = 0.0
    """Money that it counts as when a call makes the node load a model."""
    weight: float = 1.0
    """Of two models that do as well, the one whose node weighs more is asked more often."""
    affinity: dict[str, float] = {}
    """How often it is expected to be right, 0 to 1, by topic, before anything is learned; `*` is for all others."""

    def serves(self, topic: str) -> bool:
        """Tell whether it takes calls on a subject."""
        return not self.topics or topic in self.topics

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """What tokens cost: money."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


class NodeReport(Struct, frozen=True, gc=False, kw_only=True):
    """What a node says when it is asked how it is."""

    models: tuple[str, ...]
    """Those it has."""
    loaded: tuple[str, ...]
    """Those that answer without being loaded first."""


class NodeState(Struct, frozen=True, gc=False, kw_only=True):
    """How a node is at a time, as a cell that uses it sees it; published on `nodes.heartbeat`."""

    cell: str
    """Who says so: host, and process id."""
    node: str
    health: NodeHealth
    load: float
    """Active calls over max_concurrency."""
    queue_depth: int
    """Calls that wait for their turn."""
    active_calls: int
    limit: int
    """How many calls run at a time now, at most max_concurrency."""
    quiet_s: float = 0.0
    """For how long it asked to be left alone from now on."""
    error_rate: float
    """Of the last calls, 0 to 1; those that timed out included."""
    timeout_rate: float
    latency_s: float
    """Median of the last calls that were answered."""
    tokens_per_s: float
    """Output tokens, over the last seconds."""
    calls: int
    """Since the cell began."""
    last_seen: float
    """When it last answered anything, in seconds since the epoch; 0 for never."""
    loaded: tuple[str, ...] = ()
    """Which models it has loaded."""
    open: tuple[str, ...] = ()
    """Models whose circuit breaker is open: they are not asked for a while."""
    at: float
    """When this was said, in seconds since the epoch."""


class Call(Struct, frozen=True, gc=False):
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
    """The question as one text."""
    answer_kind: str
    messages: tuple[PromptMessage, ...] = ()
    """The question as a chat, by the topic's template, with what was wrong with the round before."""
    previous_answer: str | None = None
    """The leading answer of the round before."""


AnswerStatus = Literal["ok", "abstained", "failed"]


class Answer(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a call returned: a candidate for the round's result, an abstention, or a failure with its error."""

    node: str
    model: str
    version: str = ""
    """Which one answered under the model's name, where its server says more than that."""
    sample: int = 0
    status: AnswerStatus = "ok"
    text: str = ""
    score: float | None = None
    """The model's own estimate that it is right, 0 to 1; None when it gave none."""
    meta: dict[str, Any] | None = None
    signals: dict[str, float] = {}
    """What its text tells of how sure it may be, by name."""
    error: str = ""
    tries: int = 1
    latency_s: float = 0.0
    """From when it was its turn: with all tries, the pauses between them, and the wait for a free place at the node."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
