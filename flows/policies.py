"""Convergence policies: is a round's result good enough, or is another round to be tried.

A user's own is named by `AUREON_POLICY=module:callable`; the callable is given the Settings and returns an object with
the two members of `ConvergencePolicy`.
"""

from typing import Protocol

from msgspec import Struct

from flows.settings import Settings
from schemas.decision import RoundResult


class Verdict(Struct, frozen=True, gc=False):
    """What a policy says of a round."""

    converged: bool
    reason: str
    forced: bool = False
    """Converged only because the rounds are spent."""


class Outlook(Struct, frozen=True, gc=False):
    """What one more round is expected to bring and to take, by what earlier ones did."""

    gain: float
    """By how much the probability that the answer is right is expected to rise."""
    calls: float
    cost: float
    """Money."""


class Situation(Struct, frozen=True, gc=False, kw_only=True):
    """What a policy may know of a task besides the round's result."""

    round_index: int
    """Counted from 0."""
    previous_answer: str | None = None
    """The leading answer of the round before; None in the first round, or where nobody answered."""
    previous_confidence: float = 0.0
    is_stable: bool = False
    """The round before had an equivalent answer."""
    outlook: Outlook | None = None
    """None where nothing is known."""


class ConvergencePolicy(Protocol):
    """Decides when a task has converged; pure, so that a replay can ask it again."""

    @property
    def name(self) -> str:
        """The policy with its parameters, as it is kept with each decision."""
        ...

    def judge(self, result: RoundResult, situation: Situation) -> Verdict:
        """Judge the result of a round."""
        ...


class SimpleThresholdPolicy:
    """Accept from a score on, or whatever there is when the rounds are spent."""

    def __init__(self, settings: Settings) -> None:
        self._threshold = settings.score_threshold
        self._max_rounds = settings.max_rounds
        self.name = f"threshold(score>={self._threshold:g}, max_rounds={self._max_rounds})"
        self._accepted = f"score >= {self._threshold:g}"
        self._forced = f"{self._max_rounds} rounds spent"
        self._again = f"score < {self._threshold:g}"

    def judge(self, result: RoundResult, situation: Situation) -> Verdict:
        """Judge by the score alone."""
        if result.answer is not None and result.score >= self._threshold:
            return Verdict(converged=True, reason=self._accepted)
        if situation.round_index + 1 >= self._max_rounds:
            return Verdict(converged=True, reason=self._forced, forced=True)
        return Verdict(converged=False, reason=self._again)
