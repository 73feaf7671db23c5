"""Which answers say the same: pure, and fast where they are written the same.

    number      1,234.50  =  $1234.5  =  2469/2        exactly, and to 1e-9 where one of them is not whole, or to the
                12 km  =  12000 m  =  12               question's tolerance; a unit that one leaves out is the other's
    choice      (B)  =  b.  =  Option B  =  B) Paris   letters and digits count; a letter that leads is the answer
    expression  (x+1)^2  =  x**2 + 2x + 1              as `flows.comparing.formulas` says
    code        by words
    text        "The Moon."  =  moon                   by words, without case, quotes and the ends of sentences

An answer that is none (empty, `nan`, `inf`) is equivalent to nothing, not even to itself. An answer is compared with
the first of each group, in the order in which they come, so that no chain of near ones joins two that are not.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from msgspec import Struct

from connectors.nodes.quantities import MAX_LENGTH as MAX_DIGITS
from connectors.nodes.quantities import Quantity, read, same
from flows.comparing.formulas import Proof, same_formula
from schemas.task import AnswerKind, PayloadView

_TOLERANCE = Fraction(1, 10**9)
_NONE = Fraction(0)
MAX_TEXT = 20_000
"""Characters of a text whose quotes and stops are looked at; longer ones are compared by words alone."""


class Comparison(Struct, frozen=True, gc=False):
    """What two answers may differ in and say the same."""

    tolerance: float = 0.0
    """Of numbers: how far they may be apart, relative to the larger."""
    alike: Callable[[str, str], bool] | None = None
    """Of texts that differ: whether they mean the same."""
    proof: Proof | None = None
    """Of expressions, where values at points do not tell."""


EXACT = Comparison()


def comparison_for(view: PayloadView, by: Comparison = EXACT) -> Comparison:
    """How answers to a question are compared: as all are, but for its own tolerance."""
    if view.tolerance is None:
        return by
    return Comparison(view.tolerance, by.alike, by.proof)


def group(kind: AnswerKind, texts: Sequence[str], by: Comparison = EXACT) -> list[int]:
    """Give each answer the number of its group: 0 for the first answer's, and so on in order of appearance."""
    if len(texts) == 1:
        return [0]
    if texts and texts.count(texts[0]) == len(texts) and _is_plain(kind, texts[0]):
        return [0] * len(texts)
    groups: list[int] = []
    known: dict[str, int] = {}
    firsts: list[str] = []
    for text in texts:
        index = known.get(text)
        if index is None:
            form = canonical(kind, text)
            if form:
                index = known.get(form)
                if index is None:
                    index = _group_of(kind, form, firsts, by)
            if index is None:
                index = len(firsts)
                firsts.append(form)
            if form:
                known[text] = known[form] = index
        groups.append(index)
    return groups


def as_one(groups: Sequence[int], chosen: Sequence[bool | None]) -> list[int]:
    """Put the chosen answers into one group, where the first of them is, and number the groups anew.

    Programs that pass the same tests behave alike, however they are written.
    """
    first = next((g for g, is_chosen in zip(groups, chosen, strict=True) if is_chosen), -1)
    numbers: dict[int, int] = {}
    return [
        numbers.setdefault(first if is_chosen else g, len(numbers)) for g, is_chosen in zip(groups, chosen, strict=True)
    ]


def _is_plain(kind: AnswerKind, text: str) -> bool:
    """Tell at a glance of most answers that they are answers."""
    return text.isdecimal() or (kind == AnswerKind.TEXT and not text.isspace() and text != "")


def canonical(kind: AnswerKind, text: str) -> str:
    """Write an answer in the one form that all its spellings share, as far as its kind has one; "" is no answer."""
    if kind == AnswerKind.NUMBER:
        return _number_form(text)
    if kind == AnswerKind.CHOICE:
        return _choice_form(text)
    if kind == AnswerKind.EXPRESSION:
        return _expression_form(text)
    if kind == AnswerKind.CODE:
        return " ".join(text.split())
    return _text_form(text)


def number(text: str) -> Fraction | None:
    """Read an answer as a number: exactly, whatever signs and separators it is written with. None is no number.

    A unit is left out, and so is a percent sign: `50%` is 50.
    """
    quantity = read(text.strip())
    return quantity.value if quantity is not None else None


def _group_of(kind: AnswerKind, form: str, firsts: list[str], by: Comparison) -> int | None:
    """Find the group whose first answer says the same in another form."""
    if kind == AnswerKind.NUMBER:
        return _group_of_number(form, firsts, by.tolerance)
    if kind == AnswerKind.EXPRESSION:
        for index, first in enumerate(firsts):
            if first and same_formula(first, form, by.proof):
                return index
    elif kind == AnswerKind.TEXT and by.alike is not None:
        for index, first in enumerate(firsts):
            if first and by.alike(first, form):
                return index
    return None


# -- numbers -----------------------------------------------------------------------------------------------------------

_NO_NUMBER = frozenset({"nan", "inf", "infinity", "∞"})


def _number_form(text: str) -> str:
    text = text.strip()
    if text.isdecimal() and text.isascii() and len(text) <= MAX_DIGITS:
        return text.lstrip("0") or "0"
    quantity = read(text)
    if quantity is not None:
        return f"{quantity.value} {quantity.unit}" if quantity.unit else str(quantity.value)
    words = " ".join(text.split()).casefold()
    if words.lstrip("+- ") in _NO_NUMBER:
        return ""
    return words


def _group_of_number(form: str, firsts: list[str], tolerance: float) -> int | None:
    """Find a group for a number: one with a unit goes to its like, and else gives its unit to the first without one."""
    whole = tolerance == 0.0 and form.isdecimal()
    found = None
    for index, first in enumerate(firsts):
        if whole and first.isdecimal():
            continue  # two whole numbers, not the same
        if first and _near(first, form, tolerance):
            if " " in first or " " not in form:
                return index
            if found is None:
                found = index
    if found is not None:
        firsts[found] += form[form.rindex(" ") :]  # so that `5 miles` does not follow `5` where `5 km` has
    return found


def _near(a: str, b: str, tolerance: float) -> bool:
    x, y = _quantity(a), _quantity(b)
    if x is None or y is None:
        return False
    if x.value == y.value and not (x.unit and y.unit):
        return True
    are_whole = x.value.denominator == y.value.denominator == 1
    return same(x, y, max(_exactly(tolerance), _NONE if are_whole else _TOLERANCE))


@lru_cache(maxsize=64)
def _exactly(tolerance: float) -> Fraction:
    """The fraction that is written like this: 0.1 is a tenth."""
    return Fraction(repr(tolerance))


@lru_cache(maxsize=1024)
def _quantity(form: str) -> Quantity | None:
    return read(form) if any(map(str.isdigit, form)) else None


# -- choices and expressions -------------------------------------------------------------------------------------------

_LETTER = re.compile(
    r"[\s*_]{0,8}(?:(?:option|choice|answer)[\s:*]{1,8})?[(\[]?([A-J])(?:[)\].:]\**\s.*|[)\].:\s*]{0,8})",
    re.IGNORECASE | re.DOTALL,
)
_LEFT_SIDE = re.compile(r"\s*[A-Za-z]\w{0,9}(?:\(\w\))?\s*=\s*(?=[^=])")


def _choice_form(text: str) -> str:
    letters = "".join(filter(str.isalnum, text)).casefold()
    if letters.isdecimal() or not letters:
        # `-1` is not `1`, and `+` is not `-`.
        return _number_form(text.strip("()[]{}. \t\n"))
    if len(letters) > 1:
        letter = _LETTER.fullmatch(text)
        if letter is not None:
            return letter[1].casefold()
    return letters


def _expression_form(text: str) -> str:
    form = _number_form(text)
    if not form or _quantity(form) is not None:
        return form
    if text.count("=") == 1 and not any(sign in text for sign in "<>,;"):
        text = _LEFT_SIDE.sub("", text, count=1)
    return " ".join(text.split())


# -- texts -------------------------------------------------------------------------------------------------------------

_AROUND = "*_`\"'“”‘’„«»"  # noqa: RUF001 - quotes, and the marks of Markdown
_STOPS = ".,;:!?…"
_MARKS = re.compile(f"[{re.escape(_AROUND + _STOPS)}]")
_ARTICLES = frozenset({"the", "a", "an"})


def _text_form(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    words = text.split()
    if len(text) > MAX_TEXT or (_MARKS.search(text) is None and words and words[0] not in _ARTICLES):
        return " ".join(words)
    bare = [word.lstrip(_AROUND).rstrip(_AROUND + _STOPS) for word in words]
    bare = [word for word in bare if word]
    first = 0
    while first < len(bare) - 1 and bare[first] in _ARTICLES:
        first += 1
    return " ".join(bare[first:] or words)
