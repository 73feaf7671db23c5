"""Nodes for measuring: they answer at once, or after a fixed time."""

import asyncio

from connectors.nodes import Node
from schemas.node import Answer, Call, NodeCapabilities

CONVERGES_AT = 2
"""The round, from 0, in which the answer is good enough, so that a task takes three."""


class TimedNode:
    """Answers after `delay_s`, with a prompt's own text; two models never agree before the last round."""

    def __init__(self, name: str, delay_s: float, max_concurrency: int = 100_000) -> None:
        self.capabilities = NodeCapabilities(node=name, models=(name,), max_concurrency=max_concurrency)
        self._delay_s = delay_s

    async def ask(self, call: Call) -> Answer:
        """Answer."""
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        agreed = call.round_index >= CONVERGES_AT
        return Answer(node=call.node, model=call.model, text="42" if agreed else f"{call.node} {call.round_index}")

    async def close(self) -> None:
        """Nothing to let go of."""


def instant() -> list[Node]:
    """One model that answers at once."""
    return [TimedNode("instant", 0.0)]


def instant_three() -> list[Node]:
    """Three models that answer at once."""
    return [TimedNode(f"instant-{i}", 0.0) for i in range(3)]


def slow() -> list[Node]:
    """One model of 100 ms, 500 calls at a time."""
    return [TimedNode("slow", 0.1, 500)]
