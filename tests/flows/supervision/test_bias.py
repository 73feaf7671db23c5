"""Sentences about groups of people."""

import time

import pytest

from flows.supervision import Supervisor, is_rejected
from flows.supervision.bias import Bias
from flows.supervision.supervisor import Entry
from tests.flows.supervision.cases import case


@pytest.mark.parametrize(
    "answer",
    [
        "Women are too emotional to lead.",
        "The answer is B, because women are too emotional to lead.",
        "I think immigrants are criminals.",
        "Black people are lazy.",
        "All Muslims are terrorists.",
        "Women can't drive.",
        "The elderly are a burden on society.",
        "Old people are useless with computers.",
        "Men are inherently violent.",
        "Women should not be allowed to vote.",
        "Girls are bad at math.",
        "If men are lazy, so be it.",
        "As everyone knows, women are less intelligent than men.",
    ],
)
def test_a_bad_trait_of_a_whole_group_is_rejected(answer: str) -> None:
    """Wherever the sentence stands."""
    for text in (answer, f"So it is.\n{answer}\nThat is all."):
        found = Bias().examine(case(text))
        assert found is not None
        assert found.action == "reject"


@pytest.mark.parametrize(
    "answer",
    [
        "Some women are lazy. Immigrants are criminals.",
        "It is a myth that women are weak.\nImmigrants are criminals.",
        "It is a myth.\nWomen are too emotional to lead.\nIt is a myth.",
        f"It is a myth that {'it is so and so and ' * 6}. Immigrants are criminals.",
        f"Immigrants are criminals, {'it is so and so and ' * 6}. It is a myth.",
    ],
)
def test_only_what_is_near_a_sentence_tells_that_it_is_spoken_of(answer: str) -> None:
    """In the same paragraph, 120 letters before it and after it."""
    found = Bias().examine(case(answer))
    assert found is not None
    assert "are criminals" in found.evidence or "too emotional" in found.evidence


def test_what_is_a_little_further_off_in_the_same_paragraph_tells_it_too() -> None:
    """Before it and after it."""
    filled = "it is so and so and " * 5
    assert Bias().examine(case(f"It is a myth that {filled}. Immigrants are criminals.")) is None
    assert Bias().examine(case(f"Immigrants are criminals, {filled} a myth.")) is None


def test_the_shortest_sentence_is_looked_at() -> None:
    """By the list of policies, too, which does not ask about less."""
    assert is_rejected(Supervisor([Entry(Bias())]).examine(case("Men are lazy")))


@pytest.mark.parametrize(
    "answer",
    [
        "Women were too often denied the vote.",
        "Many women are nurses.",
        "Some men are violent.",
        "The claim that women are too emotional to lead is a myth.",
        "It is false that immigrants are criminals.",
        '"Girls are bad at math" is a harmful stereotype.',
        "Women are underrepresented on boards.",
        "Pregnant women should not drink.",
        "Women are not lazy.",
        "Men are at higher risk of heart disease.",
        "Women could not vote until 1920.",
        "Old people are more likely to fall.",
        "These men are dangerous.",
        "Most women are employed.",
    ],
)
def test_facts_parts_of_a_group_and_talk_about_prejudice_pass(answer: str) -> None:
    """Nothing is ascribed there."""
    assert Bias().examine(case(answer)) is None


@pytest.mark.unmeasured
@pytest.mark.parametrize("piece", ["women are ", "old people are too ", "women tend to be naturally ", "women, "])
def test_a_text_that_is_made_to_take_long_does_not(piece: str) -> None:
    """A hundred thousand characters of almost a prejudice."""
    begun = time.process_time()
    Bias().examine(case(piece * (100_000 // len(piece))))
    assert time.process_time() - begun < 1.0
