"""Dangerous content: secrets in an answer, and what a classifier of the user's own finds."""

import functools
import re
from collections.abc import Callable
from typing import Annotated, ClassVar

from msgspec import Meta

from flows.settings import import_object
from flows.supervision.case import TextRule
from flows.supervision.text import scanned
from schemas.decision import FindingAction

# Each with a piece of text that it has to hold, as looking for that is much quicker.
_SECRETS: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (what, pieces, re.compile(pattern))
    for what, pieces, pattern in (
        ("a private key", ("PRIVATE KEY",), r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
        ("an access key of AWS", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        (
            "a token of GitHub",
            ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
            r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,100})",
        ),
        (
            "an API key",
            ("sk-", "sk_live_", "rk_live_"),
            r"\b(?:sk-[A-Za-z0-9_-]{32,200}|[sr]k_live_[A-Za-z0-9]{16,200})",
        ),
        ("a token of Slack", ("xox",), r"\bxox[abeprs]-[A-Za-z0-9-]{10,200}"),
        ("an API key of Google", ("AIza",), r"\bAIza[0-9A-Za-z_-]{35}"),
        ("a token of GitLab", ("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20}"),
        ("a token of Hugging Face", ("hf_",), r"\bhf_[A-Za-z0-9]{30,60}\b"),
        ("a token of npm or PyPI", ("npm_", "pypi-"), r"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgEI[A-Za-z0-9_-]{50,300}"),
        ("a signed token", ("eyJ",), r"\beyJ[A-Za-z0-9_-]{10,200}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{20,1000}"),
    )
)
_CARD = re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d-]|\.\d)")
_BEGINS_CARD = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|5)")
_GROUPED = re.compile(r"\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5}")
_CARD_WORDS = ("card", "visa", "amex", "cvv", "cvc")
_HAS_13_DIGITS = re.compile(r"\d[ -]?(?:\d[ -]?){12}")


class Safety(TextRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Secrets: private keys, keys and tokens of well-known services, numbers of credit cards that check out.

    That an answer is harmful otherwise, no pattern can tell. `classifier` names a function of yours that may: it gets
    the text, and gives the reason why it may not pass, or nothing.
    """

    USE: ClassVar[str] = "safety"
    LEAST: ClassVar[int] = 13
    READS_WORDS: ClassVar[bool] = False

    action: FindingAction = "reject"
    secrets: bool = True
    classifier: Annotated[str, Meta(description="module:callable, (text) -> reason.")] = ""

    def __post_init__(self) -> None:
        """Import the classifier.

        Raises:
            RefusedError: there is none.
        """
        if self.classifier:
            _import(self.classifier)

    @property
    def least(self) -> int:
        """A classifier reads the shortest answer, too."""
        return 0 if self.classifier else self.LEAST

    def sees(self, text: str) -> tuple[str, str] | None:
        """Look for each kind of secret, and ask the classifier."""
        if self.secrets:
            read = scanned(text)
            for what, pieces, pattern in _SECRETS:
                for piece in pieces:
                    if piece in read:
                        found = pattern.search(read)
                        if found is not None:
                            return f"it has {what}", masked(found[0])
                        break
            card = _card(read)
            if card:
                return "it has the number of a credit card", masked(card)
        if self.classifier:
            reason = _import(self.classifier)(text)
            if reason:
                return str(reason), ""
        return None


@functools.lru_cache(maxsize=64)
def _import(path: str) -> Callable[[str], str | None]:
    found: Callable[[str], str | None] = import_object(path, "classifier")
    return found


def masked(secret: str) -> str:
    """Show so much of a secret as tells which it is."""
    return f"{secret[:4]}… ({len(secret)} characters)"


def _card(text: str) -> str:
    """Find the number of a credit card: grouped as on a card, or in a text that speaks of one; "" is none."""
    if _HAS_13_DIGITS.search(text) is None:
        return ""
    low = text.lower()
    spoken_of = any(word in low for word in _CARD_WORDS)
    for found in _CARD.finditer(text):
        number = found[0]
        digits = re.sub("[ -]", "", number)
        if (
            _BEGINS_CARD.match(digits)
            and (spoken_of or _GROUPED.fullmatch(number))
            and len(set(digits)) > 1
            and _checks_out(digits)
        ):
            return number
    return ""


def _checks_out(digits: str) -> bool:
    """Luhn's check."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) << (place & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
