"""What the solvers can read: a prompt becomes a problem, or nothing.

Reading is shared by all methods; solving is not. A prompt that is anything else than a known question, word for word,
is none of theirs.
"""

import re
from collections.abc import Callable

from connectors.nodes.solvers.expressions import UnreadableError, names, operators, parse
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

MAX_PROMPT = 20_000
"""Characters. The longest known question has about 4,000."""

_RATIONAL = frozenset("+-*/") | {"**"}


def read(prompt: str) -> Problem | None:
    """Give the problem that a prompt poses, or None when it is not one of ours."""
    if len(prompt) > MAX_PROMPT:
        return None
    text = prompt.strip()
    for pattern, reader in _READERS:
        match = pattern.fullmatch(text)
        if match is not None:
            try:
                return reader(match)
            except UnreadableError:
                return None
    return None


def _integer(digits: str, limit: int = 10**18) -> int:
    if len(digits) > len(str(limit)) or int(digits) > limit:
        raise UnreadableError("a number is too large")
    return int(digits)


def _factorize(match: re.Match[str]) -> Factorize:
    number = _integer(match[1])
    if number < 2:
        raise UnreadableError("no prime factors")
    return Factorize(number)


def _equation(match: re.Match[str]) -> Equation:
    variable, text = match["variable"], match["equation"]
    left, right = (parse(side) for side in text.split("="))
    if names(left) | names(right) != {variable} or (operators(left) | operators(right)) - _RATIONAL:
        raise UnreadableError("not an equation in one variable")
    return Equation(left, right, variable, text)


def _real_roots(match: re.Match[str]) -> RealRoots:
    node = parse(match["polynomial"])
    if names(node) != {match["variable"]}:
        raise UnreadableError("not an equation in one variable")
    return RealRoots(node, match["variable"])


def _antiderivative(match: re.Match[str]) -> Antiderivative:
    node = parse(match[1])
    variables = names(node)
    if variables - {"x", "X"} or len(variables) > 1:
        raise UnreadableError("not an integrand in x")
    # A constant: `dx` says what to integrate over, and the case of x is the prompt's own.
    return Antiderivative(node, next(iter(variables), "x"))


def _count_primes(match: re.Match[str]) -> CountPrimes:
    return CountPrimes(_integer(match[1], 5_000_000), _integer(match[2], 5_000_000))


def _evaluate(match: re.Match[str]) -> Evaluate:
    node = parse(match[2])
    if names(node) or operators(node) - _RATIONAL:
        raise UnreadableError("not a sum")
    return Evaluate(node, min(_integer(match[1]), 50))


_BASES = {"binary": 2, "hexadecimal": 16}


def _convert_base(match: re.Match[str]) -> ConvertBase:
    source, target = (_BASES.get(name) or _integer(name.removeprefix("base-")) for name in (match[1], match[3]))
    digits = tuple(int(digit, 36) for digit in match[2])
    if not (2 <= source <= 36 and 2 <= target <= 36) or max(digits) >= source:
        raise UnreadableError("no such base, or a digit outside it")
    return ConvertBase(digits, source, target)


def _evaluate_bits(match: re.Match[str]) -> EvaluateBits:
    node = parse(match[1])
    if names(node) or operators(node) - {"+", "-", "*", "<<", ">>"}:
        raise UnreadableError("not an expression of integers")
    return EvaluateBits(node)


def _run_program(match: re.Match[str]) -> RunProgram:
    depth = 0
    for character in match[1]:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            raise UnreadableError("a loop is closed that was not opened")
    if depth:
        raise UnreadableError("a loop is left open")
    return RunProgram(match[1])


_CONTENT = r"[^\".,]+"
_STATEMENT = re.compile(
    rf"""\ ?(?:
      (?P<n1>\w+)\ (?:said|told\ you|expressed)\ that\ (?P<c1>{_CONTENT})\.
    | (?P<n2>\w+)\ (?:said,|stated,|remarked,|was\ heard\ saying,|asserted:|commented,|noted,)
      \ "(?P<c2>{_CONTENT})\.?"\.?
    | (?:According\ to|In\ a\ statement\ by|As)\ (?P<n3>\w+)(?:,|:|\ put\ it,)\ "(?P<c3>{_CONTENT})"\.
    | In\ (?P<n4>\w+)'s\ words:\ "(?P<c4>{_CONTENT})"\.
    | "(?P<c5>{_CONTENT}),"\ (?P<n5>\w+)\ (?:declared|mentioned|claimed)\.
    | "(?P<c6>{_CONTENT})"\ -\ (?P<n6>\w+)\.
    )""",
    re.VERBOSE,
)


def _inhabitants(match: re.Match[str]) -> Inhabitants:
    people = re.findall(r"\w+", match["names"].replace(", and ", ", "))
    truthful, liar = match["truthful"], match["liar"]
    says: dict[str, Formula] = {}
    text, position = match["statements"], 0
    while position < len(text):
        statement = _STATEMENT.match(text, position)
        if statement is None:
            raise UnreadableError("a statement of another form")
        groups = {key[0]: value for key, value in statement.groupdict().items() if value is not None}
        says[groups["n"]] = _Sentence(groups["c"], people, truthful, liar).formula(0)
        position = statement.end()
    if list(says) != people:
        raise UnreadableError("not everybody speaks once")
    return Inhabitants(truthful, liar, tuple(says.items()))


class _Sentence:
    """A recursive-descent reader of one claim in words."""

    def __init__(self, text: str, people: list[str], truthful: str, liar: str) -> None:
        self.words = re.findall(r"\w+|[()]", text)
        self.people, self.truthful, self.liar = people, truthful, liar

    def take(self, *words: str) -> bool:
        if self.words[: len(words)] != list(words):
            return False
        del self.words[: len(words)]
        return True

    def formula(self, depth: int) -> Formula:
        whole = self.compound(depth)
        if self.words:
            raise UnreadableError("words are left over")
        return whole

    def compound(self, depth: int) -> Formula:
        if self.take("if"):
            condition = self.simple(depth)
            if not self.take("then"):
                raise UnreadableError("if without then")
            return ("implies", condition, self.simple(depth))
        parts, joint = [self.simple(depth)], ""
        while self.words and self.words[0] != ")":
            for words in (("if", "and", "only", "if"), ("and",), ("or",)):
                if joint in ("", words[0]) and self.take(*words):
                    joint = words[0]
                    break
            else:
                raise UnreadableError(f"unexpected {self.words[0]!r}")
            parts.append(self.simple(depth))
        if not joint:
            return parts[0]
        return ("iff" if joint == "if" else joint, *parts)

    def simple(self, depth: int) -> Formula:
        if depth > 10:
            raise UnreadableError("nested too deeply")
        if self.take("it", "is", "not", "the", "case", "that"):
            return ("not", self.simple(depth + 1))
        if self.take("("):
            inner = self.compound(depth + 1)
            if not self.take(")"):
                raise UnreadableError("a parenthesis is left open")
            return inner
        name = self.words[0] if self.words else ""
        if name in self.people:
            for role in (self.truthful, self.liar):
                if self.take(name, "is", *role.split()):
                    return ("is", name) if role == self.truthful else ("not", ("is", name))
        raise UnreadableError(f"unexpected {name!r}")


_CLAIMS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(At least|At most|Exactly) (\d+) of these (\d+) statements are (true|false)\."), "count"),
    (re.compile(r"The number of (true|false) statements is a (prime|composite) number\."), "kind"),
    (re.compile(r"Either Statement (\d+) or Statement (\d+) is true, but not both\."), "either"),
)


def _self_reference(match: re.Match[str]) -> SelfReference:
    claims: list[Claim] = []
    lines = re.findall(r"- Statement (\d+): '([^']*)'", match[1])
    for number, (label, text) in enumerate(lines, 1):
        if int(label) != number:
            raise UnreadableError("statements out of order")
        claims.append(_claim(text, len(lines)))
    return SelfReference(tuple(claims))


def _claim(text: str, count: int) -> Claim:
    for pattern, kind in _CLAIMS:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        if kind == "kind":
            return Claim(match[2], match[1])
        if kind == "count":
            if int(match[3]) != count:
                raise UnreadableError("about other statements")
            return Claim(match[1].lower(), match[4], (int(match[2]),))
        numbers = (int(match[1]) - 1, int(match[2]) - 1)
        if not all(0 <= n < count for n in numbers):
            raise UnreadableError("about other statements")
        return Claim("either", "", numbers)
    raise UnreadableError("a statement of another form")


def _circuit(match: re.Match[str]) -> Circuit:
    lines = match["diagram"].split("\n")
    gate_names = dict(re.findall(r"^(\S)\1: (\w+)$", match["legend"], re.MULTILINE))
    inputs = {name: value == "1" for name, value in re.findall(r"(\w+) = ([01])", match["inputs"])}
    columns: dict[int, str] = {}
    gates: list[tuple[str, list[tuple[str, bool]]]] = []
    fresh = True
    for line in lines:
        label = re.match(r"(\w+): ─*┐", line)
        if label is not None:
            columns[label.end() - 1] = label[1]
            continue
        # The leftmost branch on a line is where its wire begins; all others it crosses.
        start = next((i for i, c in enumerate(line) if i in columns and c in "├└"), None)
        gate = None if start is None else re.search(r"(>o|──)─│(\S)\2", line)
        if start is None or gate is None:
            fresh = True
            continue
        if fresh:
            gates.append((gate_names.get(gate[2], ""), []))
            fresh = False
        gates[-1][1].append((columns[start], gate[1] == ">o"))
    out = re.search(r"(\S)\1─── OUT", match["diagram"])
    final = gate_names.get(out[1], "") if out else ""
    known = {"AND", "OR", "NAND", "NOR", "XOR"}
    if not gates or len(gates) > 50 or {final, *(name for name, _ in gates)} - known:
        raise UnreadableError("an unknown gate")
    if {name for _, wires in gates for name, _ in wires} - inputs.keys():
        raise UnreadableError("an input without a value")
    return Circuit(final, tuple((name, tuple(wires)) for name, wires in gates), inputs)


def _sudoku(match: re.Match[str]) -> Sudoku:
    rows = tuple(tuple(0 if c == "_" else int(c) for c in line.split()) for line in match[1].split("\n"))
    return Sudoku(rows)


def _dice(match: re.Match[str]) -> Dice:
    sides = tuple(_integer(s, 1000) for s in re.findall(r"1d(\d+)", match[1]))
    if len(sides) > 20 or min(sides) < 1:
        raise UnreadableError("too many dice")
    return Dice(sides, _integer(match[2], 100_000))


def _identity(match: re.Match[str]) -> Identity:
    left, right = parse(match[1]), parse(match[2])
    if names(left) | names(right) or (operators(left) | operators(right)) - _RATIONAL:
        raise UnreadableError("not an identity of numbers")
    return Identity(left, right)


_VARIABLE = r" (?P<variable>[a-z])(?: in the equation| that satisfies)?:"
_BASE = r"(binary|hexadecimal|base-\d{1,2})"
_QUESTIONS: dict[Callable[[re.Match[str]], Problem], str] = {
    _factorize: (
        r"Find the prime factorization of (\d+)\. "
        r"Write the factors separated by × \(Example: .*\)"  # noqa: RUF001
    ),
    _equation: (
        rf"(?:Find the value of|Solve for|Determine the value of){_VARIABLE} "
        r"(?P<equation>[^=\n]+=[^=\n]+)"
    ),
    _real_roots: (
        r"(?s)(?:Find the real value\(s\) of|Solve for real|Determine the real value\(s\) of"
        rf"|Solve the polynomial equation for real){_VARIABLE}\s(?P<polynomial>[^=\n]+) = 0\n"
        r"In solving equations, .*to 4 decimal places.*"
    ),
    _antiderivative: (
        r"(?s)(?:Find the indefinite integral|Calculate the antiderivative|Evaluate the indefinite integral): "
        r"∫ ([^\n]+) dx(?:\nWhen performing calculations, .*)?"
    ),
    _count_primes: r"Count how many prime numbers there are between (\d+) and (\d+) \(inclusive\) \?",
    _evaluate: (
        r"Please solve this problem to a maximum of (\d{1,2}) significant digits, rounding up from the half\."
        r" Only reply with the final value\.\n([^\n=]+) = \?"
    ),
    _convert_base: (
        r"Your task is to convert a number between two different bases\.\n\n"
        r"If the target base is > 10, use lowercase letters a-z for digits above 9\.\n\n"
        rf"Now, convert the {_BASE} number ([0-9a-z]{{1,60}}) to {_BASE}"
    ),
    _evaluate_bits: (
        r"Please solve this problem\. Assume there is arbitrary bit depth and that there are signed integers\."
        r"[^\n]*Reply only with the final hexidecimal value\.\n([^\n]+)"
    ),
    _run_program: (
        r"(?:This is a|Consider the following) BF \(Brainf\*ck\) (?:computer program|code)\. "
        r"(?:What is the output|What would it output)\?\n\n([-+<>.\[\]]{1,10000})\n\n"
        r"(?:Respond only with|Provide only) the exact output of the (?:program|code)\."
    ),
    _inhabitants: (
        r"A very special island is inhabited only by \w+ and \w+\. "
        r"\w+ always tell the truth, and \w+ always lie\. "
        r"You meet \d+ inhabitants: (?P<names>[\w, ]+)\.(?P<statements> .*) "
        r"So who is (?P<truthful>an? \w+) and who is (?P<liar>an? \w+)\? \(Format your answer like: \"[^\"]*\"\)"
    ),
    _self_reference: (
        r"Given the truthfulness of these statements, please tell me the number of possible solutions: \n"
        r"((?: - Statement \d+: '[^'\n]*'\n?){1,16})"
    ),
    _circuit: (
        r"(?s)Below is a randomly generated logic circuit\.\n\n(?P<diagram>(?:(?!\n\n\n).)*)\n\n\n"
        r"Legend for gates:\n(?P<legend>(?:(?!\n\n).)*)\n\n"
        r"Given the following input assignments:\n(?P<inputs>[\w =\n]*)\n\nWhat is the final output\?"
    ),
    _sudoku: (
        r"(?s)In 4x4 Mini Sudoku:\n.*Solve this 4x4 Mini Sudoku puzzle:\n"
        r"((?:[1-4_](?: [1-4_]){3}\n){3}[1-4_](?: [1-4_]){3})\nFormat your response as the puzzle above.*"
    ),
    _dice: (
        r"I have these dice: (1d\d+(?:, 1d\d+)*)\. "
        r"What are the odds of rolling (\d+) or higher\? .*reduced fraction.*"
    ),
    _identity: r"Is it true that ([^=\n]+) = ([^=\n]+)\? Answer Yes or No\.",
}
_READERS = tuple((re.compile(pattern), reader) for reader, pattern in _QUESTIONS.items())
