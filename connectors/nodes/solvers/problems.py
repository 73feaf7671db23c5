"""The problems that the solvers know; `reading` makes them of prompts, `writing` writes their answers."""

from typing import NamedTuple

from connectors.nodes.solvers.expressions import Node


class Factorize(NamedTuple):
    """Write a number as a product of primes."""

    number: int


class Equation(NamedTuple):
    """Find the value that makes both sides equal."""

    left: Node
    right: Node
    variable: str
    text: str


class RealRoots(NamedTuple):
    """Find all real zeros, to four decimal places."""

    expression: Node
    variable: str


class Antiderivative(NamedTuple):
    """Find an expression with this derivative."""

    integrand: Node
    variable: str


class CountPrimes(NamedTuple):
    """Count the primes from one number to another, both included."""

    low: int
    high: int


class Evaluate(NamedTuple):
    """Work out an expression, to so many significant digits."""

    expression: Node
    digits: int


class ConvertBase(NamedTuple):
    """Write digits of one base in another."""

    digits: tuple[int, ...]
    source: int
    target: int


class EvaluateBits(NamedTuple):
    """Work out an expression of integers with shifts, as hexadecimal."""

    expression: Node


class RunProgram(NamedTuple):
    """Say what a program of `><+-.[]` prints."""

    code: str


Formula = tuple["str | Formula", ...]
"""`(is, name)`, `(not, f)`, `(and, f, …)`, `(or, f, …)`, `(implies, f, g)`, `(iff, f, g)`, `(xor, f, …)`."""


class Inhabitants(NamedTuple):
    """Say who tells the truth; `says` has what each of them claims."""

    truthful: str
    liar: str
    says: tuple[tuple[str, Formula], ...]


class Claim(NamedTuple):
    """What one of the statements says about all: `at least`, `at most`, `exactly`, `prime`, `composite`, `either`."""

    relation: str
    about: str
    numbers: tuple[int, ...] = ()


class SelfReference(NamedTuple):
    """Count the ways in which statements about their own number can be true."""

    claims: tuple[Claim, ...]


class Circuit(NamedTuple):
    """Give the output of gates that feed one last gate; each input is a name and whether it is negated."""

    final: str
    gates: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]
    inputs: dict[str, bool]


class Sudoku(NamedTuple):
    """Fill a square; 0 is an empty cell."""

    rows: tuple[tuple[int, ...], ...]


class Dice(NamedTuple):
    """Give the probability of a sum of at least the target."""

    sides: tuple[int, ...]
    target: int


class Identity(NamedTuple):
    """Say whether two sides without variables are equal."""

    left: Node
    right: Node


Problem = (
    Factorize
    | Equation
    | RealRoots
    | Antiderivative
    | CountPrimes
    | Evaluate
    | ConvertBase
    | EvaluateBits
    | RunProgram
    | Inhabitants
    | SelfReference
    | Circuit
    | Sudoku
    | Dice
    | Identity
)
