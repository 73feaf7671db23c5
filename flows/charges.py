"""Money: a try is charged before it begins with what it is expected to take, and afterwards with what it took.

A round has its purse, and its lane a share of the day, over all lives of the cell: the ledger knows both. What is
allowed, and what fits into it, `flows/budget.py` says.
"""

import asyncio
import time
from collections.abc import Iterable
from functools import partial

from msgspec import Struct

from connectors.ledger import Begun, CallLedger, Charge, Past, call_name
from flows.budget import NOTHING, UNLIMITED, Budgets, Purse, Spent, expected, is_unlimited
from flows.open_round import OpenRound
from schemas.ids import home_lane
from schemas.node import Call, NodeCapabilities
from schemas.task import Allowance


class Charged(Struct, frozen=True, gc=False):
    """What a try was charged with before it began, and whom."""

    purse: Purse
    day: "_Day | None"
    tokens: int
    cost: float


class Charges:
    """Charges the tries of this process; it belongs to the event loop that the calls run on.

    Args:
        budgets: what may be spent in a day.
        ledger: it knows what lives before have spent of today.
    """

    def __init__(self, budgets: Budgets, ledger: CallLedger) -> None:
        self._budgets = budgets
        self._ledger = ledger
        self._has_day = not is_unlimited(budgets.day)
        self._started_on = _today()
        self._spent_before = ledger.spent_on(self._started_on) if self._has_day else {}
        self._days: dict[int, _Day] = {}
        """By lane."""
        self._waiting: list[asyncio.Future[None]] = []

    def know(self, lane: int, day: str, spent: Spent) -> None:
        """Take in what a lane that comes to this cell has spent of a day, as the lake has it."""
        if self._has_day and day == _today():
            self._day_of(lane).purse.at_least(spent)

    def spent_today(self, lanes: Iterable[int]) -> Spent:
        """What some lanes of this cell have spent of the day's budget; nothing where that is not limited. Any thread.

        What it has spent for a lane that is another cell's by now, that one tells.
        """
        today = _today()
        of_lane = {lane: Spent(*before) for lane, before in self._spent_before.items() if today == self._started_on}
        of_lane |= {lane: day.purse.spent for lane, day in dict(self._days).items() if day.name >= today}
        parts = [of_lane.get(lane, NOTHING) for lane in lanes]
        return Spent(sum(p.calls for p in parts), sum(p.tokens for p in parts), sum(p.cost for p in parts))

    def purse(self, allowance: Allowance | None, past: Past | None) -> Purse | None:
        """Open the purse of a round, with what earlier lives took of it; None where nothing is limited."""
        if allowance is None and not self._has_day:
            return None
        before = Spent(past.calls, past.tokens, past.cost) if past is not None else NOTHING
        return Purse(allowance or UNLIMITED, before)

    async def charge(self, round_: OpenRound, purse: Purse, call: Call, node: NodeCapabilities) -> Charged | None:
        """Charge a try with what it is expected to take; it may begin once that is durable.

        Where it fits only into what calls under way may give back it waits for them. None where it would exceed a
        budget; `exceeded` of the round says which.
        """
        tokens, cost = expected(node, call)
        while True:
            day = self._day_of(home_lane(round_.task.logical_id, self._budgets.lanes)) if self._has_day else None
            if purse.lacks(tokens, cost):
                short, whose = purse, "the budget of {}"
            elif day is not None and day.purse.lacks(tokens, cost):
                short, whose = day.purse, "this lane's share of today's budget, {},"
            else:
                break
            spent_up = short.lacks(0, 0.0)
            if spent_up or not short.under_way:
                most = f"{tokens:,} tokens" + (f" and {cost:.2g} of money" if cost else "")
                how = "is spent" if spent_up else f"has too little left for a call, which may take {most}"
                round_.exceeded = f"{whose.format(short.lacks(tokens, cost))} {how}"
                return None
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        charged = Charged(purse, day, tokens, cost)
        purse.take(tokens, cost)
        if day is not None:
            day.purse.take(tokens, cost)
            self._ledger.charge(Charge(day.name, day.lane, 1, tokens, cost))
        durable = asyncio.get_running_loop().create_future()
        self._ledger.begin(Begun(round_.key, call_name(call), tokens, cost), partial(_resolve, durable))
        try:
            await durable
        except asyncio.CancelledError:
            self.over(charged)
            raise
        return charged

    def over(self, charged: Charged) -> None:
        """Say that a try has ended, whether it was corrected or not: whoever waits for its rest looks again."""
        for purse in (charged.purse, *([charged.day.purse] if charged.day is not None else ())):
            purse.under_way -= 1
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            _resolve(one)

    def correct(self, charged: Charged, tokens: int, cost: float) -> tuple[int, float]:
        """Charge what a try took in the place of what was expected, to the day on which it began; tell what differs."""
        tokens, cost = tokens - charged.tokens, cost - charged.cost
        charged.purse.correct(tokens, cost)
        if (day := charged.day) is not None:
            day.purse.correct(tokens, cost)
            self._ledger.charge(Charge(day.name, day.lane, 0, tokens, cost))
        return tokens, cost

    def _day_of(self, lane: int) -> "_Day":
        today = _today()
        known = self._days.get(lane)
        if known is None or known.name < today:  # a clock may be put back a little; the day that was over stays so
            known_today = known is None and today == self._started_on
            before = Spent(*self._spent_before.get(lane, (0, 0, 0.0))) if known_today else NOTHING
            known = self._days[lane] = _Day(today, lane, Purse(self._budgets.of_day(lane), before))
        return known


class _Day(Struct, frozen=True):
    """A lane's share of a day."""

    name: str
    lane: int
    purse: Purse


def _today() -> str:
    return day_of(time.time())


def day_of(at: float) -> str:
    """Name a day, UTC; `at` in seconds since the epoch."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
