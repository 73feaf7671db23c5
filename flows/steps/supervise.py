"""supervise: may this result pass, and with what score."""

import msgspec
from msgspec import Struct

from flows.steps.infer import Answered
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
