r"""Which expressions say the same: pure.

    (x+1)^2          =  x**2 + 2x + 1     whole coefficients: exactly, with fractions for the variables
    sin(2x)          =  2 sin x cos x     else: equal values at points, positive ones first
    sqrt(x^2)        =  |x|               and at points of either sign, where both have a real value
    13X/4 + C        =  3.25X + C + 7     with `+ C`, up to a constant
    {1, 2}           =  2 or 1            sets in any order; tuples, intervals, matrices part by part
    x > 2            =  2 < x

What an answer is made of is compared part by part, and each part by its values at points; where these do not tell, the
caller may ask for a proof.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from connectors.nodes.solvers.expressions import names
from flows.comparing.points import read_formula, same_values

MAX_LENGTH = 2_000
"""Characters of an expression. With the parser's own limits, one is compared in some milliseconds at most."""
MAX_PARTS = 20
"""Of a set, a tuple or a matrix."""
MAX_NESTED = 3
MAX_PROOFS = 3
"""Of two answers; a set may have many parts."""

Proof = Callable[[str, str], bool | None]
"""Tells of two expressions whether they are the same; None where it cannot."""


class Shape(NamedTuple):
    """What an answer is made of."""

    kind: str
    """`=` an expression, `{}` in any order, brackets such as `()` and `[)`, or the signs of a relation."""
    parts: tuple["Shape | str", ...]


def same_formula(a: str, b: str, proof: Proof | None = None) -> bool:
    """Tell whether two answers are the same expression, set, tuple, interval, matrix or relation."""
    if a == b:
        return bool(a)
    if len(a) > MAX_LENGTH or len(b) > MAX_LENGTH:
        return False
    asked = 0

    def few(a: str, b: str) -> bool | None:
        nonlocal asked
        asked += 1
        return proof(a, b) if proof is not None and asked <= MAX_PROOFS else None

    return _alike(_shape(a), _shape(b), few if proof is not None else None)


def _alike(a: Shape | str, b: Shape | str, proof: Proof | None) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        if a == b:
            return bool(a)
        verdict = same_values(a, b)
        if verdict is None and proof is not None:
            verdict = proof(a, b)
        return verdict is True
    if isinstance(a, str) or isinstance(b, str) or a.kind != b.kind:
        return False
    if a.kind == "{}":
        return _within(a, b, proof) and _within(b, a, proof)
    return len(a.parts) == len(b.parts) and all(_alike(x, y, proof) for x, y in zip(a.parts, b.parts, strict=True))


def _within(a: Shape, b: Shape, proof: Proof | None) -> bool:
    return all(any(_alike(x, y, proof) for y in b.parts) for x in a.parts)


# -- what an answer is made of -----------------------------------------------------------------------------------------

_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\[(\d{1,2})\]\{([^{}]*)\}")
_BRACED = re.compile(r"(\^|\\sqrt\s?)\{([^{}]*)\}")
_MATRIX = re.compile(r"\\begin\{[a-z]?matrix\}(.*?)\\end\{[a-z]?matrix\}")
_SETTING = re.compile(r"[$€£¥%]|\\(?:[,;:! ]|left\b|right\b|displaystyle\b|text\b|mathrm\b|operatorname\b|limits\b)")
_PLAIN = {
    "\\cdot": "*",
    "\\times": "*",
    "\\div": "/",
    "\\leq": "<=",
    "\\geq": ">=",
    "\\le": "<=",
    "\\ge": ">=",
    "≤": "<=",
    "≥": ">=",
    "\\neq": "!=",
    "\\ne": "!=",
    "≠": "!=",
    "\\lt": "<",
    "\\gt": ">",
    "\\infty": "infinity",
    "∞": "infinity",
    "\\pm": "±",
    "\\cup": "∪",  # noqa: RUF001 - a union
    "\\in": "∈",
    "π": "pi",
    "√": "sqrt",
    "²": "^2",
    "³": "^3",
    "\\{": "⦃",
    "\\}": "⦄",
    "\\langle": "(",
    "\\rangle": ")",
    "\\lvert": "|",
    "\\rvert": "|",
    "\\vert": "|",
}
_PLAIN_NAME = re.compile("|".join(re.escape(k) + (r"(?![A-Za-z])" if k[-1].isalpha() else "") for k in _PLAIN))
_SUBSCRIPT = re.compile(r"_\{(\w{1,10})\}")
_LEFT_NAME = re.compile(r"\s*([A-Za-z]\w{0,9})\s*(?:=|∈)\s*(?=[^=])")
_JOINS = re.compile(r"\s*(?:[,;∪]|\bor\b|\band\b|\bU\b)\s*(?:\b(?:or|and)\b\s*)?")  # noqa: RUF001
_SIGNS = re.compile(r"<=|>=|!=|==|[<>=]")
_OPENING, _CLOSING = "([{⦃", ")]}⦄"


@functools.lru_cache(maxsize=512)
def _shape(text: str) -> Shape | str:
    return _shaped(_typed(text), 0)


def _typed(text: str) -> str:
    """Write LaTeX as one types it."""
    if "\\" in text:
        for _ in range(6):  # from the inside out
            shorter = _BRACED.sub(r"\1(\2)", _FRACTION.sub(r"((\1)/(\2))", _ROOT.sub(r"((\2)^(1/\1))", text)))
            if shorter == text or len(shorter) > 2 * MAX_LENGTH:
                break
            text = shorter
        text = _MATRIX.sub(lambda m: f"[[{m[1].strip().replace('&', ',').replace(chr(92) * 2, '],[')}]]", text)
    text = _PLAIN_NAME.sub(lambda m: _PLAIN[m[0]] + (" " if m[0][-1].isalpha() else ""), _SETTING.sub(" ", text))
    braces = "{" in text and "\\" not in text and not re.search(r"[\^_]\s*\{", text)
    if braces:  # `{1, 2}`, as people type a set
        text = text.replace("{", "⦃").replace("}", "⦄")
    text = _SUBSCRIPT.sub(r"_\1", text).replace("\\", "").replace("{", "(").replace("}", ")")
    return text.strip()


def _shaped(text: str, depth: int) -> Shape | str:
    text = text.strip()
    if depth > MAX_NESTED:
        return text
    if text.count("±") == 1:
        return _shaped(f"{text.replace('±', '+')} or {text.replace('±', '-')}", depth + 1)
    parts = _split(text, _JOINS)
    if len(parts) > 1:
        return _set(parts, depth)
    if len(text) > 1 and text[0] in _OPENING and text[-1] in _CLOSING and _closes_at_the_end(text):
        inner = _split(text[1:-1], _JOINS)
        if text[0] == "⦃":
            return _set(inner, depth)
        if len(inner) <= MAX_PARTS and (text[0] == "[" or len(inner) > 1):  # else they only hold an expression together
            return Shape(text[0] + text[-1], tuple(_shaped(part, depth + 1) for part in inner))
    return _relation(text)


def _set(parts: Sequence[str], depth: int) -> Shape | str:
    named = [_LEFT_NAME.match(part) for part in parts]
    if len({match[1] for match in named if match is not None}) == 1:  # `x = 1 or x = 2`: what x may be
        parts = [part[match.end() :] if match is not None else part for part, match in zip(parts, named, strict=True)]
    if len(parts) > MAX_PARTS:
        return ", ".join(parts)
    shapes = tuple(_shaped(part, depth + 1) for part in parts)
    return shapes[0] if len(shapes) == 1 else Shape("{}", shapes)


def _relation(text: str) -> Shape | str:
    signs = _SIGNS.findall(text)
    if not signs or len(signs) > MAX_NESTED:
        return text
    sides = [side.strip() for side in _SIGNS.split(text)]
    if all(sign[0] == ">" for sign in signs):
        sides.reverse()
        signs = [sign.replace(">", "<") for sign in reversed(signs)]
    if len(signs) == 1 and signs[0] == "=" and _LEFT_NAME.match(text) and sides[0] not in names_of(sides[1]):
        return Shape(f"{sides[0]} =", (sides[1],))
    return Shape(" ".join(signs), tuple(sides))


def names_of(text: str) -> frozenset[str]:
    """The variables of an expression; none where it is unreadable."""
    node = read_formula(text)
    return names(node) if node is not None else frozenset()


def _split(text: str, at: re.Pattern[str]) -> list[str]:
    """Split a text where it is in no brackets."""
    if at.search(text) is None:
        return [text]
    depth, places, place = 0, [], 0
    opened = [0] * (len(text) + 1)
    for place, letter in enumerate(text):
        depth += (letter in _OPENING) - (letter in _CLOSING)
        opened[place + 1] = depth
    start = 0
    for match in at.finditer(text):
        if not opened[match.start()]:
            places.append(text[start : match.start()])
            start = match.end()
    return [part for part in (*places, text[start:]) if part.strip()]


def _closes_at_the_end(text: str) -> bool:
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if not depth:
            return place == len(text) - 1
    return False
