"""Nodes of cells that are killed: some never give the same answer twice, others ask the models of the loss audit."""

import asyncio
import os
import random
import signal
import uuid

from connectors.nodes import Node
from connectors.nodes.openai import OpenAINode
from schemas.node import Answer, Call, NodeCapabilities

MODELS = ("a", "b", "c")
URL = "CHAOS_MODELS"
"""The variable that tells the nodes where the models are."""
POISON = "poison"
"""The topic, and the node, that ends the process."""
HISTORY = "history"
"""The topic of the tasks that are finished before the faults begin; its nodes answer at once."""


class RandomNode:
    """Answers after 0.2 to 0.5 s with something new, and notes it; some answers of root tasks ask for branches."""

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


class PoisonNode:
    """Takes its process along."""

    capabilities = NodeCapabilities(node=POISON, models=(POISON,), topics=(POISON,))

    async def ask(self, call: Call) -> Answer:
        """End it."""
        del call
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    async def close(self) -> None:
        """Nothing to let go of."""


class HistoryNode:
    """Answers at once."""

    def __init__(self, name: str) -> None:
        self.capabilities = NodeCapabilities(
            node=name, models=(name,), topics=(HISTORY,), max_concurrency=100_000, adaptive=False
        )

    async def ask(self, call: Call) -> Answer:
        """Answer."""
        return Answer(node=call.node, model=call.model, text="2")

    async def close(self) -> None:
        """Nothing to let go of."""


def nodes_of_models() -> list[Node]:
    """A node for each model; they are asked on all topics but one."""
    topics = tuple(f"topic-{i}" for i in range(10))
    found: list[Node] = [PoisonNode(), *(HistoryNode(f"{HISTORY}-{i}") for i in (1, 2))]
    for model in MODELS:
        capabilities = NodeCapabilities(
            node=model, models=(model,), topics=topics, max_concurrency=500, timeout_s=5.0, adaptive=False
        )
        found.append(OpenAINode(capabilities, os.environ[URL]))
    return found
