"""What may be spent: per task, per root task with all that comes of it, and per day. Pure.

Lanes share no counter. An allowance travels with the task; the decision on a round passes on what is left of it, split
among the messages that follow. A lane has its share of each day.

A call is charged before it starts with what it is expected to take, and afterwards with what it took. So calls never
exceed their budget; tokens and money do by what the last calls took beyond what was expected of them.
"""

from typing import TypeVar

from msgspec import Struct

from schemas.node import Call, NodeCapabilities
from schemas.task import Allowance, TaskDescriptor

X = TypeVar("X", int, float)

UNLIMITED = Allowance()
BYTES_A_TOKEN = 3
TOKENS_OF_A_CHAT = 16
"""What the roles and separators of a chat add to its text."""
ROUNDING = 1 + 1e-9
"""Sums of money are floats: a budget of 0.15 is enough for three times 0.05."""


class Budgets(Struct, frozen=True, gc=False, kw_only=True):
    """What the settings allow."""

    task: Allowance = UNLIMITED
    """One logical task, with its rounds and retries."""
    root: Allowance = UNLIMITED
    """A root task with all that comes of it; a task's own `budget` may lower it."""
    day: Allowance = UNLIMITED
    """All tasks of the cluster, of one day in UTC."""
    lanes: int = 1

    def of_root(self, task: TaskDescriptor) -> Allowance:
        """What a task and all that comes of it may still spend, before its present round."""
        if task.origin is not None and task.origin.allowance is not None:
            return task.origin.allowance
        return _least(self.root, task.budget) if task.budget is not None else self.root

    def of_round(self, task: TaskDescriptor) -> Allowance:
        """What the present round may spend."""
        left = self.of_root(task)
        if is_unlimited(self.task):
            return left
        origin = task.origin
        spent = Spent(origin.calls, origin.tokens, origin.cost) if origin is not None else NOTHING
        return _least(left, after(self.task, spent))

    def of_day(self, lane: int) -> Allowance:
        """The share of a lane in a day."""
        calls, tokens, cost = self.day.calls, self.day.tokens, self.day.cost
        return Allowance(
            calls=None if calls is None else _share(calls, self.lanes, lane),
            tokens=None if tokens is None else _share(tokens, self.lanes, lane),
            cost=None if cost is None else cost / self.lanes,
        )


class Spent(Struct, frozen=True, gc=False):
    """What a round, a task or a day has taken."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0


NOTHING = Spent()


def is_unlimited(allowance: Allowance) -> bool:
    """Tell whether nothing is limited."""
    return allowance.calls is None and allowance.tokens is None and allowance.cost is None


def expected(capabilities: NodeCapabilities, call: Call) -> tuple[int, float]:
    """Say what a call is expected to take at most: tokens, and money.

    A token of text has three bytes at least, in all but rare cases; the output is as long as the node lets it be.
    """
    texts = [m.content for m in call.messages] or [call.prompt]
    asked = sum(len(text.encode(errors="surrogatepass")) for text in texts) // BYTES_A_TOKEN + TOKENS_OF_A_CHAT
    return asked + capabilities.max_tokens, capabilities.cost(asked, capabilities.max_tokens)


def after(allowance: Allowance, spent: Spent) -> Allowance:
    """What is left of an allowance, never less than nothing."""
    calls, tokens, cost = allowance.calls, allowance.tokens, allowance.cost
    return Allowance(
        calls=None if calls is None else max(0, calls - spent.calls),
        tokens=None if tokens is None else max(0, tokens - spent.tokens),
        cost=None if cost is None else max(0.0, cost - spent.cost),
    )


def split(allowance: Allowance, parts: int) -> list[Allowance]:
    """Split what is left among so many tasks; the first ones get what cannot be divided."""
    calls, tokens, cost = allowance.calls, allowance.tokens, allowance.cost
    return [
        Allowance(
            calls=None if calls is None else _share(calls, parts, i),
            tokens=None if tokens is None else _share(tokens, parts, i),
            cost=None if cost is None else cost / parts,
        )
        for i in range(parts)
    ]


def spent_up(allowance: Allowance) -> str:
    """Say what is used up of an allowance; empty where something of everything is left."""
    if allowance.calls is not None and allowance.calls <= 0:
        return "no calls left"
    if allowance.tokens is not None and allowance.tokens <= 0:
        return "no tokens left"
    if allowance.cost is not None and allowance.cost <= 0:
        return "no money left"
    return ""


class Purse:
    """What one round, or one lane in a day, may spend, and has spent."""

    __slots__ = ("allowance", "calls", "cost", "tokens", "under_way")

    def __init__(self, allowance: Allowance, spent: Spent = NOTHING) -> None:
        self.allowance = allowance
        self.calls, self.tokens, self.cost = spent.calls, spent.tokens, spent.cost
        self.under_way = 0
        """Calls that were taken from it and have not ended: they may yet give something back."""

    @property
    def spent(self) -> Spent:
        """So far, with what calls under way are expected to take."""
        return Spent(self.calls, self.tokens, round(self.cost, 9))

    def lacks(self, tokens: int, cost: float) -> str:
        """Say what one more call would exceed; empty where it fits."""
        allowance = self.allowance
        if allowance.calls is not None and self.calls + 1 > allowance.calls:
            return f"{allowance.calls:,} call{'' if allowance.calls == 1 else 's'}"
        if allowance.tokens is not None and self.tokens + tokens > allowance.tokens:
            return f"{allowance.tokens:,} tokens"
        if allowance.cost is not None and self.cost + cost > allowance.cost * ROUNDING:
            return f"{allowance.cost:g} of money"
        return ""

    def take(self, tokens: int, cost: float) -> None:
        """Charge a call that is about to start with what it is expected to take."""
        self.under_way += 1
        self.calls += 1
        self.tokens += tokens
        self.cost += cost

    def correct(self, tokens: int, cost: float) -> None:
        """Charge the difference between what a call took and what was expected."""
        self.tokens += tokens
        self.cost += cost

    def at_least(self, spent: Spent) -> None:
        """Charge what others are known to have spent of it."""
        self.calls, self.tokens = max(self.calls, spent.calls), max(self.tokens, spent.tokens)
        self.cost = max(self.cost, spent.cost)


def _share(whole: int, parts: int, index: int) -> int:
    return whole // parts + (index < whole % parts)


def _least(one: Allowance, other: Allowance) -> Allowance:
    return Allowance(
        calls=_smaller(one.calls, other.calls),
        tokens=_smaller(one.tokens, other.tokens),
        cost=_smaller(one.cost, other.cost),
    )


def _smaller(one: X | None, other: X | None) -> X | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
