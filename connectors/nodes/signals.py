"""What the text of an answer tells of how sure it may be: pure.

Models calculate in the open: `16 - 3 = 13`. One that miscalculates on the way is seldom right at the end.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from connectors.nodes.final_answer import MARKED

SUMS: Final = "sums"
WRONG_SUMS: Final = "wrong_sums"

PROSE = 60
"""Characters from which on a text is more than an answer."""
SEARCHED = 20_000
MOST_SUMS = 200
LONGEST_SUM = 80
LONGEST_NUMBER = 40

_LEFT = re.compile(r"[-+*/()×÷\d.,$ x\u2212]+\Z")  # noqa: RUF001 - as typesetters write it
_RIGHT = re.compile(r"[ \t]{0,4}\$?[ \t]{0,4}(-?\$?(?:\d[\d,]{0,40}(?:\.\d{1,40})?|\.\d{1,40}))(?!\d|,\d|\.\d)")
_PART = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+|[-+*/()]")
_ASIDE = re.compile(r"<<[^<>]{0,200}>>")
_OPERATORS = {"\xd7": "*", "\xf7": "/", "x": "*", "\u2212": "-", "$": " "}


def signals_of(kind: str, text: str) -> dict[str, float]:
    """Look at the whole text of an answer.

    Args:
        kind: as `schemas.task.AnswerKind` has them.
        text: all that the model wrote.

    Returns:
        How many sums it states, and how many of them are wrong; nothing where the text is no prose, or the answer of a
        kind that nobody calculates for.
    """
    if kind not in MARKED or len(text) < PROSE:
        return {}
    text = _ASIDE.sub("", text[-SEARCHED:])
    sums = wrong = 0
    for place in _places(text):
        verdict = _check(text, place)
        if verdict is not None:
            sums += 1
            wrong += not verdict
    return {SUMS: float(sums), WRONG_SUMS: float(wrong)}


def _places(text: str) -> list[int]:
    places: list[int] = []
    at = text.find("=")
    while at >= 0 and len(places) < MOST_SUMS:
        places.append(at)
        at = text.find("=", at + 1)
    return places


def _check(text: str, place: int) -> bool | None:
    """Tell whether what stands before an equals sign is what stands behind it; None where either is no plain number."""
    found = _LEFT.search(text, max(0, place - LONGEST_SUM), place)
    right = _RIGHT.match(text, place + 1)
    if found is None or right is None:
        return None
    left = found[0]
    before = text[found.start() - 1 : found.start()]
    if before == "%" or (before.isalnum() and not left.startswith(" ")):
        return None
    after = text[right.end() : right.end() + 2].strip()[:1]
    if after and after in "*/+-%^(x\xd7\xf7\u2212":
        return None
    value = _value(left)
    if value is None:
        return None
    written = right[1].replace("$", "").replace(",", "")
    if len(written) > LONGEST_NUMBER:
        return None
    off, digits = abs(value - Fraction(written)), len(written.partition(".")[2])
    # results are rounded where they are not whole, more or less well
    rounded = value.denominator != 1
    return off <= (max(Fraction(6, 10 ** (digits + 1)), abs(value) / 200) if rounded else 0)


def _value(text: str) -> Fraction | None:
    """Calculate `5 * (2 + 3)`; None where it is no sum of plain numbers."""
    text = "".join([_OPERATORS.get(letter, letter) for letter in text]).strip()
    parts = _PART.findall(text)
    if len(parts) < 3 or "".join(parts) != text.replace(" ", "") or parts[0] in "*/+":
        return None
    if any(len(t) > LONGEST_NUMBER for t in parts):
        return None
    try:
        value, rest = _sum(parts, 0)
    except (ValueError, ZeroDivisionError, IndexError):
        return None
    return value if rest == len(parts) else None


def _sum(parts: Sequence[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(parts, at)
    while at < len(parts) and parts[at] in "+-":
        other, after = _product(parts, at + 1)
        value, at = (value + other if parts[at] == "+" else value - other), after
    return value, at


def _product(parts: Sequence[str], at: int) -> tuple[Fraction, int]:
    value, at = _atom(parts, at)
    while at < len(parts) and parts[at] in "*/":
        other, after = _atom(parts, at + 1)
        value, at = (value * other if parts[at] == "*" else value / other), after
    return value, at


def _atom(parts: Sequence[str], at: int) -> tuple[Fraction, int]:
    part = parts[at]
    if part == "-":
        value, at = _atom(parts, at + 1)
        return -value, at
    if part == "(":
        value, at = _sum(parts, at + 1)
        if parts[at] != ")":
            raise ValueError("a parenthesis is not closed")
        return value, at + 1
    return Fraction(part.replace(",", "")), at + 1
