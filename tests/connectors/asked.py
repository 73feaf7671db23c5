"""A question to a model, and a loop on which it is asked."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from schemas.node import Call
from tests.aureon_command import until
from tests.openai_server import OpenAIServer

T = TypeVar("T")


def a_call(**differently: Any) -> Call:
    """A call, but for what is given."""
    usual: dict[str, Any] = {
        "topic": "math",
        "logical_id": "t",
        "generation": 0,
        "round_index": 0,
        "attempt": 0,
        "node": "n",
        "model": "m",
        "sample": 0,
        "prompt": "What is 6*7?",
        "answer_kind": "number",
    }
    return Call(**usual | differently)


async def arrived(server: OpenAIServer, calls: int = 1) -> None:
    """Wait until a server has been asked so often."""
    await asyncio.to_thread(until, lambda: server.count >= calls)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, within a time that is only there so that nothing hangs: a model reads slowly beside others."""
    return asyncio.run(asyncio.wait_for(main, 300))
