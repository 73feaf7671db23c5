"""An open round: its calls and their answers, who may replace them, and what is to become of it.

It asks nobody: `flows/calls.py` does, and `flows/tries.py` says what came of each call.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from connectors.ledger import CallName, Past, call_name
from flows.budget import Purse, Spent
from flows.checks import Checks
from flows.items import Routed, Work
from schemas.node import Answer, Call
from schemas.task import TaskDescriptor


class OpenRound:
    """A round with calls under way.

    Args:
        routed: the round as the router has it.
        lane: the number of its `LaneCalls`.
        key: its name in the ledger.
    """

    __slots__ = (
        "abandoned",
        "answers",
        "calls",
        "cancelled",
        "checks",
        "dropped",
        "exceeded",
        "key",
        "lane",
        "missing",
        "past",
        "purse",
        "reserves",
        "routed",
        "spared",
    )

    def __init__(self, routed: Routed, lane: int, key: bytes) -> None:
        self.routed = routed
        self.lane = lane
        self.key = key
        self.calls: list[Call] = []
        self.answers: list[Answer | None] = []
        """One for each of the calls, which a call knows by its place."""
        self.reserves: Sequence[Call] = routed.reserves
        self.spared: list[Call] = []
        """Calls that were given back, unasked."""
        self.missing = 0
        """So many calls are not answered."""
        self.past: Past | None = None
        self.purse: Purse | None = None
        """Where something is limited."""
        self.abandoned: list[CallName] = []
        """Calls in flight when an earlier life ended, or when the round was cancelled: nobody tells what they took."""
        self.checks: Checks | None = None
        self.exceeded = ""
        self.cancelled = self.dropped = False

    @property
    def task(self) -> TaskDescriptor:
        """What it is a round of."""
        work: Work = self.routed.message.body
        return work.task

    def resume(self, past: Past) -> Sequence[Call]:
        """Take over what an earlier life knew of it; tell what to ask at first.

        Those calls that were begun before, as many as are asked at first, and more where more are answered. The router
        may have learned something else since; what was paid for goes before what it would choose now.
        """
        self.past = past
        self.abandoned = list(past.in_flight.elements())
        routed = self.routed
        every = (*routed.calls, *routed.reserves)
        known = [c for c in every if call_name(c) in past.answers]
        begun = [c for c in every if call_name(c) in past.in_flight]
        first = [*known, *begun, *(c for c in routed.calls if c not in known and c not in begun)]
        first = first[: max(len(routed.calls), len(known))]
        chosen = {call_name(c) for c in first}
        self.reserves = tuple([c for c in every if call_name(c) not in chosen])
        return first

    def place(self, call: Call) -> int:
        """Make a place for the answer to a call; one that was given back has it already."""
        self.missing += 1
        if call in self.spared:
            place = self.calls.index(call)
            self.answers[place] = None
        else:
            place = len(self.calls)
            self.calls.append(call)
            self.answers.append(None)
        return place

    def give_back(self, place: int) -> None:
        """A call was not asked, since others serve sooner: where those fail, or become slower, it comes last; once."""
        call = self.calls[place]
        if call not in self.spared:
            self.spared.append(call)
            self.reserves = (*self.reserves, call)

    def has_reserve_for(self, place: int) -> bool:
        """Tell whether some other call is left to be asked in the place of one."""
        return any(call is not self.calls[place] for call in self.reserves)

    def known(self, call: Call) -> Answer | None:
        """Tell what an earlier life was answered."""
        return self.past.answers.get(call_name(call)) if self.past is not None else None

    def past_now(self) -> Past:
        """Tell what is known of it by now, for whoever resumes it."""
        past = Past()
        if self.past is not None:
            past.answers |= self.past.answers
        answers = self.given()
        past.answers |= {(a.node, a.model, a.sample): a for a in answers if a.status != "failed"}
        past.in_flight = Counter(name for name in self.abandoned if name not in past.answers)
        spent = self.spent(answers)
        past.calls, past.tokens, past.cost = spent.calls, spent.tokens, spent.cost
        return past

    def given(self) -> list[Answer]:
        """All answers so far, in the order in which they were asked for."""
        return [a for a in self.answers if a is not None]

    def spent(self, answers: Iterable[Answer]) -> Spent:
        """All that the round has taken, earlier lives included."""
        if self.purse is not None:
            return self.purse.spent
        calls, tokens, cost = len(self.abandoned), 0, 0.0
        for answer in answers:
            calls += answer.tries
            tokens += answer.tokens_in + answer.tokens_out
            cost += answer.cost
        return Spent(calls, tokens, cost)

    def others_wait(self, place: int, wait_s: Callable[[Call], float | None], fewest: int) -> float | None:
        """Say how long it waits for a seat for its other calls, or for its best reserve; None if there is none.

        Args:
            place: of the call that asks.
            wait_s: tells how long a call would wait for a seat; None where its node is not asked now.
            fewest: so many models its other calls have to ask, or they are none.
        """
        longest: float | None = None
        models: set[str] = set()
        for other, answer in enumerate(self.answers):
            if other == place or (answer is not None and answer.status == "failed"):
                continue
            other_s = 0.0 if answer is not None else wait_s(self.calls[other])
            if other_s is not None:
                longest = other_s if longest is None else max(longest, other_s)
                if answer is None or answer.status == "ok":
                    models.add(self.calls[other].model)
        if longest is not None and len(models) >= fewest:
            return longest
        return min((w for w in map(wait_s, self.reserves) if w is not None), default=None)
