"""Calls on their loop: whatever a node does, its round is answered."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.ledger import CallLedger
from connectors.nodes import Node, NodeError
from flows.budget import Budgets
from flows.calls import CallRunner, FixedNodes, RetryPolicy, RunnerParts
from flows.lane import Message
from flows.steps.intake import Work
from flows.steps.route import Routed
from schemas.node import Answer, Call, NodeCapabilities
from schemas.task import read_task

TIMEOUT_S = 0.1
TASK, VIEW = read_task(b'{"topic": "math", "logical_id": "a", "payload": {"prompt": "?"}}')
MESSAGE = Message(kafka_topic="t", offset=0, task_id="a:r0", body=Work(TASK, VIEW))
OK = Answer(node="n", model="m", text="42")


class ScriptedNode:
    """Does at each try what the next part of its script says; the last part again and again."""

    def __init__(self, *script: Callable[[], Awaitable[Any]], max_concurrency: int = 8) -> None:
        self.capabilities = NodeCapabilities(
            node="n", models=("m",), timeout_s=TIMEOUT_S, max_concurrency=max_concurrency
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


async def tidies_up_slowly() -> Answer:
    """Takes longer over it than it is looked whether a call has taken too long."""
    try:
        return await hangs()
    finally:
        await asyncio.sleep(0.3)


async def will_not_be_cancelled() -> Answer:
    """Answers all the same, too late."""
    try:
        return await hangs()
    except asyncio.CancelledError:
        return OK


async def cancels_itself() -> Answer:
    """As a pool does that drops what waits in it."""
    raise asyncio.CancelledError


async def fails() -> Answer:
    """With the error that nodes have."""
    raise NodeError("503")


async def returns_text() -> Any:
    """Which is no answer."""
    return "42"


def call(sample: int = 0) -> Call:
    """One question."""
    return Call(
        topic="math",
        logical_id="a",
        generation=0,
        round_index=0,
        attempt=0,
        node="n",
        model="m",
        sample=sample,
        prompt="?",
        answer_kind="number",
    )


@contextmanager
def runner_of(node: Node, tries: int) -> Iterator[CallRunner]:
    """Run the calls of one node."""
    with tempfile.TemporaryDirectory() as folder:
        runner = CallRunner(
            RunnerParts(
                nodes=lambda: FixedNodes([node]),
                retry=RetryPolicy(tries, 0.001),
                ledger=lambda: CallLedger(Path(folder) / "calls.sqlite"),
                budgets=Budgets,
            )
        )
        yield runner
        runner.close()


def ask(runner: CallRunner, calls: int = 1) -> tuple[Answer, ...]:
    """Ask one round, and wait for its answers."""
    lane = runner.new_lane()
    runner.submit(lane, [Routed(MESSAGE, 0.0, tuple(call(i) for i in range(calls)))])
    deadline = time.monotonic() + 10
    while not lane.outbox:
        assert time.monotonic() < deadline, "the round was never answered"
        time.sleep(0.005)
    return lane.outbox[0].answers


@pytest.mark.parametrize(
    "part,error",
    [
        (hangs, "TimeoutError: no answer within 0.1 s"),
        (tidies_up_slowly, "TimeoutError: no answer within 0.1 s"),
        (cancels_itself, "NodeError: the node cancelled the call"),
        (fails, "NodeError: 503"),
        (returns_text, "NodeError: the node returned str, which is no Answer"),
    ],
)
def test_a_call_that_fails_is_tried_again_and_in_the_end_says_why(
    part: Callable[[], Awaitable[Any]], error: str
) -> None:
    """Its round is answered, and the next call of the node as well."""
    node = ScriptedNode(part, part, part, part, answers)
    with runner_of(node, tries=2) as runner:
        (answer,) = ask(runner)
        assert (answer.status, answer.error, answer.tries) == ("failed", error, 2)
        (mended,) = ask(runner)
        assert (mended.status, mended.tries) == ("failed", 2)
        (good,) = ask(runner)
        assert (good.status, good.text, good.tries) == ("ok", "42", 1)


def test_one_that_will_not_be_cancelled_may_answer_late_and_time_out_later() -> None:
    """What is left of one time-out does not end the next one."""
    node = ScriptedNode(will_not_be_cancelled, hangs, answers)
    with runner_of(node, tries=2) as runner:
        assert ask(runner)[0].tries == 1
        (answer,) = ask(runner)
        assert (answer.status, answer.tries) == ("ok", 2)


def test_answers_come_in_the_order_of_the_calls_and_within_the_limit_of_the_node() -> None:
    """However long each takes."""
    under_way = most = 0

    async def counts() -> Answer:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return OK

    with runner_of(ScriptedNode(counts, max_concurrency=3), tries=1) as runner:
        given = ask(runner, calls=10)
    assert [a.sample for a in given] == list(range(10))
    assert most == 3


def test_the_end_abandons_what_is_open() -> None:
    """Without waiting for its time-out, and without another try."""
    node = ScriptedNode(hangs)
    node.capabilities = NodeCapabilities(node="n", models=("m",), timeout_s=60)
    with runner_of(node, tries=3) as runner:
        runner.submit(runner.new_lane(), [Routed(MESSAGE, 0.0, (call(),))])
        while not node.tries:
            time.sleep(0.005)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert node.tries == 1
