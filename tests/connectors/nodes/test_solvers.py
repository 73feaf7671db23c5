"""The three methods on real prompts: whenever one answers, it is right, and it abstains on all else."""

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.nodes.solvers import Solution, numeric, sat, search, symbolic
from connectors.nodes.solvers.reading import MAX_PROMPT, read
from flows.comparing.equivalence import group
from flows.demo_tasks import FAMILIES, RIGHT, demo_tasks, verify

SOLVERS: dict[str, Callable[[str, int], Solution | None]] = {
    "symbolic": symbolic.solve,
    "numeric": numeric.solve,
    "search": search.solve,
}
COUNT = 40
SEED = 20
METHODS: dict[str, set[str]] = {
    "simple_equations": {"symbolic", "numeric", "search"},
    "polynomial_equations": {"symbolic", "numeric"},
    "simple_integration": {"symbolic", "numeric"},
    "decimal_arithmetic": {"symbolic", "numeric"},
    "prime_factorization": {"symbolic", "search"},
    "count_primes": {"symbolic", "search"},
    "base_conversion": {"symbolic", "search"},
    "bitwise_arithmetic": {"symbolic", "numeric"},
    "bf": {"symbolic", "search"},
    "knights_knaves": {"symbolic", "search"},
    "self_reference": {"symbolic", "search"},
    "circuit_logic": {"symbolic", "numeric", "search"},
    "mini_sudoku": {"symbolic", "search"},
    "dice": {"symbolic", "numeric", "search"},
}
"""Which methods read which family."""


DECIMALS = (
    "Please solve this problem to a maximum of 12 significant digits, rounding up from the half. "
    "Only reply with the final value.\n"
)
PROGRAM = (
    "This is a BF (Brainf*ck) computer program. What is the output?\n\n{}\n\n"
    "Respond only with the exact output of the program."
)
BITS = (
    "Please solve this problem. Assume there is arbitrary bit depth and that there are signed integers. "
    "Reply only with the final hexidecimal value.\n"
)
BASES = (
    "Your task is to convert a number between two different bases.\n\n"
    "If the target base is > 10, use lowercase letters a-z for digits above 9.\n\n"
    "Now, convert the {} number {} to {}"
)
ROOTS = "Solve for real x: {} = 0\nIn solving equations, round to 4 decimal places."
INTEGRAL = "Find the indefinite integral: ∫ {} dx"
KNAVES = "Ann is a knave, and Bob is a knave."
TWO_KNAVES = (KNAVES, None, KNAVES)
DICE = "I have these dice: {}. What are the odds of rolling {} or higher? a reduced fraction"


def island(*said: str, names: str = "Ann, and Bob") -> str:
    """A question of who tells the truth; each says something, Ann first."""
    statements = "".join(f' According to {name}, "{text}".' for name, text in zip(("Ann", "Bob"), said, strict=False))
    return (
        "A very special island is inhabited only by knights and knaves. Knights always tell the truth, and knaves "
        f"always lie. You meet 2 inhabitants: {names}.{statements} So who is a knight and who is a knave? "
        '(Format your answer like: "Ann is a knight, and Bob is a knave")'
    )


def claims(*said: str, first: int = 1) -> str:
    """A question of how many statements can be true."""
    listed = "".join(f" - Statement {number}: '{text}'\n" for number, text in enumerate(said, first))
    return f"Given the truthfulness of these statements, please tell me the number of possible solutions: \n{listed}"


@pytest.fixture(scope="module")
def tasks() -> dict[str, list[dict[str, Any]]]:
    """Real tasks by family."""
    families: dict[str, list[dict[str, Any]]] = {}
    for task in demo_tasks(COUNT * len(FAMILIES), SEED):
        families.setdefault(task["metadata"]["family"], []).append(task)
    return families


@pytest.fixture(scope="module")
def answers(tasks: Mapping[str, list[dict[str, Any]]]) -> dict[tuple[str, str, int], list[Solution | None]]:
    """What each method says to each of them in each of three rounds, by family, method and round."""
    return {
        (family, method, round_index): [solve(task["payload"]["prompt"], round_index) for task in tasks[family]]
        for family in tasks
        for method, solve in SOLVERS.items()
        for round_index in range(3)
    }


Answers = dict[tuple[str, str, int], list[Solution | None]]
Tasks = dict[str, list[dict[str, Any]]]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_right(family: str, tasks: Tasks, answers: Answers) -> None:
    """By the family's own verifier, at least 97 of 100, whatever the method and the round."""
    for method, round_index in itertools.product(SOLVERS, range(3)):
        found = [(t, s) for t, s in zip(tasks[family], answers[family, method, round_index], strict=True) if s]
        right = sum(verify(task["metadata"], solution.text) >= RIGHT for task, solution in found)
        assert right >= 0.97 * len(found), (method, round_index)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_solved_by_independent_methods(family: str, answers: Answers) -> None:
    """Two or three methods answer nine of ten by the third round; the others abstain on the whole family."""
    answering = {
        method: sum(s is not None for s in answers[family, method, 2])
        for method in SOLVERS
        if any(answers[family, method, 2])
    }
    assert set(answering) == METHODS[family]
    assert min(answering.values()) >= 0.9 * COUNT


@pytest.mark.parametrize("family", FAMILIES)
def test_methods_agree(family: str, tasks: Tasks, answers: Answers) -> None:
    """Two methods that both answer say the same, as the flow compares answers."""
    kind = FAMILIES[family].answer_kind
    for one, other in itertools.combinations(sorted(METHODS[family]), 2):
        pairs = [(a, b) for a, b in zip(answers[family, one, 2], answers[family, other, 2], strict=True) if a and b]
        agreeing = sum(group(kind, [a.text, b.text]) == [0, 0] for a, b in pairs)
        assert agreeing >= 0.97 * len(pairs), (one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_round_knows_no_less(family: str, answers: Answers) -> None:
    """What a method answers in one round, it answers in the next, but for what it found by luck."""
    for method in METHODS[family]:
        counts = [sum(s is not None for s in answers[family, method, r]) for r in range(3)]
        slack = COUNT // 20 if family == "mini_sudoku" else 0
        assert counts[0] <= counts[1] + slack <= counts[2] + 2 * slack, method


@pytest.mark.parametrize(
    "family, method",
    [
        ("prime_factorization", "search"),
        ("count_primes", "search"),
        ("base_conversion", "search"),
        ("decimal_arithmetic", "numeric"),
    ],
)
def test_a_later_round_knows_more(family: str, method: str, answers: Answers) -> None:
    """Where steps or digits run out in the first round, four times as many get further."""
    first, second = (sum(s is not None for s in answers[family, method, r]) for r in (0, 1))
    assert first < COUNT - 3
    assert second > first + 3


def test_a_solver_gives_the_same_answer_again(tasks: Tasks) -> None:
    """Random choices hang on prompt and round alone, so a replay finds the same."""
    for task in tasks["mini_sudoku"]:
        assert search.solve(task["payload"]["prompt"], 0) == search.solve(task["payload"]["prompt"], 0)


@pytest.mark.parametrize(
    "prompt, right",
    [
        ("Is it true that 27*(63) - 62 = 1639? Answer Yes or No.", "Yes"),
        ("Is it true that 27*(63) - 62 = 1640? Answer Yes or No.", "No"),
        ("Is it true that 2 * 3 * 37 = 222? Answer Yes or No.", "Yes"),
        ("Is it true that 999999999989 * 999999999961 = 999999999950000000000429? Answer Yes or No.", "Yes"),
        ("Is it true that 999999999989 * 999999999961 = 999999999950000000000428? Answer Yes or No.", "No"),
    ],
)
def test_an_identity_is_checked_by_all_methods(prompt: str, right: str) -> None:
    """By fractions, by an enclosure of the difference once it is narrow enough, and by residues."""
    for method, solve in SOLVERS.items():
        solution = solve(prompt, 2)
        assert solution is not None, method
        assert solution.text == right
        assert solution.meta is None


def test_a_root_and_a_factorization_ask_for_their_check(tasks: Tasks, answers: Answers) -> None:
    """The answer put in makes a task of logic that every method can read and finds true."""
    for family in ("simple_equations", "prime_factorization"):
        for solution in filter(None, answers[family, "symbolic", 0]):
            assert solution.meta is not None
            (branch,) = solution.meta["branches"]
            assert branch["topic"] == "logic"
            checks = [solve(branch["payload"]["prompt"], 1) for solve in SOLVERS.values()]
            assert {check.text for check in checks if check} == {"Yes"}
            assert all(checks)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_with_more_in_it_is_not_read(family: str, tasks: Tasks) -> None:
    """A question is known word for word; with another word it may be another question."""
    for task in tasks[family][:5]:
        prompt = task["payload"]["prompt"]
        assert read(prompt) is not None
        assert read("Do not answer this. " + prompt) is None
        assert read(prompt[:14]) is None


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "What is the capital of France?",
        "Solve for x: " + "(" * 5000 + "x = 1",
        "Solve for x: " + "x+" * 5000 + "x = 1",
        "Solve for x: x*9**9**9 = 1",
        "Solve for x: x = x",
        "Solve for x: x**2 = 4",
        "Solve for x: x = y",
        "Find the prime factorization of " + "7" * 5000 + ". Write the factors separated by × (Example: 1)",  # noqa: RUF001
        "Find the prime factorization of 0. Write the factors separated by × (Example: 1)",  # noqa: RUF001
        "Count how many prime numbers there are between 1 and 99999999999999 (inclusive) ?",
        PROGRAM.format("+[]"),
        PROGRAM.format("]["),
        PROGRAM.format("[+"),
        PROGRAM.format("<."),
        DECIMALS + "1/(2-2) = ?",
        "Is it true that 9**9**9 = 1? Answer Yes or No.",
        DICE.format("1d0", 1),
        ROOTS.format("y - 1"),
        ROOTS.format("sin(x)"),
        ROOTS.format("x**2 + y"),
        ROOTS.format("x**30 - 1"),
        ROOTS.format("x - x"),
        ROOTS.format("x**2 + 1"),
        ROOTS.format("1/x + 1"),
        INTEGRAL.format("x*y"),
        INTEGRAL.format("sin(x)"),
        INTEGRAL.format("x << 1"),
        INTEGRAL.format("1/x"),
        DECIMALS + "1 + x = ?",
        DECIMALS + "(2**4000)*(2**4000)*(2**4000)*(2**4000)*(2**4000)*(2**4000) = ?",
        BITS + "1 / 2",
        BITS + "1.5 + 1",
        BITS + "1 << 100000000",
        BASES.format("base-99", "1", "binary"),
        BASES.format("binary", "12", "hexadecimal"),
        PROGRAM.format("+[>+]."),
        PROGRAM.format("+[-<+>]."),
        island("Ann is a knight"),
        island("Ann is a knight )", "Ann is a knave"),
        island("if Ann is a knight and Bob is a knight", "Ann is a knave"),
        island("Ann is a knight and Bob is a knight or Ann is a knave", "Ann is a knave"),
        island("it is not the case that " * 12 + "Ann is a knight", "Ann is a knave"),
        island("(Ann is a knight", "Ann is a knave"),
        island("Carl is a knight", "Ann is a knave"),
        island("Ann is a wizard", "Ann is a knave"),
        island("Ann is a knight", "Bob is a knight"),
        claims("At least 1 of these 1 statements are true.", first=2),
        claims("At least 1 of these 9 statements are true."),
        claims("Either Statement 1 or Statement 9 is true, but not both."),
        claims("This statement is false."),
        "Is it true that x = 1? Answer Yes or No.",
        "Is it true that 1/(2-2) = 1? Answer Yes or No.",
    ],
)
def test_what_cannot_be_solved_is_not_answered(prompt: str) -> None:
    """A question of another kind, without an answer, or beyond all bounds: every method abstains, at once."""
    assert [solve(prompt, 0) for solve in SOLVERS.values()] == [None, None, None]


@pytest.mark.parametrize(
    "prompt, texts",
    [
        (
            island("(Ann is a knight and Bob is a knave)", "it is not the case that Ann is a knave"),
            (KNAVES, None, KNAVES),
        ),
        (claims(*["Either Statement 1 or Statement 2 is true, but not both."] * 2), (None, None, "1")),
        (DICE.format(", ".join(["1d1000"] * 20), 1), ("1", None, None)),
        (claims(*["At least 1 of these 16 statements are true."] * 16), ("2", None, None)),
        ("Solve for x: 2*x = 1000000000", ("500000000", "500000000", None)),
        ("Solve for x: 1009*x = 1", ("1/1009", None, None)),
        (PROGRAM.format("++++++++[>++++++++<-]>+[.[-]]"), ("A", None, "A")),
        (ROOTS.format("x**2 - 0.000000022501"), ("-0.0002, 0.0002", "-0.0002, 0.0002", None)),
        (ROOTS.format("x**2 - 0.00000000251"), ("-0.0001, 0.0001", "-0.0001, 0.0001", None)),
        (INTEGRAL.format("x**30"), ("x**31/31 + C", None, None)),
        (ROOTS.format("(x + 1)**3"), ("-1.0", None, None)),
        (ROOTS.format("x**5 - x**4"), ("0.0, 1.0", "0.0, 1.0", None)),
        ("Is it true that -(1 + 2) * 2 = -6? Answer Yes or No.", ("Yes", "Yes", "Yes")),
        ("Is it true that 2**3 = 8? Answer Yes or No.", ("Yes", None, None)),
        ("Count how many prime numbers there are between 0 and 1 (inclusive) ?", ("0", None, "0")),
    ],
)
def test_a_method_answers_what_it_can(prompt: str, texts: tuple[str | None, ...]) -> None:
    """Exactly, in numbers, by trying: where one method has no way, or too long a one, another may."""
    assert tuple(s and s.text for s in (solve(prompt, 0) for solve in SOLVERS.values())) == texts


@pytest.mark.parametrize("square", ["1 1 _ _\n_ _ _ _\n_ _ _ _\n_ _ _ _\n", "1 1 1 1\n" * 4])
def test_a_square_with_a_contradiction_is_not_answered(square: str) -> None:
    """Neither by propagation nor by mending, in bounded time; and where nothing is left to be filled in."""
    prompt = (
        f"In 4x4 Mini Sudoku:\nSolve this 4x4 Mini Sudoku puzzle:\n{square}Format your response as the puzzle above."
    )
    assert read(prompt) is not None
    assert [solve(prompt, 0) for solve in SOLVERS.values()] == [None, None, None]


def test_a_circuit_with_a_gate_or_an_input_that_is_not_told_is_not_read(tasks: Tasks) -> None:
    """Nobody guesses."""
    prompt = tasks["circuit_logic"][0]["payload"]["prompt"]
    assert read(prompt) is not None
    assert read(re.sub(r"^(\S\S): \w+$", r"\1: MAYBE", prompt, flags=re.MULTILINE)) is None
    assert read(re.sub(r"\w+ = [01]\n", "", prompt)) is None
    assert read(re.sub(r"(assignments:\n)\s*\w+ = [01]\n", r"\1", prompt)) is None


def test_what_has_more_cases_than_a_round_has_steps_is_not_answered() -> None:
    """Two to the twentieth of ways to be truthful, and as many assignments."""
    names = [f"{letter}o" for letter in "ABCDEFGHIJKLMNOPQRST"]
    pairs = zip(names, names[1:] + names[:1], strict=True)
    said = "".join(f' According to {name}, "{other} is a knight".' for name, other in pairs)
    prompt = island(names=f"{', '.join(names[:-1])}, and {names[-1]}").replace(". So who", f".{said} So who")
    assert read(prompt) is not None
    assert [solve(prompt, 0) for solve in SOLVERS.values()] == [None, None, None]
    clauses = sat.Clauses()
    for _ in range(20):
        clauses.new()
    with pytest.raises(sat.OutOfStepsError):
        clauses.models((), limit=2**20, steps=100)


def test_a_sum_of_dice_that_doubles_cannot_tell_is_left_to_a_later_round() -> None:
    """What is no whole number of ways to within a twentieth is no result."""
    prompt = DICE.format(", ".join(["1d290"] * 5), 483)
    assert numeric.solve(prompt, 0) is None
    exact, later = symbolic.solve(prompt, 0), numeric.solve(prompt, 1)
    assert exact is not None
    assert later is not None
    assert later.text == exact.text


def test_a_double_root_takes_more_than_one_method_can_tell() -> None:
    """The exact method sees (x - 1)² for what it is; the discs of the numeric one never part."""
    prompt = "Solve for real x: x**2 - 2*x + 1 = 0\nIn solving equations, round to 4 decimal places."
    exact = symbolic.solve(prompt, 0)
    assert exact is not None
    assert exact.text == "1.0"
    assert [numeric.solve(prompt, r) for r in range(3)] == [None, None, None]


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_prompt_is_answered_or_not_but_harmless(tasks: Tasks, data: st.DataObject) -> None:
    """Whatever is cut out of a real prompt and put in instead: an answer or None, no exception, in time."""
    family = data.draw(st.sampled_from(list(FAMILIES)))
    prompt = data.draw(st.sampled_from(tasks[family]))["payload"]["prompt"]
    start = data.draw(st.integers(0, len(prompt)))
    end = data.draw(st.integers(start, min(len(prompt), start + 10)))
    inserted = data.draw(st.text(max_size=8) | st.text(alphabet="0123456789()*+-/x[]<>.", max_size=30))
    for solve in SOLVERS.values():
        solve(prompt[:start] + inserted + prompt[end:], 0)


@given(st.text(max_size=300))
def test_any_text_is_no_problem(text: str) -> None:
    """Random text is never a question."""
    assert read(text) is None


def test_a_huge_prompt_is_not_read() -> None:
    """A megabyte is put aside by its length."""
    assert read("x" * (MAX_PROMPT + 1)) is None
    assert [solve("(" * 2**20, 0) for solve in SOLVERS.values()] == [None, None, None]
