"""Regular expressions that users write and models' answers are put to: RE2's, so none takes longer than its text.

Python's own `re` tries all ways in which nested repetitions can be meant: `(a+)+` and thirty letters take it minutes.
RE2 has no look-around and no references to groups, which is why it need not. pyarrow brings it.
"""

import re
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

LONGEST: Final = 10_000
"""Characters of a pattern."""


class Pattern:
    """A regular expression.

    Args:
        text: the expression.
        whole: all of a text has to match, and not some part of it.

    Raises:
        ValueError: it is none; says why.
    """

    def __init__(self, text: str, *, whole: bool = False) -> None:
        if len(text) > LONGEST:
            raise ValueError(f"no regular expression: {len(text):,} characters; it may have {LONGEST:,}")
        self._pattern = text
        try:
            re.compile(text)  # which refuses what RE2 takes for letters, as in `a{99999999999}`
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"no regular expression: {error}") from None
        try:
            self.fits("")
        except (pa.ArrowException, UnicodeEncodeError) as error:
            why = str(error).removeprefix("Invalid regular expression: ")
            raise ValueError(f"no regular expression as RE2 has them: {why}") from None
        if whole:
            self._pattern = rf"\A(?:{text})\z"

    def fits(self, text: str) -> bool:
        """Tell whether a text matches."""
        readable = pa.scalar(text.encode(errors="replace").decode())
        return bool(pc.match_substring_regex(readable, pattern=self._pattern).as_py())
