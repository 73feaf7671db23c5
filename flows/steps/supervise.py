"""supervise: may this result pass, and with what score."""

import msgspec
from msgspec import Struct

from flows.calls import Answered
from schemas.decision import RoundResult

MAX_ANSWER_CHARACTERS = 100_000


class Supervised(Struct, frozen=True, gc=False):
    """A round with its result, as supervision lets it pass; no result where no model was asked."""

    answered: Answered
    result: RoundResult | None


def supervise(result: RoundResult) -> RoundResult:
    """Flag what looks wrong; a flagged result gets the score 0, so that no policy accepts it willingly."""
    answer = result.answer
    if answer is None:
        return result
    flags = []
    if not answer.strip():
        flags.append("empty answer")
    if len(answer) > MAX_ANSWER_CHARACTERS:
        flags.append(f"runaway length: {len(answer):,} characters")
    if not flags:
        return result
    return msgspec.structs.replace(result, score=0.0, flags=(*result.flags, *flags))


OTHERS_TOLD = 3
TOLD_CHARACTERS = 80


def critique(result: RoundResult) -> str:
    """Say what was found wrong with the result of a round, for the models of the next one; a few hundred characters."""
    if result.answer is None:
        return "Nobody gave an answer."
    found = [f"It was flagged: {flag}." for flag in result.flags]
    if result.verified is False:
        found.append(f"The check {result.verifier!r} does not accept it.")
    given = [a for a in result.candidates if a.status == "ok"]
    others: dict[str, None] = {}
    for place, answer in enumerate(result.candidates):
        if answer.status == "ok" and place not in result.leading:
            text = " ".join(answer.text.split())
            others[text if len(text) <= TOLD_CHARACTERS else text[:TOLD_CHARACTERS] + "…"] = None
    if others:
        said = "; ".join(list(others)[:OTHERS_TOLD])
        found.append(f"{len(result.leading)} of {len(given)} answers say so. Others say: {said}.")
    elif len(given) == 1:
        found.append("Only one model gave an answer, so nothing confirms it.")
    return " ".join(found)
