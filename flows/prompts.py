"""What the models of a topic are told: pure, and quick where nothing is configured.

    first round    [system], user: first                            or the payload's own `messages`, as they are
    later rounds   the same, assistant: the answer so far, user: again

A kind of answer that is compared by its form (number, choice, expression) is asked for on a last line of its own,
`Answer: ...`: models reason better ahead of an answer than behind it, and `connectors/nodes/final_answer.py` finds that
line again. A text or a program is all of the reply, so nothing is put after such a question. None of that is measured
yet; a template of one's own replaces it.
"""

import re
from collections.abc import Mapping
from string import Template
from typing import Final

from msgspec import Struct

from connectors.nodes.final_answer import MARKED
from connectors.nodes.nodes_file import PromptTexts
from schemas.errors import RefusedError
from schemas.task import PayloadView, PromptMessage

DEFAULT_TOPIC: Final = "default"
ANSWER_LINE: Final = "End with a line `Answer: ...` that holds the final answer and nothing else."

_IN_FIRST = frozenset({"question"})
_IN_AGAIN = frozenset({"question", "answer", "critique"})


class _Compiled(Struct, frozen=True, gc=False):
    """The templates of a topic, as formats for `%`: four times as quick as `Template.substitute`."""

    system: str | None = None
    first: str | None = None
    again: str | None = None


class Prompts:
    """The prompts of all topics.

    Args:
        texts: the user's templates by topic; those of `default` are for what the others leave out.

    Raises:
        RefusedError: a template names something that there is not; says where, and what there is.
    """

    def __init__(self, texts: Mapping[str, PromptTexts]) -> None:
        default = texts.get(DEFAULT_TOPIC, PromptTexts())
        self._default = _compile(DEFAULT_TOPIC, default, default)
        self._by_topic = {topic: _compile(topic, own, default) for topic, own in texts.items()}
        self._configured = bool(texts)

    def messages(
        self, topic: str, view: PayloadView, previous_answer: str | None, critique: str
    ) -> tuple[PromptMessage, ...]:
        """Give the chat that a model is asked with.

        Args:
            topic: of the task.
            view: its payload.
            previous_answer: the leading answer of the round before; None in the first round, or where nobody answered.
            critique: what was found wrong with that round.
        """
        compiled = self._by_topic.get(topic, self._default) if self._configured else self._default
        chat = view.messages or self._first(compiled, view)
        if previous_answer is None and not critique:
            return chat
        return _continued(chat, _again(compiled, view, previous_answer, critique), previous_answer)

    def _first(self, compiled: _Compiled, view: PayloadView) -> tuple[PromptMessage, ...]:
        question = view.text
        if compiled.first is not None:
            text = compiled.first % {"question": question}
        else:
            text = f"{question}\n\n{ANSWER_LINE}" if view.answer_kind.value in MARKED else question
        if compiled.system is None:
            return (PromptMessage("user", text),)
        return (PromptMessage("system", compiled.system % {"question": question}), PromptMessage("user", text))


def _again(compiled: _Compiled, view: PayloadView, answer: str | None, critique: str) -> str:
    if compiled.again is not None:
        return compiled.again % {"question": view.text, "answer": answer or "", "critique": critique}
    wrong = f"What was found wrong with the answers so far: {critique}" if critique else "That answer is not sure yet."
    text = f"{wrong}\n\nWork it out anew, and correct it where it is wrong."
    return f"{text} {ANSWER_LINE}" if view.answer_kind.value in MARKED else text


def _continued(chat: tuple[PromptMessage, ...], again: str, answer: str | None) -> tuple[PromptMessage, ...]:
    if answer:
        return (*chat, PromptMessage("assistant", answer), PromptMessage("user", again))
    last = chat[-1]
    if last.role == "user":  # two in a row, which many a model's template refuses
        return (*chat[:-1], PromptMessage("user", f"{last.content}\n\n{again}"))
    return (*chat, PromptMessage("user", again))


def _compile(topic: str, own: PromptTexts, default: PromptTexts) -> _Compiled:
    def one(field: str, known: frozenset[str]) -> str | None:
        text: str | None = getattr(own, field)
        if text is None:
            text = getattr(default, field)
        return None if text is None else template(text, f"prompts.{topic}: {field}", known)

    return _Compiled(one("system", _IN_FIRST), one("first", _IN_FIRST), one("again", _IN_AGAIN))


def template(text: str, place: str, known: frozenset[str]) -> str:
    """Turn a `string.Template` into a format for `%`; what is put in is never read for `$` or `%` itself.

    Raises:
        RefusedError: a `$` that stands before none of the known names.
    """

    def replaced(match: re.Match[str]) -> str:
        if match["escaped"] is not None:
            return "$"
        name = match["named"] or match["braced"]
        if name in known:
            return f"%({name})s"
        there_are = ", ".join(f"${n}" for n in sorted(known))
        said = f"${name} is not known here" if name else "a $ that names nothing"
        raise RefusedError(f"{place}: {said}; there are: {there_are}, and $$ for a dollar sign")

    return Template.pattern.sub(replaced, text.replace("%", "%%"))
