"""Insults and slurs, by a word list; English.

The list is Aureon's own (`insults.toml`). What libraries offer is lists of swear words, which find "XXX" and "What the
hell" and not "You are an idiot", and take 7 to 390 ms for a thousand characters where this takes 0.03; the one that has
learned, `alt-profanity-check`, needs scikit-learn. It can be had as a policy of one's own.
"""

import functools
import re
import tomllib
from importlib import resources
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from flows.supervision.case import TextRule
from flows.supervision.text import around, folded, words
from schemas.decision import FindingAction

MOST_PLACES = 5_000
"""Where words of the list stand: so many places are looked at."""
HEARD = 100
"""Characters before a word that tell whether it is meant for somebody."""


class Insults(TextRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Insults and slurs, also where letters are written as `1`, `3`, `@` or `$`; swear words are not looked for.

    A word alone, but for a slur, is no insult: it may be the answer to a puzzle.
    """

    USE: ClassVar[str] = "insults"
    LEAST: ClassVar[int] = 3

    action: FindingAction = "reject"
    also: Annotated[tuple[str, ...], Meta(description="More words that insult wherever they stand.")] = ()
    allowed: Annotated[tuple[str, ...], Meta(description="Words of the list that do not count.")] = ()

    @property
    def least(self) -> int:
        """A word that was added may be shorter than those of the list."""
        return min([self.LEAST, *map(len, self.also)])

    def sees(self, text: str) -> tuple[str, str] | None:
        """Look each word up, and those that it depends on in their sentence."""
        vocabulary = _vocabulary(self.also, self.allowed)
        low = folded(text)
        present = words(low)
        listed = set(present & vocabulary.all)
        if not _DISGUISED.isdisjoint(low):
            for word in present:
                if not word.isalpha() and not word.isdigit():
                    written = word.strip("'!")
                    plain = written.translate(_LEET)
                    if plain != written and (plain in _YOU or (len(plain) >= 4 and plain in vocabulary.all)):
                        low = low.replace(written, plain)
                    if plain in vocabulary.all:
                        listed.add(plain)
        if len(present) == 1:  # a word alone may be the answer to a puzzle
            listed &= vocabulary.alone
        left = MOST_PLACES
        for word in sorted(listed):
            end = 0
            while left and (start := low.find(word, end)) >= 0:
                left -= 1
                end = start + len(word)
                if _insults(word, low, start, end, vocabulary):
                    return "an insult", around(low, start, end)
        return None


def _insults(word: str, low: str, start: int, end: int, vocabulary: "_Vocabulary") -> bool:
    """Tell whether a word that stands there is meant for somebody."""
    before, after = low[max(0, start - HEARD) : start], low[end : end + 4]
    if _PART_OF_A_WORD.match(before[-1:]) or _PART_OF_A_WORD.match(after):
        return False
    if word in vocabulary.anywhere:
        return True
    ends = after[:1] in _ENDS or after == " you"
    if word in vocabulary.verbs and not ends and before.endswith(("you ", "they ")):
        return False
    shapes = [_TOWARDS]
    if word in vocabulary.adjectives:
        shapes.append(_YOUR)
    else:
        shapes.append(_HEY)
        if ends:  # not: what a pig eats
            shapes.append(_WHAT_A)
        if after.lstrip(" ")[:1] == "!":
            shapes.append(_CALLED)
    return any(shape.search(before) is not None for shape in shapes)


class _Vocabulary(Struct, frozen=True, gc=False):
    alone: frozenset[str]
    """Those that count where there is nothing else."""
    anywhere: frozenset[str]
    adjectives: frozenset[str]
    verbs: frozenset[str]
    all: frozenset[str]


_YOU = ("you", "your", "youre", "you're")
_LEET = str.maketrans("013457@$!8", "oieastasib")
_DISGUISED = frozenset("013457@$!8'")
"""Signs one of which stands in a text where letters are written as something else."""


@functools.lru_cache(maxsize=16)
def _vocabulary(also: tuple[str, ...], allowed: tuple[str, ...]) -> _Vocabulary:
    listed = tomllib.loads(resources.files(__package__).joinpath("insults.toml").read_text("utf-8"))
    parts = ("slurs", "anywhere", "directed", "adjectives", "verbs")
    slurs, insults, nouns, adjectives, verbs = (frozenset(listed[p]) - {w.casefold() for w in allowed} for p in parts)
    alone = _with_plurals(slurs) | {w.casefold() for w in also}
    anywhere = alone | _with_plurals(insults)
    directed = _with_plurals(nouns) | adjectives
    return _Vocabulary(alone, anywhere, adjectives, verbs, anywhere | directed)


def _with_plurals(singular: frozenset[str]) -> frozenset[str]:
    return singular | {w + ("es" if w.endswith(("s", "sh", "ch", "x")) else "s") for w in singular}


_FILLERS = (
    r"(?:(?:all|such|just|really|truly|so|a|an|the|one|nothing but|complete|total|absolute|utter|real|little|big|old|"
    r"bloody|fucking|fuckin|goddamn|damn|dirty|filthy|fat|lazy|ugly|stupid|dumb|pathetic|worthless|useless|ignorant|"
    r"lying|bunch of|piece of|biggest|kind of|sort of|very|too|bit of a) ){0,5}"
)
_SOMEBODY = r"(?:he|she|they|(?:this|that|the) (?:user|customer|man|woman|guy|author|person|asker|boss|teacher))"
_TOWARDS = re.compile(
    rf"\b(?:(?:you|u|ur|you're|youre)(?: are| r| were)?|{_SOMEBODY}(?:'s|'re| is| are| was| were)) {_FILLERS}\Z"
)
_YOUR = re.compile(rf"\b(?:your|ur) {_FILLERS}\Z")
_HEY = re.compile(rf"\b(?:hey|shut up|fuck off|go away),?(?: you)? {_FILLERS}\Z")
_WHAT_A = re.compile(rf"\b(?:what|such) an? {_FILLERS}\Z")
_ENDS = ("", ".", "!", ",", "?")
_CALLED = re.compile(rf", {_FILLERS}\Z")
_PART_OF_A_WORD = re.compile(r"[\w-]")
