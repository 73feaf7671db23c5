"""Settings that name an object: what they name has to be one."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows.settings import Settings, make_object
from schemas.errors import RefusedError

NUMBER = 1


def good(settings: Settings) -> Any:
    """Makes what it should."""
    return SimpleNamespace(name="good", judge=lambda: settings)


def nameless(_settings: Settings) -> Any:
    """Forgets the name."""
    return SimpleNamespace(judge=print)


def broken(_settings: Settings) -> Any:
    """Fails."""
    raise KeyError("missing")


def test_an_object_is_made_of_the_settings() -> None:
    """As they are."""
    settings = Settings()
    assert make_object(f"{__name__}:good", "policy", settings, "judge").judge() is settings


@pytest.mark.parametrize(
    "name, told",
    [
        ("NUMBER", "it cannot be made: TypeError: 'int' object is not callable"),
        ("broken", "it cannot be made: KeyError: 'missing'"),
        ("nameless", "it gave SimpleNamespace, which has no `name` or no `judge`"),
        ("nobody", "module 'tests.flows.test_settings' has no attribute 'nobody'"),
    ],
)
def test_what_is_none_is_refused(name: str, told: str) -> None:
    """Before anything begins, and the message names the setting."""
    with pytest.raises(RefusedError) as refused:
        make_object(f"{__name__}:{name}", "policy", Settings(), "judge")
    assert str(refused.value) == f"AUREON_POLICY='{__name__}:{name}': {told}"
