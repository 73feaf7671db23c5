"""Prompt injection seen in an answer: words that are meant for the model that reads them next, and not for people."""

import base64
import binascii
import re
from typing import ClassVar

from flows.supervision.case import TextRule
from flows.supervision.text import around, folded, scanned
from schemas.decision import FindingAction

_S = r"[\s*_'\"]{1,10}"
_INSTRUCTIONS = (
    r"(?:instructions?|prompts?|rules?|directions?|directives?|guidelines?|commands?|constraints?|messages?|context)"
)
_EARLIER = r"(?:previous|prior|above|earlier|preceding|foregoing|initial|original|existing|system|safety)"

# Each with words of which a text has to hold one, as looking for these is a hundred times quicker.
_PATTERNS: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (reason, words, re.compile(pattern, re.MULTILINE))
    for reason, words, pattern in (
        (
            "it tells its reader to ignore instructions",
            ("ignore", "disregard", "forget", "override", "bypass"),
            (
                rf"\b(?:ignore|disregard|forget|override|bypass){_S}(?:(?:all|any|every|everything|each|of|the|my|your|our|"
                rf"these|those|{_EARLIER}){_S}){{0,6}}(?:{_EARLIER}{_S}{_INSTRUCTIONS}|{_INSTRUCTIONS}{_S}"
                rf"(?:above|before|given|you{_S}(?:were|have|got)))\b"
                rf"|\b(?:ignore|disregard|forget){_S}(?:all{_S}(?:of{_S})?)?(?:your|my|these|the){_S}{_INSTRUCTIONS}\b"
                rf"|\b(?:ignore|disregard|forget){_S}(?:everything|all|anything){_S}(?:(?:that|which|of){_S})?"
                rf"(?:the{_S})?(?:above|before|you{_S}(?:were|have{_S}been){_S}told)\b"
            ),
        ),
        (
            "it gives its reader another role",
            ("you are now", "you're now", "from now on", "pretend to be", "act as", "pretend you"),
            (
                rf"\byou(?:{_S}are|'re){_S}now{_S}(?:dan\b|free{_S}(?:of|from)\b|jailbroken|unrestricted|unfiltered|"
                rf"in{_S}\w{{1,20}}{_S}mode|no{_S}longer{_S}(?:bound|restricted|an?{_S}(?:ai|assistant|language))|"
                rf"(?:(?:an?|the|my){_S})?(?:[\w-]{{1,20}}{_S}){{0,3}}(?:ai|llm|assistant|model|chatbot|bot|persona|agent|"
                rf"hacker|pirate|character|administrator|admin|root|system)\b)"
                rf"|\bfrom{_S}now{_S}on,?{_S}you(?:{_S}are|'re|{_S}will|'ll|{_S}must|{_S}shall|{_S}should)\b"
                rf"|\b(?:act{_S}as|pretend{_S}to{_S}be|pretend{_S}you(?:{_S}are|'re)){_S}(?:if{_S}you{_S}(?:are|were|had)"
                rf"{_S})?(?:an?{_S})?(?:dan\b|(?:unrestricted|unfiltered|uncensored|jailbroken|evil)\b)"
            ),
        ),
        (
            "it asks for, or sets, a system prompt",
            ("system prompt", "system message", "new instructions", "your instructions", "your prompt"),
            (
                rf"\b(?:reveal|print|show|repeat|output|leak|tell{_S}me|give{_S}me|display){_S}(?:me{_S})?"
                rf"(?:all{_S}(?:of{_S})?)?"
                rf"(?:your|the){_S}(?:(?:hidden|secret|full|entire|initial|original){_S})?"
                rf"(?:system{_S}(?:prompt|message)|instructions|prompt)\b"
                rf"|^[ \t#*\[]{{0,8}}(?:new|updated|real){_S}(?:system{_S})?instructions[*\]]{{0,3}}:"
                r"|^[ \t#*\[]{0,8}system (?:prompt|message)[*\]]{0,3}:"
            ),
        ),
        (
            "it has a mark of a chat's template",
            ("<|", "[inst]", "[/inst]", "<<sys>>", "<start_of_turn>", "<end_of_turn>", "<system>", "</system>"),
            r"<\|[a-z_]{2,40}\|>|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|</?system>",
        ),
        (
            "it has a call of a tool",
            ("tool_call", "function_call", "tool_use", "invoke"),
            r"</?(?:[a-z]{1,20}:)?(?:tool_calls?|function_calls?|tool_use|invoke)\b[^<>]{0,200}>|\[tool_calls\]",
        ),
        (
            "it has a turn of a chat",
            ("### system", "### instruction", "### human", "### user", "### assistant"),
            r"^[ \t]{0,3}### {0,3}(?:system|instructions?|human|user|assistant) {0,3}:",
        ),
    )
)
_LETTERS = re.compile(r"[A-Za-z0-9+/]{40,4000}={0,2}")
_ENCODED_RUNS = 20
_HIDDEN = re.compile(
    r"[\u200b\u2060-\u2064\ufeff\u180e]{4,}"  # a text that is written in them
    r"|(?<!\U0001f3f4)(?<![\U000e0000-\U000e007f])[\U000e0000-\U000e007f]{2}"  # letters for machines; flags too
    r"|[\u202d\u202e]"  # the writing direction is turned
)


class Injection(TextRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Instructions to ignore instructions, roles, marks of chat templates, calls of tools; also in base64, or unseen.

    It knows common wordings, in English. It is a net with holes: whoever wants to get through does.
    """

    USE: ClassVar[str] = "injection"
    LEAST: ClassVar[int] = 6

    action: FindingAction = "reject"

    def sees(self, text: str) -> tuple[str, str] | None:
        """Look for each of the patterns."""
        if not text.isascii():
            found = _HIDDEN.search(scanned(text))
            if found is not None:
                return "it has letters that cannot be seen", ascii(found[0][:20])
        return _spoken(folded(text)) or (_encoded(scanned(text)) if len(text) >= 40 else None)


def _spoken(low: str) -> tuple[str, str] | None:
    for reason, some, pattern in _PATTERNS:
        for word in some:
            if word in low:
                found = pattern.search(low)
                if found is not None:
                    return reason, around(low, *found.span())
                break
    return None


def _encoded(text: str) -> tuple[str, str] | None:
    """Look into what is written in base64."""
    if max(map(len, text.split()), default=0) < 40:
        return None
    for run, found in enumerate(_LETTERS.finditer(text)):
        if run >= _ENCODED_RUNS:
            break
        letters = found[0].rstrip("=")
        try:
            hidden = base64.b64decode(letters[: len(letters) // 4 * 4], validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            continue
        seen = _spoken(hidden.lower())
        if seen is not None:
            return f"{seen[0]}, in base64", seen[1]
    return None
