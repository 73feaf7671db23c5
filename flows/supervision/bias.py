"""Bias: a sentence that ascribes a bad trait to a whole group of people; English.

    group        women, black people, the elderly, immigrants, …          after no `some`, `many`, `these`
    generalised  are, are naturally, tend to be, can't, shouldn't, …
    trait        too emotional, lazy, inferior, criminals, lead, be trusted, …

Not where the sentence speaks of it: "that women are too emotional is a myth".
"""

import re
from typing import ClassVar

from flows.supervision.case import TextRule
from flows.supervision.text import around, folded, words
from schemas.decision import FindingAction

_PEOPLE = (
    r"(?:people|persons|folks?|men|women|males|females|boys|girls|kids|children|students|workers|employees|drivers)"
)
_ADJECTIVES = (
    "black|white|brown|asian|african|arab|jewish|muslim|christian|hindu|mexican|chinese|indian|latino|latina|hispanic|"
    "gay|lesbian|queer|trans|transgender|disabled|autistic|deaf|blind|old|older|elderly|young|poor|rich|homeless|fat|"
    "obese|foreign|indigenous|aboriginal|roma|immigrant|native american|african american|working-class|religious"
)
_PLURALS = (
    "women|men|girls|boys|females|males|wives|mothers|housewives|blondes|blacks|whites|jews|muslims|christians|hindus|"
    "catholics|atheists|arabs|mexicans|africans|asians|latinos|latinas|hispanics|indians|pakistanis|turks|poles|"
    "russians|germans|americans|italians|gypsies|immigrants|migrants|refugees|foreigners|gays|lesbians|homosexuals|"
    "transsexuals|feminists|millennials|boomers|pensioners"
)
_GROUP = (
    rf"(?:(?:{_ADJECTIVES}) {_PEOPLE}|{_PLURALS}|the (?:elderly|disabled|poor|homeless|unemployed|old|handicapped|"
    "irish|chinese|japanese|french|english))"
)
_ADVERB = (
    "(?:just|simply|naturally|inherently|innately|biologically|genetically|generally|typically|usually|always|all|"
    "mostly|basically|really|clearly|obviously|by nature|as a rule|far|much|often)"
)
_DEGREE = "(?:too|so|more|very|overly|such|just)"
_TRAIT = (
    rf"(?:(?:too|overly|so|more|very) (?:emotional|sensitive|soft|delicate|fragile|weak|slow|old|aggressive|bossy)"
    rf"|(?:{_DEGREE} )?(?:hysterical|irrational|illogical|lazy|stupid|dumb|inferior|unintelligent|ignorant|dishonest|"
    "greedy|stingy|violent|criminals?|terrorists?|thieves|liars|cheats|rapists|parasites|dirty|filthy|untrustworthy|"
    "unreliable|incompetent|incapable|unfit|unsuited|unqualified|dangerous|backward|primitive|savages?|animals|"
    "uncivili[sz]ed|sneaky|manipulative|promiscuous|perverts?|degenerates?|subhuman|vermin|a burden|a plague|weaker|"
    "inferior|no good)"
    "|(?:less|not(?: as)?) (?:intelligent|capable|rational|competent|smart|trustworthy|qualified|clever|civili[sz]ed|"
    "suited|cut out|fit|made)"
    "|(?:bad|terrible|worse|poor|hopeless|awful|useless|no good) (?:at|with|drivers|leaders|bosses|parents|mothers|"
    "managers|programmers|workers|engineers))"
)
_CANNOT = (
    r"(?:can't|cannot|can not|could never|should not|shouldn't|should never|are not able to|aren't able to|"
    "are unable to|will never be able to|don't know how to|do not know how to|don't deserve to|do not deserve to|"
    "must not|must never)"
)
_DO = (
    r"(?:lead|drive|think|reason|code|program|govern|manage|be trusted|do (?:math|maths|science)|be (?:leaders|bosses|"
    "engineers|managers|in charge|allowed)|control|handle|understand|run|work|fight|vote|have|raise|learn)"
)
_BIASED = re.compile(
    rf"\b(?:(?:all|most|every|those) )?(?P<group>{_GROUP})(?: (?:of today|today|in general|everywhere))? "
    rf"(?:{_ADVERB} )?(?:"
    rf"(?:are|were|tend to be|will always be|have always been|are known to be|make)(?: {_ADVERB}){{0,2}} {_TRAIT}"
    rf"|{_CANNOT} {_DO}|belong (?:in the kitchen|at home|in prison|in jail)|have no place in|lie and steal)\b"
)
_BEFORE = frozenset(
    [
        "all",
        "most",
        "every",
        "that",
        "because",
        "since",
        "as",
        "and",
        "but",
        "so",
        "obviously",
        "clearly",
        "think",
        "know",
        "say",
        "believe",
        "course",
        "for",
        "why",
        "whereas",
        "while",
        "is",
        "fact",
        "admit",
        "generally",
        "honestly",
        "frankly",
        "naturally",
        "if",
        "when",
        "although",
        "though",
        "yes",
        "or",
    ]
)
"""Words that a group may come after and still be all of it; `many`, `some`, `pregnant` and the like make it a part."""
_SPOKEN_OF = re.compile(
    r"\b(?:myths?|stereotyp\w{0,6}|claim\w{0,3}|assum\w{1,8}|prejudice\w{0,2}|notions?|beliefs?|misconceptions?|false|"
    r"falsehood|wrong|untrue|incorrect|harmful|unfair|racis[tm]\w{0,2}|sexis[tm]\w{0,2}|bias\w{0,3}|discriminat\w{1,6}|"
    r"not true|no evidence|offensive|fallac\w{1,4}|allege\w{0,3}|on average|statistically|outdated|accus\w{1,5}|"
    r"some say|some people|used to|once thought|propaganda)\b"
)
_HEARD = 120
"""Characters of the same paragraph before and after that tell whether the sentence is only spoken of."""
_LAST_WORDS = frozenset(
    f"{_PEOPLE[3:-1]}|folks|{_PLURALS}|elderly|disabled|poor|homeless|unemployed|old|handicapped|irish|chinese|japanese|french|"
    "english|folk".split("|")
)
"""With which the name of a group ends; a text without one of them is not searched."""


class Bias(TextRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bad trait, said of a whole group of people.

    It knows common groups, traits and wordings, in English. It is a net with holes, and knows no irony.
    """

    USE: ClassVar[str] = "bias"
    LEAST: ClassVar[int] = 12

    action: FindingAction = "reject"

    def sees(self, text: str) -> tuple[str, str] | None:
        """Look at each sentence about a group."""
        low = folded(text)
        if words(low).isdisjoint(_LAST_WORDS):
            return None
        for found in _BIASED.finditer(low):
            start, end = found.span()
            before = low[max(0, start - _HEARD) : start]
            last = before.rstrip()
            if last and last[-1].isalnum() and last.rpartition(" ")[2].rpartition("\n")[2] not in _BEFORE:
                continue
            near = before.rpartition("\n")[2] + low[start : end + _HEARD].partition("\n")[0]
            if _SPOKEN_OF.search(near) is None:
                return "it ascribes a bad trait to a whole group of people", around(low, start, end)
        return None
