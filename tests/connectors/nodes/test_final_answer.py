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
        ("number", "#### 18.", "18"),
        ("number", "#### $18", "$18"),
        ("number", "#### 18 dollars", "18 dollars"),
        ("number", "It is 60 miles per hour.", "60 miles per hour"),
        ("number", "She ran 12 km on foot.", "12 km"),
        ("number", "That makes 12 in all", "12"),
        ("number", "The board is 12 in.", "12 in"),
        ("number", "so $3 million dollars in total", "$3 million dollars"),
        ("number", "He has 5 dozen eggs.", "5 dozen"),
        ("number", "Answer: 3 1/2 cups", "3 1/2"),
        ("number", "Answer: $\\frac{3}{4}$ cups", "\\frac{3}{4}"),
        ("number", "\\boxed{18\\%}", "18\\%"),
        ("number", "so 18% of them", "18%"),
        ("number", "The answer is twelve.", "twelve"),
        ("number", "Answer: 3.2 \\times 10^5", "3.2 \\times 10^5"),
        ("number", "Meet at 9:30 am", "9:30 am"),
        ("number", "Answer: 10-12", "10-12"),
        ("number", "**18**", "18"),
        ("number", "So she earns **$18** in 3 days.", "$18"),
        ("number", "First **5**.\n\nThen **7** of 9.", "7"),
        ("number", "Final Answer\n18", "18"),
        ("number", "It fell to -3.", "-3"),
        ("number", "Half of it is <<48/2=24>>24 then", "24"),
        ("number", "Half of it is <<48/2=24>>", "24"),
        ("number", "I don't know at first. But then it has to be 7.", "7"),
        ("choice", "I think option B is best.", "B"),
        ("choice", "All in all, (C) is right.", "C"),
        ("choice", "A long story.\n**B) Paris**", "B"),
        ("choice", "Answer: Option B", "B"),
        ("choice", "Answer: unknown", "unknown"),
        ("expression", "We find\nx^2 + 1", "x^2 + 1"),
        ("expression", "The derivative of all this is $2x + 1$.", "2x + 1"),
        ("expression", "Answer: x = 3 or x = -3", "x = 3 or x = -3"),
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
        ("expression", "Answer: 1, 2, 3, ...", "1, 2, 3, ..."),
        ("expression", "Answer: `\\[\\($\\text{x}$\\)\\]`", "\\text{x}"),
        ("number", "First 480 / 30 = 16, then 3 + 4 = 7. It is 16 hours for 480 miles", "16 hours"),
        ("number", "First 3 + 4 = 7. It is 16 hours for 480 miles", "480 miles"),
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


@pytest.mark.parametrize(
    "kind, text",
    [
        ("number", ""),
        ("number", "No idea."),
        ("number", "I don\u2019t know."),
        ("number", "Of 3 of them nothing is said, so it cannot be determined."),
        ("number", "There is not enough information, with 3 unknowns"),
        ("number", "I'm sorry, but I can't help with 3 of these."),
        ("number", "Answer: I don't know, 3 perhaps"),
        ("number", "Answer: unknown"),
        ("number", "It is hard to say."),
        ("number", "3 + 4 = "),
        ("number", "3 + 4 = <<3+"),
        ("number", "She pays 3 for each, so $"),
        ("number", "in all 45,000 + 12,00"),
        ("choice", "I can't answer that."),
        ("choice", "I do not know"),
        ("choice", "A long story.\nAnd more of it, with no end."),
        ("choice", "Answer: I don't know"),
        ("expression", "I'm not sure."),
        ("expression", "It depends on the function that one begins with"),
        ("expression", "Answer: cannot be determined"),
    ],
)
def test_a_model_without_an_answer_abstains(kind: str, text: str) -> None:
    """It does not know, refuses, was broken off, or wrote about something else."""
    assert not final_answer(kind, text)


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


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "answer: ",
        "final   ",
        "#### ",
        "1,",
        "A: \n",
        "****",
        "\\frac{",
        "$",
        "<<",
        "1/",
        "1:",
        "9 ",
        "**1",
        "option ",
        "i don't know ",
        "(A) ",
        "\n",
    ],
)
def test_a_long_text_takes_no_time(piece: str) -> None:
    """A model that has run wild, or means harm."""
    started = time.process_time()
    for kind in (*MARKED, "text"):
        final_answer(kind, piece * 100_000)
    assert time.process_time() - started < 1.0
