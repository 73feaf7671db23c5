"""Cuts, taken apart and put together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.cut_commits import MAX_COMMIT_METADATA_BYTES
from flows.cut import Cut, TopicCut, decode_cut, encode_cut, joined, newest, pieces_of
from schemas.errors import RefusedError

OFFSETS = st.integers(0, 1 << 53)
CAUSES = st.dictionaries(st.integers(0, 200), st.tuples(OFFSETS, st.integers(0, 100)), max_size=5)
CUTS = st.builds(
    Cut,
    lane=st.integers(0, 200),
    log=OFFSETS,
    resume_from=OFFSETS,
    topics=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.builds(TopicCut, OFFSETS, CAUSES), min_size=1),
    orderly=st.booleans(),
)


@given(CUTS)
def test_a_cut_comes_back_whole_from_its_pieces_and_in_one(cut: Cut) -> None:
    """Also in one piece, as commits once had it."""
    common, pieces = pieces_of(cut)
    assert joined(common, pieces) == cut
    assert joined(encode_cut(cut).decode(), dict.fromkeys(pieces, "")) == cut
    assert decode_cut(encode_cut(cut)) == cut


@given(CUTS, CUTS)
def test_pieces_of_two_cuts_are_none(cut: Cut, other: Cut) -> None:
    """One that is missing, or of another commit."""
    common, pieces = pieces_of(cut)
    for name in pieces:
        assert joined(common, {**pieces, name: ""}) is None
        if name in other.topics and other.log != cut.log:
            assert joined(common, {**pieces, name: pieces_of(other)[1][name]}) is None


def test_the_pieces_of_many_lanes_fit_into_a_commit() -> None:
    """In one piece they would not."""
    causes = {lane: (10_000_000 + lane, 7) for lane in range(150)}
    cut = Cut(0, 10_000_000, 10_000_000, {name: TopicCut(10_000_000, causes) for name in "abcd"})
    common, pieces = pieces_of(cut)
    assert all(len(text) <= MAX_COMMIT_METADATA_BYTES for text in (common, *pieces.values()))
    assert len(encode_cut(cut)) > MAX_COMMIT_METADATA_BYTES


def test_the_newest_cut_is_that_which_stands_for_most_of_the_log() -> None:
    """Whoever took it."""
    old, new = Cut(0, 5, 3, {}), Cut(0, 9, 1, {})
    assert newest(old, None, new) is new
    assert newest(None, None) is None


def test_a_cut_of_a_newer_version_is_refused() -> None:
    """And not read as something else, whatever its form is."""
    with pytest.raises(RefusedError, match="version 2, and this software reads 1: a newer Aureon wrote it"):
        decode_cut(encode_cut(Cut(0, 1, 1, {}, version=2)))
    with pytest.raises(RefusedError, match="version 3"):
        decode_cut(b'{"version":3,"lanes":[]}')
