"""The exact method: normal forms, isolating intervals, sieves, closed forms and unit propagation.

What it says is proven: every step is in integers, fractions or truth values. It does all its work in the first round;
where a search is unavoidable (case distinctions, programs), a later round may take more steps.
"""

import functools
import itertools
from fractions import Fraction

import sympy

from connectors.nodes.solvers import PROVEN, Solution, effort, solution
from connectors.nodes.solvers.expressions import UndefinedError, exact, polynomial
from connectors.nodes.solvers.problems import (
    Antiderivative,
    Circuit,
    Claim,
    ConvertBase,
    CountPrimes,
    Dice,
    Equation,
    Evaluate,
    EvaluateBits,
    Factorize,
    Formula,
    Identity,
    Inhabitants,
    Problem,
    RealRoots,
    RunProgram,
    SelfReference,
    Sudoku,
)
from connectors.nodes.solvers.reading import read
from connectors.nodes.solvers.sat import Clauses, OutOfStepsError
from connectors.nodes.solvers.writing import (
    FACTORS_JOIN,
    decimal_text,
    digits_text,
    hexadecimal_text,
    inhabitants_text,
    polynomial_text,
    roots_text,
    rows_text,
)

BASE_DECISIONS = 2_000
BASE_INSTRUCTIONS = 100_000
"""Of a compiled program, about 20 ms; one stands for any number of turns of a loop that has a closed form."""
MAX_DEGREE = 24


def solve(prompt: str, round_index: int) -> Solution | None:
    """Answer a prompt exactly, or abstain with None."""
    problem = read(prompt)
    if problem is None:
        return None
    try:
        text = _answer(problem, effort(round_index))
    except (UndefinedError, OutOfStepsError):
        return None
    return None if text is None else solution(problem, text, PROVEN)


def _answer(problem: Problem, work: int) -> str | None:  # noqa: C901, PLR0911, PLR0912 - one line a kind of problem
    match problem:
        case Factorize(number):
            factors = sympy.factorint(number)
            return FACTORS_JOIN.join(str(p) for p in sorted(factors) for _ in range(factors[p]))
        case Equation(left, right, variable):
            a, b = polynomial(left, variable), polynomial(right, variable)
            return _linear_root({power: a.get(power, 0) - b.get(power, Fraction(0)) for power in a.keys() | b.keys()})
        case RealRoots(expression, variable):
            return _real_roots(polynomial(expression, variable))
        case Antiderivative(integrand, variable):
            terms = polynomial(integrand, variable)
            return polynomial_text({power + 1: c / (power + 1) for power, c in terms.items()}, variable) + " + C"
        case CountPrimes(low, high):
            return str(_sieve(high) - _sieve(low - 1))
        case Evaluate(expression, digits):
            return decimal_text(exact(expression), digits)
        case ConvertBase(digits, source, target):
            return _convert(functools.reduce(lambda value, digit: value * source + digit, digits, 0), target)
        case EvaluateBits(expression):
            value = exact(expression)
            return hexadecimal_text(int(value)) if value.denominator == 1 else None
        case RunProgram(code):
            return _run(code, BASE_INSTRUCTIONS * work)
        case Inhabitants():
            return _inhabitants(problem, BASE_DECISIONS * work)
        case SelfReference(claims):
            return str(_consistent_counts(claims))
        case Circuit():
            return _circuit(problem, BASE_DECISIONS * work)
        case Sudoku(rows):
            return _sudoku(rows, BASE_DECISIONS * work)
        case Dice(sides, target):
            return _dice(sides, target)
        case Identity(left, right):
            return "Yes" if exact(left) == exact(right) else "No"


def _linear_root(coefficients: dict[int, Fraction]) -> str | None:
    """Solve a·x + b = 0; anything else has no value or several."""
    if {power for power, c in coefficients.items() if c} - {0, 1} or not coefficients.get(1):
        return None
    return str(-coefficients.get(0, Fraction(0)) / coefficients[1])


def _real_roots(coefficients: dict[int, Fraction]) -> str | None:
    """Isolate the distinct real zeros in rational intervals (Descartes, by sympy), and narrow those to the rounding."""
    degree = max(coefficients, default=0)
    if not 1 <= degree <= MAX_DEGREE:
        return None
    terms = [
        sympy.Rational(c.numerator, c.denominator) for c in (coefficients.get(k, Fraction(0)) for k in _down(degree))
    ]
    poly = sympy.Poly(terms, sympy.Symbol("x"), domain="QQ").sqf_part()
    roots = []
    for (low, high), _ in poly.intervals(eps=sympy.Rational(1, 10**6)):
        for digits in (6, 12, 24):
            if round(float(low), 4) == round(float(high), 4):
                break
            low, high = poly.refine_root(low, high, eps=sympy.Rational(1, 10**digits))  # noqa: PLW2901 - narrowed
        roots.append(float((low + high) / 2))
    return roots_text(roots) if roots else None


def _down(degree: int) -> range:
    return range(degree, -1, -1)


def _sieve(high: int) -> int:
    """Count the primes up to a number (Eratosthenes)."""
    if high < 2:
        return 0
    flags = bytearray([1]) * (high + 1)
    flags[:2] = b"\0\0"
    for n in range(2, int(high**0.5) + 1):
        if flags[n]:
            flags[n * n :: n] = bytes(len(range(n * n, high + 1, n)))
    return sum(flags)


def _convert(value: int, base: int) -> str:
    digits = []
    while value:
        value, digit = divmod(value, base)
        digits.append(digit)
    return digits_text(reversed(digits))


def _dice(sides: tuple[int, ...], target: int) -> str:
    """Multiply out the generating polynomial of the sum."""
    ways = [1]
    for count in sides:
        running = list(itertools.accumulate(ways)) + [sum(ways)] * count
        # The sum over a window of `count` faces, by the difference of two running totals.
        ways = [0, *(running[i] - (running[i - count] if i >= count else 0) for i in range(len(ways) + count - 1))]
    favourable = sum(ways[max(target, 0) :])
    return str(Fraction(favourable, sum(ways)))


def _consistent_counts(claims: tuple[Claim, ...]) -> int:
    """Count by the number of true statements: it fixes each claim's truth, and only has to come out again."""
    count = 0
    for true in range(len(claims) + 1):
        holds: list[bool | None] = [
            None if claim.relation == "either" else _holds(claim, true, len(claims)) for claim in claims
        ]
        open_claims = [i for i, value in enumerate(holds) if value is None]
        for _ in open_claims:
            for i in open_claims:
                a, b = (holds[n] for n in claims[i].numbers)
                if holds[i] is None and a is not None and b is not None:
                    holds[i] = a != b
        if None in holds:
            raise OutOfStepsError  # claims about each other in a circle have no closed form
        count += sum(map(bool, holds)) == true
    return count


def _holds(claim: Claim, true: int, total: int) -> bool:
    number = true if claim.about == "true" else total - true
    match claim.relation:
        case "at least":
            return number >= claim.numbers[0]
        case "at most":
            return number <= claim.numbers[0]
        case "exactly":
            return number == claim.numbers[0]
        case "prime":
            return bool(sympy.isprime(number))
        case _:
            return number > 1 and not sympy.isprime(number)


def _inhabitants(problem: Inhabitants, steps: int) -> str | None:
    clauses = Clauses()
    variables = {name: clauses.new() for name, _ in problem.says}
    for name, formula in problem.says:
        claim = clauses.encode(formula, variables)
        clauses.add(-variables[name], claim)
        clauses.add(variables[name], -claim)
    models = clauses.models((), 2, steps)
    if len(models) != 1:
        return None
    return inhabitants_text(problem, {name: variable in models[0] for name, variable in variables.items()})


def _circuit(problem: Circuit, steps: int) -> str | None:
    clauses = Clauses()
    variables = {name: clauses.new() for name in problem.inputs}
    gates: list[Formula] = []
    for gate, wires in problem.gates:
        gates.append(_gate(gate, [("not", ("is", name)) if negated else ("is", name) for name, negated in wires]))
    out = clauses.encode(_gate(problem.final, gates), variables)
    models = clauses.models((v if problem.inputs[n] else -v for n, v in variables.items()), 2, steps)
    return None if len(models) != 1 else str(int(out in models[0]))


def _gate(gate: str, parts: list[Formula]) -> Formula:
    if gate in ("NAND", "NOR"):
        return ("not", (gate[1:].lower(), *parts))
    return (gate.lower(), *parts)


@functools.cache
def _sudoku_rules() -> Clauses:
    """Say the rules in clauses; variable 1 + 16·row + 4·column + digit - 1 says that a cell holds a digit."""
    clauses = Clauses()
    clauses.variables = 64
    cells = list(itertools.product(range(4), range(4)))
    groups = [[(r, c) for c in range(4)] for r in range(4)] + [[(r, c) for r in range(4)] for c in range(4)]
    groups += [[(r, c) for r, c in cells if (r // 2, c // 2) == box] for box in itertools.product(range(2), range(2))]
    exactly_one = [[_cell(r, c, d) for d in range(4)] for r, c in cells]
    exactly_one += [[_cell(r, c, d) for r, c in group] for group in groups for d in range(4)]
    for literals in exactly_one:
        clauses.add(*literals)
        for a, b in itertools.combinations(literals, 2):
            clauses.add(-a, -b)
    return clauses


def _cell(row: int, column: int, digit: int) -> int:
    return 1 + 16 * row + 4 * column + digit


def _sudoku(rows: tuple[tuple[int, ...], ...], steps: int) -> str | None:
    given = [_cell(r, c, digit - 1) for r, row in enumerate(rows) for c, digit in enumerate(row) if digit]
    models = _sudoku_rules().models(given, 2, steps)
    if len(models) != 1:
        return None
    return rows_text(
        [[next(d + 1 for d in range(4) if _cell(r, c, d) in models[0]) for c in range(4)] for r in range(4)]
    )


CELLS = 30_000


def _run(code: str, budget: int) -> str | None:  # noqa: C901 - one branch an instruction
    """Run a program whose simple loops are replaced by what they come to.

    A loop that returns to where it began, and counts its own cell by one each turn, adds a multiple of that cell to
    others: no turn of it is taken.
    """
    program, jumps = _compile(code)
    cells = bytearray(CELLS)
    pointer = position = 0
    output: list[str] = []
    while position < len(program):
        budget -= 1
        if budget < 0:
            raise OutOfStepsError
        op, argument, factors = program[position]
        if op == "move":
            pointer += argument
        elif op == "add":
            cells[pointer] = (cells[pointer] + argument) & 255
        elif op == "linear":
            turns = cells[pointer] if argument < 0 else -cells[pointer]
            if turns:
                for offset, factor in factors:
                    if not 0 <= pointer + offset < CELLS:
                        return None
                    cells[pointer + offset] = (cells[pointer + offset] + factor * turns) & 255
            cells[pointer] = 0
        elif op == "print":
            output.append(chr(cells[pointer]))
        elif (op == "[") == (not cells[pointer]):
            position = jumps[position]
        if not 0 <= pointer < CELLS:
            return None
        position += 1
    return "".join(output) or None


Instruction = tuple[str, int, tuple[tuple[int, int], ...]]


def _compile(code: str) -> tuple[list[Instruction], dict[int, int]]:
    program: list[Instruction] = []
    jumps: dict[int, int] = {}
    opened: list[int] = []
    for character, run in itertools.groupby(code):
        length = len(list(run))
        if character in "+-":
            program.append(("add", length if character == "+" else -length, ()))
        elif character in "<>":
            program.append(("move", length if character == ">" else -length, ()))
        elif character == ".":
            program += [("print", 0, ())] * length
        elif character == "[":
            opened += range(len(program), len(program) + length)
            program += [("[", 0, ())] * length
        else:
            for _ in range(length):
                start = opened.pop()
                closed = _closed_form(program[start + 1 :])
                if closed is not None:
                    program[start:] = [closed]
                else:
                    jumps[start], jumps[len(program)] = len(program), start
                    program.append(("]", 0, ()))
    return program, jumps


def _closed_form(body: list[Instruction]) -> Instruction | None:
    offset, added = 0, {0: 0}
    for op, argument, _ in body:
        if op == "move":
            offset += argument
        elif op == "add":
            added[offset] = added.get(offset, 0) + argument
        else:
            return None
    step = added.pop(0)
    if offset or step not in (-1, 1):
        return None
    return ("linear", step, tuple(added.items()))
