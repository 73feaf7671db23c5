"""Nodes: the places where models run."""

from typing import Protocol

from schemas.errors import TryAgainError
from schemas.node import Answer, Call, NodeCapabilities


class NodeError(TryAgainError):
    """A node did not answer a call; asked again, it may."""


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
