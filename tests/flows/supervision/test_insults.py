"""Insults, and words that only look like them."""

import time

import pytest

from flows.supervision import Supervisor, is_rejected
from flows.supervision.insults import Insults, _vocabulary
from flows.supervision.supervisor import Entry
from tests.flows.supervision.cases import case


@pytest.mark.parametrize(
    "answer",
    [
        "You are an idiot.",
        "42. You stupid moron, go away.",
        "y0u are an 1d10t",
        "he wrote: a$$hole",
        "wogs",
        "Shut up, loser!",
        "What a loser you are!",
        "He is such a jerk.",
        "Only a moron would ask.",
        "Your stupid question again.",
        "you fucking idiots",
        "YOU ARE PATHETIC",
        "It is all a waste, idiot!",
        "You rat! You creep.",
        "you are such a worm to say so",
        "You are what they call 'moron'.",
        "You are a m0r0n!",
        "You\u2019re a worthless piece of trash.",
        "What a loser! Go home.",
        "It is all a waste, idiot! Go home.",
        "you idiot of a man",
        "Hey idiot come here",
        "you are a d0lt",
        "The jackasses came.",
        "They are nitwits.",
    ],
)
def test_an_insult_is_rejected(answer: str) -> None:
    """Whatever its letters look like."""
    found = Insults().examine(case(answer))
    assert found is not None
    assert (found.action, found.reason) == ("reject", "an insult")


@pytest.mark.parametrize(
    "answer",
    [
        "Scunthorpe, Penistone and Middlesex are in England.",
        "The assassin left the class; the cockpit was empty.",
        "Dick Cheney was vice president. Moby Dick is a whale.",
        "The Idiot is a novel by Dostoevsky.",
        "Fire retardant foam retards the growth.",
        "Kill the process; the execution failed: a stupid bug.",
        "What the hell. XXX is 30 in Roman numerals.",
        "you can use the tool, or a dummy variable",
        "You are not stupid.",
        "If you fool the filter, or you jerk the lever, they rat on you; then you git commit.",
        "It tells what a pig eats, and how such a worm lives.",
        "455 and 0xa55",
        "moron",
        "Whore.",
        "from sympy import And, Dummy",
        "The donkey and the pig are animals, and so is the rat.",
        "42",
        "You are an 0af",
        "The rat is here, you rational man.",
        "An oxy-moron is a figure of speech; so is a moron-like one.",
        "Yes.  The idiot asks: what are you ?",
    ],
)
def test_names_and_harmless_words_are_no_insults(answer: str) -> None:
    """A word is not enough where it has another sense."""
    assert Insults().examine(case(answer)) is None


def test_words_may_be_added_and_taken_out() -> None:
    """In the file."""
    policy = Insults(also=("Numpty",), allowed=("moron",))
    assert policy.examine(case("What a numpty.")) is not None
    assert policy.examine(case("Only a moron would ask.")) is None
    assert Insults(also=("boss",)).examine(case("you are 8055")) is None
    assert Insults(also=("boss",)).examine(case("you are 80ss")) is not None


def test_the_shortest_slur_is_found_and_shown() -> None:
    """By the list of policies, too, which does not ask about less."""
    supervisor = Supervisor([Entry(Insults())])
    assert is_rejected(supervisor.examine(case("wog")))
    assert is_rejected(Supervisor([Entry(Insults(also=("xy", "numpty")))]).examine(case("xy")))
    found = Insults().examine(case("x" * 100 + " You are an idiot. " + "y" * 100))
    assert found is not None
    assert found.evidence == "x" * 48 + " you are an idiot. " + "y" * 58


@pytest.mark.unmeasured
@pytest.mark.parametrize("piece", ["you are a ", "you stupid ", "a1 ", "idiot ", "such a ", "all of the list"])
def test_a_text_that_is_made_to_take_long_does_not(piece: str) -> None:
    """A hundred thousand characters of almost an insult."""
    if piece == "all of the list":
        piece = " ".join(sorted(_vocabulary((), ()).all)) + " "
    text = (piece * (100_000 // len(piece) + 1))[:100_000]
    begun = time.process_time()
    Insults().examine(case(text))
    assert time.process_time() - begun < 1.0


@pytest.mark.unmeasured
def test_thousands_of_disguised_words_take_no_longer() -> None:
    """Each of them is another one."""
    text = " ".join(f"xm0r0n{i}" for i in range(12_000))
    begun = time.process_time()
    assert Insults().examine(case(text)) is None
    assert time.process_time() - begun < 1.0
