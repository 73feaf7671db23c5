r"""The final answer within what a model wrote: pure.

Models reason first and say last what they found, each in its own way. Of the marks `#### x`, `Answer: x` and
`\boxed{x}` the last one counts; where there is none of them, the last `the answer is x`; then `A: x` at the beginning
of a line, since lists of choices look like that too. Where there is no mark at all, a number is what is bold in the
last paragraph; or else, of the last sentence with a number, the one that was calculated, or its last one. A choice or
an expression is what the last line says, if it says one. A model that does not know, refuses or is broken off has no
answer. `####` also begins a heading, which is no mark.
"""

import re
from collections import deque
from collections.abc import Iterator

from connectors.nodes.quantities import SCALES, UNITS, read

MARKED = frozenset({"number", "choice", "expression"})
"""Kinds of answer that a text is searched for; all others are the text itself."""
SEARCHED = 20_000
"""Characters from the end that are searched: what comes before is no last word."""
MARKS = 20
"""Marks of one kind that are looked at, from the end."""
LONGEST = 2_000
"""Characters of an answer."""
SENTENCE = 300
"""Characters in which a model says that it does not know, and those of a choice that is all there is."""

_THOUGHT_ENDS = re.compile(r"(?<![\"'`])</think>(?![\"'`])")
_MARK = re.compile(
    r"####[ \t]*+(?![A-Za-z]{2,}[ \t])"
    r"|\\boxed[ \t]*\{"
    r"|^[#* \t]{0,8}(?:final[ \t]+)?answer[ \t*:]{0,8}\r?\n[ \t]*"
    r"|\b(?:final[ \t]+)?answer[ \t*_]{0,8}(?:[ \t]is[ \t]*)?:[ \t*_]{0,8}(?:\r?\n[ \t]*){0,2}",
    re.IGNORECASE | re.MULTILINE,
)
_SAID_MARK = re.compile(r"\b(?:final[ \t]+)?answer[ \t]is\b[ \t*_]{0,8}(?:\r?\n[ \t]*){0,2}", re.IGNORECASE)
_FENCED = re.compile(r"^```[\w+-]*[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_LETTER_MARK = re.compile(r"^[ \t*]{0,8}A[ \t*]{0,4}:[ \t*]*", re.MULTILINE)
_SIGN = "[-+\u2212]"  # the last one, and the times sign below, as typesetters write them
_DIGITS = r"(?:\d+(?:,\d+)*(?:\.\d+)*|\.\d+)"
_NUMBER = re.compile(
    rf"(?:(?<![\w)]){_SIGN})?(?:[$€£¥₹] ?{_SIGN}?)?(?:\d{{1,9}} \d{{1,9}}/\d{{1,9}}"
    rf"|\d+(?::\d+)+(?: ?[ap]\.?m\b)?"
    rf"|{_DIGITS}(?:e[-+]?\d{{1,3}}(?!\w)| ?[\xd7x*] ?10\^\{{?-?\d{{1,3}}\}}?)?(?:/{_DIGITS})*)",
    re.ASCII | re.IGNORECASE,
)
_BEHIND = re.compile(r"[ -]?(?:[%¢€£$°][CF]?|[^\W\d_]{1,12}(?:[²³]|\^[23])?(?:/[a-z]{1,2}\b)?)")
_ENDS = re.compile(r"[*_\\})\]]*(?:[.,;:!?)\n]|$)")
_RANGE = re.compile(rf"(?:between )?[$€£]?{_DIGITS} ?(?:-|–|to|and|or) ?[$€£]?{_DIGITS}[^\d\n]{{0,40}}", re.ASCII)  # noqa: RUF001
_ANNOTATION = re.compile(r"<<[^<>\n=]{0,200}=([^<>\n=]{0,60})>>")
_BROKEN_OFF = re.compile(r"<<[^<>\n]{0,200}$|(?:(?<!\*)[-+*/=\xd7(]|[\s=]\$)\s*$")
_RESULT = re.compile(rf"=[ \t]{{0,4}}({_SIGN}?[$€£¥₹]?{_SIGN}?{_DIGITS})", re.ASCII)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_ONLY_A_NUMBER = re.compile(
    rf"{_SIGN}?[$€£¥]? ?[\d.,/_ ()^*\xd7·%]{{1,400}}|{_SIGN}?\\[dt]?frac\{{[-\d. ]+\}}\{{[-\d. ]+\}}", re.ASCII
)
_LATEX_FRACTION = re.compile(
    rf"{_SIGN}?(?:\d{{1,9}} ?)?\\[dt]?frac\{{[-\d. ]{{1,99}}\}}\{{[-\d. ]{{1,99}}\}}", re.ASCII
)
_NOT_KNOWN = (
    r"\b(?:i|we) (?:do not|don['’]t|cannot|can['’]t|could not|couldn['’]t) "  # noqa: RUF001 - as typesetters write it
    r"(?:know|tell|say|answer|determine|find|solve|be sure)\b|\bno idea\b"
    r"|\b(?:i am|i['’]m|we are) (?:not sure|unsure|unable)\b"  # noqa: RUF001
)
_DOES_NOT_KNOW = re.compile(_NOT_KNOWN, re.IGNORECASE)
_UNKNOWN = re.compile(
    _NOT_KNOWN + r"|\b(?:can(?:not|['’]t| not)|could not|couldn['’]t) be "  # noqa: RUF001
    r"(?:determined|answered|known|solved|found|computed|calculated)\b"
    r"|\b(?:not enough|insufficient|too little) (?:information|data|context)\b"
    r"|\b(?:is|are) (?:unknown|(?:impossible|not possible) to (?:say|tell|know|determine|find|answer))\b"
    r"|\bthere is no way to (?:know|tell|determine)\b",
    re.IGNORECASE,
)
_STOP = re.compile(r"[.!?;]\s|\n")
_NOTHING = re.compile(r"(?:unknown|none|n/a|not known|undetermined|indeterminate|\?+|-+|no answer)[.!]?", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\W{0,4}(?:(?:i['’]m|i am) (?:very |so |really )?sorry|sorry|i apologi[sz]e|unfortunately|as an ai)\b[^\n]{0,80}?"  # noqa: RUF001
    r"\b(?:can['’]?t|cannot|can not|unable|not able|won['’]t|could not|couldn['’]t)\b"  # noqa: RUF001
    r"|\W{0,4}i (?:can['’]t|cannot|won['’]t|will not|am unable to|am not able to) "  # noqa: RUF001
    r"(?:help|assist|comply|answer|do that|provide|fulfil|continue)",
    re.IGNORECASE,
)
_LETTERED = re.compile(
    r"(?:[Oo]ption|[Cc]hoice)\s\(?([A-Za-z])\)?(?:[).:,;\s].*)?|\(([A-Za-z])\)(?:\s.*)?|([A-Z])(?:[).:,;](?:\s.*)?|\s+(?:because|since|as)\b.*)",
    re.DOTALL,
)
_NAMED = re.compile(r"\b(?:[Oo]ption|[Cc]hoice)[ \t]\(?([A-Z])\b|(?<!\w)\(([A-Z])\)")
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|log|exp|sqrt|arc\w+|frac|and|inf\w*|pi)\b)[A-Za-z]{3,}(?![A-Za-z(])"
)
_MATHS = re.compile(r"\$([^$\n]{1,500})\$|\\\(([^\n]{1,500}?)\\\)|\\\[([^\n]{1,500}?)\\\]")
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
        The answer. Of the kinds in `MARKED`, "" where there is none: the model does not know, refuses, or was broken
        off. Of the others, the text itself, but for what was thought before it.
    """
    text = _said(text)
    if kind == "code":
        blocks = _FENCED.findall(text)
        return blocks[0].strip("\n") if len(blocks) == 1 else text
    if kind not in MARKED:
        return text
    searched = text[-SEARCHED:]
    if kind == "number":
        searched = _ANNOTATION.sub(_without_annotation, searched) if "<<" in searched else searched
    for marked in _marked(searched):
        found = _told(kind, marked)
        if found is not None:
            return found
    if _REFUSAL.match(text) or not text:
        return ""
    bare = {"number": _last_number, "choice": _bare_choice, "expression": _bare_expression}
    return bare[kind](searched)


def _told(kind: str, marked: str) -> str | None:
    """Read what follows a mark: the answer, "" where that is that there is none; None where it is no mark after all."""
    if kind == "choice":  # of which `unknown` may be one
        return _choice(marked) or ("" if _DOES_NOT_KNOW.search(marked[:SENTENCE]) else marked)
    if _NOTHING.fullmatch(marked) or _UNKNOWN.search(marked[:SENTENCE]):
        return ""
    # a mark without a number, as in `the answer is clear`, is none
    return (_number(marked) or None) if kind == "number" else marked


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


def _without_annotation(found: re.Match[str]) -> str:
    """Leave out what a model told its calculator: `<<48/2=24>>24`; the result stays where it is not said again."""
    behind = found.string[found.end() : found.end() + 2].lstrip("$ ")
    return "" if behind[:1].isdigit() or behind.startswith(("-", ".")) else found[1]


# -- numbers -----------------------------------------------------------------------------------------------------------


def _number(marked: str) -> str:
    """Of `12 apples` give 12, of `5 + 7 = 12 km` 12 km; what is a number as it stands stays as it is; "" is none."""
    if _ONLY_A_NUMBER.fullmatch(marked) and any(map(str.isdigit, marked)):
        return marked
    if _RANGE.fullmatch(marked):
        return marked  # no number, and not the first of the two
    first = _NUMBER.search(marked)
    whole = read(marked)
    if whole is not None:
        found = _with_unit(marked, first) if first is not None else ""
        return found if found and read(found) == whole else marked
    if (fraction := _LATEX_FRACTION.search(marked)) is not None:
        return fraction[0]
    before, _, last = marked.rpartition("=")
    after = None if _ASIDE.search(before) else _NUMBER.search(last)
    if after is not None:
        return _with_unit(last, after)
    return _with_unit(marked, first) if first is not None else ""


def _last_number(text: str) -> str:
    """The number of a text without a mark: what is bold in its last paragraph, or else the last one."""
    if _BROKEN_OFF.search(text[-SENTENCE:]):
        return ""
    paragraph = text[text.rstrip().rfind("\n\n") + 1 :]
    bold = [b[1] for b in _BOLD.finditer(paragraph[-SENTENCE:]) if _NUMBER.search(b[1])]
    if len(bold) == 1:
        return _number(_unwrapped(bold[0]))
    last = next(iter(deque(_NUMBER.finditer(text), maxlen=1)), None)
    if last is None:
        return text if read(text) is not None else ""  # `Twelve.`
    end = text[-SENTENCE:]
    for unknown in _UNKNOWN.finditer(end):
        stop = _STOP.search(end, unknown.end())
        if stop is None or last.start() < len(text) - len(end) + stop.start():
            return ""  # and no later sentence says more
    found = _with_unit(text, _concluded(text, last))
    return found if read(found) is not None else ""


def _concluded(text: str, last: re.Match[str]) -> re.Match[str]:
    """Of the sentence with the last number, the one that says what was calculated: 16 of `16 hours for 480 miles`."""
    begins = max((s.end() for s in _STOP.finditer(text, max(0, last.start() - SENTENCE), last.start())), default=0)
    begins = max(begins, last.start() - SENTENCE)
    said = list(_NUMBER.finditer(text, begins))
    if len(said) < 2:
        return last
    results = deque(_RESULT.finditer(text), maxlen=MARKS)
    here = [r for r in results if r.start() >= begins]
    wanted = here[-1:] or reversed(results)
    for result in wanted:
        value = read(result[1])
        for number in reversed(said):
            if value is not None and value == read(number[0]):
                return number
    return last


def _with_unit(text: str, found: re.Match[str]) -> str:
    """A number with the unit behind it, if there is one: `12 km` of `12 km on foot`, and 12 of `12 in all`."""
    start, end = found.span()
    ends: list[int] = []
    place = end
    while len(ends) < 3 and (match := _BEHIND.match(text, place)) is not None:
        place = match.end()
        ends.append(place)
    if ends and text[end : ends[0]].strip(" -").casefold() in SCALES and ends[0] - end > 1:  # `3 million dollars`
        end = ends.pop(0)
    for place in reversed(ends):
        words = text[end:place].strip(" -")
        may_be_other = words == "in" or (len(words) == 1 and words.isalpha())
        if (words in UNITS or words.casefold() in UNITS) and (not may_be_other or _ENDS.match(text, place)):
            return text[start:place]
    return text[start:end]


# -- choices and expressions -------------------------------------------------------------------------------------------


def _choice(text: str) -> str:
    """The letter of `(B) because …`, `B.` and `Option B`; "" is none."""
    lettered = _LETTERED.fullmatch(text)
    return str(next(filter(None, lettered.groups()))) if lettered is not None else ""


def _bare_choice(text: str) -> str:
    """The choice of a text without a mark: its letter, the only one that it names at last, or all of a short text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or _DOES_NOT_KNOW.search(text[-SENTENCE:]):
        return ""
    last = _unwrapped(lines[-1])
    if found := _choice(text) or _choice(last):
        return found
    named = {one or other for one, other in _NAMED.findall(last)}
    if len(named) == 1:
        return str(named.pop())
    bold = _BOLD.findall(last)
    if len(bold) == 1:
        return _choice(bold[0]) or _unwrapped(bold[0])
    return text if len(lines) == 1 and len(text) <= SENTENCE else ""


def _bare_expression(text: str) -> str:
    """The expression of a text without a mark: its last line, if that is not prose, or what is set as maths in it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or _UNKNOWN.search(text[-SENTENCE:]) or _NOTHING.fullmatch(text):
        return ""
    last = _unwrapped(lines[-1])
    if len(_PROSE.findall(last[:LONGEST])) < 3:
        return last[:LONGEST]
    set_apart = _MATHS.findall(last[-LONGEST:])
    return next(filter(None, set_apart[-1])).strip() if set_apart else ""
