"""Which expressions have the same values: pure.

    (x+1)^2  =  x**2 + 2x + 1     whole coefficients: exactly, with fractions for the variables
    sin(2x)  =  2 sin x cos x     else: in floats, with positive variables first
    sqrt(x^2) = |x|               and then with variables of either sign, where both stay within the real numbers
    3.25X + C  =  3.25X + C + 7   with `+ C`, up to a constant

The points follow from the two texts, so nobody can write an expression for them, and a comparison comes out the same
each time. Other values at one point prove two expressions different; the same at several are strong evidence that they
are not.
"""

import cmath
import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from connectors.nodes.solvers.expressions import (
    Name,
    Node,
    Number,
    Unary,
    UndefinedError,
    UnreadableError,
    evaluate,
    exact,
    names,
    parse,
)

TOLERANCE = 1e-9
POINTS = 5
"""Where expressions are compared with positive variables; they have to have a value at three of them."""
MIN_POINTS = 3
MORE_POINTS = 3
"""Where they are then compared with variables of either sign."""
EXACT_POINTS = 2
LOST = 1e6
"""A difference that is so much smaller than what it was taken of has lost digits."""


@functools.lru_cache(maxsize=512)
def read_formula(text: str) -> Node | None:
    """Read one expression that `same_formula` made of an answer; None is none."""
    try:
        return parse(text, implicit=True)
    except UnreadableError:
        return None


def same_values(a: str, b: str) -> bool | None:
    """Compare two expressions at points; None where that does not tell."""
    left, right = read_formula(a), read_formula(b)
    if left is None or right is None:
        return False
    if left == right:
        return True
    constants = [_constant(left), _constant(right)]
    if any(constants) and not all(constants):
        return False
    seed = hashlib.blake2b("\n".join(sorted((a, b))).encode(), digest_size=8).hexdigest()
    if not any(constants):
        verdict = _exactly_same(left, right, seed)
        if verdict is not None:
            return verdict
    return _same_at_points(left, right, constants, seed)


def _exactly_same(left: Node, right: Node, seed: str) -> bool | None:
    """Compare what is rational and has whole coefficients, where rounding plays no part."""
    if not (_is_whole(left) and _is_whole(right)):
        return None
    agreed = 0
    for point in range(2 * EXACT_POINTS):
        values = {n: Fraction(1 + _hash(seed, point, n) % 65_521, 257) for n in names(left) | names(right)}
        try:
            x, y = exact(left, values), exact(right, values)
        except UndefinedError:
            continue
        if x != y:
            return False
        agreed += 1
        if agreed == EXACT_POINTS or not values:
            return True
    return None


def _is_whole(node: Node) -> bool:
    if isinstance(node, Number):
        return node.value.denominator == 1
    if isinstance(node, Name):
        return node.name not in _CONSTANTS
    if isinstance(node, Unary):
        return node.op == "-" and _is_whole(node.argument)
    return _is_whole(node.left) and _is_whole(node.right)


def _same_at_points(left: Node, right: Node, constants: Sequence[str], seed: str) -> bool | None:
    shift: complex | None = None if all(constants) else 0
    unclear, found = False, 0
    for point in range(POINTS + MORE_POINTS):
        of_left, of_right = (_Point(seed, point, c) for c in constants)
        x, y = of_left.value(left), of_right.value(right)
        if x is None or y is None:
            if point < POINTS and (x is not None or y is not None):
                return None if of_left.overflowed or of_right.overflowed else False
            continue
        if point >= POINTS and (of_left.is_complex or of_right.is_complex):
            continue  # where one has no real value the other may have any
        found += point < POINTS
        if shift is None:  # primitives of one function differ by a constant, which `+ C` swallows
            shift = y - x
        alike = _alike(x, y, shift, max(of_left.lost, of_right.lost))
        if alike is False:
            return False
        unclear |= alike is None
    return None if unclear or found < MIN_POINTS else True


def _alike(x: complex, y: complex, shift: complex, lost: float) -> bool | None:
    """Compare two values; None where digits that were lost on the way matter."""
    apart, size = abs(y - x - shift), max(abs(x), abs(y), abs(shift))
    if apart > TOLERANCE * size:
        return None if apart <= TOLERANCE * lost else False
    return None if lost * 1e-15 > TOLERANCE * size else True


def _constant(node: Node) -> str:
    """Name the constant of integration: a C that adds the same everywhere. "" is none."""
    for name in names(node) & {"C", "c"}:
        values = [_Point("", point, name, added).value(node) for point in range(2) for added in (0.0, 1.0)]
        if None not in values:
            a, b, c, d = (value or 0 for value in values)
            if b != a and abs((b - a) - (d - c)) <= TOLERANCE * max(abs(a), abs(b), abs(c), abs(d)):
                return name
    return ""


def _hash(seed: str, point: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {point} {name}".encode(), digest_size=6).digest(), "big")


class _Point:
    """Where expressions are compared: each variable has a value that its name decides."""

    def __init__(self, seed: str, point: int, constant: str = "", added: float = 0.0) -> None:
        self._seed, self._point = seed, point
        self._constant, self._added = constant, added
        self.lost = 0.0
        """The largest number of which nearly all was taken away."""
        self.overflowed = False
        self.is_complex = False
        """Something in it is no real number."""

    def value(self, node: Node) -> complex | None:
        """Work an expression out here; None where it has no value."""
        try:
            value = evaluate(node, self._leaf, self._apply)
        except OverflowError:
            self.overflowed = True
            return None
        except (ArithmeticError, ValueError):
            return None
        if cmath.isfinite(value):
            return value
        self.overflowed = True
        return None

    def _leaf(self, leaf: Number | Name) -> complex:
        if isinstance(leaf, Number):
            return complex(leaf.value)
        if leaf.name == self._constant:
            return complex(self._added)
        if leaf.name in _CONSTANTS:
            return _CONSTANTS[leaf.name]
        # Near 1, and unlike any number that occurs in an answer.
        chosen = _hash(self._seed, self._point, leaf.name)
        size = 0.5 + (chosen >> 1) / 2**47 * 1.5
        return complex(-size if self._point >= POINTS and chosen & 1 else size)

    def _apply(self, op: str, a: complex, b: complex | None) -> complex:
        value = self._applied(op, a, b)
        if value.imag and abs(value.imag) > TOLERANCE * abs(value):
            self.is_complex = True
        return value

    def _applied(self, op: str, a: complex, b: complex | None) -> complex:
        if b is None:
            return complex(_FUNCTIONS[op](a))
        if op in "+-":
            value = a + b if op == "+" else a - b
            larger = max(abs(a), abs(b))
            if larger > LOST * abs(value):
                self.lost = max(self.lost, larger)
            return value
        if op == "*":
            return a * b
        if op == "/":
            return a / b
        if op == "**":
            return complex(a**b)
        raise ArithmeticError(f"{op} is not for expressions")


def _factorial(a: complex) -> complex:
    if a.imag:
        raise ArithmeticError("a factorial of a complex number")
    return complex(math.gamma(a.real + 1))


_CONSTANTS = {"pi": complex(math.pi), "e": complex(math.e), "E": complex(math.e), "i": 1j, "I": 1j}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "-": lambda a: -a,
    "abs": lambda a: complex(abs(a)),
    "factorial": _factorial,
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
