"""Budgets: pure arithmetic, of which no schedule may make more than there is."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from flows.budget import Budgets, Purse, Spent, after, expected, spent_up, split
from schemas.node import NodeCapabilities
from schemas.task import Allowance, Origin, TaskDescriptor, read_task
from tests.connectors.asked import a_call

allowances = st.builds(
    Allowance,
    calls=st.none() | st.integers(0, 1000),
    tokens=st.none() | st.integers(0, 100_000),
    cost=st.none() | st.floats(0, 100),
)


def task(**fields: object) -> TaskDescriptor:
    """A task as it came."""
    found, _ = read_task(msgspec.json.encode({"topic": "math", "payload": {"prompt": "?"}}))
    return msgspec.structs.replace(found, **fields)


@given(allowances, st.integers(1, 20))
def test_what_is_split_adds_up(allowance: Allowance, parts: int) -> None:
    """To what there was, and what is not limited stays so."""
    shares = split(allowance, parts)
    assert len(shares) == parts
    for name in ("calls", "tokens"):
        whole = getattr(allowance, name)
        got = [getattr(s, name) for s in shares]
        assert got == [None] * parts if whole is None else sum(got) == whole
    costs = [s.cost for s in shares]
    assert costs == [None] * parts if allowance.cost is None else sum(c or 0.0 for c in costs) <= allowance.cost * 1.001


@given(allowances, st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 5)), max_size=50))
def test_a_purse_never_takes_more_than_it_holds(allowance: Allowance, calls: list[tuple[int, float]]) -> None:
    """Calls that do not fit are told which budget they would exceed."""
    purse = Purse(allowance)
    for tokens, cost in calls:
        if not purse.lacks(tokens, cost):
            purse.take(tokens, cost)
    spent = purse.spent
    assert allowance.calls is None or spent.calls <= allowance.calls
    assert allowance.tokens is None or spent.tokens <= allowance.tokens
    assert allowance.cost is None or spent.cost <= allowance.cost + 1e-6


@given(allowances, st.builds(Spent, st.integers(0, 2000), st.integers(0, 200_000), st.floats(0, 200)))
def test_what_is_left_is_never_less_than_nothing(allowance: Allowance, spent: Spent) -> None:
    """And is said to be used up when it is."""
    left = after(allowance, spent)
    for value in (left.calls, left.tokens, left.cost):
        assert value is None or value >= 0
    assert bool(spent_up(left)) is (left.calls == 0 or left.tokens == 0 or left.cost == 0)


def test_the_least_of_task_root_and_what_travels_counts() -> None:
    """A user's budget may lower what the settings allow, and never raise it."""
    budgets = Budgets(task=Allowance(calls=10), root=Allowance(calls=100, cost=1.0))
    assert budgets.of_round(task()) == Allowance(calls=10, cost=1.0)
    assert budgets.of_root(task(budget=Allowance(calls=500, tokens=7))) == Allowance(calls=100, tokens=7, cost=1.0)
    origin = Origin(allowance=Allowance(calls=30, cost=0.5), calls=6)
    assert budgets.of_root(task(budget=Allowance(calls=1), origin=origin)) == Allowance(calls=30, cost=0.5)
    assert budgets.of_round(task(origin=origin)) == Allowance(calls=4, cost=0.5)


def test_the_lanes_shares_of_a_day_add_up() -> None:
    """Also where the number of calls cannot be divided."""
    budgets = Budgets(day=Allowance(calls=10, cost=1.0), lanes=4)
    shares = [budgets.of_day(lane) for lane in range(4)]
    assert [s.calls for s in shares] == [3, 3, 2, 2]
    assert sum(s.cost or 0.0 for s in shares) == 1.0


def test_a_call_is_expected_to_take_its_text_and_the_longest_answer() -> None:
    """Three bytes a token, as UTF-8; money by the prices of its node."""
    call = a_call(prompt="ü" * 30, answer_kind="text")
    node = NodeCapabilities(node="n", models=("m",), max_tokens=100, price_in=1.0, price_out=10.0)
    assert expected(node, call) == (20 + 16 + 100, (36 * 1.0 + 100 * 10.0) / 1e6)
