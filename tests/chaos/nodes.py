"""Nodes that never give the same answer twice, and note every call that they answer."""

import asyncio
import os
import random
import uuid

from connectors.nodes import Node
from schemas.node import Answer, Call, NodeCapabilities


class RandomNode:
    """Answers after 0.2 to 0.5 s with something new; some answers of root tasks ask for branches."""

    def __init__(self, name: str) -> None:
        self.capabilities = NodeCapabilities(node=name, models=(name,), max_concurrency=100_000)
        self._calls = os.open(os.environ["CHAOS_CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def ask(self, call: Call) -> Answer:
        """Answer differently at each call."""
        await asyncio.sleep(random.uniform(0.2, 0.5))
        name = f"{call.topic}/{call.logical_id}/{call.round_index}/{call.attempt}/{call.node}\n"
        os.write(self._calls, name.encode())
        branches = []
        if ":branch-" not in call.logical_id and random.random() < 0.2:
            branches = [
                {"topic": "follow-up", "payload": {"prompt": f"after {call.logical_id}: {i}"}, "priority": 5}
                for i in range(random.randint(1, 2))
            ]
        return Answer(node=call.node, model=call.model, text=uuid.uuid4().hex, meta={"branches": branches})

    async def close(self) -> None:
        """Let go of the notes."""
        os.close(self._calls)


def random_nodes() -> list[Node]:
    """Two nodes that never agree, so that every task takes all its rounds."""
    return [RandomNode("one"), RandomNode("two")]
