"""How things are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import RQMLRoundId, logical_id_of


@given(st.text(min_size=1), st.integers(0, 10**6))
def test_a_task_id_tells_its_logical_id(logical_id: str, round_index: int) -> None:
    """Whatever is in it."""
    assert logical_id_of(str(RQMLRoundId(logical_id, round_index))) == logical_id


@pytest.mark.parametrize("text", ["euler-1", "a:branch-0", "a:r1:branch-0", "a:r", "a:rx", "a:r-1", ""])
def test_what_is_no_task_id_names_none(text: str) -> None:
    """Not where a round stands in the middle, either."""
    assert logical_id_of(text) == ""
