"""Which answers say the same: pure, and fast where they are written the same.

    number      1,234.50  =  $1234.5  =  2469/2        exactly, and to 1e-9 where one of them is not whole
    choice      (B)  =  b.                              letters and digits count
    expression  (x+1)^2  =  x**2 + 2x + 1               equal values at fixed points; with `+ C`, up to a constant
    code, text  by words; text without regard to case

An answer that is none (empty, `nan`, `inf`) is equivalent to nothing, not even to itself.
"""

import cmath
import functools
import math
import re
import zlib
from collections.abc import Sequence
from fractions import Fraction

from connectors.nodes.solvers.expressions import Name, Node, Number, UnreadableError, evaluate, names, parse
from schemas.task import AnswerKind

TOLERANCE = 1e-9
MAX_LENGTH = 2_000
"""Characters of an expression. With the parser's own limits, one is compared in two milliseconds at most."""
MAX_DIGITS = 300
"""Of a number, about the range of a double. Longer ones are compared as text."""
POINTS = 5
"""Where expressions are compared; they have to have a value at three of them."""
MIN_POINTS = 3


def group(kind: AnswerKind, texts: Sequence[str]) -> list[int]:
    """Give each answer the number of its group: 0 for the first answer's, and so on in order of appearance."""
    if len(texts) == 1:
        return [0]
    groups: list[int] = []
    known: dict[str, int] = {}
    firsts: list[str] = []
    for text in texts:
        index = known.get(text)
        if index is None:
            form = canonical(kind, text)
            index = _group_of(kind, form, firsts) if form else None
            if index is None:
                index = len(firsts)
                firsts.append(form)
            if form:
                known[text] = index
        groups.append(index)
    return groups


def canonical(kind: AnswerKind, text: str) -> str:
    """Write an answer in the one form that all its spellings share, as far as its kind has one; "" is no answer."""
    if kind == AnswerKind.NUMBER:
        return _number_form(text)
    if kind == AnswerKind.CHOICE:
        return _choice_form(text)
    if kind == AnswerKind.EXPRESSION:
        return _expression_form(text)
    words = " ".join(text.split())
    return words if kind == AnswerKind.CODE else words.casefold()


def number(text: str) -> Fraction | None:
    """Read an answer as a number: exactly, whatever signs and separators it is written with. None is no number.

    A percent sign is left out like a unit: `50%` is 50.
    """
    return _rational(text.strip())


def _group_of(kind: AnswerKind, form: str, firsts: Sequence[str]) -> int | None:
    """Find the group whose first answer has the same form, or says the same all the same."""
    if form in firsts:
        return firsts.index(form)
    if kind == AnswerKind.NUMBER:
        like = _near
    elif kind == AnswerKind.EXPRESSION:
        like = _same_values
    else:
        return None
    for index, first in enumerate(firsts):
        if first and like(first, form):
            return index
    return None


_SIGNS = re.compile(r"[$€£¥%]|\\[,;! ]|\\(?:left|right|text|mathrm)\b")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:[,_ ]\d{3})+(?:\.\d*)?")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
_WORDS = re.compile("[A-DF-Za-df-z]")
"""What is in no number but for a command of LaTeX or a left side."""
_NO_NUMBER = frozenset({"nan", "inf", "infinity", "∞"})
_LEFT_SIDE = re.compile(r"\s*[A-Za-z]\w{0,9}(?:\(\w\))?\s*=\s*(?=[^=])")


def _number_form(text: str) -> str:
    text = text.strip()
    if text.isdecimal() and text.isascii() and len(text) <= MAX_DIGITS:
        return text.lstrip("0") or "0"
    value = _rational(text)
    if value is not None:
        return str(value)
    words = " ".join(text.split()).casefold()
    return "" if words.lstrip("+- ") in _NO_NUMBER else words


def _rational(text: str) -> Fraction | None:  # noqa: PLR0911 - three short cuts, then the long way
    whole, point, digits = text.lstrip("-").partition(".")
    if point and (whole + digits).isdecimal() and len(text) <= MAX_DIGITS and text.isascii() and text[:2] != "--":
        value = Fraction(int(whole + digits), 10 ** len(digits))
        return -value if text[0] == "-" else value
    if len(text) > MAX_DIGITS or not any(map(str.isdigit, text)):
        return None
    if _WORDS.search(text) and "\\" not in text and "=" not in text:
        return None
    top, slash, bottom = text.partition("/")
    if slash and bottom.isdecimal() and top.lstrip("-").isdecimal() and text.isascii() and text[:2] != "--":
        return Fraction(int(top), int(bottom)) if bottom.strip("0") else None
    text = text.replace("−", "-")  # noqa: RUF001 - as typesetters write it
    text = _FRACTION.sub(r"\1/\2", _SIGNS.sub("", text)).strip().rstrip(".").strip()
    text = _LEFT_SIDE.sub("", text)
    parts = [part.strip() for part in text.split("/")]
    if len(parts) > 2:
        return None
    values = [_decimal(part) for part in parts]
    first, last = values[0], values[-1]
    if first is None or last is None:
        return None
    if len(values) == 1:
        return first
    return first / last if last else None


def _decimal(text: str) -> Fraction | None:
    if _THOUSANDS.fullmatch(text):
        text = re.sub("[,_ ]", "", text)
    return Fraction(text) if text.isascii() and _DECIMAL.fullmatch(text) else None


def _near(a: str, b: str) -> bool:
    if "/" not in a and "/" not in b:
        return False  # two whole numbers, or no numbers
    x, y = _rational(a), _rational(b)
    if x is None or y is None:
        return False
    return abs(x - y) <= Fraction(TOLERANCE) * max(abs(x), abs(y))


def _choice_form(text: str) -> str:
    letters = "".join(filter(str.isalnum, text)).casefold()
    if letters.isdecimal() or not letters:
        # `-1` is not `1`, and `+` is not `-`.
        return _number_form(text.strip("()[]{}. \t\n"))
    return letters


def _expression_form(text: str) -> str:
    number = _number_form(text)
    if not number or _rational(number) is not None:
        return number
    return " ".join(_LEFT_SIDE.sub("", text, count=1).split())


@functools.lru_cache(maxsize=256)
def _node(form: str) -> Node | None:
    if len(form) > MAX_LENGTH:
        return None
    text = _FRACTION.sub(r"((\1)/(\2))", _SIGNS.sub("", form)).replace("\\cdot", "*").replace("π", "pi")
    try:
        return parse(text.replace("\\", "").replace("{", "(").replace("}", ")"), implicit=True)
    except UnreadableError:
        return None


def _same_values(a: str, b: str) -> bool:
    """Compare two expressions at points where each variable has a value that its name decides."""
    left, right = _node(a), _node(b)
    if left is None or right is None:
        return False
    constants = [_constant(left), _constant(right)]
    if any(constants) and not all(constants):
        return False
    pairs = []
    for point in range(POINTS):
        x, y = (_value(node, point, constant) for node, constant in zip((left, right), constants, strict=True))
        if (x is None) != (y is None):
            return False
        if x is not None and y is not None:
            pairs.append((x, y))
    if len(pairs) < MIN_POINTS:
        return False
    # Primitives of one function differ by a constant, which `+ C` swallows.
    shift = pairs[0][1] - pairs[0][0] if all(constants) else 0
    return all(abs(y - x - shift) <= TOLERANCE * max(1e-300, abs(x), abs(y), abs(shift)) for x, y in pairs)


def _constant(node: Node) -> str:
    """Name the constant of integration: a C that adds the same everywhere. "" is none."""
    for name in names(node) & {"C", "c"}:
        values = [_value(node, point, name, added) for point in range(2) for added in (0.0, 1.0)]
        if None not in values:
            a, b, c, d = (value or 0 for value in values)
            if b != a and abs((b - a) - (d - c)) <= TOLERANCE * max(abs(a), abs(b), abs(c), abs(d)):
                return name
    return ""


def _value(node: Node, point: int, constant: str = "", added: float = 0.0) -> complex | None:
    def leaf(leaf: Number | Name) -> complex:
        if isinstance(leaf, Number):
            return complex(leaf.value)
        if leaf.name == constant:
            return complex(added)
        if leaf.name in _CONSTANTS:
            return _CONSTANTS[leaf.name]
        # Positive, near 1, and unlike any number that occurs in an answer.
        return complex(0.5 + zlib.crc32(f"{point} {leaf.name}".encode()) / 2**32 * 1.5)

    try:
        value = evaluate(node, leaf, _apply)
    except (ArithmeticError, ValueError):
        return None
    return value if cmath.isfinite(value) else None


_CONSTANTS = {"pi": complex(math.pi), "e": complex(math.e), "E": complex(math.e), "i": 1j, "I": 1j}
_FUNCTIONS = {
    "-": lambda a: -a,
    "abs": lambda a: complex(abs(a)),
    "ln": cmath.log,
    "log": cmath.log,
    "sqrt": cmath.sqrt,
    "exp": cmath.exp,
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "asin": cmath.asin,
    "acos": cmath.acos,
    "atan": cmath.atan,
}


def _apply(op: str, a: complex, b: complex | None) -> complex:
    if b is None:
        return complex(_FUNCTIONS[op](a))
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "*":
        return a * b
    if op == "/":
        return a / b
    if op == "**":
        return complex(a**b)
    raise ArithmeticError(f"{op} is not for expressions")
