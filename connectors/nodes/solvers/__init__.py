"""Solvers: pure functions from a prompt to an answer, by three methods that share only reading and writing.

    symbolic  exact: normal forms, isolation of roots, unit propagation, closed forms
    numeric   floats that know their error; each round works with four times the precision
    search    enumeration and sampling; each round may take four times the steps

A method that cannot read a prompt, or has not got to an answer within its effort, abstains. It never guesses.
"""

from typing import Any, NamedTuple

from connectors.nodes.solvers.problems import Equation, Factorize, Problem
from connectors.nodes.solvers.writing import FACTORS_JOIN

BASE_STEPS = 16_384
"""Of a search in its first round, a few milliseconds: most tasks need no more. A later round takes four times as many,
from the start again, and gets further than all rounds before it together."""
GROWTH = 4
PROVEN = 0.99
"""The score of an answer that its method proves: what is left is that the prompt was misread."""


class Solution(NamedTuple):
    """An answer and what goes with it."""

    text: str
    score: float | None = None
    """The method's own estimate that the answer is right."""
    meta: dict[str, Any] | None = None
    """`branches`: the follow-up tasks that the answer asks for, as `schemas.task.BranchProposal` has them."""


def effort(round_index: int) -> int:
    """How much more a round does than the first: 1, 4, 16, and 64 for all that follow."""
    return int(GROWTH ** min(max(round_index, 0), 3))


def solution(problem: Problem, text: str, score: float) -> Solution:
    """Make an answer; one that can be checked by putting it in asks for that check, as a task of logic.

    The check is a problem of its own and asks for nothing further.
    """
    if isinstance(problem, Equation):
        # The equations that are read have one-letter variables, and no function's name.
        check = problem.text.replace(problem.variable, f"({text})").strip()
    elif isinstance(problem, Factorize):
        check = f"{text.replace(FACTORS_JOIN, ' * ')} = {problem.number}"
    else:
        return Solution(text, score)
    payload = {"prompt": f"Is it true that {check}? Answer Yes or No.", "answer_kind": "choice"}
    return Solution(text, score, {"branches": [{"topic": "logic", "payload": payload, "score": score}]})
