"""Satisfiability by unit propagation and case distinction (DPLL), for problems of a few hundred clauses."""

from collections.abc import Iterable, Sequence

from connectors.nodes.solvers.problems import Formula


class OutOfStepsError(Exception):
    """The search was longer than its effort."""


class Clauses:
    """A formula in conjunctive normal form; a variable is a positive number, its negation the negative one."""

    def __init__(self) -> None:
        """Start without variables."""
        self.variables = 0
        self.clauses: list[tuple[int, ...]] = []
        self._with: dict[int, list[tuple[int, ...]]] = {}

    def new(self) -> int:
        """Add a variable."""
        self.variables += 1
        return self.variables

    def add(self, *literals: int) -> None:
        """Demand that one of these holds."""
        self.clauses.append(literals)
        for literal in literals:
            self._with.setdefault(literal, []).append(literals)

    def encode(self, formula: Formula, variables: dict[str, int]) -> int:
        """Give a literal that holds exactly when the formula does (Tseitin)."""
        op, *rest = formula
        if op == "is":
            return variables[str(rest[0])]
        parts = [self.encode(part, variables) for part in rest if not isinstance(part, str)]
        if op == "not":
            return -parts[0]
        if op == "and":
            return -self._any([-part for part in parts])
        if op == "or":
            return self._any(parts)
        if op == "implies":
            return self._any([-parts[0], parts[1]])
        whole = parts[0]
        for part in parts[1:]:
            whole = self._differ(whole, part)
        return -whole if op == "iff" else whole

    def _any(self, literals: Sequence[int]) -> int:
        whole = self.new()
        self.add(-whole, *literals)
        for literal in literals:
            self.add(whole, -literal)
        return whole

    def _differ(self, a: int, b: int) -> int:
        whole = self.new()
        for clause in ((-whole, a, b), (-whole, -a, -b), (whole, -a, b), (whole, a, -b)):
            self.add(*clause)
        return whole

    def models(self, assumed: Iterable[int], limit: int, steps: int) -> list[frozenset[int]]:
        """Give up to `limit` assignments that satisfy all clauses, each as the set of its true literals.

        Raises:
            OutOfStepsError: more case distinctions than `steps`.
        """
        found: list[frozenset[int]] = []
        units = [*assumed, *(clause[0] for clause in self.clauses if len(clause) == 1)]
        first = self._propagate(frozenset(), units)
        pending = [] if first is None else [first]
        while pending and len(found) < limit:
            steps -= 1
            if steps < 0:
                raise OutOfStepsError
            true = pending.pop()
            free = next((v for v in range(1, self.variables + 1) if v not in true and -v not in true), None)
            if free is None:
                found.append(true)
                continue
            for literal in (-free, free):
                extended = self._propagate(true, [literal])
                if extended is not None:
                    pending.append(extended)
        return found

    def _propagate(self, given: frozenset[int], units: list[int]) -> frozenset[int] | None:
        """Add literals and all that follows from them; None is a contradiction."""
        true = set(given)
        queue = list(units)
        while queue:
            literal = queue.pop()
            if -literal in true:
                return None
            if literal in true:
                continue
            true.add(literal)
            for clause in self._with.get(-literal, ()):
                open_literal = 0
                for other in clause:
                    if other in true:
                        break
                    if -other not in true:
                        if open_literal and open_literal != other:
                            break
                        open_literal = other
                else:
                    if not open_literal:
                        return None
                    queue.append(open_literal)
        return frozenset(true)
