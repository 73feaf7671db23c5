"""The demo's solvers, which leave some tasks open: AUREON_NODES=held_nodes:nodes, with this folder on PYTHONPATH.

It imports what every version has, so that it serves those before this one too. What becomes of a task its id says:
`held-…` has no answer ever, `failing-…` fails at first, `differing-…` has as many answers as nodes, and then none;
`spawning-…` has a branch, which has one, which has one without an answer.
"""

import asyncio

import msgspec

from connectors.nodes import Node, NodeError
from connectors.nodes.embedded import embedded_nodes
from schemas.node import Answer, Call

DEEPEST = 3
TOPICS = ("math", "logic", "coding", "math")


class HeldNode:
    """A node that goes by the id of the task."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.capabilities = msgspec.structs.replace(node.capabilities, timeout_s=3600.0)

    async def ask(self, call: Call) -> Answer:
        """Answer, fail, or never come back."""
        kind = call.logical_id.partition("-")[0]
        if kind == "failing" and call.attempt == 0:
            raise NodeError("this one fails at first")
        depth = call.logical_id.count(":branch-")
        if kind == "held" or (kind == "differing" and call.round_index) or depth == DEEPEST:
            await asyncio.Event().wait()
        if kind == "differing":
            return Answer(node=call.node, model=call.model, sample=call.sample, text=f"{call.node} says so", score=0.5)
        if kind == "spawning":
            prompt = f"Solve for m: {len(call.logical_id)}*m = {7 * len(call.logical_id)}"
            branch = {"topic": TOPICS[depth + 1], "payload": {"prompt": prompt, "answer_kind": "number"}, "score": 0.9}
            meta = {"branches": [branch]}
            return Answer(node=call.node, model=call.model, sample=call.sample, text="7", score=0.99, meta=meta)
        return await self._node.ask(call)

    async def close(self) -> None:
        """Let go of the solvers."""
        await self._node.close()


def nodes() -> list[HeldNode]:
    """Give the solvers."""
    return [HeldNode(node) for node in embedded_nodes()]
