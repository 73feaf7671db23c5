"""Nodes: the places where models run."""

from typing import Literal, Protocol, runtime_checkable

from schemas.errors import TryAgainError
from schemas.node import Answer, Call, NodeCapabilities, NodeReport

Failure = Literal[
    "failed", "timeout", "rate_limited", "server_error", "refused", "closed", "garbage", "denied", "rejected"
]
"""What went wrong with a call: something unknown; no answer in time; HTTP 429; HTTP 5xx; no connection; the connection
ended half-way; an answer that is none; the key or the model is wrong, HTTP 401 to 404; this very request is at fault,
other HTTP 4xx."""


class NodeError(TryAgainError):
    """A node did not answer a call.

    Args:
        message: what happened, without any secret.
        failure: of which sort.
        retry_after_s: how long the node asks to be left alone.
    """

    def __init__(self, message: str, failure: Failure = "failed", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.failure: Failure = failure
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        """Whether the same call, asked again, may be answered."""
        return self.failure not in ("denied", "rejected")


class Node(Protocol):
    """A place where models run."""

    capabilities: NodeCapabilities

    async def ask(self, call: Call) -> Answer:
        """Answer a call, or abstain.

        Raises:
            NodeError: there is no answer this time; the message says why.
        """

    async def close(self) -> None:
        """Let go of what the node holds; calls under way fail."""


@runtime_checkable
class CheckedNode(Node, Protocol):
    """A node that can be asked how it is, without a call to a model."""

    async def check(self) -> NodeReport:
        """Say which models there are.

        Raises:
            NodeError: it does not answer.
        """
