"""An object in a process of its own."""

import os
from pathlib import Path

import pytest

from tests.chaos.beside import Beside


class Sum:
    """What is added up."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, number: int) -> int:
        """Add; below nothing is refused."""
        if number < 0:
            raise ValueError(f"{number} is below nothing")
        self.total += number
        return self.total

    def end(self, ended: Path) -> int:
        """End the process, the first time."""
        if not ended.exists():
            ended.touch()
            os.abort()
        return self.total


def test_it_keeps_what_it_holds_and_tells_what_it_raises() -> None:
    """As an object here would."""
    beside = Beside(Sum)
    assert [beside.ask(Sum.add, 2), beside.ask(Sum.add, number=3)] == [2, 5]
    with pytest.raises(ValueError, match="-1 is below nothing"):
        beside.ask(Sum.add, -1)
    assert beside.ask(Sum.add, 1) == 6
    beside.close()


def test_it_is_made_anew_where_its_process_ends(tmp_path: Path) -> None:
    """And asked again."""
    beside = Beside(Sum)
    assert beside.ask(Sum.add, 2) == 2
    assert beside.ask(Sum.end, tmp_path / "ended") == 0
    assert beside.ask(Sum.add, 2) == 2
    beside.close()
