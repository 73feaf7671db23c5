"""Real tasks for the demo: reasoning-gym's generators pose them, and its verifiers tell afterwards who was right.

Nothing of the answer travels with a task. What the verifier needs is generated again from family, seed and index,
which the metadata names.
"""

import contextlib
import functools
import importlib.util
import io
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from schemas.errors import RefusedError
from schemas.task import AnswerKind


class Family(NamedTuple):
    """One generator, with what of its settings differs from the default."""

    topic: str
    answer_kind: AnswerKind
    settings: Mapping[str, int] = {}


FAMILIES: dict[str, Family] = {
    "simple_equations": Family("math", AnswerKind.NUMBER),
    "polynomial_equations": Family("math", AnswerKind.TEXT),
    "simple_integration": Family("math", AnswerKind.EXPRESSION),
    # Sixteen digits are more than a double is sure of.
    "decimal_arithmetic": Family("math", AnswerKind.NUMBER, {"precision": 16}),
    "prime_factorization": Family("math", AnswerKind.TEXT, {"max_value": 10**12}),
    "count_primes": Family("math", AnswerKind.NUMBER),
    "base_conversion": Family("coding", AnswerKind.CODE, {"max_value": 40_000}),
    "bitwise_arithmetic": Family("coding", AnswerKind.CODE, {"difficulty": 3}),
    "bf": Family("coding", AnswerKind.CODE),
    "knights_knaves": Family("logic", AnswerKind.CHOICE, {"n_people": 4}),
    "self_reference": Family("logic", AnswerKind.NUMBER),
    "circuit_logic": Family("logic", AnswerKind.CHOICE),
    "mini_sudoku": Family("logic", AnswerKind.TEXT),
    "dice": Family("probability", AnswerKind.NUMBER),
}
"""The generators by name. A factorization is compared as text: by value, any product would do."""

SEED_STRIDE = 1_000_000
"""The generators seed entry n with seed + n, so seeds next to each other would share their entries."""

RIGHT = 0.99
"""What a verifier gives at least for an answer that is right; some take off for the last decimal place."""


def demo_tasks(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Give so many tasks as `schemas.task.TaskDescriptor` has them, the families in turn.

    Raises:
        RefusedError: reasoning-gym is not installed.
    """
    for name in FAMILIES:
        _generator(name, seed)
    for number in range(count):
        index, turn = divmod(number, len(FAMILIES))
        name = list(FAMILIES)[turn]
        family = FAMILIES[name]
        yield {
            "topic": family.topic,
            "logical_id": f"{name}-{seed}-{index}",
            "payload": {"prompt": _entry(name, seed, index)["question"], "answer_kind": family.answer_kind.value},
            "metadata": {"family": name, "seed": str(seed), "index": str(index)},
        }


def verify(metadata: Mapping[str, str], answer: str) -> float:
    """Score an answer, 0 to 1, by the verifier of the family that the task came from.

    Raises:
        RefusedError: reasoning-gym is not installed.
    """
    name, seed = metadata["family"], int(metadata["seed"])
    return float(_generator(name, seed).score_answer(answer, _entry(name, seed, int(metadata["index"]))))


@functools.lru_cache(maxsize=100)
def _generator(name: str, seed: int) -> Any:
    try:
        # Its zebra puzzles import pycosat, which has no wheel; they are not in the demo.
        if "pycosat" not in sys.modules and importlib.util.find_spec("pycosat") is None:
            sys.modules["pycosat"] = types.ModuleType("pycosat")
        import reasoning_gym  # noqa: PLC0415 - an extra, and it takes a second
    except ImportError:
        raise RefusedError("the demo's tasks come from reasoning-gym: pip install 'aureon[demo]'") from None
    return reasoning_gym.create_dataset(name, seed=seed * SEED_STRIDE, **FAMILIES[name].settings)


@functools.lru_cache(maxsize=20_000)
def _entry(name: str, seed: int, index: int) -> dict[str, Any]:
    # One of the generators writes dots to stdout as it goes.
    with contextlib.redirect_stdout(io.StringIO()):
        entry: dict[str, Any] = _generator(name, seed)[index]
    return entry
