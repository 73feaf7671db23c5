"""How the questions want their answers written."""

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

from connectors.nodes.solvers.problems import Inhabitants

FACTORS_JOIN = " × "  # noqa: RUF001 - as the question asks


def decimal_text(value: Fraction, digits: int) -> str:
    """Write a number to so many significant digits, rounding up from the half, without an exponent."""
    context = Context(prec=digits, rounding=ROUND_HALF_UP)
    rounded = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    text = f"{rounded:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def roots_text(roots: Iterable[float]) -> str:
    """Write zeros to four decimal places, in rising order."""
    return ", ".join(str(round(root, 4) + 0.0) for root in sorted(roots))


def polynomial_text(coefficients: Mapping[int, Fraction], variable: str) -> str:
    """Write a polynomial by falling powers, as `9*x**2 - x/4`."""
    text = ""
    for power in sorted(coefficients, reverse=True):
        c = coefficients[power]
        if not c:
            continue
        symbol = variable if power == 1 else f"{variable}**{power}"
        top = (
            str(abs(c.numerator)) if power == 0 else symbol if abs(c.numerator) == 1 else f"{abs(c.numerator)}*{symbol}"
        )
        term = top if c.denominator == 1 else f"{top}/{c.denominator}"
        text += f"{' - ' if c < 0 else ' + '}{term}" if text else f"{'-' if c < 0 else ''}{term}"
    return text or "0"


def inhabitants_text(problem: Inhabitants, truthful: Mapping[str, bool]) -> str:
    """Write who is what, in the order in which they were met."""
    parts = [f"{name} is {problem.truthful if truthful[name] else problem.liar}" for name, _ in problem.says]
    return ", ".join(parts[:-1]) + ", and " + parts[-1] + "." if len(parts) > 1 else parts[0] + "."


def hexadecimal_text(value: int) -> str:
    """Write an integer as `0x1f`, a negative one with its sign."""
    return hex(value)


def digits_text(digits: Iterable[int]) -> str:
    """Write digits, most significant first, with letters above 9 and without leading zeros."""
    return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[d] for d in digits).lstrip("0") or "0"


def rows_text(rows: Iterable[Iterable[int]]) -> str:
    """Write a square, one row a line."""
    return "\n".join(" ".join(map(str, row)) for row in rows)
