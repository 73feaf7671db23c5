"""Voters whose reliability and dependence are known, and rounds of theirs with verdicts."""

import random
from collections.abc import Callable, Iterator, Sequence

import msgspec

from flows.affinity import Affinities
from flows.steps.validate import validate
from flows.votes import Votes
from schemas.decision import Decision, DecisionKind, RoundResult
from schemas.node import Answer
from schemas.task import AnswerKind, PayloadView

QUESTION = PayloadView(prompt="Yes or no?", answer_kind=AnswerKind.CHOICE)
PAYLOAD = msgspec.Raw(b'{"prompt":"Yes or no?","answer_kind":"choice","verifier":"truth"}')

Voters = Callable[[random.Random], list[bool]]
"""Says which of the voters are right in a round."""


def independent(count: int, right: float) -> Voters:
    """So many, each of them right so often."""
    return lambda rng: [rng.random() < right for _ in range(count)]


def correlated(count: int, right: float, copied: float) -> Voters:
    """So many, each of which copies what all the others look at, with this probability."""

    def vote(rng: random.Random) -> list[bool]:
        common = rng.random() < right
        return [common if rng.random() < copied else rng.random() < right for _ in range(count)]

    return vote


def answers_of(rights: Sequence[bool], texts: tuple[str, str] = ("yes", "no")) -> tuple[Answer, ...]:
    """What they say: the first text where they are right."""
    return tuple([Answer(node=f"n{i}", model="m", text=texts[not right]) for i, right in enumerate(rights)])


def judged(answers: Sequence[Answer], votes: Votes | None, view: PayloadView = QUESTION) -> RoundResult:
    """Validate answers without any verifier."""
    return validate(view, answers, {}, votes)


def verdict_on(answers: Sequence[Answer], rights: Sequence[bool], payload: msgspec.Raw = PAYLOAD) -> Decision:
    """The decision on a round whose verifier has seen all answers."""
    leading = tuple([i for i, right in enumerate(rights) if right]) or (0,)
    result = RoundResult(
        answer=answers[leading[0]].text,
        score=0.99,
        confidence=0.99,
        agreement=1.0,
        evidence="verifier",
        verifier="truth",
        verified=any(rights),
        candidates=tuple(answers),
        leading=leading,
        checks=tuple(rights),
    )
    return Decision(
        kind=DecisionKind.CONVERGED,
        kafka_topic="tasks.global",
        offset=0,
        task_id="t:r0",
        topic="math",
        logical_id="t",
        payload=payload,
        result=result,
        decided_at=100.0,
    )


def rounds_of(voters: Voters, rounds: int, seed: int) -> Iterator[tuple[tuple[Answer, ...], list[bool]]]:
    """Rounds of theirs: what was said, and who was right."""
    rng = random.Random(seed)
    for _ in range(rounds):
        rights = voters(rng)
        yield answers_of(rights), rights


def taught_by(voters: Voters, rounds: int, seed: int = 1) -> Votes:
    """What the votes count after so many rounds with verdicts."""
    affinities = Affinities()
    decisions = [verdict_on(answers, rights) for answers, rights in rounds_of(voters, rounds, seed)]
    affinities.learn(0, enumerate(decisions))
    votes = affinities.votes("math", 100.0)
    assert votes is not None
    return votes
