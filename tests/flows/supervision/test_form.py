"""What an answer looks like, and its scores."""

import math
import time

import msgspec
import pytest

from flows.supervision.form import AllowList, AnswerFormat, EmptyAnswer, Repetition, RunawayLength, ScoreSanity
from schemas.node import Answer
from schemas.task import AnswerKind
from tests.flows.supervision.cases import case

NUMBER, CHOICE, EXPRESSION = AnswerKind.NUMBER, AnswerKind.CHOICE, AnswerKind.EXPRESSION
PROSE = (
    "The train leaves at noon and travels for three hours. Meanwhile a second one starts from the other town, which "
    "is two hundred miles away; they meet where the sum of what both have travelled is that distance. So we write "
    "down an equation, solve it for the time, and find that they meet after an hour and a half."
)


def test_the_allow_list_accepts_what_is_on_it_and_nothing_else() -> None:
    """Whatever the case."""
    policy = AllowList(answers=("N/A", "unknown"))
    found = policy.examine(case(" n/a "))
    assert found is not None
    assert found.action == "accept"
    assert policy.examine(case("not unknown")) is None


def test_an_empty_answer_is_rejected_and_a_short_one_is_not() -> None:
    """Blanks are nothing."""
    policy = EmptyAnswer()
    for answer in ("", " \n\t"):
        found = policy.examine(case(answer))
        assert found is not None
        assert found.action == "reject"
    assert policy.examine(case("0")) is None


def test_a_megabyte_is_rejected_and_a_long_text_is_not() -> None:
    """At once; and its evidence is short."""
    policy, megabyte = RunawayLength(), "x" * (1 << 20)
    begun = time.process_time()
    found = policy.examine(case(megabyte))
    assert time.process_time() - begun < 0.01
    assert found is not None
    assert (found.action, found.reason[:34]) == ("reject", "runaway length: 1,048,576 characte")
    assert len(found.evidence) <= 200
    assert policy.examine(case("x" * 100_000)) is None
    assert RunawayLength(characters=10).examine(case("x" * 11)) is not None


@pytest.mark.parametrize(
    "answer",
    [
        "I am not sure about that at all. " * 12,
        "Let me think.\n" * 30,
        PROSE + " Wait, that is wrong. " + "and then and then " * 600,
        "ab" * 3000,
    ],
)
def test_a_model_that_does_not_get_away_from_a_phrase_is_noticed(answer: str) -> None:
    """Whether it is a sentence, a line, a phrase, or no word at all."""
    found = Repetition().examine(case(answer))
    assert found is not None
    assert found.action == "more_reasoning"


@pytest.mark.parametrize(
    "answer,kind",
    [
        (PROSE, AnswerKind.TEXT),
        ("1" + "0" * 350, NUMBER),
        ("\n".join(f"{n} * {n} = {n * n}" for n in range(60)), AnswerKind.TEXT),
        ("\n".join(f"    result[{n}] = compute(row, {n % 7})" for n in range(40)), AnswerKind.CODE),
    ],
)
def test_prose_tables_programs_and_digits_are_no_repetition(answer: str, kind: AnswerKind) -> None:
    """Some things are alike by nature."""
    assert Repetition().examine(case(answer, kind)) is None


@pytest.mark.parametrize(
    "answer,kind,fields",
    [
        ("I do not know", NUMBER, {}),
        ("The 3 men walk on. " * 30, NUMBER, {}),
        ("about 12 or 13", NUMBER, {"strict": True}),
        ("I would say B\nbecause A is wrong", CHOICE, {}),
        ("E", CHOICE, {"choices": ("A", "B")}),
        ("the answer is x squared", EXPRESSION, {}),
        ("2026-13", AnswerKind.TEXT, {"pattern": r"\d{4}-(0\d|1[0-2])"}),
        ("a" * 1001, AnswerKind.TEXT, {"pattern": "a*"}),
    ],
)
def test_an_answer_of_another_form_than_was_asked_for(answer: str, kind: AnswerKind, fields: dict[str, object]) -> None:
    """It goes another round."""
    found = msgspec.convert(fields, AnswerFormat).examine(case(answer, kind))
    assert found is not None
    assert found.action == "more_reasoning"


@pytest.mark.parametrize(
    "answer,kind,fields",
    [
        ("42", NUMBER, {"strict": True}),
        ("9" * 1000, NUMBER, {}),
        ("-1,234.5", NUMBER, {"strict": True}),
        ("12 apples", NUMBER, {}),
        (r"\frac{1}{2}", NUMBER, {}),
        ("(b)", CHOICE, {"choices": ("A", "B")}),
        ("Zoey is a sage, and Riley is a fool.", CHOICE, {}),
        ("x**2 * sin(x) + log(x) / 2 + C", EXPRESSION, {}),
        (r"\left( x + 1 \right) \cdot \sqrt{2}", EXPRESSION, {}),
        ("anything at all", AnswerKind.TEXT, {}),
        ("2026-12", AnswerKind.TEXT, {"pattern": r"\d{4}-(0\d|1[0-2])"}),
    ],
)
def test_an_answer_of_the_form_that_was_asked_for(answer: str, kind: AnswerKind, fields: dict[str, object]) -> None:
    """Nothing is to be said."""
    assert msgspec.convert(fields, AnswerFormat).examine(case(answer, kind)) is None


def test_what_a_verifier_accepted_has_its_form() -> None:
    """It knows better; one that looks at the form alone does not."""
    asked = case("no solution", NUMBER)
    for verifier, accepted in (("mine", True), ("number", False)):
        result = msgspec.structs.replace(asked.result, verified=True, verifier=verifier)
        found = AnswerFormat().examine(msgspec.structs.replace(asked, result=result))
        assert (found is None) is accepted


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 1.5, -0.1])
def test_a_score_that_is_none_is_noticed(score: float) -> None:
    """A model's own is flagged, and the result's own is a reason to reject it."""
    policy = ScoreSanity()
    flagged = policy.examine(case("42", answers=(Answer(node="a", model="m", text="42", score=score),)))
    rejected = policy.examine(case("42", score=score))
    assert flagged is not None
    assert rejected is not None
    assert (flagged.action, rejected.action) == ("flag", "reject")
    assert flagged.evidence == f"a/m: {score!r}"


def test_scores_between_0_and_1_and_none_at_all_are_fine() -> None:
    """Most models give none."""
    given = tuple([Answer(node="a", model="m", text="42", score=s) for s in (None, 0.0, 0.5, 1.0)])
    assert ScoreSanity().examine(case("42", answers=given)) is None
