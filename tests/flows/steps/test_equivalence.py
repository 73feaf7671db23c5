"""Which answers say the same."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.steps.equivalence import canonical, group, number
from schemas.task import AnswerKind

NUMBER, CHOICE, EXPRESSION, CODE, TEXT = (
    AnswerKind.NUMBER,
    AnswerKind.CHOICE,
    AnswerKind.EXPRESSION,
    AnswerKind.CODE,
    AnswerKind.TEXT,
)


@pytest.mark.parametrize(
    "kind, texts",
    [
        (
            NUMBER,
            ["1234.5", "1,234.50", "$1,234.5", "1 234.5", "+1234.5", "2469/2", "1.2345e3", " 1234.5. ", "x = 1234.5"],
        ),
        (NUMBER, ["0.5", ".5", "1/2", r"\frac{1}{2}", r"$\dfrac{1}{2}$", "2/4", "0.50000000001"]),
        (NUMBER, ["50%", "50", "050", "50 %", "50."]),
        (NUMBER, ["-3", "−3", "-3.0"]),  # noqa: RUF001 - as typesetters write it
        (NUMBER, ["0.3333333333", "1/3"]),
        (NUMBER, ["I do not know", "i do  not know"]),
        (CHOICE, ["(B)", "b", "B.", " b) "]),
        (CHOICE, ["Yes", "yes.", "YES!"]),
        (CHOICE, ["Ann is a knight, and Bo is a knave.", "ann is a knight and bo is a knave"]),
        (CHOICE, ["1", "(1)", "1."]),
        (EXPRESSION, ["(x+1)^2", "x**2 + 2*x + 1", "x^2 + 2x + 1", "f(x) = x^2+2x+1", r"$x^{2} + 2 \cdot x + 1$"]),
        (EXPRESSION, ["sin(x)**2 + cos(x)**2", "1", "2/2"]),
        (EXPRESSION, ["13*X/4 + C", "3.25X + C", "13*X/4 + C + 7", "C + 3.25*X"]),
        (EXPRESSION, ["exp(2*x)", "e^(2x)"]),
        (EXPRESSION, ["ln(x)", "log(x)"]),
        (CODE, ["print(1)\n", "print(1)", "  print(1)"]),
        (TEXT, ["Hello  World", "hello world\n"]),
    ],
)
def test_spellings_of_one_answer_are_one_group(kind: AnswerKind, texts: list[str]) -> None:
    """Each with the first, in whatever order they come."""
    assert group(kind, texts) == [0] * len(texts)
    assert group(kind, texts[::-1]) == [0] * len(texts)


@pytest.mark.parametrize(
    "kind, texts",
    [
        (NUMBER, ["1", "-1", "2", "1.1", "1/1.1e9", "two or three"]),
        (NUMBER, ["1000000000000", "1000000000001"]),
        (NUMBER, ["1,23", "123"]),
        (NUMBER, ["", "  ", "nan", "NaN", "inf", "-inf"]),
        (CHOICE, ["A", "B", "AB"]),
        (CHOICE, ["1", "-1", "+", "-"]),
        (EXPRESSION, ["x**2", "x**3", "y**2", "x**2 + C"]),
        (EXPRESSION, ["C*x", "C*x + 1"]),
        (EXPRESSION, ["x +", "x"]),
        (CODE, ["a", "A"]),
        (CODE, ["2 × 2 × 3", "4 × 3"]),  # noqa: RUF001 - as the question asks
        (TEXT, ["ab", "a b"]),
    ],
)
def test_different_answers_are_different_groups(kind: AnswerKind, texts: list[str]) -> None:
    """Near misses, and what is no answer at all."""
    assert group(kind, texts) == list(range(len(texts)))


def test_groups_are_numbered_as_they_appear() -> None:
    """A later one joins the number of its first."""
    assert group(NUMBER, ["7", "8", "7.0", "", "16/2", ""]) == [0, 1, 0, 2, 1, 3]
    assert group(TEXT, []) == []


def test_an_answer_alone_is_a_group_whatever_it_is() -> None:
    """There is nothing to compare."""
    assert group(EXPRESSION, ["(" * 10_000]) == [0]


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "", " "])
def test_what_is_no_number_has_no_canonical_form(text: str) -> None:
    """So that the flow can tell it from an answer."""
    assert canonical(NUMBER, text) == ""
    assert number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "9**9**9**9",
        "1e" + "9" * 400,
        "x" * 3000,
        "2^" * 1000 + "2",
        "tan(" * 100 + "x",
        "1/0",
        "9" * 100_000,
    ],
)
def test_a_hostile_answer_is_compared_as_text(text: str) -> None:
    """Without hanging, and equal to itself."""
    assert group(EXPRESSION, [text, text + " ", "x + 1"]) == [0, 0, 1]
    assert group(NUMBER, [text, text + " ", "31337"]) == [0, 0, 1]


@settings(deadline=None)
@given(
    st.sampled_from(AnswerKind), st.lists(st.text(max_size=40) | st.text(alphabet="0123456789xC+-*/^(). ", max_size=20))
)
def test_grouping_is_an_honest_numbering(kind: AnswerKind, texts: list[str]) -> None:
    """One number an answer, new ones in order; equal texts that are answers are together."""
    numbers = group(kind, texts)
    assert len(numbers) == len(texts)
    for i, index in enumerate(numbers):
        assert index <= max(numbers[:i], default=-1) + 1
    for i, text in enumerate(texts):
        if canonical(kind, text):
            assert numbers[texts.index(text)] == numbers[i]


@settings(deadline=None)
@given(st.sampled_from(AnswerKind), st.text(max_size=60))
def test_a_canonical_form_stands_for_its_answer(kind: AnswerKind, text: str) -> None:
    """It is in the group of the text it was made from."""
    form = canonical(kind, text)
    if form:
        assert group(kind, [text, form]) == [0, 0]


@settings(deadline=None)
@given(st.fractions(), st.integers(1, 50))
def test_a_fraction_is_the_same_unreduced(value: Fraction, factor: int) -> None:
    """However it is written."""
    text = f"{value.numerator * factor}/{value.denominator * factor}"
    assert group(NUMBER, [text, str(value)]) == [0, 0]
    assert number(text) == value


@settings(deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=6), st.integers(-9, 9))
def test_a_polynomial_is_the_same_in_another_order(coefficients: list[int], other: int) -> None:
    """And another one where one coefficient differs."""
    terms = [f"({c})*x**{power}" for power, c in enumerate(coefficients)]
    one, same = " + ".join(terms), " + ".join(reversed(terms))
    assert group(EXPRESSION, [one, same]) == [0, 0]
    if other:
        assert group(EXPRESSION, [one, f"{same} + ({other})*x**7"]) == [0, 1]
