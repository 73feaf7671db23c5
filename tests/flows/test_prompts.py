"""What the models are told."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.nodes.nodes_file import PromptTexts
from flows.prompts import ANSWER_LINE, Prompts
from schemas.errors import RefusedError
from schemas.task import AnswerKind, PayloadView, PromptMessage

QUESTION = PayloadView(prompt="What is 6*7?", answer_kind=AnswerKind.NUMBER)
CHAT = (PromptMessage("system", "Be brief."), PromptMessage("user", "What is 6*7?"))


def said(
    prompts: Prompts, view: PayloadView, answer: str | None = None, critique: str = "", topic: str = "math"
) -> str:
    """The chat as one text."""
    return "\n".join(f"{m.role}: {m.content}" for m in prompts.messages(topic, view, answer, critique))


def test_a_kind_that_is_compared_by_its_form_is_asked_for_on_a_last_line() -> None:
    """A text or a program is all of the reply."""
    for kind in AnswerKind:
        (message,) = Prompts({}).messages("math", PayloadView(prompt="Why?", answer_kind=kind), None, "")
        assert message.role == "user"
        assert message.content.startswith("Why?")
        assert (ANSWER_LINE in message.content) is (kind in ("number", "choice", "expression"))


def test_a_chat_of_the_user_is_asked_as_it_is() -> None:
    """Whatever is configured."""
    view = PayloadView(messages=CHAT)
    assert Prompts({"math": PromptTexts(system="x", first="y")}).messages("math", view, None, "") == CHAT


def test_a_later_round_knows_the_answer_and_what_was_wrong_with_it() -> None:
    """In the order of a conversation."""
    chat = Prompts({}).messages("math", PayloadView(messages=CHAT), "41", "the models do not agree")
    assert chat[:2] == CHAT
    assert [m.role for m in chat[2:]] == ["assistant", "user"]
    assert chat[2].content == "41"
    assert "the models do not agree" in chat[3].content


def test_where_nobody_answered_no_two_messages_of_the_user_follow_each_other() -> None:
    """Many a model's template refuses that."""
    (message,) = Prompts({}).messages("math", QUESTION, None, "nobody answered")
    assert message.content.startswith("What is 6*7?")
    assert "nobody answered" in message.content
    prefilled = PayloadView(messages=(*CHAT, PromptMessage("assistant", "It is")))
    roles = [m.role for m in Prompts({}).messages("math", prefilled, None, "nobody answered")]
    assert roles == ["system", "user", "assistant", "user"]


def test_a_topic_without_its_own_template_has_the_default_one() -> None:
    """Each of the three by itself."""
    prompts = Prompts(
        {
            "default": PromptTexts(system="You are careful.", again="Wrong: $critique. You said $answer. $question"),
            "math": PromptTexts(first="Compute: ${question} for $$5"),
        }
    )
    assert said(prompts, QUESTION) == "system: You are careful.\nuser: Compute: What is 6*7? for $5"
    assert said(prompts, QUESTION, "41", "odd").endswith("user: Wrong: odd. You said 41. What is 6*7?")
    assert said(prompts, QUESTION, topic="logic").startswith("system: You are careful.\nuser: What is 6*7?\n\nEnd with")


@given(st.text(), st.text(min_size=1), st.text(min_size=1))
def test_what_is_put_into_a_template_is_never_read_as_one(question: str, answer: str, critique: str) -> None:
    """Not a dollar sign, not a percent sign."""
    prompts = Prompts({"default": PromptTexts(first="50% of $question", again="$critique|$answer|$question $$ %s")})
    first, before, again = prompts.messages("math", PayloadView(prompt=question), answer, critique)
    assert first.content == f"50% of {question}"
    assert before.content == answer
    assert again.content == f"{critique}|{answer}|{question} $ %s"


@pytest.mark.parametrize(
    "texts, problem",
    [
        (PromptTexts(first="$qestion"), "prompts.math: first: $qestion is not known here; there are: $question, and"),
        (PromptTexts(system="${answer}"), "prompts.math: system: $answer is not known here"),
        (PromptTexts(again="costs $5"), "prompts.math: again: a $ that names nothing; there are: $answer, $critique, "),
    ],
)
def test_a_template_that_names_nothing_is_refused(texts: PromptTexts, problem: str) -> None:
    """When it is read, and not with the first task."""
    with pytest.raises(RefusedError) as refused:
        Prompts({"math": texts})
    assert str(refused.value).startswith(problem)


@pytest.mark.unmeasured
def test_the_first_round_is_quick() -> None:
    """It is in the path of every round: about a microsecond; ten here, on a busy machine."""
    prompts = Prompts({})
    started = time.process_time()
    for _ in range(10_000):
        prompts.messages("math", QUESTION, None, "")
    assert (time.process_time() - started) / 10_000 < 10e-6
