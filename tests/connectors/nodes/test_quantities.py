"""Numbers with units, as people and models write them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.nodes.quantities import SCALES, UNITS, WORDS, Quantity, read, same

EXACTLY = Fraction(0)


@pytest.mark.parametrize(
    "text, value, unit",
    [
        ("12 km", 12, "km"),
        ("12 kilometres", 12, "km"),
        ("12 Kilometers.", 12, "km"),
        ("5-year", 5, "year"),
        ("20 square metres", 20, "m^2"),
        ("20 square feet", 20, "ft^2"),
        ("5 m^2", 5, "m^2"),
        ("60 miles per hour", 60, "mph"),
        ("18 dollars per day", 18, "USD"),
        ("$2 per hour", 2, "USD"),
        ("50%", 50, "%"),
        ("50 \\%", 50, "%"),
        ("USD 5.00", 5, "USD"),
        ("US$5", 5, "USD"),
        ("\\$18", 18, "USD"),
        ("$18$", 18, ""),
        ("-$5", -5, "USD"),
        ("$-5", -5, "USD"),
        ("5 €", 5, "EUR"),
        ("$3.2 million", 3_200_000, "USD"),
        ("1.5k", 1500, ""),
        ("two dozen eggs", 24, ""),
        ("1 234,50", Fraction("1234.5"), ""),
        ("1.234,50", Fraction("1234.5"), ""),
        ("1,234", 1234, ""),
        ("1 234 567", 1_234_567, ""),
        ("1 1/2", Fraction(3, 2), ""),
        ("-1\\frac{1}{2}", Fraction(-3, 2), ""),
        ("\\frac12", Fraction(1, 2), ""),
        ("3 and 1/4 cups", Fraction(13, 4), ""),
        ("3.2 × 10^5", 320_000, ""),  # noqa: RUF001 - as people write it
        ("3.2 \\times 10^{-2}", Fraction("0.032"), ""),
        ("3.2e5", 320_000, ""),
        ("18\\text{ km}", 18, "km"),
        ("30^\\circ", 30, ""),
        ("twenty-one", 21, ""),
        ("Minus three", -3, ""),
        ("one hundred and five apples", 105, ""),
        ("two thousand three hundred", 2300, ""),
        ("9:30", Fraction(19, 2), ""),
        ("9:30 p.m.", Fraction(19, 2), "pm"),
        ("12 more green apples", 12, ""),
    ],
)
def test_a_quantity_is_read_exactly(text: str, value: Fraction | int, unit: str) -> None:
    """Its number, and the unit by the one name that it has here."""
    assert read(text) == Quantity(Fraction(value), unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "$",
        "nan",
        "1/0",
        "0/0",
        "1/0.0",
        "--5",
        "+-5",
        "-$-5",
        "5!",
        "5x",
        "5 pi",
        "5 squared",
        "5 times",
        "5 or so",
        "12 or 13",
        "10-12",
        "12,34",
        "12 345/6",
        "1,2,3",
        "12/15/2024",
        "10^5",
        "2^10",
        "0x10",
        "hundred",
        "two three",
        "one of them",
        "three quarters",
        "not 5",
        "$5 €",
        "9:75",
        "1e999999",
        "9**9**9**9",
        "9" * 1_000_000,
        "1e" + "9" * 200,
        "(" * 200,
        "٣",
    ],
)
def test_what_is_no_number_or_more_than_one_is_none(text: str) -> None:
    """Rather than part of it, or after a while."""
    assert read(text) is None


@pytest.mark.parametrize(
    "a, b",
    [
        ("12 km", "12000 m"),
        ("1 mile", "5280 feet"),
        ("1 ft", "12 in"),
        ("90 min", "1.5 hours"),
        ("1 week", "7 days"),
        ("16 oz", "1 lb"),
        ("$0.50", "50 cents"),
        ("2 years", "24 months"),
        ("36 km/h", "10 m/s"),
        ("1 m^2", "10000 cm²"),
        ("£5", "5 pounds"),
        ("5 lbs", "5 pounds"),
        ("5", "5 km"),
        ("5 eggs", "5 apples"),
    ],
)
def test_units_of_one_dimension_are_converted(a: str, b: str) -> None:
    """Exactly; what was counted does not matter."""
    x, y = read(a), read(b)
    assert x is not None
    assert y is not None
    assert same(x, y, EXACTLY)
    assert same(y, x, EXACTLY)


@pytest.mark.parametrize(
    "a, b",
    [("5 km", "5 miles"), ("$5", "€5"), ("50%", "0.5"), ("5 km", "5000"), ("5 kg", "5 km"), ("9 am", "9 pm")],
)
def test_other_units_are_other_quantities(a: str, b: str) -> None:
    """Even where the numbers are the same; a percent is no hundredth."""
    x, y = read(a), read(b)
    assert x is not None
    assert y is not None
    assert not same(x, y, EXACTLY)


@given(st.sampled_from(sorted(UNITS)), st.fractions(max_denominator=10**6))
def test_each_name_of_a_unit_is_read(name: str, value: Fraction) -> None:
    """After any number."""
    assert read(f"{value} {name}") == Quantity(value, UNITS[name])


@given(st.integers(0, 999_999))
def test_numbers_in_words_are_read(value: int) -> None:
    """As they are spelled in English."""
    assert read(_spelled(value)) == Quantity(Fraction(value))


@given(st.text(alphabet="0123456789 .,/-+eE$%^*{}()\\km", max_size=40) | st.text(max_size=20))
def test_reading_never_fails(text: str) -> None:
    """It gives a quantity whose unit is in the table, or none."""
    found = read(text)
    assert found is None or found.unit in {"", *UNITS.values()}


def _spelled(value: int) -> str:
    names = {number: word for word, number in WORDS.items()}
    if value in names:
        return names[value]
    if value < 100:
        return f"{names[value - value % 10]}-{names[value % 10]}"
    scale, word = (1000, "thousand") if value >= 1000 else (100, "hundred")
    assert SCALES[word] == scale
    above, below = divmod(value, scale)
    joined = " and " if scale == 100 else " "
    return f"{_spelled(above)} {word}" + (f"{joined}{_spelled(below)}" if below else "")
