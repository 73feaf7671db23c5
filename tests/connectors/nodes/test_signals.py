"""Signals: which sums a text states, and whether they come out."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.nodes.signals import signals_of

AROUND = "We begin with what the question says, and then go on step by step: {} and so that is what we have found."


def sums(text: str, kind: str = "number") -> tuple[float, float]:
    """How many sums there are in a text, and how many are wrong."""
    found = signals_of(kind, AROUND.format(text))
    return found["sums"], found["wrong_sums"]


@pytest.mark.parametrize(
    "text",
    [
        "16 - 3 = 13",
        "$5 * 3 = $15",
        "2/5 * 4000 = 1600",
        "(2 + 3) * 4 = 20",
        "3 x 4 = 12",
        "3 \xd7 4 = 12",
        "1,200 + 300 = 1,500",
        "10 / 3 = 3.33",
        "10 / 4 = 2.5.",
        "16-3-4=<<16-3-4=9>>9",
        "-3 + 5 = 2",
        "the price is 7 + 8 = 15",
    ],
)
def test_a_sum_that_comes_out_is_no_signal_of_anything(text: str) -> None:
    """However it is written; results that are not whole are rounded."""
    assert sums(text) == (1.0, 0.0)


@pytest.mark.parametrize(
    "text", ["16 - 3 = 12", "2/5 * 4000 = 800", "$6.50 + $2 = $12", "12 \xd7 12 = 124", "10 / 3 = 3.5"]
)
def test_a_sum_that_does_not_come_out_is_seen(text: str) -> None:
    """By calculating it exactly."""
    assert sums(text) == (1.0, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "x = 5",
        "3 apples + 4 apples = 7 apples",
        "20% * 50 = 10",
        "2 + 3 = 5 * 1",
        "a2 + 3 = 9",
        "5 == 5",
        "1/0 = 5",
        "= = =",
        "2^10 = 1024",
        "(2 + 3 = 5",
        "(1 + 2 5 = 9",
        "1 + 2 = " + "1" * 39 + "." + "5" * 39,
        "1 + " + "1" * 41 + " = 3",
    ],
)
def test_what_is_no_plain_sum_is_left_alone(text: str) -> None:
    """It may well be right."""
    assert sums(text)[1] == 0.0


def test_only_prose_that_calculates_is_looked_at() -> None:
    """An answer by itself has nothing to tell, and a text or a program is not calculated."""
    assert signals_of("number", "12") == {}
    assert signals_of("text", AROUND.format("1 + 1 = 3")) == {}
    assert sums("no sum at all") == (0.0, 0.0)


@given(st.text(alphabet="0123456789+-*/()=.,$ x\xd7÷<>%", max_size=400))
def test_any_text_is_looked_at(text: str) -> None:
    """Without an error, whatever it is made of."""
    found = signals_of("expression", text + " " * 60)
    assert 0 <= found["wrong_sums"] <= found["sums"] <= 400


@pytest.mark.unmeasured
@pytest.mark.parametrize("piece", ["1+", "=", "1=", "((((1", "<<", "9", "1,", "1 = 1 + 1 = 3 ", "x" * 30 + "="])
def test_a_long_text_takes_little_time(piece: str) -> None:
    """A megabyte of whatever is slowest."""
    text = piece * (1_000_000 // len(piece))
    began = time.process_time()
    signals_of("number", text)
    assert time.process_time() - began < 0.5
