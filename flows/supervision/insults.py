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


class Insults(TextRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Insults and slurs, also where letters are written as `1`, `3`, `@` or `$`; swear words alone are not."""

    USE: ClassVar[str] = "insults"
    LEAST: ClassVar[int] = 3

    action: FindingAction = "reject"
    also: Annotated[tuple[str, ...], Meta(description="More words that insult wherever they stand.")] = ()
    allowed: Annotated[tuple[str, ...], Meta(description="Words of the list that do not count.")] = ()

    def sees(self, text: str) -> tuple[str, str] | None:
        """Look each word up, and those that it depends on in their sentence."""
        vocabulary = _vocabulary(self.also, self.allowed)
        low = folded(text)
        present = words(low)
        if not vocabulary.disguised.isdisjoint(low):
            for word in present:
                if not word.isalnum() or not (word.isalpha() or word.isdigit()):
                    plain = word.strip("'!").translate(_LEET)
                    if (len(plain) >= 4 and plain in vocabulary.all) or plain in _YOU:
                        low = low.replace(word, plain)
                        present |= {plain}
        for word in present & vocabulary.anywhere:
            found = re.search(rf"(?<![\w-]){re.escape(word)}(?!\w)", low)
            if found is not None:
                return "an insult", around(low, *found.span())
        for word in present & vocabulary.directed:
            found = _directed(word, word in vocabulary.adjectives).search(low)
            if found is not None:
                return "an insult", around(low, *found.span())
        return None


class _Vocabulary(Struct, frozen=True, gc=False):
    anywhere: frozenset[str]
    directed: frozenset[str]
    adjectives: frozenset[str]
    all: frozenset[str]
    disguised: frozenset[str]
    """Signs one of which stands in a text where letters are written as something else."""


_YOU = ("you", "your", "youre", "you're")
_LEET = str.maketrans("013457@$!8", "oieastasib")


@functools.lru_cache(maxsize=16)
def _vocabulary(also: tuple[str, ...], allowed: tuple[str, ...]) -> _Vocabulary:
    listed = tomllib.loads(resources.files(__package__).joinpath("insults.toml").read_text("utf-8"))
    anywhere, nouns, adjectives = (
        frozenset(listed[part]) - {w.casefold() for w in allowed} for part in ("anywhere", "directed", "adjectives")
    )
    anywhere = _with_plurals(anywhere) | {w.casefold() for w in also}
    directed = _with_plurals(nouns) | adjectives
    return _Vocabulary(anywhere, directed, adjectives, anywhere | directed, frozenset("013457@$!8"))


def _with_plurals(singular: frozenset[str]) -> frozenset[str]:
    return singular | {w + ("es" if w.endswith(("s", "sh", "ch", "x")) else "s") for w in singular}


_FILLERS = (
    r"(?:(?:all|such|just|really|truly|so|a|an|the|one|nothing but|complete|total|absolute|utter|real|little|big|old|"
    r"bloody|fucking|fuckin|goddamn|damn|dirty|filthy|fat|lazy|ugly|stupid|dumb|pathetic|worthless|useless|ignorant|"
    r"lying|bunch of|piece of|biggest|kind of|sort of|very|too|bit of a) ){0,5}"
)
_SOMEBODY = r"(?:he|she|they|(?:this|that|the) (?:user|customer|man|woman|guy|author|person|asker|boss|teacher|idiot))"


@functools.lru_cache(maxsize=512)
def _directed(word: str, is_adjective: bool) -> re.Pattern[str]:  # noqa: FBT001 - a private function's two kinds
    it = rf"{re.escape(word)}(?![\w-])"
    shapes = [
        rf"\b(?:you|u|ur|you're|youre)(?: are| r| were)? {_FILLERS}{it}",
        rf"\b{_SOMEBODY}(?:'s|'re| is| are| was| were) {_FILLERS}{it}",
    ]
    if is_adjective:
        shapes.append(rf"\b(?:your|ur) {_FILLERS}{it}")
    else:
        shapes += [
            rf"\b(?:what|such) an? {_FILLERS}{it}",
            rf", {_FILLERS}{it} ?!",
            rf"\b(?:hey|shut up|fuck off|go away),? (?:you )?{_FILLERS}{it}",
        ]
    return re.compile("|".join(shapes))
