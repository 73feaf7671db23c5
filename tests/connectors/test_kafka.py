"""Settings of Kafka's clients, and a broker that does not answer."""

import logging
import time

import pytest

from connectors.kafka import client_config, preflight
from schemas.errors import RefusedError, TryAgainError


def test_unreachable_broker_is_told_within_ten_seconds_with_the_cure() -> None:
    """A wrong address must not hang the start; and a broker that is away may be back, so this is no refusal."""
    began = time.monotonic()
    with pytest.raises(TryAgainError, match=r"127\.0\.0\.1:1 \(.*refused.*AUREON_BROKERS"):
        preflight(client_config("127.0.0.1:1"))
    assert time.monotonic() - began < 10


def test_setting_that_the_guarantees_rest_on_is_refused() -> None:
    """A user's setting may add to Aureon's, and not undo it."""
    with pytest.raises(RefusedError, match="'acks' is Aureon's own"):
        client_config("127.0.0.1:1", {"acks": "1"})


def test_wrong_setting_is_refused_and_named() -> None:
    """The library's own words reach the user."""
    with pytest.raises(RefusedError, match=r"no\.such\.setting"):
        preflight(client_config("127.0.0.1:1", {"no.such.setting": "1"}))


def test_complaints_of_the_library_are_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that is away would fill the log."""
    with caplog.at_level(logging.DEBUG), pytest.raises(TryAgainError):
        preflight(client_config("127.0.0.1:9"), 2)
    assert sum("127.0.0.1:9" in r.getMessage() for r in caplog.records) == 1
