"""Sentences about groups of people."""

import time

import pytest

from flows.supervision.bias import Bias
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


@pytest.mark.parametrize("piece", ["women are ", "old people are too ", "women tend to be naturally ", "women, "])
def test_a_text_that_is_made_to_take_long_does_not(piece: str) -> None:
    """A hundred thousand characters of almost a prejudice."""
    begun = time.process_time()
    Bias().examine(case(piece * (100_000 // len(piece))))
    assert time.process_time() - begun < 1.0
