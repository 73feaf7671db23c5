"""Arithmetic as it stands in a prompt or an answer, read without ever running it.

A text becomes a small tree of numbers, names and operators. What the tree is worth is up to the reader: exact
fractions, floats, intervals, residues. Size, depth and literals are bounded, so that no text is expensive to read.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple, TypeVar

MAX_TOKENS = 400
"""A chain of this many terms nests half as deep on the left, well inside the interpreter's own limit."""
MAX_DEPTH = 40
MAX_LITERAL = 60
"""Characters of one number."""
MAX_LITERAL_EXPONENT = 300
"""About the range of a double; `1e999999999` would be a gigabyte of digits."""
MAX_EXPONENT = 64
MAX_BITS = 4096
"""Of an exact intermediate result."""
MAX_JOINED = 3
"""Letters of variables that stand side by side, in an answer; more are a word."""

FUNCTIONS = frozenset({"sqrt", "sin", "cos", "tan", "exp", "log", "ln", "abs", "asin", "acos", "atan"})
MORE_FUNCTIONS = FUNCTIONS | {"sinh", "cosh", "tanh", "sec", "csc", "cot", "cbrt", "arcsin", "arccos", "arctan", "lg"}
"""What is a function in an answer. None of these is in a tree: they are written with others."""
_GREEK = """
alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi omega pi
"""
GREEK = frozenset(_GREEK.split()) | {"infinity", "inf"}
"""Names of several letters that are no product of variables."""


class UnreadableError(ValueError):
    """The text is no arithmetic that is understood here."""


class UndefinedError(ArithmeticError):
    """The expression has no value here: a division by zero, or a number beyond all bounds."""


class Number(NamedTuple):
    """A literal."""

    value: Fraction


class Name(NamedTuple):
    """A variable."""

    name: str


class Unary(NamedTuple):
    """A sign, or a function of one argument."""

    op: str
    argument: "Node"


class Binary(NamedTuple):
    """Two operands and what joins them: `+ - * / ** << >>`."""

    op: str
    left: "Node"
    right: "Node"


Node = Number | Name | Unary | Binary
T = TypeVar("T")

_TOKEN = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<op>\*\*|<<|>>|[-+*/^()×·÷−!|]))"  # noqa: RUF001 - as people write them
)
_SAME = {"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-"}  # noqa: RUF001
_PRECEDENCE = {"<<": 1, ">>": 1, "+": 2, "-": 2, "*": 3, "/": 3, "**": 5}
_SIGN_PRECEDENCE = 4


def read_number(literal: str) -> Fraction:
    """Read a decimal or `0x` literal exactly.

    Raises:
        UnreadableError: it is too long, or its exponent too large.
    """
    if len(literal) > MAX_LITERAL:
        raise UnreadableError("a number is too long")
    if literal[:2] in ("0x", "0X"):
        return Fraction(int(literal, 16))
    _, _, exponent = literal.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_LITERAL_EXPONENT:
        raise UnreadableError("a number is too large")
    return Fraction(literal)


class _Reader:
    """A precedence-climbing parser over the tokens of one text."""

    def __init__(self, text: str, *, implicit: bool) -> None:
        self.tokens = _tokens(text)
        self.position = 0
        self.implicit = implicit
        self.in_bars = False

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.position += 1
        return token

    def expression(self, floor: int, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        left = self.operand(depth)
        while True:
            kind, op = self.peek()
            written = kind == "op" and op != "(" and (op != "|" or self.in_bars)
            if not written and self.implicit and kind != "end":
                op = "*"
            precedence = _PRECEDENCE.get(op)
            if precedence is None or precedence < floor:
                return left
            self.position += written
            right = self.expression(precedence if op == "**" else precedence + 1, depth + 1)
            left = Binary(op, left, right)

    def operand(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        node = self.bare_operand(depth)
        while self.implicit and self.peek()[1] == "!":
            self.position += 1
            node = Unary("factorial", node)
        return node

    def bare_operand(self, depth: int) -> Node:  # noqa: PLR0911 - one a kind of operand
        kind, text = self.take()
        if kind == "number":
            return Number(read_number(text))
        if kind == "name":
            if self.implicit:
                return self.named(text, depth)
            if text in FUNCTIONS and self.peek()[1] == "(":
                return Unary(text, self.operand(depth + 1))
            return Name(text)
        if text == "(":
            return self.up_to(")", depth)
        if text == "|" and self.implicit and not self.in_bars:
            self.in_bars = True
            inner = self.up_to("|", depth)
            self.in_bars = False
            return Unary("abs", inner)
        if text in ("-", "+"):
            argument = self.expression(_SIGN_PRECEDENCE, depth + 1)
            return Unary("-", argument) if text == "-" else argument
        raise UnreadableError(f"unexpected {text or 'end'!r}")

    def up_to(self, closing: str, depth: int) -> Node:
        inner = self.expression(0, depth + 1)
        if self.take()[1] != closing:
            raise UnreadableError("a parenthesis is left open")
        return inner

    def named(self, text: str, depth: int) -> Node:
        """Read a name as answers have them: `sin 2x`, `sin^2 x`, `log_2(x)`, and `xy` for a product."""
        function, _, base = text.partition("_")
        if function not in MORE_FUNCTIONS or (base and (function != "log" or not base.isdecimal())):
            if text.isalpha() and len(text) > 1 and self.peek()[1] == "(" and text not in GREEK:
                raise UnreadableError(f"{text} is no function that is known here")
            if text in GREEK or not text.isalpha() or not 1 < len(text) <= MAX_JOINED:
                return Name(text)
            product: Node = Name(text[0])
            for letter in text[1:]:
                product = Binary("*", product, Name(letter))
            return product
        power: Node | None = None
        if self.peek()[1] == "**":
            self.position += 1
            power = self.operand(depth + 1)
            if not isinstance(power, Number):
                raise UnreadableError(f"{text} to a power that is no number")  # `sin^-1` is the inverse function
        argument = self.operand(depth + 1)
        while (
            self.peek()[0] in ("number", "name")
            and self.peek()[1] not in MORE_FUNCTIONS
            and self.tokens[self.position - 1][1] != ")"
        ):
            argument = Binary("*", argument, self.operand(depth + 1))
        if self.peek()[1] == "**" and self.tokens[self.position - 1][1] != ")":
            self.position += 1
            argument = Binary("**", argument, self.expression(_PRECEDENCE["**"], depth + 1))
        found = _function(function, argument, base)
        return found if power is None else Binary("**", found, power)


def _function(name: str, argument: Node, base: str = "") -> Node:
    """Write a function of `MORE_FUNCTIONS` with those of `FUNCTIONS`."""
    one, two = Number(Fraction(1)), Number(Fraction(2))
    if base or name == "lg":
        return Binary("/", Unary("ln", argument), Unary("ln", Number(Fraction(base or 10))))
    if name in ("sec", "csc", "cot"):
        return Binary("/", one, Unary({"sec": "cos", "csc": "sin", "cot": "tan"}[name], argument))
    if name == "cbrt":
        return Binary("**", argument, Number(Fraction(1, 3)))
    if name in ("sinh", "cosh", "tanh"):
        up, down = Unary("exp", argument), Unary("exp", Unary("-", argument))
        top, bottom = Binary("-", up, down), Binary("+", up, down)
        if name == "tanh":
            return Binary("/", top, bottom)
        return Binary("/", top if name == "sinh" else bottom, two)
    return Unary(name.replace("arc", "a"), argument)


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise UnreadableError(f"unexpected {text[position : position + 10]!r}")
        if len(tokens) == MAX_TOKENS:
            raise UnreadableError("too long")
        kind = match.lastgroup or ""
        token = match[kind]
        tokens.append((kind, _SAME.get(token, token)))
        position = match.end()
    return tokens


def parse(text: str, *, implicit: bool = False) -> Node:
    """Read an expression; `implicit` also takes `2x` and `3(x + 1)` for products, and what else answers have.

    Raises:
        UnreadableError: it is none, or beyond the limits.
    """
    reader = _Reader(text, implicit=implicit)
    node = reader.expression(0, 0)
    if reader.position != len(reader.tokens):
        raise UnreadableError(f"unexpected {reader.peek()[1]!r}")
    return node


def evaluate(node: Node, leaf: Callable[[Number | Name], T], apply: Callable[[str, T, T | None], T]) -> T:
    """Work an expression out from the leaves up; `apply` gets None as second operand of a sign or a function."""
    if isinstance(node, Binary):
        return apply(node.op, evaluate(node.left, leaf, apply), evaluate(node.right, leaf, apply))
    if isinstance(node, Unary):
        return apply(node.op, evaluate(node.argument, leaf, apply), None)
    return leaf(node)


def names(node: Node) -> frozenset[str]:
    """All variables of an expression."""
    if isinstance(node, Binary):
        return names(node.left) | names(node.right)
    if isinstance(node, Unary):
        return names(node.argument)
    return frozenset({node.name}) if isinstance(node, Name) else frozenset()


def operators(node: Node) -> frozenset[str]:
    """All operators and functions of an expression."""
    if isinstance(node, Binary):
        return operators(node.left) | operators(node.right) | {node.op}
    return operators(node.argument) | {node.op} if isinstance(node, Unary) else frozenset()


def exact(node: Node, values: Mapping[str, Fraction] | None = None) -> Fraction:
    """Give the value as a fraction.

    Raises:
        UndefinedError: it has none, is not rational, or outgrows the limits.
    """

    def leaf(node: Number | Name) -> Fraction:
        if isinstance(node, Number):
            return node.value
        if values is None or node.name not in values:
            raise UndefinedError(f"{node.name} is unknown")
        return values[node.name]

    return evaluate(node, leaf, _exactly)


def _exactly(op: str, a: Fraction, b: Fraction | None) -> Fraction:  # noqa: C901 - one branch an operator
    if b is None:
        if op == "-":
            return -a
        if op == "abs":
            return abs(a)
        raise UndefinedError(f"{op} is not rational")
    if op == "+":
        value = a + b
    elif op == "-":
        value = a - b
    elif op == "*":
        value = a * b
    elif op == "/":
        if not b:
            raise UndefinedError("division by zero")
        value = a / b
    elif op == "**":
        value = _exact_power(a, b)
    else:
        value = Fraction(shift(op, a, b))
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise UndefinedError("too large")
    return value


def _exact_power(a: Fraction, b: Fraction) -> Fraction:
    if b.denominator != 1 or abs(b) > MAX_EXPONENT or (not a and b < 0):
        raise UndefinedError("a power out of range")
    if max(a.numerator.bit_length(), a.denominator.bit_length()) * abs(b.numerator) > MAX_BITS:
        raise UndefinedError("too large")
    return Fraction(a ** int(b))


def shift(op: str, a: Fraction, b: Fraction) -> int:
    """Shift an integer's bits.

    Raises:
        UndefinedError: not integers, or out of range.
    """
    if a.denominator != 1 or b.denominator != 1 or not 0 <= b <= MAX_BITS:
        raise UndefinedError("a shift out of range")
    return a.numerator << int(b) if op == "<<" else a.numerator >> int(b)


def polynomial(node: Node, variable: str) -> dict[int, Fraction]:
    """Give the coefficients by power, zeros left out.

    Raises:
        UndefinedError: it is no polynomial in this variable alone.
    """

    def leaf(node: Number | Name) -> dict[int, Fraction]:
        if isinstance(node, Number):
            return {0: node.value} if node.value else {}
        if node.name != variable:
            raise UndefinedError(f"{node.name} is unknown")
        return {1: Fraction(1)}

    return evaluate(node, leaf, _of_polynomials)


def _of_polynomials(  # noqa: C901 - one branch an operator
    op: str, a: dict[int, Fraction], b: dict[int, Fraction] | None
) -> dict[int, Fraction]:
    if b is None:
        if op != "-":
            raise UndefinedError("no polynomial")
        return {power: -c for power, c in a.items()}
    if op in "+-":
        total = dict(a)
        for power, c in b.items():
            total[power] = total.get(power, Fraction(0)) + (c if op == "+" else -c)
        return {power: c for power, c in total.items() if c}
    if op == "*":
        return _product(a, b)
    if b.keys() - {0}:
        raise UndefinedError("no polynomial")
    constant = b.get(0, Fraction(0))
    if op == "/" and constant:
        return {power: _exactly("/", c, constant) for power, c in a.items()}
    if op == "**" and constant.denominator == 1 and 0 <= constant <= MAX_EXPONENT:
        if len(a) == 1:
            ((power, c),) = a.items()
            return {power * int(constant): _exact_power(c, constant)}
        power_of_a: dict[int, Fraction] = {0: Fraction(1)}
        for _ in range(int(constant)):
            power_of_a = _product(power_of_a, a)
        return power_of_a
    raise UndefinedError("no polynomial")


def _product(a: dict[int, Fraction], b: dict[int, Fraction]) -> dict[int, Fraction]:
    if max(a, default=0) + max(b, default=0) > MAX_EXPONENT:
        raise UndefinedError("a degree out of range")
    total: dict[int, Fraction] = {}
    for i, c in a.items():
        for j, d in b.items():
            total[i + j] = total.get(i + j, Fraction(0)) + _exactly("*", c, d)
    return {power: c for power, c in total.items() if c}
