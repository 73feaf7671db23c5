"""Secrets in an answer."""

import time

import pytest

from flows.supervision import Supervisor, is_rejected
from flows.supervision.safety import Safety
from flows.supervision.supervisor import Entry
from schemas.errors import RefusedError
from tests.flows.supervision.cases import case

# Put together here, so that nobody who looks for secrets in this file finds any.
TOKEN = "ghp_" + "a1B2" * 9
API_KEY = "sk-" + "proj-" + "abcdEFGH1234" * 4


@pytest.mark.parametrize(
    "answer,secret",
    [
        ("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE", "a private key"),
        ("The key is AKIA" + "IOSFODNN7EXAMPLE.", "an access key of AWS"),
        (f"token={TOKEN}", "a token of GitHub"),
        (f"export KEY={API_KEY}", "an API key"),
        ("Pay with 4111 1111 1111 1111.", "the number of a credit card"),
        ("3782 822463 10005", "the number of a credit card"),
        ("my visa is 4111111111111111", "the number of a credit card"),
        ("4200 9030 7897 5419", "the number of a credit card"),
    ],
)
def test_a_secret_is_rejected_and_not_told(answer: str, secret: str) -> None:
    """The evidence is enough to know which one it is, and no more."""
    found = Safety().examine(case(answer))
    assert found is not None
    assert (found.action, found.reason) == ("reject", f"it has {secret}")
    assert len(found.evidence.partition("…")[0]) == 4


@pytest.mark.parametrize(
    "answer",
    [
        "4111111111111111",
        "The product is 4111111111111111.",
        "4111 1111 1111 1112 is no number of a card",
        "3.14159265358979323846",
        "sk-learn is scikit-learn, and the private key stays secret.",
        "ISBN 978-3-16-148410-0, phone +49 170 1234567, 2026-11-27 10:00:00",
        "0000 0000 0000 0000",
        "card 44444444444444444",
        "card 9212690184134198",
    ],
)
def test_numbers_and_words_are_no_secrets(answer: str) -> None:
    """A sixteenth of all long numbers would pass as a card."""
    assert Safety().examine(case(answer)) is None


def no_weapons(text: str) -> str:
    """A user's own classifier."""
    return "it speaks of weapons" if "weapon" in text else ""


def test_a_classifier_of_ones_own_is_asked() -> None:
    """Besides the patterns, or in their place."""
    policy = Safety(secrets=False, classifier=f"{__name__}:no_weapons")
    found = policy.examine(case("How a weapon is built: first, take"))
    assert found is not None
    assert found.reason == "it speaks of weapons"
    assert policy.examine(case(f"token={TOKEN}")) is None
    for text, rejects in (("weapon", True), ("3 + 4", False)):
        assert is_rejected(Supervisor([Entry(policy)]).examine(case(text))) is rejects


def test_a_number_alone_may_be_a_secret() -> None:
    """The list of policies asks about texts without words, too."""
    assert is_rejected(Supervisor([Entry(Safety())]).examine(case("3782 822463 10005")))


def test_a_classifier_that_is_not_there_is_refused_at_once() -> None:
    """Before the first answer."""
    with pytest.raises(RefusedError, match="no_such_thing"):
        Safety(classifier=f"{__name__}:no_such_thing")


@pytest.mark.unmeasured
@pytest.mark.parametrize("piece", ["4111 ", "4 ", "sk-", "eyJa.eyJ", "-----BEGIN A ", "4111-1111-"])
def test_a_text_that_is_made_to_take_long_does_not(piece: str) -> None:
    """A hundred thousand characters of almost a secret."""
    begun = time.process_time()
    Safety().examine(case(piece * (100_000 // len(piece))))
    assert time.process_time() - begun < 1.0
