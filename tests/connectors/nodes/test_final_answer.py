"""The final answer within a text, as models write it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.nodes.final_answer import MARKED, final_answer


@pytest.mark.parametrize(
    "kind, text, answer",
    [
        ("number", "16 - 3 = 13, and 13 * 2 is\n#### 1,200", "1,200"),
        ("number", "She makes $<<9*2=18>>18\nA: 18", "18"),
        ("number", "**Answer:** $\\boxed{\\frac{3}{4}}$.", "\\frac{3}{4}"),
        ("number", "**Answer: 42**", "42"),
        ("number", "### Final answer\nThe final answer is: **-5**", "-5"),
        ("number", "Answer:\n\n42\n", "42"),
        ("number", "Answer: 1/2", "1/2"),
        ("number", "The answer is 12 apples, since 3 + 9 = 12.", "12"),
        ("number", "Answer: 5 + 7 = 12 apples", "12"),
        ("number", "The answer is 5. No, wait. Answer: 7", "7"),
        ("number", "Answer: 7. The answer is clear.", "7"),
        ("number", "so she has 20-7 left", "7"),
        ("number", "so it falls by -7.5e3", "-7.5e3"),
        ("number", "\\boxed{1{2", "2"),
        ("number", "No idea.", ""),
        ("number", "<think>1, 2, 3</think>\nMany: 5", "5"),
        ("choice", "Answer: (B) because it is blue", "B"),
        ("choice", "B) the blue one", "B"),
        ("choice", "The answer is: b.", "b"),
        ("choice", "A: a knight\nB: a knave\nAnswer: Yes", "Yes"),
        ("choice", "Zoey is a knight, and Riley is a knave.", "Zoey is a knight, and Riley is a knave."),
        ("choice", "Answer: A knight", "A knight"),
        ("choice", "Answer: C, since it is blue", "C"),
        ("choice", "Answer: \\text{B}", "B"),
        ("choice", "Answer: B. My answer is final.", "B"),
        ("number", "#### Step 2\nso 7 * 6\n#### Result of it all\n42", "42"),
        ("number", "Answer: 12, since 3 + 9 = 13 - 1", "12"),
        ("expression", "Thus \\boxed{x^{2} + \\frac{1}{2}}", "x^{2} + \\frac{1}{2}"),
        ("expression", "Final answer: \\( x^2 + 1 \\)", "x^2 + 1"),
        ("expression", "Answer: $2x$ and $3x$", "$2x$ and $3x$"),
        ("expression", "x + 1", "x + 1"),
        ("text", " Answer: 42 \n", "Answer: 42"),
        ("text", "<think>so that</think>\n\nHello", "Hello"),
        ("text", "thought without its beginning</think>Hello", "Hello"),
        ("text", "Write <think>a</think> like this.", "Write <think>a</think> like this."),
        ("text", "<think>first</think>It says `</think>` there.", "It says `</think>` there."),
        ("text", "It says `</think>` there.", "It says `</think>` there."),
        ("code", "x = 1\n", "x = 1"),
        ("code", "Here it is:\n```python\nx = 1\n```\nIt sets x.", "x = 1"),
        ("code", "```\nx = 1\n```\nor\n```\nx = 2\n```", "```\nx = 1\n```\nor\n```\nx = 2\n```"),
    ],
)
def test_the_answer_is_found(kind: str, text: str, answer: str) -> None:
    """Whatever it is marked with, and whatever it is wrapped in."""
    assert final_answer(kind, text) == answer


@given(st.sampled_from(sorted(MARKED)), st.text(), st.integers())
def test_what_stands_on_the_last_line_is_the_answer(kind: str, reasoning: str, number: int) -> None:
    """After any reasoning."""
    assert final_answer(kind, f"{reasoning}\nAnswer: {number}") == str(number)


@given(st.sampled_from([*sorted(MARKED), "text"]), st.text(alphabet="Aa:.()#{}\\$* \n1-+/,answer") | st.text())
def test_an_answer_stands_in_its_text(kind: str, text: str) -> None:
    """It is never made up; a text is never without one."""
    answer = final_answer(kind, text)
    assert answer in text
    if kind == "text":
        assert bool(answer) == bool(text.strip()) or "</think>" in text


@pytest.mark.parametrize("piece", ["\\boxed{", "answer: ", "final   ", "#### ", "1,", "A: \n", "****", "\\frac{", "$"])
def test_a_long_text_takes_no_time(piece: str) -> None:
    """A model that has run wild, or means harm."""
    started = time.perf_counter()
    for kind in (*MARKED, "text"):
        final_answer(kind, piece * 100_000)
    assert time.perf_counter() - started < 1.0
