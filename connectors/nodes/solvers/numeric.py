"""The numeric method: floating point that knows its error.

The first round works in doubles, each further one with four times the digits. Every answer comes with a bound on its
error that leaves one rounding, one integer or one fraction; where the bound does not, the method abstains and the next
round may settle it. It sees expressions through their values, and of a polynomial the coefficients.
"""

import cmath
import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import mpmath

from connectors.nodes.solvers import PROVEN, Solution, effort, solution
from connectors.nodes.solvers.expressions import (
    MAX_EXPONENT,
    Binary,
    Name,
    Node,
    Number,
    UndefinedError,
    evaluate,
    operators,
    polynomial,
)
from connectors.nodes.solvers.problems import (
    Antiderivative,
    Circuit,
    Dice,
    Equation,
    Evaluate,
    EvaluateBits,
    Identity,
    Problem,
    RealRoots,
)
from connectors.nodes.solvers.reading import read
from connectors.nodes.solvers.writing import decimal_text, hexadecimal_text, polynomial_text, roots_text

DOUBLE_BITS = 53
BASE_NODES = 16
"""Points of the first round's transform, each a quadrature of half as many; a later round takes twice of both."""
MAX_DENOMINATOR = 1000
MAX_DEGREE = 12
ITERATIONS = 60


def solve(prompt: str, round_index: int) -> Solution | None:
    """Answer a prompt as far as this round's precision goes, or abstain with None."""
    problem = read(prompt)
    if problem is None:
        return None
    work = effort(round_index)
    try:
        # Precision is global in mpmath, and this process solves one problem at a time.
        with mpmath.workprec(DOUBLE_BITS * work):
            mpmath.iv.prec = DOUBLE_BITS * work
            text = _answer(problem, work)
    except (UndefinedError, ZeroDivisionError, OverflowError):
        return None
    return None if text is None else solution(problem, text, PROVEN)


def _answer(problem: Problem, work: int) -> str | None:  # noqa: PLR0911 - one line a kind of problem
    match problem:
        case Equation(left, right, _):
            return _secant(left, right)
        case RealRoots(expression, variable):
            return _real_roots(expression, variable, work)
        case Antiderivative(integrand, variable):
            return _antiderivative(integrand, variable, BASE_NODES * math.isqrt(work))
        case Evaluate(expression, digits):
            low, high = (decimal_text(end, digits) for end in _interval(expression))
            return low if low == high else None
        case EvaluateBits(expression):
            return _integer(expression, DOUBLE_BITS * work)
        case Dice(sides, target):
            return _dice(sides, target, work)
        case Circuit():
            return _circuit(problem)
        case Identity(left, right):
            return _identity(left, right)
        case _:
            return None


def _value(node: Node, x: Any, number: Callable[[Fraction], Any]) -> Any:
    """Work an expression out in whatever numbers `number` and `x` are."""

    def leaf(node: Number | Name) -> Any:
        return number(node.value) if isinstance(node, Number) else x

    return evaluate(node, leaf, _apply)


def _apply(op: str, a: Any, b: Any) -> Any:
    if op == "-" and b is None:
        return -a
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "*":
        return a * b
    if op == "/":
        return a / b
    if op == "**":
        exponent = int(b) if not hasattr(b, "delta") else int(b.mid)
        if exponent != b or abs(exponent) > MAX_EXPONENT:
            raise UndefinedError("a power out of range")
        return a**exponent
    raise UndefinedError(f"{op} is not for reals")


def _mpf(value: Fraction) -> Any:
    return mpmath.mpf(value.numerator) / value.denominator


def _secant(left: Node, right: Node) -> str | None:
    """Find where the difference of both sides vanishes, and that it is a straight line there."""

    def difference(x: Any) -> Any:
        return _value(left, x, _mpf) - _value(right, x, _mpf)

    at = [difference(mpmath.mpf(x)) for x in (0, 1, 2, -1000)]
    size = max(1, *(abs(y) for y in at))
    slope = at[1] - at[0]
    straight = all(abs(at[0] + slope * x - y) <= size * mpmath.eps * 100 for x, y in ((2, at[2]), (-1000, at[3])))
    if not straight or abs(slope) <= size * mpmath.eps * 1000:
        return None
    a, b = mpmath.mpf(0), mpmath.mpf(1)
    for _ in range(8):
        fa, fb = difference(a), difference(b)
        if fa == fb:
            break
        a, b = b, b - fb * (b - a) / (fb - fa)
    root = _rational(b, abs(b) + 1)
    if root is None:
        return None
    return str(root)


def _rational(value: Any, scale: Any) -> Fraction | None:
    """Give the one simple fraction within the rounding error; two different ones are much further apart."""
    nearest = Fraction(int(mpmath.nint(value * 2**60)), 2**60) if not isinstance(value, float) else Fraction(value)
    nearest = nearest.limit_denominator(MAX_DENOMINATOR)
    return nearest if abs(_mpf(nearest) - value) <= 1e-9 * scale else None


def _real_roots(expression: Node, variable: str, work: int) -> str | None:
    """Approximate all zeros at once (Weierstrass) and bound each by a disc that holds it (Smith).

    A disc apart from all others holds one zero. Because zeros come in conjugate pairs, it is real when the disc's
    mirror image meets no other disc.
    """
    coefficients = polynomial(expression, variable)
    degree = max(coefficients, default=0)
    if not 1 <= degree <= MAX_DEGREE:
        return None
    lowest = min(coefficients)
    reduced = [coefficients.get(power, Fraction(0)) for power in range(degree, lowest - 1, -1)]
    doubles = work == 1
    terms = [float(c) for c in reduced] if doubles else [_mpf(c) for c in reduced]
    roots, radii = _weierstrass(terms, 1 if doubles else mpmath.mpf(1), doubles=doubles)
    real: list[float] = [0.0] if lowest else []
    for i, (root, radius) in enumerate(zip(roots, radii, strict=True)):
        others = [(z, r) for j, (z, r) in enumerate(zip(roots, radii, strict=True)) if j != i]
        if any(abs(root - z) <= radius + r for z, r in others):
            return None  # two zeros too close for this precision, or a double one
        if abs(root.imag) > radius:
            continue
        if any(abs(root.conjugate() - z) <= radius + r for z, r in others):
            return None
        low, high = round(float(root.real - radius), 4), round(float(root.real + radius), 4)
        if low != high and doubles:
            return None
        real.append(float(root.real))
    return roots_text(real) if real else None


def _weierstrass(terms: Sequence[Any], one: Any, *, doubles: bool) -> tuple[list[Any], list[Any]]:
    degree = len(terms) - 1
    monic = [term / terms[0] for term in terms]
    bound = one + max((abs(c) for c in monic[1:]), default=0)
    roots = (
        [bound * one * cmath.exp(1j * (0.4 + 2 * math.pi * k / degree)) / 2 for k in range(degree)] if degree else []
    )

    def correction(i: int) -> Any:
        z = roots[i]
        value = functools.reduce(lambda total, c: total * z + c, monic[1:], one)
        return value / math.prod((z - roots[j] for j in range(degree) if j != i), start=one)

    epsilon = 2.0**-52 if doubles else mpmath.eps
    for _ in range(ITERATIONS if doubles else 4 * ITERATIONS):
        step = one * 0
        for i in range(degree):
            delta = correction(i)
            roots[i] -= delta
            step = max(step, abs(delta) / (1 + abs(roots[i])))
        if step < 4 * epsilon:
            break
    # The evaluation itself errs by at most this much; it belongs into the radius.
    radii = []
    for i in range(degree):
        z = roots[i]
        noise = 4 * degree * epsilon * functools.reduce(lambda total, c: total * abs(z) + abs(c), monic[1:], one)
        spread = math.prod((abs(z - roots[j]) for j in range(degree) if j != i), start=one)
        radii.append(degree * (abs(correction(i)) + noise / spread))
    return roots, radii


@functools.cache
def _gauss_legendre(count: int) -> list[tuple[float, float]]:
    """Give nodes and weights on [0, 1]."""
    rule = []
    for i in range(count):
        x = math.cos(math.pi * (i + 0.75) / (count + 0.5))
        slope = 1.0
        for _ in range(100):
            before, value = 1.0, x
            for k in range(2, count + 1):
                before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
            slope = count * (x * value - before) / (x * x - 1)
            step = value / slope
            x -= step
            if abs(step) < 1e-15:
                break
        rule.append(((x + 1) / 2, 1 / ((1 - x * x) * slope * slope)))
    return rule


def _antiderivative(integrand: Node, variable: str, count: int) -> str | None:
    """Integrate along rays to points of the unit circle by quadrature, and read the coefficients off by Fourier."""
    rule = _gauss_legendre(count // 2)
    circle = [cmath.exp(2j * math.pi * k / count) for k in range(count)]
    values = [sum(w * _value(integrand, t * z, float) for t, w in rule) * z for z in circle]
    scale = max(1.0, *(abs(v) for v in values))
    coefficients: dict[int, Fraction] = {}
    for power in range(count):
        c = sum(v * circle[(-power * k) % count] for k, v in enumerate(values)) / count
        fraction = _rational(c.real, scale / 1000)
        if fraction is None or abs(c.imag) > 1e-12 * scale:
            return None
        coefficients[power] = fraction
    # Off the circle, too, its difference quotient has to be the integrand: no higher power was folded into a lower one.
    for x in (0.37, -1.21, 1.43):
        h = 1e-4
        slope = sum(float(c) * ((x + h) ** p - (x - h) ** p) / (2 * h) for p, c in coefficients.items())
        expected = _value(integrand, x, float)
        size = 1 + abs(expected) + sum(abs(float(c)) * p * abs(x) ** p for p, c in coefficients.items())
        if abs(slope - expected) > 1e-5 * size:
            return None
    return polynomial_text(coefficients, variable) + " + C"


def _interval(node: Node) -> tuple[Fraction, Fraction]:
    """Enclose a value: both ends exactly, as fractions."""
    interval = mpmath.iv.mpf(_value(node, None, lambda f: mpmath.iv.mpf(f.numerator) / mpmath.iv.mpf(f.denominator)))
    return _fraction(interval.a), _fraction(interval.b)


def _fraction(end: Any) -> Fraction:
    sign, mantissa, exponent, _ = mpmath.mpf(end)._mpf_
    if not mantissa and exponent:
        raise UndefinedError("not finite")
    power = Fraction(2) ** int(exponent)
    return (-power if sign else power) * int(mantissa)


def _identity(left: Node, right: Node) -> str | None:
    """Tell by an enclosure of the difference: without 0 in it they differ; as an integer below 1, they do not."""
    low, high = _interval(Binary("-", left, right))
    if low > 0 or high < 0:
        return "No"
    integral = not (operators(left) | operators(right)) & {"/", "**"} and _whole(left) and _whole(right)
    return "Yes" if integral and high - low < 1 else None


def _whole(node: Node) -> bool:
    """Tell whether all literals are integers."""

    def leaf(leaf: Number | Name) -> bool:
        return isinstance(leaf, Number) and leaf.value.denominator == 1

    def both(_op: str, a: bool, b: bool | None) -> bool:  # noqa: FBT001 - not flags
        return a and b is not False

    return evaluate(node, leaf, both)


def _integer(node: Node, bits: int) -> str | None:
    """Work in floats as long as each intermediate result is an integer that the mantissa holds."""
    limit = mpmath.mpf(2) ** bits

    def leaf(node: Number | Name) -> Any:
        if isinstance(node, Name) or node.value.denominator != 1:
            raise UndefinedError("not an integer")
        return mpmath.mpf(node.value.numerator)

    def apply(op: str, a: Any, b: Any) -> Any:
        if op in ("<<", ">>"):
            if not 0 <= b < bits:
                raise UndefinedError("a shift out of range")
            value = mpmath.floor(mpmath.ldexp(a, int(b) if op == "<<" else -int(b)))
        else:
            value = _apply(op, a, b)
        if abs(value) >= limit:
            raise UndefinedError("more digits than this precision has")
        return value

    return hexadecimal_text(int(evaluate(node, leaf, apply)))


def _dice(sides: tuple[int, ...], target: int, work: int) -> str | None:
    """Take the sum's distribution from its characteristic function, at as many points as there are sums."""
    total, count = math.prod(sides), sum(sides) + 1
    if count > 100 * BASE_NODES or total.bit_length() > DOUBLE_BITS * work - 12:
        return None
    if work == 1:
        circle: list[Any] = [cmath.exp(2j * math.pi * k / count) for k in range(count)]
    else:
        circle = [mpmath.expjpi(mpmath.mpf(2 * k) / count) for k in range(count)]
    favourable: Any = 0
    reached = range(max(target, 0), count)
    for k in range(count):
        # z + z² + … + z^n, and the sum of z^-s over all s that reach the target: geometric series.
        z = circle[k]
        if k:
            transform = math.prod(z * (circle[k * n % count] - 1) / (z - 1) for n in sides)
            share = (circle[-k * reached.start % count] - 1) / (1 - circle[-k % count]) if reached else 0
        else:
            transform, share = total, len(reached)
        favourable += transform * share
    favourable = favourable.real / count
    nearest = int(favourable + 0.5)
    if abs(favourable - nearest) > 0.05:
        return None
    return str(Fraction(nearest, total))


def _circuit(problem: Circuit) -> str | None:
    """Compute with probabilities of 0 and 1, in reals: AND is a product, XOR a product of differences."""
    gates = {
        "AND": math.prod,
        "NAND": lambda values: 1 - math.prod(values),
        "OR": lambda values: 1 - math.prod(1 - v for v in values),
        "NOR": lambda values: math.prod(1 - v for v in values),
        "XOR": lambda values: (1 - math.prod(1 - 2 * v for v in values)) / 2,
    }
    middle = [
        gates[gate]([1.0 - problem.inputs[name] if negated else float(problem.inputs[name]) for name, negated in wires])
        for gate, wires in problem.gates
    ]
    return str(round(gates[problem.final](middle)))
