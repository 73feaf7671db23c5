"""What users name makes objects: what they make has to be one."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows.settings import make_object
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
