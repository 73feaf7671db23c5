"""A question to a model, and a loop on which it is asked."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from schemas.node import Call

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


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, within a time that is only there so that nothing hangs: a model reads slowly beside others."""
    return asyncio.run(asyncio.wait_for(main, 300))
