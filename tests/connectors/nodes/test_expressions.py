"""Arithmetic read without running it."""

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.nodes.solvers.expressions import (
    Binary,
    Number,
    UndefinedError,
    UnreadableError,
    exact,
    names,
    parse,
    polynomial,
)


@pytest.mark.parametrize(
    "text, value",
    [
        ("1 + 2*3", 7),
        ("(1 + 2)*3", 9),
        ("2**3**2", 512),
        ("-2**2", -4),
        ("2**-1", Fraction(1, 2)),
        ("7 - 2 - 1", 4),
        ("8/4/2", 1),
        ("0x1f << 2", 124),
        ("-5 >> 1", -3),
        ("1.5e2", 150),
        ("abs(3 - 5)", 2),
        ("3 × 4 ÷ 2 − 1", 5),  # noqa: RUF001 - as people write them
    ],
)
def test_operators_bind_as_usual(text: str, value: Fraction) -> None:
    """Precedence, associativity and signs are those of mathematics."""
    assert exact(parse(text)) == value


@pytest.mark.parametrize("text", ["2x", "2 x", "x(2)", "(2)(x)"])
def test_products_without_a_sign_are_read_when_asked_for(text: str) -> None:
    """`2x` is a product in an answer, and nothing in a question."""
    assert polynomial(parse(text, implicit=True), "x") == {1: 2}
    with pytest.raises(UnreadableError):
        parse(text)


@pytest.mark.parametrize(
    "text, same",
    [
        ("sin x^2", "sin(x^2)"),
        ("sin^2 x", "sin(x)^2"),
        ("tanh x", "(exp(x) - exp(-x))/(exp(x) + exp(-x))"),
        ("sec 2x", "1/cos(2x)"),
    ],
)
def test_functions_are_read_as_answers_write_them(text: str, same: str) -> None:
    """Without parentheses, raised to a power, and such as are made of others."""
    assert parse(text, implicit=True) == parse(same, implicit=True)


def test_a_cube_root_is_a_power() -> None:
    """Of a third, which is no decimal."""
    assert parse("cbrt 8", implicit=True) == Binary("**", Number(Fraction(8)), Number(Fraction(1, 3)))


def test_an_inverse_function_is_not_taken_for_a_power() -> None:
    """`sin^-1 x` is no 1 / sin x."""
    with pytest.raises(UnreadableError, match="sin to a power that is no number"):
        parse("sin^-1 x", implicit=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "(1",
        "1)",
        "((((" * 1000,
        "(" * 200 + "1" + ")" * 200,
        "-" * 300 + "1",
        "1+" * 5000 + "1",
        "9" * 5000,
        "1e999999999",
        "__import__('os').system('true')",
        "x.y",
        "[1]",
        "lambda: 1",
        "1 if 1 else 2",
    ],
)
def test_what_is_no_small_arithmetic_is_not_read(text: str) -> None:
    """Neither code, nor anything that would take long or deep to read."""
    with pytest.raises(UnreadableError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "2**64**64",
        "(2**64)**64",
        "(2**64)**63 * 2**64",
        "(1/3)**64**2",
        "1/0",
        "0**-1",
        "1 << 9999999",
        "2**0.5",
        "1.5 << 1",
        "sqrt(4)",
        "1 + x",
    ],
)
def test_what_has_no_value_within_bounds_says_so(text: str) -> None:
    """A tower of powers is refused before it is built."""
    with pytest.raises(UndefinedError):
        exact(parse(text))


@given(st.text(max_size=200) | st.text(alphabet="0123456789.+-*/^()ex <>", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text gets anything else out of the reader than a tree or a refusal."""
    try:
        node = parse(text, implicit=True)
    except UnreadableError:
        return
    with contextlib.suppress(UndefinedError):
        exact(node, dict.fromkeys(names(node), Fraction(3, 7)))


@given(st.dictionaries(st.integers(0, 12), st.fractions(max_denominator=50).filter(bool), max_size=6))
def test_a_polynomial_is_read_back_from_its_terms(coefficients: dict[int, Fraction]) -> None:
    """Coefficients survive being written out and read."""
    text = " + ".join(f"({c})*x**{power}" for power, c in coefficients.items()) or "0"
    assert polynomial(parse(text), "x") == coefficients


@pytest.mark.parametrize("text, why", [("x + y", "y is unknown"), ("x**40 * x**40", "a degree out of range")])
def test_what_is_no_polynomial_within_bounds_says_so(text: str, why: str) -> None:
    """Another variable, or a degree that nobody calculates with."""
    with pytest.raises(UndefinedError, match=why):
        polynomial(parse(text), "x")
