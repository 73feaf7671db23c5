"""The index of ids on its file."""

from pathlib import Path

import pytest

from connectors.owner_index import OwnerIndex
from flows.lane import Owner
from schemas.errors import RefusedError

A, B = b"a" * 16, b"b" * 16
ONE, TWO = Owner("tasks.global", 1, "x"), Owner("tasks.global", 2, "y")


def test_what_was_flushed_is_there_after_a_crash_and_what_was_not_is_not(tmp_path: Path) -> None:
    """The index says for which part of the log it stands."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    assert (index.is_new, index.next_offset) == (True, 0)
    index.put(A, ONE)
    index.flush(5)
    index.put(B, TWO)
    assert index.get(B) == TWO
    index.close()
    again = OwnerIndex(tmp_path / "i.sqlite")
    assert (again.is_new, again.next_offset) == (False, 5)
    assert again.get(A) == ONE
    assert again.get(B) is None
    again.close()


def test_the_first_owner_stays(tmp_path: Path) -> None:
    """A replay puts again what is there."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    index.put(A, ONE)
    index.flush(5)
    index.put(A, TWO)
    index.flush(3)
    assert index.next_offset == 5
    index.close()
    again = OwnerIndex(tmp_path / "i.sqlite")
    assert again.get(A) == ONE
    again.close()


def test_two_processes_never_share_a_lane(tmp_path: Path) -> None:
    """The second is told that each cell needs its own folder."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    with pytest.raises(RefusedError, match="its own state folder"):
        OwnerIndex(tmp_path / "i.sqlite")
    index.close()


def test_an_index_takes_from_elsewhere_what_it_lacks(tmp_path: Path) -> None:
    """In log order; the first one owns, and what it has stays."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    index.catch_up(iter([(A, ONE), (A, TWO)]), 4)
    assert (index.get(A), index.next_offset) == (ONE, 4)
    index.catch_up(iter([(A, TWO), (B, TWO)]), 9)
    assert (index.get(A), index.get(B), index.next_offset) == (ONE, TWO, 9)
    index.close()
