"""Convergence policies, each without a flow: where it accepts, where it does not, and what it does at the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.policies import (
    CRITERIA,
    ConvergencePolicy,
    CriterionPolicy,
    Outlook,
    SimpleThresholdPolicy,
    Situation,
    Value,
    Verdict,
    make_policy,
    value_of,
)
from flows.settings import Settings
from schemas.decision import RoundResult
from schemas.errors import RefusedError

OWN = f"{__name__}:Always"


def policy(text: str, max_rounds: int = 3, **settings: float) -> ConvergencePolicy:
    """The policy of this setting."""
    return make_policy(Settings(policy=text, max_rounds=max_rounds, **settings))  # type: ignore[arg-type]


def judged(
    text: str,
    confidence: float = 0.9,
    *,
    answer: str | None = "42",
    verified: bool | None = None,
    verifier: str | None = None,
    round_index: int = 0,
    stable: bool = False,
    outlook: Outlook | None = None,
) -> Verdict:
    """What the policy says of a result."""
    result = RoundResult(
        answer=answer,
        score=confidence,
        confidence=confidence,
        agreement=1.0,
        evidence="self",
        verified=verified,
        verifier=verifier,
    )
    situation = Situation(round_index=round_index, compare=lambda: stable, outlook=outlook)
    return policy(text).judge(result, situation)


class Always:
    """A user's own."""

    name = "always"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(self, result: RoundResult, situation: Situation) -> Verdict:
        """Take it."""
        assert isinstance(result, RoundResult)
        assert isinstance(situation, Situation)
        return Verdict(converged=True, reason="always")


def dear(settings: Settings) -> ConvergencePolicy:
    """A user's own, of what there is."""
    return CriterionPolicy(Value(7.0), settings.max_rounds)


class Yes:
    """One that gives no verdict."""

    name = "yes"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(self, result: RoundResult, situation: Situation) -> bool:
        """Take it."""
        assert isinstance(result, RoundResult)
        assert isinstance(situation, Situation)
        return True


@pytest.mark.parametrize("text", ["threshold", "threshold(0.85)"])
def test_threshold_accepts_from_its_score_on(text: str) -> None:
    """The bound itself is enough."""
    assert judged(text, 0.85).converged
    assert not judged(text, 0.8499).converged


def test_threshold_has_a_parameter() -> None:
    """And is named by it."""
    assert not judged("threshold(0.95)", 0.9).converged
    assert policy("threshold(0.95)").name == "threshold(0.95), max_rounds=3"
    assert policy("threshold(1)").name == "threshold(1), max_rounds=3"
    assert isinstance(policy("threshold"), SimpleThresholdPolicy)
    assert policy("threshold").name == "threshold(score>=0.85, max_rounds=3)"


@pytest.mark.parametrize("text", ["threshold", "threshold(0.85)"])
def test_a_round_in_which_nobody_answered_is_not_accepted(text: str) -> None:
    """Whatever its score says."""
    assert not judged(text, 0.9, answer=None).converged


@pytest.mark.parametrize("text", ["threshold", "threshold(0.85)"])
def test_the_last_round_but_one_is_not_the_last(text: str) -> None:
    """Of three, the second."""
    assert not judged(text, 0.1, round_index=1).converged


def test_without_a_round_before_nothing_is_stable() -> None:
    """The first one has none to be compared with."""
    assert not Situation(round_index=0).is_stable


def test_value_stops_where_a_round_costs_more_than_it_brings() -> None:
    """A gain of .01 is worth half a call where a right answer is worth fifty."""
    assert judged("value", outlook=Outlook(0.01, 3.0, 0.0)).converged
    assert not judged("value", outlook=Outlook(0.1, 3.0, 0.0)).converged
    assert judged("value(10)", outlook=Outlook(0.1, 3.0, 0.0)).converged


def test_value_takes_another_round_that_costs_what_it_brings() -> None:
    """And another call, within a round."""
    assert not judged("value", outlook=Outlook(0.0625, 3.125, 0.0)).converged
    worth = value_of(policy("value(50)"))
    assert worth is not None
    assert worth.pays(0.0625, 3.125)
    assert not worth.pays(0.0624, 3.125)


def test_value_counts_money_where_there_is_any() -> None:
    """A round for a thousandth of what a right answer is worth pays with a gain of two thousandths."""
    assert not judged("value(1)", outlook=Outlook(0.002, 100.0, 0.001)).converged
    assert judged("value(1)", outlook=Outlook(0.0009, 1.0, 0.001)).converged


def test_value_never_pays_for_a_round_that_is_expected_to_do_harm() -> None:
    """However cheap it is."""
    assert judged("value", outlook=Outlook(-0.2, 1e-9, 0.0)).converged


def test_value_goes_on_where_nothing_is_known_or_nobody_answered() -> None:
    """And says why it stops, with the figures."""
    assert not judged("value").converged
    assert not judged("value", answer=None, outlook=Outlook(0.0, 1.0, 0.0)).converged
    assert judged("value", 0.9, outlook=Outlook(0.01, 3.0, 0.0)).reason == (
        "confidence 0.900; another round is expected to bring +0.010, worth 0.5, for 3"
    )


def test_verifier_takes_a_verifiers_word_and_nothing_less() -> None:
    """Not at the end either, whatever the confidence."""
    assert judged("verifier", verified=True, verifier="tests").converged
    assert not judged("verifier", 0.999, verified=False, verifier="tests").converged
    assert not judged("verifier", 0.999).converged
    assert not judged("verifier", verified=True).converged
    silent = judged("verifier", verifier="tests")
    assert (silent.converged, silent.reason) == (False, "'tests' gave no verdict")
    spent = judged("verifier", 0.999, verified=False, verifier="tests", round_index=2)
    assert spent.exhausted
    assert not spent.converged
    assert not spent.forced


@pytest.mark.parametrize("check", ["json", "number", "python"])
def test_a_check_of_the_form_is_no_verifier(check: str) -> None:
    """That an answer is a number does not make it the right one."""
    assert not judged("verifier", verified=True, verifier=check).converged


def test_stability_wants_two_rounds_that_agree() -> None:
    """With a confidence, if one is named."""
    assert judged("stability", 0.1, stable=True).converged
    assert not judged("stability", 0.99).converged
    assert judged("stability(0.6)", 0.6, stable=True).converged
    assert not judged("stability(0.6)", 0.59, stable=True).converged


def test_any_takes_what_one_takes() -> None:
    """And tells all reasons where none does."""
    assert judged("any(verifier, threshold(0.8))", 0.8).converged
    assert judged("any(verifier, threshold(0.8))", 0.1, verified=True, verifier="tests").converged
    told = judged("any(stability, threshold(0.95))", 0.8)
    assert not told.converged
    assert told.reason == "not the answer of the round before; score < 0.95"


def test_all_takes_what_all_take() -> None:
    """And tells the first that does not."""
    taken = judged("all(stability, threshold(0.8))", 0.8, stable=True)
    assert (taken.converged, taken.reason) == (True, "two rounds agree; score >= 0.8")
    assert judged("all(stability, threshold(0.8))", 0.8).reason == "not the answer of the round before"
    assert not judged("all(stability, threshold(0.8))", 0.7, stable=True).converged


@pytest.mark.parametrize(
    "text", ["threshold", "threshold(0.99)", "value", "stability", "any(verifier, stability)", "all(stability, value)"]
)
def test_when_the_rounds_are_spent_there_is_what_there_is(text: str) -> None:
    """Forced, and marked so."""
    spent = judged(text, 0.1, round_index=2, outlook=Outlook(0.9, 1.0, 0.0))
    assert spent.converged
    assert spent.forced
    assert spent.reason == "3 rounds spent"


@pytest.mark.parametrize("text, exhausted", [("all(verifier, stability)", True), ("any(verifier, stability)", False)])
def test_a_combination_takes_nothing_less_where_its_verifier_cannot_be_gone_round(text: str, exhausted: bool) -> None:  # noqa: FBT001
    """Through `all` it cannot, through `any` it can."""
    spent = judged(text, 0.1, round_index=2)
    assert spent.exhausted is exhausted
    assert spent.forced is not exhausted


def test_combinations_nest() -> None:
    """And are named as they were written."""
    text = "any(verifier, all(stability, threshold(0.6)))"
    assert policy(text).name == f"{text}, max_rounds=3"
    assert judged(text, 0.6, stable=True).converged
    assert not judged(text, 0.5, stable=True).converged
    assert policy("any(" * 21 + "value" + ")" * 21).name.startswith("any(" * 21)


def test_a_policy_of_ones_own_is_named_by_its_place() -> None:
    """And is given the settings."""
    assert policy(OWN).name == "always"


def test_an_own_policy_that_gives_no_verdict_is_named() -> None:
    """Where it is asked, and not where the verdict is looked at."""
    assert judged(OWN).reason == "always"
    with pytest.raises(RefusedError, match=r"Yes': judge gave bool, and no flows\.policies\.Verdict$"):
        judged(f"{__name__}:Yes")


def test_only_value_by_itself_weighs_calls() -> None:
    """Of a combination nobody can say what a call is worth to it."""
    assert value_of(policy("value(20)")) is not None
    assert value_of(policy("any(verifier, value)")) is None
    assert value_of(policy("threshold")) is None
    assert value_of(policy(f"{__name__}:dear")) is not None, "a user's own may be made of what there is"


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "a name is missing"),
        ("vote", "'vote' is none"),
        ("threshold(1.5)", "1.5 is more than 1"),
        ("threshold(x)", "'x' is no number"),
        ("threshold(x1)", "')' is missing"),
        ("threshold(0.5", "')' is missing"),
        ("threshold(0.5,", "')' is missing"),
        ("any(value", "')' is missing"),
        ("threshold 0.5", "'0.5' stands behind the end of it"),
        ("any()", "')' is none"),
        ("any", "'(' is missing"),
        ("all(verifier; stability)", "'; stability)' is not understood"),
        ("verifier(3)", "verifier takes no number"),
        ("value(0)", "what a right answer is worth has to be more than 0"),
        ("any(" * 22 + "value" + ")" * 22, "it is nested too deeply"),
    ],
)
def test_a_policy_that_is_none_is_refused(text: str, said: str) -> None:
    """With what is wrong, and what there is."""
    with pytest.raises(RefusedError) as refused:
        policy(text)
    assert said in str(refused.value)
    assert f"there are: {', '.join(CRITERIA)}, any(…, …), all(…, …)" in str(refused.value)


@given(st.text(alphabet="anyltheshodvu(),.0123 ", max_size=40))
def test_any_setting_makes_a_policy_or_is_refused(text: str) -> None:
    """And fails in no other way."""
    try:
        made = policy(text)
    except RefusedError:
        return
    assert made.name
