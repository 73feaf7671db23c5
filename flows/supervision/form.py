"""Policies that look at an answer's form: whether it is one, of the asked kind, and no runaway; and at its scores."""

import collections
import functools
import math
import re
import zlib
from typing import Annotated, ClassVar

from msgspec import Meta

from flows.comparing.equivalence import canonical, number
from flows.patterns import Pattern
from flows.supervision.case import Case, Rule, clipped
from schemas.decision import Finding, FindingAction
from schemas.task import FORM_CHECKS, AnswerKind

Characters = Annotated[int, Meta(ge=1)]


class AllowList(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that pass whatever the policies after this one say."""

    USE: ClassVar[str] = "allow_list"

    action: FindingAction = "accept"
    answers: Annotated[tuple[str, ...], Meta(min_length=1, description="Compared without regard to case.")]

    def examine(self, case: Case) -> Finding | None:
        """Accept what is on the list."""
        if case.answer.strip().casefold() in _casefolded(self.answers):
            return self.finding("on the list of allowed answers", case.answer)
        return None


@functools.lru_cache(maxsize=64)
def _casefolded(answers: tuple[str, ...]) -> frozenset[str]:
    return frozenset([a.strip().casefold() for a in answers])


class EmptyAnswer(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer of blanks."""

    USE: ClassVar[str] = "empty_answer"

    action: FindingAction = "reject"

    def examine(self, case: Case) -> Finding | None:
        """Look for anything to see."""
        answer = case.result.answer
        return self.finding("empty answer") if not answer or answer.isspace() else None


class RunawayLength(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer that does not end."""

    USE: ClassVar[str] = "runaway_length"

    action: FindingAction = "reject"
    characters: Annotated[Characters, Meta(description="The most that an answer may have.")] = 100_000

    def examine(self, case: Case) -> Finding | None:
        """Count the characters."""
        length = len(case.answer)
        if length <= self.characters:
            return None
        return self.finding(f"runaway length: {length:,} characters; {self.characters:,} are allowed", case.answer)


REPEATED = 5
"""Times that a sentence or a line is given, in a text half of which it makes up."""
LOOKED_AT = 8_000
"""Characters from the end, since a model that begins to repeat itself does not stop."""
_PIECES = re.compile(r"[.!?\n]+\s{0,100}")
_SHORT_PIECE = 8
_DISTINCT_WORDS = 0.5
"""A share of different words from which on a text does not repeat itself. English prose of 8,000 characters has 0.4."""
_COMPRESSED = 0.06
"""Of its size, what is left of a text when it is compressed. Prose keeps 0.4 of it, source code 0.2, tables 0.1."""


class Repetition(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same line, sentence or phrase over and over. Numbers, whose digits may repeat, are not looked at."""

    USE: ClassVar[str] = "repetition"
    LEAST: ClassVar[int] = 200

    action: FindingAction = "more_reasoning"

    def examine(self, case: Case) -> Finding | None:
        """Look at the end of the leading answer."""
        if case.kind == AnswerKind.NUMBER:
            return None
        text = case.answer[-LOOKED_AT:]
        parts = text.split()
        has_words = len(parts) * 20 > len(text)
        if has_words and len(set(parts)) > _DISTINCT_WORDS * len(parts):
            return None
        pieces = [p.strip() for p in _PIECES.split(text)]
        counts = collections.Counter([p for p in pieces if len(p) >= _SHORT_PIECE])
        if counts:
            piece, times = counts.most_common(1)[0]
            if times >= REPEATED and times * len(piece) * 2 >= len(text):
                return self.finding(f"the same sentence {times:,} times", clipped(piece))
        data = text.encode(errors="surrogatepass")
        if len(data) >= 1_000 and len(zlib.compress(data, 1)) < _COMPRESSED * len(data):
            return self.finding("the same phrase over and over", text)
        return None


_THREE_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,40}(?:,? [A-Za-z]{2,40}){2}")
LONGEST_NUMBER = 400
LONGEST_CHOICE = 200


class AnswerFormat(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer that is not of the form that was asked for.

    A number has a digit and at most 400 characters, an expression no three words in a row, a choice one line of at most
    200 characters; `strict` wants more: a number, and one of the `choices`. What a verifier accepted has its form.

    A `pattern` is tried on answers of at most `longest` characters; a longer one does not have the form.
    """

    USE: ClassVar[str] = "answer_format"

    action: FindingAction = "more_reasoning"
    strict: bool = False
    choices: Annotated[tuple[str, ...], Meta(description="What a choice is one of.")] = ()
    pattern: Annotated[str, Meta(description="A regular expression for all of the answer.")] = ""
    longest: Annotated[Characters, Meta(le=10_000, description="Characters to which the pattern is applied.")] = 1_000

    def __post_init__(self) -> None:
        """Check the pattern.

        Raises:
            ValueError: it is none.
        """
        try:
            _form(self.pattern)
        except ValueError as error:
            raise ValueError(f"pattern: {error}") from None

    def examine(self, case: Case) -> Finding | None:
        """Read the answer as its kind."""
        result, kind = case.result, case.view.answer_kind
        answer = result.answer or ""
        if self.pattern and not (len(answer) <= self.longest and _form(self.pattern).fits(answer.strip())):
            return self.finding(f"not of the form {clipped(self.pattern, 100)!r}", answer)
        if kind != AnswerKind.CHOICE and answer.isdecimal():
            return None
        if result.verified and result.verifier not in FORM_CHECKS:
            return None
        wrong = ""
        if kind == AnswerKind.NUMBER:
            wrong = self._wrong_number(answer)
        elif kind == AnswerKind.CHOICE:
            wrong = self._wrong_choice(answer.strip())
        elif kind == AnswerKind.EXPRESSION and _THREE_WORDS.search(answer[:10_000]):
            wrong = "words, where an expression was asked for"
        return self.finding(wrong, answer) if wrong else None

    def _wrong_number(self, answer: str) -> str:
        if len(answer) > LONGEST_NUMBER or not any(map(str.isdigit, answer)):
            return "no number, where one was asked for"
        return "not a number alone" if self.strict and number(answer) is None else ""

    def _wrong_choice(self, answer: str) -> str:
        if len(answer) > LONGEST_CHOICE or "\n" in answer:
            return "not one of the choices alone"
        if self.choices and canonical(AnswerKind.CHOICE, answer) not in _choice_forms(self.choices):
            return f"none of the choices {clipped(', '.join(self.choices), 100)}"
        return ""


@functools.lru_cache(maxsize=64)
def _form(pattern: str) -> Pattern:
    return Pattern(pattern, whole=True)


@functools.lru_cache(maxsize=64)
def _choice_forms(choices: tuple[str, ...]) -> frozenset[str]:
    return frozenset([canonical(AnswerKind.CHOICE, c) for c in choices])


class ScoreSanity(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scores that are none: NaN, infinite, or not between 0 and 1.

    A model's own is left out by validate and flagged here; a result whose score or confidence is none is rejected.
    """

    USE: ClassVar[str] = "score_sanity"

    def examine(self, case: Case) -> Finding | None:
        """Look at the scores as they were given."""
        result = case.result
        if not (0.0 <= result.score <= 1.0 and 0.0 <= result.confidence <= 1.0):
            told = f"score {result.score!r}, confidence {result.confidence!r}"
            return self.finding("its score is no number between 0 and 1", told, "reject")
        for answer in case.answers:
            score = answer.score
            if score is not None and not 0.0 <= score <= 1.0:
                what = "finite" if not math.isfinite(score) else "between 0 and 1"
                told = f"{answer.node}/{answer.model}: {score!r}"
                return self.finding(f"a model's own score is not {what}, and was left out", told)
        return None
