"""Which answers say the same."""

import time
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.comparing.equivalence import EXACT, Comparison, as_one, canonical, comparison_for, group, number
from flows.steps.validate import validate
from schemas.node import Answer
from schemas.task import AnswerKind, PayloadView

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
        (NUMBER, ["12", "12 km", "12 kilometres"]),
        (NUMBER, ["$5", "5 dollars", "USD 5.00", "5"]),
        (NUMBER, ["1 1/2", "1.5", "3/2", "1.5 hours"]),
        (NUMBER, ["320000", "3.2 \\times 10^5", "3.2e5", "$3.2 \\times 10^{5}$"]),
        (NUMBER, ["1 234,50", "1.234,50", "1234.5"]),
        (NUMBER, ["twelve", "12", "12 eggs", "a dozen"]),
        (NUMBER, ["2:00 pm", "2", "2 pm"]),
        (CHOICE, ["(B)", "b", "B.", " b) "]),
        (CHOICE, ["Yes", "yes.", "YES!"]),
        (CHOICE, ["B", "Option B", "B) Paris", "(b) Paris", "**B.** Paris", "answer: B"]),
        (CHOICE, ["Ann is a knight, and Bo is a knave.", "ann is a knight and bo is a knave"]),
        (CHOICE, ["1", "(1)", "1."]),
        (CHOICE, ["A) B", "A"]),
        (CHOICE, ["+", " + "]),
        (EXPRESSION, ["(x+1)^2", "x**2 + 2*x + 1", "x^2 + 2x + 1", "f(x) = x^2+2x+1", r"$x^{2} + 2 \cdot x + 1$"]),
        (EXPRESSION, ["sin(x)**2 + cos(x)**2", "1", "2/2"]),
        (EXPRESSION, ["13*X/4 + C", "3.25X + C", "13*X/4 + C + 7", "C + 3.25*X"]),
        (EXPRESSION, ["exp(2*x)", "e^(2x)"]),
        (EXPRESSION, ["ln(x)", "log(x)"]),
        (CODE, ["print(1)\n", "print(1)", "  print(1)"]),
        (EXPRESSION, ["x = 3 or x = -3", "{-3, 3}", "x = ±3"]),
        (EXPRESSION, ["(1, 1/2)", "(1, 0.5)"]),
        (TEXT, ["Hello  World", "hello world\n"]),
        (TEXT, ["The Moon.", "moon", "“Moon”", "**the moon**!"]),
        (TEXT, ["\N{LATIN SMALL LIGATURE FI}ne", "fine"]),
        (TEXT, ["\uff4d\uff4f\uff4f\uff4e", "moon"]),
        (TEXT, ["the moon", "moon", "a moon"]),
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
        (NUMBER, ["5 km", "5 miles", "5000", "$5", "€5"]),
        (NUMBER, ["50%", "0.5"]),
        (NUMBER, ["9 am", "9 pm"]),
        (NUMBER, ["5", "5 million", "5 squared", "10-12"]),
        (CHOICE, ["A", "B", "AB"]),
        (CHOICE, ["A knight", "A knave"]),
        (CHOICE, ["1", "-1", "+", "-"]),
        (EXPRESSION, ["x**2", "x**3", "y**2", "x**2 + C"]),
        (EXPRESSION, ["C*x", "C*x + 1"]),
        (EXPRESSION, ["x +", "x"]),
        (CODE, ["a", "A"]),
        (CODE, ["2 × 2 × 3", "4 × 3"]),  # noqa: RUF001 - as the question asks
        (EXPRESSION, ["(1, 2)", "(2, 1)", "[1, 2]"]),
        (TEXT, ["ab", "a b"]),
        (TEXT, ["C", "C++", "C#"]),
        (TEXT, ["3.5", "35", "-35"]),
        (TEXT, ["vitamin a", "vitamin"]),
    ],
)
def test_different_answers_are_different_groups(kind: AnswerKind, texts: list[str]) -> None:
    """Near misses, and what is no answer at all."""
    assert group(kind, texts) == list(range(len(texts)))


def test_groups_are_numbered_as_they_appear() -> None:
    """A later one joins the number of its first."""
    assert group(NUMBER, ["7", "8", "7.0", "", "16/2", ""]) == [0, 1, 0, 2, 1, 3]
    assert group(TEXT, []) == []


def test_of_a_long_text_the_words_alone_are_compared() -> None:
    """Of one of 20,000 letters its stops are looked at, and of a longer one they are not."""
    assert canonical(TEXT, "a" * 19_999 + ".") == "a" * 19_999
    assert canonical(TEXT, "a" * 20_000 + ".") == "a" * 20_000 + "."


def test_an_article_is_left_out_only_before_something() -> None:
    """What is nothing else is that."""
    assert canonical(TEXT, "the the.") == "the"
    assert canonical(TEXT, "The.") == "the"
    assert canonical(TEXT, "...") == "..."


def test_the_left_side_of_one_equation_is_no_part_of_an_expression() -> None:
    """Of several it is; and a number in an expression's place is a number."""
    assert canonical(EXPRESSION, "f(x) = x +  1") == "x + 1"
    assert canonical(EXPRESSION, "x = y = z") == "x = y = z"
    for signs in ("x = 1, y", "x = 1; y", "x = 1 < y", "x = 1 > y"):
        assert canonical(EXPRESSION, signs) == signs
    assert canonical(EXPRESSION, "1,234.50") == canonical(NUMBER, "1234.5") == "2469/2"


def test_what_is_no_answer_is_not_even_the_same_as_itself() -> None:
    """Written in one way by all, or asked of whoever would take anything for the same."""
    assert group(NUMBER, ["nan", "nan"]) == [0, 1]
    assert group(EXPRESSION, ["nan", "nan"]) == [0, 1]
    assert group(TEXT, ["", ""]) == [0, 1]
    assert group(TEXT, [" ", " "]) == [0, 1]
    by = Comparison(alike=lambda _a, _b: True, proof=lambda _a, _b: True)
    assert group(TEXT, ["", "cat"], by) == [0, 1]
    assert group(EXPRESSION, ["", "x"], by) == [0, 1]


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


def test_a_unit_that_is_left_out_is_not_two_units() -> None:
    """The first with a unit gives it to the group; the next one is another's, and both numbers stay what they are."""
    assert group(NUMBER, ["5", "5 km", "5 miles", "5000 m", "5"]) == [0, 0, 1, 0, 0]
    assert group(NUMBER, ["5 miles", "5 km", "5"]) == [0, 1, 0]
    assert group(NUMBER, ["1 hour", "60 minutes", "60", "1"]) == [0, 0, 1, 0]
    assert group(NUMBER, ["$5", "500 cents", "5", "500"]) == [0, 0, 0, 1]
    assert group(NUMBER, ["7", "5 km", "5"]) == [0, 1, 1]


def test_a_tolerance_is_relative_to_the_larger() -> None:
    """And to the first of a group, so that no chain of near ones joins two that are not."""
    by = Comparison(tolerance=0.01)
    assert group(NUMBER, ["100", "101", "102", "99", "3.14"], by) == [0, 0, 1, 0, 2]
    assert group(NUMBER, ["101", "100", "102"], by) == [0, 0, 0]
    assert group(NUMBER, ["10 km", "10.05 km", "10050 m", "10 miles"], by) == [0, 0, 0, 1]
    assert group(NUMBER, ["0", "0.001"], by) == [0, 1]
    assert group(EXPRESSION, ["100 x", "101 x"], by) == [0, 1]
    assert group(NUMBER, ["0.5", "0.5000000005"]) == [0, 0]
    assert group(NUMBER, ["0.5", "0.500000000501"]) == [0, 1]


def test_a_question_says_its_tolerance() -> None:
    """All else is as it is for all questions."""
    by = Comparison(alike=lambda a, b: a[0] == b[0])
    assert comparison_for(PayloadView(prompt="?")) is EXACT
    assert comparison_for(PayloadView(prompt="?"), by) is by
    assert comparison_for(PayloadView(prompt="?", tolerance=0.1), by) == Comparison(0.1, by.alike)


def test_answers_within_the_tolerance_agree() -> None:
    """When a round is judged."""
    answers = [Answer(node=f"n{i}", model="m", text=text) for i, text in enumerate(["100", "100.5", "$99.9"])]
    question = PayloadView(prompt="?", answer_kind=NUMBER)
    assert validate(question, answers, {}).agreement == pytest.approx(1 / 3)
    assert validate(msgspec.structs.replace(question, tolerance=0.01), answers, {}).agreement == 1


def test_texts_are_compared_by_meaning_where_that_is_asked_for() -> None:
    """As they are without case and quotes; other kinds are not."""
    by = Comparison(alike=lambda a, b: {a, b} == {"big dog", "large dog"})
    assert group(TEXT, ["The big dog.", "a cat", "Large dog"], by) == [0, 1, 0]
    assert group(TEXT, ["The big dog.", "a cat", "Large dog"]) == [0, 1, 2]
    assert group(CODE, ["big dog", "large dog"], by) == [0, 1]


def test_a_proof_is_asked_for_where_values_do_not_tell() -> None:
    """Of expressions alone."""
    by = Comparison(proof=lambda a, b: "x" not in a + b)
    assert group(EXPRESSION, ["2^5000 * 2", "2^5001", "x"], by) == [0, 0, 1]
    assert group(EXPRESSION, ["2^5000 * 2", "2^5001", "x"]) == [0, 1, 2]


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", AnswerKind)
@pytest.mark.parametrize("piece", ["1", "1,", "x ", "(", "the ", "\\frac{", '"', "A) ", "$", "ﬁ ", "1 000 "])
def test_a_megabyte_takes_no_time(kind: AnswerKind, piece: str) -> None:
    """It is the same as itself, with other white space too."""
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    assert group(kind, [text, f"{text} ", "31337"]) == ([0, 0, 1] if canonical(kind, text) else [0, 1, 2])
    assert time.process_time() - started < 3.0


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


@given(st.sampled_from(AnswerKind), st.text(max_size=60))
def test_a_canonical_form_stands_for_its_answer(kind: AnswerKind, text: str) -> None:
    """It is in the group of the text it was made from."""
    form = canonical(kind, text)
    if form:
        assert group(kind, [text, form]) == [0, 0]


@given(st.fractions(), st.integers(1, 50))
def test_a_fraction_is_the_same_unreduced(value: Fraction, factor: int) -> None:
    """However it is written."""
    text = f"{value.numerator * factor}/{value.denominator * factor}"
    assert group(NUMBER, [text, str(value)]) == [0, 0]
    assert number(text) == value


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=6), st.integers(-9, 9))
def test_a_polynomial_is_the_same_in_another_order(coefficients: list[int], other: int) -> None:
    """And another one where one coefficient differs."""
    terms = [f"({c})*x**{power}" for power, c in enumerate(coefficients)]
    one, same = " + ".join(terms), " + ".join(reversed(terms))
    assert group(EXPRESSION, [one, same]) == [0, 0]
    if other:
        assert group(EXPRESSION, [one, f"{same} + ({other})*x**7"]) == [0, 1]


@given(st.integers(-(10**12), 10**12), st.data())
def test_spellings_of_one_number_are_one_group(value: int, data: st.DataObject) -> None:
    """And those of another number another."""
    other = value + data.draw(st.integers(1, 1000))
    texts = [data.draw(st.sampled_from(_spellings(value))) for _ in range(4)]
    assert group(NUMBER, texts) == [0] * 4
    assert group(NUMBER, [*texts, data.draw(st.sampled_from(_spellings(other)))]) == [0, 0, 0, 0, 1]


def _spellings(value: int) -> list[str]:
    return [
        str(value),
        f"{value:,}",
        f"{value:_}",
        f"{value}.0",
        f"{value}.",
        f"${value:,}.00",
        f"USD {value}",
        f"{value} dollars",
        f"{value} apples",
        f"{value * 6}/6",
        f"x = {value}",
        f"$ {value} $",
        f"\\frac{{{value * 3}}}{{3}}",
        f"\\text{{{value}}}",
    ]


_answers = st.sampled_from(
    [
        "5",
        "5.0",
        "5 km",
        "5000 m",
        "5 miles",
        "$5",
        "x",
        "x+1",
        "1+x",
        "B",
        "(b)",
        "B) x",
        "{1,2}",
        "{2,1}",
        "no",
        "No.",
    ]
) | st.text(max_size=8)


@given(st.sampled_from(AnswerKind), _answers, _answers, st.sampled_from([0.0, 0.01, 0.5]))
def test_two_answers_are_the_same_in_any_order(kind: AnswerKind, a: str, b: str, tolerance: float) -> None:
    """And each is the same as itself, unless it is none."""
    by = Comparison(tolerance)
    assert group(kind, [a, b], by) == group(kind, [b, a], by)
    assert group(kind, [a, a], by) == ([0, 0] if canonical(kind, a) else [0, 1])


def test_a_number_with_a_unit_that_is_near_several_goes_to_the_first() -> None:
    """Which has its unit from then on."""
    near = Comparison(tolerance=0.1)
    assert group(NUMBER, ["100", "115", "107 km"], near) == [0, 1, 0]
    assert group(NUMBER, ["100", "115", "107 km", "107 miles"], near) == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "groups, chosen, expected",
    [
        ([0, 1, 2, 3], [False, True, None, True], [0, 1, 2, 1]),
        ([0, 1, 1, 0], [False, False, False, False], [0, 1, 1, 0]),
        ([3, 1, 3], [True, None, False], [0, 1, 0]),
        ([], [], []),
    ],
)
def test_chosen_answers_become_one_group(groups: list[int], chosen: list[bool | None], expected: list[int]) -> None:
    """Where the first of them is; the groups are numbered anew, in their order."""
    assert as_one(groups, chosen) == expected
