"""A text as the policies read it."""

from flows.supervision.text import around, folded, scanned, words


def test_of_a_long_text_the_beginning_and_the_end_are_read() -> None:
    """Half of what is read each; a shorter one as it is."""
    assert scanned("ab" * 50_000) == "ab" * 50_000
    assert scanned("a" * 50_000 + "b" + "c" * 50_000) == "a" * 50_000 + "\n" + "c" * 50_000
    assert scanned("42") == "42"


def test_a_text_that_grows_by_being_folded_is_cut() -> None:
    """One letter may stand for eighteen."""
    assert len(folded("\ufdfa" * 20_000)) == 200_000


def test_letters_that_cannot_be_seen_are_taken_out() -> None:
    """Tags too, and nothing beside them."""
    assert folded("A Plain Text") == "a plain text"
    assert folded("A\u200bB\U000e0000\U000e007f") == "ab"
    assert folded("\U000e0080") == "\U000e0080"
    assert folded("\U000dffff") == "\U000dffff"


def test_letters_and_signs_that_look_alike_are_one() -> None:
    """Each by its own: curly quotes, dashes, a space that does not break, and letters of two other alphabets."""
    assert folded("\u2018\u2019\u201c\u201d") == "''\"\""
    assert folded("\u2010\u2011\u2013\u2014") == "----"
    assert folded("a\u00a0b") == "a b"
    assert folded("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455") == "aeopcyxis"
    assert folded("\u03bf\u03b1") == "oa"


def test_words_stand_between_signs() -> None:
    """The last sign of ASCII is one; what comes after it is not."""
    assert words("it's a-b c\x7fd e\x80f $g@h!") == {"it's", "a", "b", "c", "d", "e\x80f", "$g@h!"}


def test_evidence_is_shown_where_it_stands() -> None:
    """With sixty letters on each side, as far as there are."""
    assert around("a" * 100 + "found" + "b" * 100, 100, 105) == "a" * 60 + "found" + "b" * 60
    assert around("a found  b", 2, 7) == "a found b"
    assert around("found" + "b" * 100, 0, 5) == "found" + "b" * 60
