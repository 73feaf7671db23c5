r"""The final answer within what a model wrote: pure.

Models reason first and say last what they found, each in its own way. Of the marks `#### x`, `Answer: x` and
`\boxed{x}` the last one counts; where there is none of them, the last `the answer is x`; then `A: x` at the beginning
of a line, since lists of choices look like that too; and, of a question for a number, the last number where there is no
mark at all. `####` also begins a heading, which is no mark.
"""

import re
from collections.abc import Iterator

MARKED = frozenset({"number", "choice", "expression"})
"""Kinds of answer that a text is searched for; all others are the text itself."""
SEARCHED = 20_000
"""Characters from the end that are searched: what comes before is no last word."""
MARKS = 20
"""Marks of one kind that are looked at, from the end."""
LONGEST = 2_000
"""Characters of an answer."""

_THOUGHT_ENDS = re.compile(r"(?<![\"'`])</think>(?![\"'`])")
_MARK = re.compile(
    r"####[ \t]*+(?![A-Za-z]{2,}[ \t])"
    r"|\\boxed[ \t]*\{"
    r"|\b(?:final[ \t]+)?answer[ \t*_]{0,8}(?:[ \t]is[ \t]*)?:[ \t*_]{0,8}(?:\r?\n[ \t]*){0,2}",
    re.IGNORECASE,
)
_SAID_MARK = re.compile(r"\b(?:final[ \t]+)?answer[ \t]is\b[ \t*_]{0,8}(?:\r?\n[ \t]*){0,2}", re.IGNORECASE)
_FENCED = re.compile(r"^```[\w+-]*[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_LETTER_MARK = re.compile(r"^[ \t*]{0,8}A[ \t*]{0,4}:[ \t*]*", re.MULTILINE)
_SIGN = "[-+\u2212]"  # the last one, and the times sign below, as typesetters write them
_NUMBER = re.compile(
    rf"(?:(?<![\d)]){_SIGN})?(?:(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:e[-+]?\d{{1,3}})?(?:/\d+)?",
    re.ASCII | re.IGNORECASE,
)
_ONLY_A_NUMBER = re.compile(
    rf"{_SIGN}?[$€£¥]? ?[\d.,/_ ()^*\xd7·%]{{1,400}}|{_SIGN}?\\[dt]?frac\{{[-\d. ]+\}}\{{[-\d. ]+\}}", re.ASCII
)
_LETTERED = re.compile(r"\(([A-Za-z])\)(?:\s.*)?|([A-Z])(?:[).:,;](?:\s.*)?|\s+(?:because|since|as)\b.*)")
_ASIDE = re.compile(r"[,(;]|\bbecause\b|\bsince\b")
_PAIRS = (
    ("\\text{", "}"),
    ("**", "**"),
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("`", "`"),
    ("__", "__"),
)


def final_answer(kind: str, text: str) -> str:
    """Take the final answer out of a text.

    Args:
        kind: as `schemas.task.AnswerKind` has them.
        text: all that the model wrote.

    Returns:
        The answer; the text itself, but for what was thought before it, where its kind is none of `MARKED` or nothing
        is found.
    """
    text = _said(text)
    if kind == "code":
        blocks = _FENCED.findall(text)
        return blocks[0].strip("\n") if len(blocks) == 1 else text
    if kind not in MARKED:
        return text
    searched = text[-SEARCHED:]
    if kind == "number":
        # a mark without a number, as in `the answer is clear`, is none
        return next(filter(None, map(_number, _marked(searched))), "") or _last_number(searched) or text
    marked = next(_marked(searched), "")
    if kind == "choice":
        lettered = _LETTERED.fullmatch(marked or searched)
        if lettered is not None:
            return str(lettered[1] or lettered[2])
    return marked or text


def _said(text: str) -> str:
    """Leave out what a model thought aloud before its answer, where its server has not done so."""
    begun = text.lstrip().startswith("<think>") or "<think>" not in text  # its beginning may be in the prompt
    ends = list(_THOUGHT_ENDS.finditer(text)) if begun else []
    return text[ends[-1].end() :].strip() if ends else text.strip()


def _marked(text: str) -> Iterator[str]:
    """Give what follows each mark, the last one first, without what it is wrapped in."""
    for marks in (_MARK, _SAID_MARK, _LETTER_MARK):
        for mark in reversed(list(marks.finditer(text))[-MARKS:]):
            rest = text[mark.end() : mark.end() + LONGEST]
            if found := _unwrapped(_braced(rest) if mark[0].endswith("{") else rest.partition("\n")[0]):
                yield found


def _braced(text: str) -> str:
    """Give what stands before the brace that closes one opened just before; "" where none does."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return text[:place]
    return ""


def _unwrapped(text: str) -> str:
    text = text.strip()
    for _ in range(4):  # one in another; more is no answer
        shorter = text
        if not shorter.endswith("..."):
            shorter = shorter.removesuffix(".")
        for opening, closing in _PAIRS:
            inner = shorter[len(opening) : -len(closing)]
            if shorter == opening + inner + closing and inner and closing not in inner:
                shorter = inner
        shorter = shorter.removesuffix("**").strip()
        if shorter == text:
            break
        text = shorter
    return text


def _number(marked: str) -> str:
    """Of `12 apples` give 12, of `5 + 7 = 12` too; what is a number as it stands stays as it is; "" is none."""
    if _ONLY_A_NUMBER.fullmatch(marked) and any(map(str.isdigit, marked)):
        return marked
    before, _, last = marked.rpartition("=")
    found = (None if _ASIDE.search(before) else _NUMBER.search(last)) or _NUMBER.search(marked)
    return found[0] if found is not None else ""


def _last_number(text: str) -> str:
    found = ""
    for match in _NUMBER.finditer(text):
        found = match[0]
    return found
