"""What answers themselves tell of how sure they may be, besides who gave them: pure.

    text of an answer ─► signals ─► with the answer ─► evidence of a group of equivalent answers ─► flows.votes

Signals (`connectors.nodes.signals`) are taken where an answer arrives, since only there its whole text is known. What
each piece of evidence is worth on a topic is learned from verdicts; until there are any, it counts for nothing.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from connectors.nodes.signals import SEARCHED, SUMS, WRONG_SUMS
from flows.comparing.equivalence import number
from flows.votes import Votes
from schemas.node import Answer
from schemas.task import AnswerKind, PayloadView

EVIDENCE: Final = ("wrong_sums", "no_sums", "not_whole", "negative", "in_question", "z_score")
"""Shares of those who gave an answer that miscalculated, and that calculated nothing, on the way; whether it is a
number that is not whole, negative, or one of the question's; and what they think of it themselves."""
MAX_Z = 4.0

_NUMBER = re.compile(r"(?<![\w.])-?\$?\d[\d,]*(?:\.\d+)?")


def evidence_of(
    view: PayloadView, answers: Sequence[Answer], groups: Sequence[int], votes: Votes | None
) -> list[dict[str, float]]:
    """Gather what the answers of each group say.

    Args:
        view: the payload.
        answers: those that were given.
        groups: the group of each, numbered from 0 in order of appearance.
        votes: knows what the models' own scores usually are.

    Returns:
        By group, all of `EVIDENCE`.
    """
    asked = _numbers_of(view.text) if view.answer_kind is AnswerKind.NUMBER else frozenset()
    found = []
    for g in range(max(groups) + 1):
        members = [a for a, of in zip(answers, groups, strict=True) if of == g]
        value = number(members[0].text) if view.answer_kind is AnswerKind.NUMBER else None
        prose = [a.signals for a in members if a.signals]
        z = [votes.z_score((a.node, a.model), a.score) for a in members if a.score is not None] if votes else []
        zs = [max(-MAX_Z, min(MAX_Z, each)) for each in z if each is not None]
        found.append(
            {
                "wrong_sums": sum(s.get(WRONG_SUMS, 0.0) > 0.0 for s in prose) / len(members),
                "no_sums": sum(s.get(SUMS, 1.0) == 0.0 for s in prose) / len(members),
                "not_whole": float(value is not None and value.denominator != 1),
                "negative": float(value is not None and value < 0),
                "in_question": float(value is not None and value in asked),
                "z_score": round(sum(zs) / len(zs), 4) if zs else 0.0,
            }
        )
    return found


def _numbers_of(text: str) -> frozenset[Fraction]:
    found = [number(n.replace("$", "").rstrip(",")) for n in _NUMBER.findall(text[:SEARCHED])]
    return frozenset([n for n in found if n is not None])
