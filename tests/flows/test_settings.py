"""What users name makes objects: what they make has to be one."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows.settings import make_object, read_settings
from schemas.errors import RefusedError


def good(given: int) -> Any:
    """Makes what it should."""
    return SimpleNamespace(name="good", judge=lambda: given)


def broken(_given: int) -> Any:
    """Fails."""
    raise KeyError("missing")


def refusing(_given: int) -> Any:
    """Says itself what is wrong."""
    raise RefusedError("not with that")


def test_an_object_is_made_of_what_is_given() -> None:
    """As it is."""
    assert make_object(good, "it", "judge", 7).judge() == 7


@pytest.mark.parametrize(
    "make, told",
    [
        (1, "it cannot be made: TypeError: 'int' object is not callable"),
        (broken, "it cannot be made: KeyError: 'missing'"),
        (refusing, "not with that"),
        (lambda _given: SimpleNamespace(judge=print), "it gave SimpleNamespace, which has no `name` or no `judge`"),
        (lambda _given: SimpleNamespace(name="x"), "it gave SimpleNamespace, which has no `name` or no `judge`"),
        (lambda _given: None, "it gave NoneType, which has no `name` or no `judge`"),
    ],
)
def test_what_is_none_is_refused(make: Any, told: str) -> None:
    """Before anything begins, and the message has the place."""
    with pytest.raises(RefusedError) as refused:
        make_object(make, "it", "judge", 7)
    assert str(refused.value) == told


@pytest.mark.parametrize("given, share", [("", (1, 1)), ("1/1", (1, 1)), ("2/3", (2, 3))])
def test_a_cell_is_told_which_one_it_is(given: str, share: tuple[int, int]) -> None:
    """From 1 on, of how many."""
    assert read_settings({"cell": given}, {}).cell_share == share


@pytest.mark.parametrize("given", ["0/3", "4/3", "3", "a/b", "1/3/5", "-1/3"])
def test_a_cell_that_is_none_is_refused(given: str) -> None:
    """With an example."""
    with pytest.raises(RefusedError, match="expected i/n, such as 2/3"):
        _ = read_settings({"cell": given}, {}).cell_share
