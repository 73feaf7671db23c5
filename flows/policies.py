"""Convergence policies: is a round's result good enough, or is another round to be tried. Pure.

    threshold(0.9)       the score, which is the confidence unless supervision capped it
    value(50)            another round costs more than it is expected to bring
    verifier             a verifier accepted the answer; what none accepted is a dead letter
    stability(0.6)       two rounds in a row agree, with this confidence at least
    any(…, …)  all(…, …) of these

Another one is a `Criterion` with a line of `CRITERIA`, its name in the description of `Settings.policy`, and a row in
guide/convergence.md. A user's own is named as `module:callable`; the callable is given the Settings and returns an
object with the two members of `ConvergencePolicy`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from flows.settings import Settings, import_object, make_object
from schemas.decision import RoundResult
from schemas.errors import RefusedError
from schemas.task import FORM_CHECKS


class Verdict(Struct, frozen=True, gc=False):
    """What a policy says of a round."""

    converged: bool
    reason: str
    forced: bool = False
    """Converged only because the rounds are spent."""
    exhausted: bool = False
    """Not converged, and never going to: the rounds are spent, and the policy takes nothing less."""


class Outlook(Struct, frozen=True, gc=False):
    """What one more round is expected to bring and to take, by what earlier ones did."""

    gain: float
    """By how much the probability that the answer is right is expected to rise."""
    calls: float
    cost: float
    """Money."""

    @property
    def price(self) -> float:
        """The money, or the calls where there is none to pay."""
        return self.cost or self.calls


class Situation(Struct, frozen=True, gc=False, kw_only=True):
    """What a policy may know of a task besides the round's result."""

    round_index: int
    """Counted from 0."""
    outlook: Outlook | None = None
    """None where nothing is known."""
    compare: Callable[[], bool] = lambda: False
    """Finds `is_stable`, which takes some microseconds."""

    @property
    def is_stable(self) -> bool:
        """The round before had an equivalent answer."""
        return self.compare()


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


# -- criteria ------------------------------------------------------------------------------------------------------


class Criterion(Protocol):
    """One test of a result, of which policies are made; asked only where there is an answer."""

    name: str
    takes_nothing_less: bool
    """What it does not accept is not accepted because the rounds are spent, either."""

    def test(self, result: RoundResult, situation: Situation) -> tuple[bool, str]:
        """Tell whether the result passes, and why or why not."""
        ...


class Threshold:
    """A score."""

    takes_nothing_less = False

    def __init__(self, least: float) -> None:
        self._least = least
        self.name = f"threshold({least:g})"

    def test(self, result: RoundResult, situation: Situation) -> tuple[bool, str]:
        """Compare."""
        del situation
        passes = result.score >= self._least
        return passes, f"score {'>=' if passes else '<'} {self._least:g}"


class Value:
    """The value of one more round: what it is expected to bring, times what a right answer is worth, against its price.

    Where nothing is known of how rounds turn out, nothing is accepted: the first ones are what it is learned from.
    """

    takes_nothing_less = False

    def __init__(self, worth: float) -> None:
        self._worth = worth
        self.name = f"value({worth:g})"

    def test(self, result: RoundResult, situation: Situation) -> tuple[bool, str]:
        """Weigh."""
        outlook = situation.outlook
        if outlook is None:
            return False, "nothing is known of what another round brings"
        brings = max(0.0, outlook.gain) * self._worth
        told = f"another round is expected to bring {outlook.gain:+.3f}, worth {brings:.3g}, for {outlook.price:.3g}"
        return brings < outlook.price, f"confidence {result.confidence:.3f}; {told}"

    def pays(self, gain: float, price: float) -> bool:
        """Tell whether something is worth its price; used within a round, call by call."""
        return gain * self._worth >= price


class Verified:
    """A verifier's word; one that sees the form alone has none."""

    takes_nothing_less = True
    name = "verifier"

    def test(self, result: RoundResult, situation: Situation) -> tuple[bool, str]:
        """Look."""
        del situation
        if result.verifier is None or result.verifier in FORM_CHECKS:
            return False, "no verifier judged it"
        if result.verified is None:
            return False, f"{result.verifier!r} gave no verdict"
        return result.verified, f"{result.verifier!r} {'accepts' if result.verified else 'does not accept'} it"


class Stability:
    """Two rounds in a row with equivalent answers."""

    takes_nothing_less = False

    def __init__(self, least: float) -> None:
        self._least = least
        self.name = f"stability({least:g})" if least else "stability"

    def test(self, result: RoundResult, situation: Situation) -> tuple[bool, str]:
        """Compare with the round before."""
        if not situation.is_stable:
            return False, "not the answer of the round before"
        if result.confidence < self._least:
            return False, f"confidence < {self._least:g}"
        return True, "two rounds agree"


class AnyOf:
    """One of several is enough."""

    def __init__(self, parts: Sequence[Criterion]) -> None:
        self._parts = parts
        self.name = f"any({', '.join(p.name for p in parts)})"
        self.takes_nothing_less = all(p.takes_nothing_less for p in parts)

    def test(self, result: RoundResult, situation: Situation) -> tuple[bool, str]:
        """Ask in order, until one passes."""
        told = []
        for part in self._parts:
            passes, why = part.test(result, situation)
            if passes:
                return True, why
            told.append(why)
        return False, "; ".join(told)


class AllOf:
    """Several have to pass."""

    def __init__(self, parts: Sequence[Criterion]) -> None:
        self._parts = parts
        self.name = f"all({', '.join(p.name for p in parts)})"
        self.takes_nothing_less = any(p.takes_nothing_less for p in parts)

    def test(self, result: RoundResult, situation: Situation) -> tuple[bool, str]:
        """Ask in order, until one does not."""
        told = []
        for part in self._parts:
            passes, why = part.test(result, situation)
            if not passes:
                return False, why
            told.append(why)
        return True, "; ".join(told)


class CriterionPolicy:
    """Accept what a criterion passes; when the rounds are spent, whatever there is, or nothing less.

    Args:
        criterion: what a result has to pass.
        max_rounds: how many rounds there are.
    """

    def __init__(self, criterion: Criterion, max_rounds: int) -> None:
        self.criterion = criterion
        self._max_rounds = max_rounds
        self.name = f"{criterion.name}, max_rounds={max_rounds}"

    def judge(self, result: RoundResult, situation: Situation) -> Verdict:
        """Judge by the criterion, then by the rounds."""
        passes, why = False, "nobody gave an answer"
        if result.answer is not None:
            passes, why = self.criterion.test(result, situation)
        if passes:
            return Verdict(converged=True, reason=why)
        if situation.round_index + 1 < self._max_rounds:
            return Verdict(converged=False, reason=why)
        if self.criterion.takes_nothing_less:
            return Verdict(converged=False, reason=why, exhausted=True)
        return Verdict(converged=True, reason=f"{self._max_rounds} rounds spent", forced=True)


# -- reading the setting -------------------------------------------------------------------------------------------


def _share(number: float | None, default: float) -> float:
    share = default if number is None else number
    if share > 1.0:
        raise ValueError(f"{share:g} is more than 1")
    return share


def _worth(number: float | None, default: float) -> float:
    worth = default if number is None else number
    if not worth:
        raise ValueError("what a right answer is worth has to be more than 0")
    return worth


def _verified(number: float | None) -> Verified:
    if number is not None:
        raise ValueError("verifier takes no number")
    return Verified()


CRITERIA: Mapping[str, Callable[[float | None, Settings], Criterion]] = {
    "threshold": lambda number, settings: Threshold(_share(number, settings.score_threshold)),
    "value": lambda number, settings: Value(_worth(number, settings.answer_value)),
    "verifier": lambda number, _settings: _verified(number),
    "stability": lambda number, _settings: Stability(_share(number, 0.0)),
}
"""All that a policy can name, made with the number behind the name, where there is one; a ValueError says why not."""

_TOKEN = re.compile(r"\s*(?:[a-z]+|\d{1,12}(?:\.\d{1,12})?|[(),])", re.ASCII)
_THERE_ARE = f"there are: {', '.join(CRITERIA)}, any(…, …), all(…, …), and module:callable"


def make_policy(settings: Settings) -> ConvergencePolicy:
    """Make the policy that the settings name.

    Raises:
        RefusedError: they name none; says what there is.
    """
    text = settings.policy.strip()
    if ":" in text:
        place = f"AUREON_POLICY={text!r}"
        policy: ConvergencePolicy = make_object(import_object(text, "AUREON_POLICY"), place, "judge", settings)
        return policy if isinstance(policy, SimpleThresholdPolicy | CriterionPolicy) else _OwnPolicy(policy, place)
    if text == "threshold":
        return SimpleThresholdPolicy(settings)
    return CriterionPolicy(_Reader(text, settings).whole(), settings.max_rounds)


class _OwnPolicy:
    """A user's own, whose verdicts are looked at: one that is none would come up far from here."""

    def __init__(self, policy: ConvergencePolicy, place: str) -> None:
        self.name = policy.name
        self._policy = policy
        self._place = place

    def judge(self, result: RoundResult, situation: Situation) -> Verdict:
        """Have it judge.

        Raises:
            RefusedError: what it says is no verdict.
        """
        verdict: object = self._policy.judge(result, situation)
        if not isinstance(verdict, Verdict):
            raise RefusedError(f"{self._place}: judge gave {type(verdict).__name__}, and no flows.policies.Verdict")
        return verdict


def value_of(policy: ConvergencePolicy) -> Value | None:
    """Give the policy's way to weigh a call, if it is one of value by itself."""
    criterion = policy.criterion if isinstance(policy, CriterionPolicy) else None
    return criterion if isinstance(criterion, Value) else None


class _Reader:
    """Reads `any(verifier, all(stability, threshold(0.6)))`."""

    def __init__(self, text: str, settings: Settings) -> None:
        self._text = text
        self._settings = settings
        self._tokens: list[str] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                raise self._refused(f"{text[at:].strip()!r} is not understood")
            self._tokens.append(found[0].strip())
            at = found.end()

    def whole(self) -> Criterion:
        """Read all of it."""
        criterion = self._criterion(0)
        if self._tokens:
            raise self._refused(f"{self._tokens[0]!r} stands behind the end of it")
        return criterion

    def _refused(self, what: str) -> RefusedError:
        return RefusedError(f"AUREON_POLICY={self._text!r}: {what}; {_THERE_ARE}")

    def _take(self, wanted: str = "") -> str:
        if not self._tokens or (wanted and self._tokens[0] != wanted):
            raise self._refused(f"{repr(wanted) if wanted else 'a name'} is missing")
        return self._tokens.pop(0)

    def _criterion(self, depth: int) -> Criterion:
        name = self._take()
        if name in ("any", "all"):
            if depth > 20:
                raise self._refused("it is nested too deeply")
            parts = [self._part("(", depth)]
            while self._tokens and self._tokens[0] == ",":
                parts.append(self._part(",", depth))
            self._take(")")
            return AnyOf(parts) if name == "any" else AllOf(parts)
        if name not in CRITERIA:
            raise self._refused(f"{name!r} is none")
        try:
            return CRITERIA[name](self._number(), self._settings)
        except ValueError as error:
            raise self._refused(str(error)) from None

    def _part(self, opening: str, depth: int) -> Criterion:
        self._take(opening)
        return self._criterion(depth + 1)

    def _number(self) -> float | None:
        if not self._tokens or self._tokens[0] != "(":
            return None
        self._take("(")
        text = self._take()
        self._take(")")
        if not text[0].isdigit():
            raise self._refused(f"{text!r} is no number")
        return float(text)
