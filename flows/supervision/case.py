"""What a policy may see, and what a policy is."""

from collections.abc import Callable
from typing import Annotated, ClassVar, Protocol

import msgspec
from msgspec import Meta, Struct

from flows.accepted import Accepted
from flows.budget import NOTHING, UNLIMITED, Spent, after
from schemas.decision import Finding, FindingAction, RoundResult
from schemas.node import Answer
from schemas.task import AWAY, Allowance, AnswerKind, PayloadView

EVIDENCE_CHARACTERS = 200
DEFAULT_PAUSE_S = 600.0


class Health(Struct, frozen=True, gc=False):
    """How the last results of a topic fared."""

    rejected: int = 0
    examined: int = 0
    """Of those that are remembered."""


UNKNOWN = Health()


class Case(Struct, frozen=True, gc=False):
    """The result of a round, and what a policy may know besides. The leading answer is what is judged."""

    result: RoundResult
    """With what the policies before this one found."""
    topic: str = ""
    logical_id: str = ""
    generation: int = 0
    round_index: int = 0
    """Counted from 0."""
    attempt: int = 0
    max_rounds: int = 3
    view: PayloadView = AWAY
    """The question, and how answers to it are compared."""
    answers: tuple[Answer, ...] = ()
    """As the nodes gave them; in the result they are cleaned."""
    spent: Spent = NOTHING
    """In this round."""
    spent_before: Spent = NOTHING
    """In the rounds and attempts before."""
    allowance: Allowance = UNLIMITED
    """What this round might spend."""
    look_up: Callable[[], Accepted | None] = lambda: None
    """Finds `accepted`, which takes a microsecond or two."""
    get_health: Callable[[str, int], Health] = lambda _topic, _last: UNKNOWN
    """Of the last so many results of a topic."""

    @property
    def answer(self) -> str:
        """The leading answer; without one nothing is examined."""
        return self.result.answer or ""

    @property
    def question(self) -> str:
        """The question as one text."""
        return self.view.text

    @property
    def kind(self) -> AnswerKind:
        """How answers are compared."""
        return self.view.answer_kind

    @property
    def left(self) -> Allowance:
        """What is left to spend after this round."""
        return after(self.allowance, self.spent)

    @property
    def accepted(self) -> Accepted | None:
        """The record that the same question has under this or another logical id, as far as it is known."""
        return self.look_up()


class Policy(Protocol):
    """One thing that supervision looks at; pure, but for what it was made with."""

    @property
    def name(self) -> str:
        """The policy with its parameters, as it is kept with each decision."""
        ...

    def examine(self, case: Case) -> Finding | None:
        """Look at a result that has an answer; None where nothing is to be said of it."""
        ...


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A built-in policy; its fields are what the file may say of it."""

    action: FindingAction = "flag"
    cap: Annotated[float, Meta(ge=0, le=1, description="Of the action `cap`: the most that the score may be.")] = 0.5
    pause_s: Annotated[float, Meta(gt=0, le=31_536_000, description="Of the action `stop_topic`: for how long.")] = (
        DEFAULT_PAUSE_S
    )

    USE: ClassVar[str] = ""
    """What the file calls it."""
    LEAST: ClassVar[int] = 0
    """An answer of fewer characters is not its concern."""
    READS_WORDS: ClassVar[bool] = False
    """An answer without a letter is not its concern."""

    @property
    def least(self) -> int:
        """The same of this one, with its parameters."""
        return self.LEAST

    @property
    def name(self) -> str:
        """The policy with its parameters, but for those that are empty, and its action."""
        own = [f for f in self.__struct_fields__ if f not in ("action", "cap", "pause_s")]
        told = [f"{f}={value!r}" for f in own if (value := getattr(self, f)) not in ("", ())]
        told += [f"cap={self.cap:g}"] if self.action == "cap" else []
        told += [f"pause_s={self.pause_s:g}"] if self.action == "stop_topic" else []
        return f"{self.USE}({', '.join([*told, self.action])})"

    def examine(self, case: Case) -> Finding | None:
        """Look at a result that has an answer; None where nothing is to be said of it."""
        raise NotImplementedError

    def finding(self, reason: str, evidence: str = "", action: FindingAction | None = None) -> Finding:
        """Say what was found; the action is the rule's own if left out."""
        found = Finding(policy=self.name, action=action or self.action, reason=reason, evidence=clipped(evidence))
        if found.action == "cap":
            return msgspec.structs.replace(found, cap=self.cap)
        return msgspec.structs.replace(found, pause_s=self.pause_s) if found.action == "stop_topic" else found


class TextRule(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy that looks at nothing but a text. What it would not let pass is not quoted to other models either."""

    READS_WORDS: ClassVar[bool] = True

    def examine(self, case: Case) -> Finding | None:
        """Look at the leading answer."""
        seen = self.sees(case.result.answer or "")
        return None if seen is None else self.finding(*seen)

    def sees(self, text: str) -> tuple[str, str] | None:
        """Give the reason and the evidence of what is in a text."""
        raise NotImplementedError


def clipped(text: str, most: int = EVIDENCE_CHARACTERS) -> str:
    """Keep so much of a text as evidence."""
    return text if len(text) <= most else text[: most - 1] + "…"
