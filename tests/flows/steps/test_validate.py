"""What a round's answers come to: who leads, how sure, and what is said of it."""

from collections.abc import Sequence
from typing import Any

import pytest

from flows.checks import Checks
from flows.comparing.equivalence import Comparison
from flows.steps.validate import Verifier, ask_verifier, built_in_verifiers, posterior, validate
from flows.votes import ModelParameters, Parameters, Votes
from schemas.decision import RoundResult
from schemas.node import Answer
from schemas.task import AnswerKind, PayloadView

NUMBER = PayloadView(prompt="6*7", answer_kind=AnswerKind.NUMBER)
CHECKED = PayloadView(prompt="6*7", answer_kind=AnswerKind.NUMBER, verifier="mine")


def said(*texts: str | None, score: float | None = None) -> list[Answer]:
    """Answers of models a, b, …; None is a call that failed."""
    return [
        Answer(node="abcdefghijklmnop"[i], model="m", text=t or "", status="failed" if t is None else "ok", score=score)
        for i, t in enumerate(texts)
    ]


def checked(texts: Sequence[str | None], check: Verifier, **options: Any) -> RoundResult:
    """A round with a verifier."""
    return validate(CHECKED, said(*texts), {"mine": check}, **options)


def test_the_largest_group_leads_with_its_share_and_its_chance() -> None:
    """Places are counted among all calls, those that failed included."""
    result = validate(NUMBER, said(None, "42", "7", "42.0"), {})
    assert (result.answer, result.leading, result.abstained) == ("42", (1, 3), 1)
    assert result.agreement == pytest.approx(2 / 3)
    assert result.score == result.confidence == posterior((2, 1), 2) == 0.903614
    assert (result.evidence, result.effective_votes, result.verifier, result.verified) == ("cross-model", 2, None, None)
    assert [(d.answer, d.votes, d.confidence) for d in result.dissent] == [("7", 1, posterior((2, 1), 1))]
    assert (result.checks, result.groups, result.parameters, result.z_score) == ((), (), "", None)


def test_one_answer_is_its_models_word_alone() -> None:
    """So sure as a model is of which nothing is known; and nobody disagrees."""
    result = validate(NUMBER, said("42"), {})
    assert (result.confidence, result.agreement, result.evidence, result.dissent) == (0.6, 1.0, "self", ())
    assert (result.leading, result.abstained, result.effective_votes) == ((0,), 0, 1)


def test_where_nobody_answered_there_is_no_result() -> None:
    """What was wrong with the calls is still told."""
    result = validate(NUMBER, said(None, None, score=7.0), {})
    assert (result.answer, result.score, result.confidence, result.agreement) == (None, 0.0, 0.0, 0.0)
    assert (result.evidence, result.abstained, len(result.candidates), len(result.warnings)) == ("none", 2, 2, 2)


def test_of_equal_groups_the_one_given_first_leads() -> None:
    """Whatever comes after it."""
    assert validate(NUMBER, said("7", "42", "42", "7"), {}).answer == "7"
    assert validate(NUMBER, said("3", "2", "1"), {}).answer == "3"


@pytest.mark.parametrize(
    "sizes,votes,chance",
    [
        ((1,), 1, 0.6),
        ((2,), 2, 0.957447),
        ((1, 1), 1, 0.384615),
        ((2, 1), 2, 0.903614),
        ((2, 1), 1, 0.060241),
        ((1,) * 10, 1, 0.099338),
        ((1,) * 11, 1, 0.090882),
        ((1,) * 12, 1, 0.08331),
    ],
)
def test_the_chance_of_an_answer_is_that_of_independent_models_that_are_right_six_times_of_ten(
    sizes: tuple[int, ...], votes: int, chance: float
) -> None:
    """And err over ten other answers; where more were given than that, hardly any is left for others."""
    assert posterior(sizes, votes) == chance


def test_dissent_names_the_five_likeliest_others_shortly() -> None:
    """The likeliest first."""
    view = PayloadView(prompt="say")
    long = "x" * 201
    result = validate(view, said("a", "a", "a", "b", "c", "d", "e", "f", long, long), {})
    assert [d.votes for d in result.dissent] == [2, 1, 1, 1, 1]
    assert result.dissent[0].answer == "x" * 200
    assert [d.answer for d in result.dissent[1:]] == ["b", "c", "d", "e"]


def test_answers_that_were_compared_before_are_not_compared_again() -> None:
    """Unless the groups are those of other answers; the question's own tolerance counts."""
    answers = said("1", "2", "1")
    assert validate(NUMBER, answers, {}, groups=(0, 0, 1)).leading == (0, 1)
    assert validate(NUMBER, answers, {}, groups=(0, 0)).leading == (0, 2)
    near = PayloadView(prompt="?", answer_kind=AnswerKind.NUMBER, tolerance=0.1)
    assert validate(near, said("100", "109"), {}).agreement == 1.0
    assert validate(NUMBER, said("100", "109"), {}).agreement == 0.5


def test_groups_are_kept_where_it_took_a_proof_to_tell_them() -> None:
    """Of several expressions; all else is compared again in no time."""
    expression = PayloadView(prompt="?", answer_kind=AnswerKind.EXPRESSION)
    proving = Comparison(proof=lambda _a, _b: None)
    assert validate(expression, said("x+1", "x+2"), {}, by=proving).groups == (0, 1)
    assert validate(expression, said("x+1", None), {}, by=proving).groups == ()
    assert validate(expression, said("x+1", "x+2"), {}).groups == ()
    assert validate(NUMBER, said("1", "2"), {}, by=proving).groups == ()


def test_what_the_verifier_accepts_leads_and_what_it_rejects_is_hardly_believed() -> None:
    """Whatever the vote; where it gives no verdict the vote stands."""
    accepted = checked(["7", None, "7", "42"], lambda _view, text: text == "42")
    assert (accepted.answer, accepted.verified, accepted.confidence) == ("42", True, 0.99)
    assert (accepted.evidence, accepted.verifier) == ("verifier", "mine")
    assert (accepted.leading, accepted.checks) == ((3,), (False, None, False, True))
    rejected = checked(["7", "7", "42"], lambda _view, _text: False)
    assert (rejected.answer, rejected.verified, rejected.evidence) == ("7", False, "verifier")
    assert rejected.confidence == pytest.approx(0.01)
    assert rejected.checks == (False, False, False)
    hardly = checked(
        [str(i) for i in range(14)], lambda _view, _text: False, known=Votes(Parameters(topic="m", nobody=12.0))
    )
    assert hardly.confidence < 0.01


def test_a_verifier_that_fails_gives_no_verdict_and_the_others_are_asked() -> None:
    """Its failure is told."""

    def fails(_view: PayloadView, text: str) -> bool:
        if text == "7":
            raise RuntimeError("x" * 500)
        return text == "42"

    result = checked(["7", "7", "42"], fails)
    assert (result.answer, result.verified, result.checks) == ("42", True, (None, None, True))
    assert len(result.warnings[0]) == 300
    none = checked(["7", "7", "41"], fails)
    assert (none.answer, none.verified, none.evidence, none.confidence) == ("7", None, "cross-model", 0.903614)
    assert none.checks == (None, None, False)
    unknown = validate(CHECKED, said("7"), {})
    assert (unknown.verifier, unknown.verified, unknown.checks) == (None, None, ())
    assert "'mine' is not registered" in unknown.warnings[0]


def test_what_the_verifier_said_before_is_not_asked_again() -> None:
    """An answer that it was not asked about has no verdict; what it told then is told."""

    def never(_view: PayloadView, _text: str) -> bool:
        pytest.fail("it was asked")

    before = Checks({"7": False, "42": True, "41": None}, ("told",))
    result = checked(["7", "41", "42"], never, checks=before)
    assert (result.answer, result.verified, result.checks, result.warnings) == (
        "42",
        True,
        (False, None, True),
        ("told",),
    )
    code = PayloadView(prompt="?", answer_kind=AnswerKind.CODE, verifier="mine")
    programs = Checks({"a": True, "b": False, "c": True, "d": None})
    result = validate(code, said("b", "d", "a", "c"), {"mine": never}, checks=programs)
    assert (result.answer, result.leading, result.agreement) == ("a", (2, 3), 0.5)
    apart = validate(CHECKED, said("7", "42"), {"mine": never}, checks=Checks({"7": True, "42": True}))
    assert (apart.leading, apart.agreement) == ((0,), 0.5)
    votes = Votes(Parameters(topic="m", nobody=2.0))
    numbered = validate(code, said("a", "b", "c", "d"), {"mine": never}, votes, checks=programs)
    alike = votes.tally((("a", "m"), ("b", "m"), ("c", "m"), ("d", "m")), (0, 1, 0, 2))
    assert [d.confidence for d in numbered.dissent] == list(alike.chances[1:])
    unchecked = validate(NUMBER, said("7"), {}, checks=Checks({"7": True}))
    assert (unchecked.verified, unchecked.checks) == (None, ())
    none = validate(code, said("b", "d"), {"mine": never}, checks=programs)
    assert (none.leading, none.verified) == ((0,), False)


def test_a_verifier_is_asked_about_the_likeliest_first_until_it_accepts_one() -> None:
    """About each text once, and not about what it has judged before."""
    asked: list[str] = []

    def asking(_view: PayloadView, text: str) -> Any:
        asked.append(text)
        if text == "1":
            raise RuntimeError("x" * 500)
        return text == "3" or ("because" if text == "3" else "")

    checks = ask_verifier(CHECKED, said("3", "1", "1", "2", "2", "2", "5"), {"mine": asking})
    assert asked == ["2", "1", "3"]
    assert checks.verdicts == {"2": False, "1": None, "3": True}
    assert checks.warnings[0] == "verifier 'mine': "
    assert [len(w) for w in checks.warnings] == [17, 300]
    again = ask_verifier(CHECKED, said("4", "4", "2", "1"), {"mine": asking}, before=checks)
    assert asked == ["2", "1", "3", "4"]
    assert again.verdicts == {"2": False, "1": None, "3": True, "4": False}
    assert again.warnings[:2] == checks.warnings


class Because(str):
    """Why an answer is wrong: false, and no bool."""

    __slots__ = ()

    def __bool__(self) -> bool:
        """It is wrong."""
        return False


@pytest.mark.parametrize(
    "verdict,told", [(True, []), ("yes", []), (False, []), (None, [4]), (Because("x" * 500), [300])]
)
def test_only_a_verdict_that_says_why_is_told(verdict: Any, told: list[int]) -> None:
    """Shortly."""
    checks = ask_verifier(CHECKED, said("7"), {"mine": lambda _view, _text: verdict})
    assert [len(w.removeprefix("verifier 'mine': ")) if len(w) < 300 else 300 for w in checks.warnings] == told
    assert checks.verdicts == {"7": bool(verdict)}
    assert all(len(w) <= 300 for w in checks.warnings)


def test_what_the_answers_say_counts_as_verdicts_have_shown() -> None:
    """Where the parameters name it."""
    votes = Votes(Parameters(topic="math", evidence={"negative": -5.0}))
    assert validate(NUMBER, said("-42", "42"), {}, votes).answer == "42"
    assert validate(NUMBER, said("-42", "42"), {}, Votes(Parameters(topic="math"))).answer == "-42"


def test_a_verifier_is_asked_about_all_programs() -> None:
    """Since those that pass are one answer; not about calls that failed."""
    code = PayloadView(prompt="?", answer_kind=AnswerKind.CODE, verifier="mine")
    asked: list[str] = []

    def passes(_view: PayloadView, text: str) -> bool:
        asked.append(text)
        if text == "broken":
            raise RuntimeError
        return True

    assert ask_verifier(code, said("a", None, "broken", "b"), {"mine": passes}).verdicts == {
        "a": True,
        "broken": None,
        "b": True,
    }
    assert asked == ["a", "broken", "b"]


def test_the_votes_of_known_models_decide_and_name_their_parameters() -> None:
    """The weightier of two leads; its own scores are compared with what it usually says."""
    models = (ModelParameters("a", "m", 0.5, 0.0, 0.5, 0.1), ModelParameters("c", "m", 4.0, 0.0, 0.5, 0.2))
    votes = Votes(Parameters(topic="math", models=models))
    answers = [
        Answer(node="a", model="m", text="7", score=0.9),
        Answer(node="b", model="m", text="7", score=0.9),
        Answer(node="c", model="m", text="42", score=0.6),
        Answer(node="a", model="m", text="42", score=0.8),
        Answer(node="d", model="m", text="42", score=0.1),
        Answer(node="a", model="m", text="42"),
    ]
    result = validate(NUMBER, answers, {}, votes)
    assert (result.answer, result.parameters) == ("42", votes.version)
    assert result.z_score == pytest.approx((0.5 + 3.0) / 2)
    tally = votes.tally((("a", "m"), ("b", "m"), ("c", "m"), ("a", "m"), ("d", "m"), ("a", "m")), (0, 0, 1, 1, 1, 1))
    assert (result.confidence, result.effective_votes) == (tally.chances[1], tally.effective[1])
    thirds = Votes(Parameters(topic="math", models=(ModelParameters("a", "m", 0.5, 0.0, 0.5, 0.3),)))
    assert validate(NUMBER, said("7", score=0.6), {}, thirds).z_score == 0.3333
    assert validate(NUMBER, said("7"), {}, votes).z_score is None
    assert validate(NUMBER, [Answer(node="x", model="m", text="7", score=0.5)], {}, votes).z_score is None


@pytest.mark.parametrize("score,kept", [(0.0, True), (1.0, True), (-0.001, False), (1.001, False)])
def test_a_score_between_0_and_1_is_one(score: float, kept: bool) -> None:  # noqa: FBT001
    """Both included."""
    result = validate(NUMBER, said("42", score=score), {})
    assert result.candidates[0].score == (score if kept else None)
    assert bool(result.warnings) is not kept


@pytest.mark.parametrize(
    "name,right,wrong",
    [
        ("json", ["[1]", '"a"', "null"], ["{", "", "nan,"]),
        ("number", ["42", "-1.5", "12 km"], ["the moon", "", "nan"]),
        ("python", ["x = 1", ""], ["x =", "(" * 5000, "x\0"]),
    ],
)
def test_the_built_in_verifiers_look_at_the_form(name: str, right: list[str], wrong: list[str]) -> None:
    """And never fail."""
    check = built_in_verifiers()[name]
    assert [check(NUMBER, text) for text in right] == [True] * len(right)
    assert [check(NUMBER, text) for text in wrong] == [False] * len(wrong)
