"""The search method: try values one after another, or at random, and check each by putting it in.

No formula and no rule of inference: divisors are divided by, counters counted up, programs run turn by turn, squares
filled at random and mended. Each round may take four times the steps of the one before; what is not found within them
is not answered. Random choices are seeded by the prompt and the round, so a call can be repeated.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction

from connectors.nodes.solvers import BASE_STEPS, PROVEN, Solution, effort, solution
from connectors.nodes.solvers.expressions import Name, Node, Number, UndefinedError, evaluate, exact, names
from connectors.nodes.solvers.problems import (
    Circuit,
    Claim,
    ConvertBase,
    CountPrimes,
    Dice,
    Equation,
    Factorize,
    Formula,
    Identity,
    Inhabitants,
    Problem,
    RunProgram,
    SelfReference,
    Sudoku,
)
from connectors.nodes.solvers.reading import read
from connectors.nodes.solvers.writing import FACTORS_JOIN, digits_text, inhabitants_text, rows_text


class _OutOfStepsError(Exception):
    """Not found within this round's steps."""


def solve(prompt: str, round_index: int) -> Solution | None:
    """Answer a prompt by trying, or abstain with None when this round's steps do not suffice."""
    problem = read(prompt)
    if problem is None:
        return None
    try:
        text = _answer(problem, BASE_STEPS * effort(round_index), random.Random(f"{round_index} {prompt}"))  # noqa: S311
    except (UndefinedError, ZeroDivisionError, _OutOfStepsError):
        return None
    return None if text is None else solution(problem, text, PROVEN)


def _answer(problem: Problem, steps: int, rng: random.Random) -> str | None:  # noqa: C901, PLR0911
    match problem:
        case Factorize(number):
            return FACTORS_JOIN.join(map(str, _divide(number, steps)))
        case Equation():
            return _try_integers(problem, steps, rng)
        case CountPrimes(low, high):
            return str(_count_primes(low, high, steps))
        case ConvertBase(digits, source, target):
            return digits_text(_count_up(digits, source, target, steps))
        case RunProgram(code):
            return _interpret(code, steps)
        case Inhabitants():
            return _try_everybody(problem, steps)
        case SelfReference(claims):
            return _try_all_truths(claims, steps)
        case Circuit():
            return _switch(problem)
        case Sudoku(rows):
            return _mend(rows, steps, rng)
        case Dice(sides, target):
            return _roll_all(sides, target, steps)
        case Identity(left, right):
            return _residues(left, right, rng)
        case _:
            return None


def _divide(number: int, steps: int) -> list[int]:
    """Divide by 2, 3, 5, 7, 9, … as long as the divisor's square is not above what is left."""
    factors: list[int] = []
    divisor = 2
    while divisor * divisor <= number:
        steps -= 1
        if steps < 0:
            raise _OutOfStepsError
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1 if divisor == 2 else 2
    return [*factors, number] if number > 1 else factors


def _try_integers(problem: Equation, steps: int, rng: random.Random) -> str | None:
    """Put in 0, 1, -1, 2, -2, … until both sides are equal.

    A value far out tells first whether the sides part evenly, so that no other value makes them equal.
    """
    left, right = (_substitution(side) for side in (problem.left, problem.right))
    far = Fraction(rng.randrange(2**40, 2**41))
    apart = [left(x) - right(x) for x in (Fraction(0), Fraction(1), far)]
    if apart[0] == apart[1] or apart[2] != apart[0] + far * (apart[1] - apart[0]):
        return None
    for number in range(steps // 16):
        for candidate in (Fraction(number), Fraction(-number)):
            if left(candidate) == right(candidate):
                return str(candidate)
    return None


def _substitution(node: Node) -> Callable[[Fraction], Fraction]:
    name = next(iter(names(node)), "")
    return lambda value: exact(node, {name: value})


def _count_primes(low: int, high: int, steps: int) -> int:
    """Divide every number by 2, 3, 5, 7, … up to its root."""
    count = 0
    for number in range(max(low, 2), high + 1):
        root = math.isqrt(number)
        if number % 2 == 0:
            steps -= 1
            count += number == 2
            continue
        for divisor in range(3, root + 1, 2):
            if number % divisor == 0:
                steps -= divisor // 2
                break
        else:
            steps -= root // 2
            count += 1
        if steps < 0:
            raise _OutOfStepsError
    return count


def _count_up(digits: tuple[int, ...], source: int, target: int, steps: int) -> Iterator[int]:
    """Count two wheels up together, one of each base, until the first shows the digits; what does the other show?"""
    wanted = list(itertools.dropwhile(lambda digit: not digit, digits))[::-1]
    one: list[int] = []
    other: list[int] = []
    while one != wanted:
        steps -= 1
        if steps < 0:
            raise _OutOfStepsError
        for wheel, base in ((one, source), (other, target)):
            for i, digit in enumerate(wheel):
                if digit + 1 < base:
                    wheel[i] += 1
                    break
                wheel[i] = 0
            else:
                wheel.append(1)
    return reversed(other)


def _interpret(code: str, steps: int) -> str | None:  # noqa: C901, PLR0912 - one branch a sign
    """Run a program sign by sign."""
    opened: list[int] = []
    partner: dict[int, int] = {}
    for i, sign in enumerate(code):
        if sign == "[":
            opened.append(i)
        elif sign == "]":
            partner[i] = opened.pop()
            partner[partner[i]] = i
    cells = [0] * 1000
    pointer = position = 0
    output: list[str] = []
    while position < len(code):
        steps -= 1
        if steps < 0:
            raise _OutOfStepsError
        sign = code[position]
        if sign == ">":
            pointer += 1
            if pointer == len(cells):
                return None
        elif sign == "<":
            pointer -= 1
            if pointer < 0:
                return None
        elif sign == "+":
            cells[pointer] = (cells[pointer] + 1) % 256
        elif sign == "-":
            cells[pointer] = (cells[pointer] - 1) % 256
        elif sign == ".":
            output.append(chr(cells[pointer]))
        elif (sign == "[") == (cells[pointer] == 0):
            position = partner[position]
        position += 1
    return "".join(output) or None


def _try_everybody(problem: Inhabitants, steps: int) -> str | None:
    """Try every way to be truthful or a liar; exactly one has to do."""
    people = [name for name, _ in problem.says]
    if 2 ** len(people) * len(people) > steps:
        raise _OutOfStepsError
    fitting = []
    for values in itertools.product((True, False), repeat=len(people)):
        truthful = dict(zip(people, values, strict=True))
        if all(truthful[name] == _true(formula, truthful) for name, formula in problem.says):
            fitting.append(truthful)
    return inhabitants_text(problem, fitting[0]) if len(fitting) == 1 else None


def _true(formula: Formula, truthful: dict[str, bool]) -> bool:
    op, *rest = formula
    if op == "is":
        return truthful[str(rest[0])]
    values = [_true(part, truthful) for part in rest if not isinstance(part, str)]
    if op == "not":
        return not values[0]
    if op == "and":
        return all(values)
    if op == "or":
        return any(values)
    return values[0] == values[1] if op == "iff" else values[1] or not values[0]


def _try_all_truths(claims: tuple[Claim, ...], steps: int) -> str:
    """Try every way to be true or false, and keep count of those where each claim is what it says."""
    if 2 ** len(claims) * len(claims) > steps:
        raise _OutOfStepsError
    count = 0
    for values in itertools.product((True, False), repeat=len(claims)):
        count += all(_claimed(claim, values) == value for claim, value in zip(claims, values, strict=True))
    return str(count)


def _claimed(claim: Claim, values: tuple[bool, ...]) -> bool:
    number = values.count(claim.about == "true")
    match claim.relation:
        case "either":
            return values[claim.numbers[0]] != values[claim.numbers[1]]
        case "at least":
            return number >= claim.numbers[0]
        case "at most":
            return number <= claim.numbers[0]
        case "exactly":
            return number == claim.numbers[0]
        case _:
            divisors = sum(number % d == 0 for d in range(1, number + 1))
            return divisors == 2 if claim.relation == "prime" else divisors > 2


def _switch(problem: Circuit) -> str:
    """Let every gate look at its wires."""

    def gate(name: str, wires: list[bool]) -> bool:
        match name:
            case "AND":
                return all(wires)
            case "NAND":
                return not all(wires)
            case "OR":
                return any(wires)
            case "NOR":
                return not any(wires)
            case _:
                return wires.count(True) % 2 == 1

    middle = [gate(name, [problem.inputs[n] != negated for n, negated in wires]) for name, wires in problem.gates]
    return str(int(gate(problem.final, middle)))


_BOX = [(i // 8, i % 4 // 2) for i in range(16)]
_PEERS = [
    [j for j in range(16) if j != i and (i // 4 == j // 4 or i % 4 == j % 4 or _BOX[i] == _BOX[j])] for i in range(16)
]


def _mend(rows: tuple[tuple[int, ...], ...], steps: int, rng: random.Random) -> str:
    """Fill the empty cells at random, then mend one cell that clashes at a time (minimal conflicts, with noise)."""
    given = [digit for row in rows for digit in row]
    free = [i for i, digit in enumerate(given) if not digit]
    while True:
        cells = [digit or rng.randint(1, 4) for digit in given]
        for _ in range(200):
            steps -= 16
            if steps < 0:
                raise _OutOfStepsError
            clashing = [i for i in range(16) if any(cells[j] == cells[i] for j in _PEERS[i])]
            if not clashing:
                return rows_text(cells[k : k + 4] for k in range(0, 16, 4))
            movable = [i for i in clashing if not given[i]] or free
            if not movable:
                raise _OutOfStepsError
            i = rng.choice(movable)
            if rng.random() < 0.1:
                cells[i] = rng.randint(1, 4)
            else:
                around = [cells[j] for j in _PEERS[i]]
                cells[i] = min(range(1, 5), key=lambda digit: (around.count(digit), rng.random()))


def _roll_all(sides: tuple[int, ...], target: int, steps: int) -> str:
    """Roll every combination once, and count."""
    total = math.prod(sides)
    # Sums of whole combinations are added up in C, some eight in the time of one step elsewhere.
    if total > 8 * steps:
        raise _OutOfStepsError
    favourable = sum(value >= target for value in map(sum, itertools.product(*(range(1, n + 1) for n in sides))))
    return str(Fraction(favourable, total))


PRIMES_TRIED = 8


def _residues(left: Node, right: Node, rng: random.Random) -> str:
    """Compare both sides modulo random numbers around 2^61: sides that differ agree by chance once in 2^60 or so."""
    for _ in range(PRIMES_TRIED):
        modulus = rng.randrange(2**60, 2**61) | 1

        def leaf(node: Number | Name, modulus: int = modulus) -> int:
            if isinstance(node, Name):
                raise UndefinedError("a variable")
            return node.value.numerator * _inverse(node.value.denominator, modulus) % modulus

        def apply(op: str, a: int, b: int | None, modulus: int = modulus) -> int:
            return _modular(op, a, b, modulus)

        if evaluate(left, leaf, apply) != evaluate(right, leaf, apply):
            return "No"
    return "Yes"


def _modular(op: str, a: int, b: int | None, modulus: int) -> int:
    if b is None:
        return -a % modulus
    if op == "+":
        return (a + b) % modulus
    if op == "-":
        return (a - b) % modulus
    if op == "*":
        return a * b % modulus
    if op == "/":
        return a * _inverse(b, modulus) % modulus
    # A residue is no exponent: the power would have to be reduced modulo another number.
    raise UndefinedError(f"{op} has no residue")


def _inverse(value: int, modulus: int) -> int:
    try:
        return pow(value, -1, modulus)
    except ValueError:
        raise UndefinedError("no inverse") from None
