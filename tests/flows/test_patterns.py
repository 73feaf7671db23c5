"""Regular expressions of users, put to answers of models."""

import time

import pytest

from flows.patterns import LONGEST, Pattern


def test_a_pattern_is_looked_for_or_is_to_fit_all() -> None:
    """Up to the last letter: a line end is one, too."""
    assert Pattern("[0-9]").fits("x1y")
    assert not Pattern("[0-9]", whole=True).fits("x1y")
    assert Pattern("a|bc", whole=True).fits("bc")
    assert not Pattern("a|bc", whole=True).fits("a\n")
    assert Pattern("é", whole=True).fits("é")


@pytest.mark.parametrize("text", ["(", "(?=a)", r"(a)\1", "a{2000}", "x" * (LONGEST + 1)])
def test_what_is_none_is_refused(text: str) -> None:
    """Look-around and references to groups, too, which would take what time they like."""
    with pytest.raises(ValueError, match=r"^no regular expression"):
        Pattern(text)


def test_no_pattern_takes_longer_than_its_text() -> None:
    """Python's own would still be at it when the sun is gone."""
    pattern = Pattern("(a+)+b")
    pattern.fits("a")
    began = time.process_time()
    assert not pattern.fits("a" * 10_000)
    assert time.process_time() - began < 1


def test_a_text_that_cannot_be_encoded_is_looked_at_all_the_same() -> None:
    """Half of a surrogate pair is some letter."""
    assert Pattern("a.b", whole=True).fits("a\ud800b")
