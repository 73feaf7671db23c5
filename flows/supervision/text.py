"""A text as the policies that look for words read it: bounded, and with the usual disguises taken off."""

import functools
import unicodedata

SCANNED = 100_000
"""Characters of an answer that are read; of a longer one the beginning and the end, half of it each."""
SHOWN = 60
"""Characters on each side of what was found, as its evidence."""

ZERO_WIDTH = "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff\u00ad\u180e"
_PLAIN = {
    **dict.fromkeys(map(ord, ZERO_WIDTH)),
    **dict.fromkeys(range(0xE0000, 0xE0080)),
    **str.maketrans("\u2018\u2019\u201c\u201d\u2010\u2011\u2013\u2014\u00a0", "''\"\"---- "),
    # Cyrillic and Greek letters that look like Latin ones
    **str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u03bf\u03b1", "aeopcyxisoa"),
}


def scanned(text: str) -> str:
    """Give so much of a text as is read."""
    if len(text) <= SCANNED:
        return text
    return f"{text[: SCANNED // 2]}\n{text[-SCANNED // 2 :]}"


@functools.lru_cache(maxsize=4)
def folded(text: str) -> str:
    """Give what is read of a text in small letters; letters that look alike, and invisible ones, are told apart."""
    text = scanned(text)
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).translate(_PLAIN).casefold()[: 2 * SCANNED]


@functools.lru_cache(maxsize=4)
def words(text: str) -> frozenset[str]:
    """Give the words of a folded text."""
    return frozenset(text.translate(_BETWEEN).split())


_BETWEEN = {n: " " for n in range(128) if not chr(n).isalnum() and chr(n) not in "'@$!"} | {ord("…"): " "}


def around(text: str, start: int, end: int) -> str:
    """Show what was found where it stands."""
    return " ".join(text[max(0, start - SHOWN) : end + SHOWN].split())
