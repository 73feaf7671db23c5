"""Money: no call is asked beyond its budget, in this life or the next, and none is charged to another day."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from connectors.ledger import CallLedger
from flows.budget import Budgets, Spent, expected
from flows.items import Answered
from schemas.ids import home_lane
from schemas.node import Answer
from schemas.task import Allowance
from tests.aureon_command import until
from tests.flows.call_parts import ScriptedNode, answered, answers, call, fails, hangs, routed, runner_of, takes

TODAY = "2026-01-01"


class HeldLedger(CallLedger):
    """One whose commits wait for a word."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go_on = threading.Event()

    def _write(self, *entries: Any) -> int:
        assert self.go_on.wait(60)
        return super()._write(*entries)


@pytest.fixture(autouse=True)
def _one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test runs over midnight."""
    monkeypatch.setattr("flows.charges._today", lambda: TODAY)


def test_a_round_asks_no_more_than_it_may(tmp_path: Path) -> None:
    """Further tries count, and so does what an earlier life asked."""
    node = ScriptedNode(fails)
    with runner_of(node, tries=5, folder=tmp_path) as runner:
        (found,) = answered(runner, routed(call(), allowance=Allowance(calls=3)))
    assert (node.tries, found.spent.calls, found.exceeded) == (3, 3, "the budget of 3 calls is spent")
    with runner_of(node, tries=5, folder=tmp_path) as runner:
        (again,) = answered(runner, routed(call(), allowance=Allowance(calls=3)))
    assert (node.tries, again.spent.calls) == (3, 3)
    assert again.exceeded


def test_money_is_charged_as_expected_before_and_as_it_was_after(tmp_path: Path) -> None:
    """What was not used is there for the next call; the next life knows it too."""

    async def cheap() -> Answer:
        return Answer(node="n", model="m", text="42", tokens_in=10, tokens_out=10, cost=0.01)

    node = ScriptedNode(cheap, max_concurrency=1, price_out=1000.0, max_tokens=100)
    round_ = routed(*(call(i) for i in range(5)), allowance=Allowance(cost=0.12))
    for _ in range(2):
        with runner_of(node, tries=1, folder=tmp_path) as runner:
            (found,) = answered(runner, round_)
        assert node.tries == 3
        assert found.spent.cost == pytest.approx(0.03)
        assert found.spent.tokens == 60
        assert found.exceeded == (
            "the budget of 0.12 of money has too little left for a call, which may take 116 tokens and 0.1 of money"
        )


def test_a_day_s_budget_holds_over_lives(tmp_path: Path) -> None:
    """Each lane has its share; the reason says so."""
    budgets = Budgets(day=Allowance(calls=5))
    node = ScriptedNode(answers)
    found: list[Answered] = []
    for life in range(3):
        with runner_of(node, tries=1, folder=tmp_path, budgets=lambda: budgets) as runner:
            found += answered(runner, *[routed(call(10 * life + i)) for i in range(2)])
    assert node.tries == 5
    assert sorted(f.exceeded for f in found) == [*[""] * 5, "this lane's share of today's budget, 5 calls, is spent"]


def test_what_another_cell_has_spent_of_the_day_counts(tmp_path: Path) -> None:
    """Before the first call here and after; and what was spent on another day is over."""
    budgets = Budgets(day=Allowance(calls=5))
    node = ScriptedNode(answers)
    found: list[Answered] = []
    with runner_of(node, tries=1, folder=tmp_path, budgets=lambda: budgets) as runner:
        for number, (day, spent) in enumerate(
            [
                ("2025-12-31", Spent(5)),
                (TODAY, Spent(3)),
                (TODAY, Spent(1)),
                (TODAY, Spent(9)),
            ]
        ):
            runner.know_spent(home_lane("a", 1), day, spent)
            found += answered(runner, routed(call(number)))
    assert [bool(f.exceeded) for f in found] == [False, False, False, True]
    assert node.tries == 3


@pytest.mark.parametrize("whose", ["round", "day"])
def test_what_calls_under_way_may_give_back_is_waited_for(whose: str) -> None:
    """They are charged with the most that they may take, and take a hundredth: the budget is not spent by that."""

    async def cheap() -> Answer:
        await asyncio.sleep(0.01)
        return Answer(node="n", model="m", text="42", tokens_in=1, tokens_out=1, cost=0.001)

    node = ScriptedNode(cheap, timeout_s=5, price_out=1000.0, max_tokens=100)
    limit = Allowance(cost=0.15)
    budgets = Budgets(day=limit) if whose == "day" else Budgets()
    round_ = routed(*(call(i) for i in range(30)), allowance=limit if whose == "round" else None)
    with runner_of(node, tries=1, budgets=lambda: budgets) as runner:
        (found,) = answered(runner, round_)
    assert (node.tries, found.exceeded) == (30, "")
    assert found.spent.cost == pytest.approx(0.03)


def test_a_budget_of_tokens_knows_what_tries_without_an_answer_may_have_taken(tmp_path: Path) -> None:
    """A restart makes nothing of it free again."""

    async def some() -> Answer:
        return Answer(node="n", model="m", text="42", tokens_in=10, tokens_out=10)

    node = ScriptedNode(hangs, some, hangs, max_tokens=1000)
    allowance = Allowance(tokens=1_000_000)
    round_ = routed(call(), call(1, node="late"), allowance=allowance)
    late = ScriptedNode(hangs, name="late", max_tokens=1000)
    spent = []
    for _ in range(2):
        with runner_of(node, late, tries=2, folder=tmp_path) as runner:
            (found,) = answered(runner, round_)
            spent.append(found.spent.tokens)
    a_try, _ = expected(node.capabilities, call())
    # what the answer took, one try of the first call, and two of the second, which is asked again
    assert spent == [20 + 3 * a_try, 20 + 5 * a_try]
    with runner_of(node, late, tries=2, folder=tmp_path) as runner:
        before = runner.new_lane()
        runner.submit(before, [])
        past = runner._ledger.past(next(iter(runner._ledger._past)))
    assert past is not None
    assert past.tokens == spent[1]


def test_what_began_before_midnight_is_charged_to_that_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new day does not begin in credit."""
    today = "2026-01-01"
    monkeypatch.setattr("flows.charges._today", lambda: today)
    budgets = Budgets(day=Allowance(tokens=1_000_000))
    node = ScriptedNode(takes(0.3), timeout_s=5, max_tokens=1000)
    with runner_of(node, tries=1, folder=tmp_path, budgets=lambda: budgets) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call())])
        while not node.tries:
            time.sleep(0.005)
        today = "2026-01-02"
        while not lane.outbox:
            time.sleep(0.005)
        answered(runner, routed(call(1)))
    ledger = CallLedger(tmp_path / "calls.sqlite")
    assert ledger.spent_on("2026-01-01")[0][:2] == (1, 0)
    assert ledger.spent_on("2026-01-02")[0][:2] == (1, 0)


def test_a_clock_that_goes_back_over_midnight_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was spent of either day stays spent."""
    today = "2026-01-01"
    monkeypatch.setattr("flows.charges._today", lambda: today)
    node = ScriptedNode(answers)
    asked = iter(range(100))
    with runner_of(node, tries=1, folder=tmp_path, budgets=lambda: Budgets(day=Allowance(calls=5))) as runner:

        def ask(count: int) -> int:
            return sum(not f.exceeded for f in answered(runner, *[routed(call(next(asked))) for _ in range(count)]))

        assert ask(9) == 5
        today = "2026-01-02"
        assert ask(3) == 3
        today = "2026-01-01"
        assert ask(1) == 1
        assert runner.spent_today([home_lane("a", 1)]) == Spent(4)
        today = "2026-01-02"
        assert ask(5) == 1


def test_what_was_spent_for_a_lane_is_told_by_the_cell_that_has_it(tmp_path: Path) -> None:
    """What the cell before has spent of it is in what that one begins with."""
    budgets = Budgets(day=Allowance(calls=9))
    with runner_of(ScriptedNode(answers), tries=1, folder=tmp_path, budgets=lambda: budgets) as runner:
        answered(runner, routed(call()))
        mine = home_lane("a", 1)
        assert runner.spent_today([mine]) == Spent(1)
        assert runner.spent_today([mine, mine + 1]) == Spent(1)
        assert runner.spent_today([]) == Spent()


def test_a_call_that_is_given_up_while_its_charge_is_written_down_is_not_asked(tmp_path: Path) -> None:
    """The next one is: the ledger goes on."""
    cancelled = False
    node = ScriptedNode(answers)
    ledger = HeldLedger(tmp_path / "calls.sqlite")
    with runner_of(node, tries=1, ledger=lambda: ledger, is_cancelled=lambda _task: cancelled) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(), allowance=Allowance(calls=3))])
        until(lambda: runner._tries._under_way)
        cancelled = True
        runner.cancel()
        until(lambda: lane.outbox)
        ledger.go_on.set()
        cancelled = False
        (found,) = answered(runner, routed(call(1), allowance=Allowance(calls=3)))
        assert (found.answers[0].status, node.tries) == ("ok", 1)
