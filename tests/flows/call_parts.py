"""What the tests of calls are made of: nodes that do as a script says, rounds of a call or more, a runner for them."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.ledger import CallLedger
from connectors.nodes import Node, NodeError
from flows.budget import Budgets
from flows.calls import CallRunner, RunnerParts
from flows.items import Answered, Routed, Work
from flows.lane import Message
from flows.tries import RetryPolicy
from schemas.node import Answer, Call, NodeCapabilities
from schemas.task import read_task

TIMEOUT_S = 0.1
TASK, VIEW = read_task(b'{"topic": "math", "logical_id": "a", "payload": {"prompt": "?"}}')
MESSAGE = Message(kafka_topic="t", offset=0, task_id="a:r0", body=Work(TASK, VIEW))
OK = Answer(node="n", model="m", text="42")


class ScriptedNode:
    """Does at each try what the next part of its script says; the last part again and again."""

    def __init__(
        self,
        *script: Callable[[], Awaitable[Any]],
        max_concurrency: int = 8,
        name: str = "n",
        model: str = "m",
        timeout_s: float = TIMEOUT_S,
        **capabilities: Any,
    ) -> None:
        self.capabilities = NodeCapabilities(
            node=name, models=(model,), timeout_s=timeout_s, max_concurrency=max_concurrency, **capabilities
        )
        self._script = list(script)
        self.tries = 0

    async def ask(self, call: Call) -> Answer:
        """Follow the script."""
        del call
        part = self._script[min(self.tries, len(self._script) - 1)]
        self.tries += 1
        return await part()  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Nothing to let go of."""


async def answers() -> Answer:
    """As it should."""
    return OK


async def hangs() -> Answer:
    """For ever."""
    await asyncio.sleep(3600)
    return OK


async def fails() -> Answer:
    """With the error that nodes have."""
    raise NodeError("503")


def takes(seconds: float) -> Callable[[], Awaitable[Answer]]:
    """A part of a script."""

    async def part() -> Answer:
        await asyncio.sleep(seconds)
        return OK

    return part


class FixedNodes:
    """Nodes that stay the same."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes: Mapping[str, Node] = {node.capabilities.node: node for node in nodes}

    def refresh(self) -> Sequence[Node]:
        """Nothing changes."""
        return ()


def call(sample: int = 0, node: str = "n", model: str = "m") -> Call:
    """One question."""
    return Call(
        topic="math",
        logical_id="a",
        generation=0,
        round_index=0,
        attempt=0,
        node=node,
        model=model,
        sample=sample,
        prompt="?",
        answer_kind="number",
    )


@contextmanager
def runner_of(*nodes: Node, tries: int, folder: Path | None = None, **parts: Any) -> Iterator[CallRunner]:
    """Run the calls of some nodes."""
    with tempfile.TemporaryDirectory() as other:
        path = (folder or Path(other)) / "calls.sqlite"
        given: dict[str, Any] = {
            "nodes": lambda: FixedNodes(nodes),
            "retry": RetryPolicy(tries, 0.001),
            "ledger": lambda: CallLedger(path),
            "budgets": Budgets,
        }
        runner = CallRunner(RunnerParts(**given | parts))
        yield runner
        runner.close()


def routed(*calls: Call, **fields: Any) -> Routed:
    """A round of some calls."""
    return Routed(MESSAGE, 0.0, calls, **fields)


def answered(runner: CallRunner, *rounds: Routed, limit_s: float = 60) -> list[Answered]:
    """Ask some rounds, and wait until all are answered."""
    lane = runner.new_lane()
    runner.submit(lane, rounds)
    deadline = time.monotonic() + limit_s
    while len(lane.outbox) < len(rounds):
        assert time.monotonic() < deadline, "a round was never answered"
        time.sleep(0.005)
    return list(lane.outbox)
