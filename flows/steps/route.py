"""route: which models on which nodes are asked in this round, and what.

Every model that serves the topic is asked once.
"""

from collections.abc import Callable, Collection, Sequence

from msgspec import Struct

from flows.lane import Message
from flows.steps.intake import Work
from schemas.node import Call, NodeCapabilities
from schemas.task import Allowance, PayloadView, PromptMessage, TaskDescriptor

Render = Callable[[str, PayloadView, str | None, str], tuple[PromptMessage, ...]]

BUDGET_SPENT = "budget_spent"
"""The reason of a task that ended because nothing was left to spend."""


class Routed(Struct, frozen=True, gc=False):
    """A message with the calls of its round; none where intake or the router already knows what becomes of it."""

    message: Message
    handed_at: float
    calls: tuple[Call, ...]
    reserves: tuple[Call, ...] = ()
    """Asked one by one: when a call fails for good, and while answers do not suffice where the round escalates."""
    escalates: bool = False
    routing: str = ""
    """What is asked, and why."""
    allowance: Allowance | None = None
    """What the round may spend; None where nothing is limited."""
    refusal: tuple[str, str] | None = None
    """Why no model can be asked: reason and detail."""


class Router:
    """Chooses the calls of a round.

    Args:
        nodes: what there is to ask now, with a number that rises when it changes.
        verifiers: the names of the registered checks.
        render: makes the chat of topic, payload, previous answer and critique; without it models are given the prompt.
    """

    def __init__(
        self,
        nodes: Callable[[], tuple[int, Sequence[NodeCapabilities]]],
        verifiers: Collection[str],
        render: Render | None = None,
    ) -> None:
        self._get_nodes = nodes
        self._version, self._nodes = nodes()
        self._verifiers = frozenset(verifiers)
        self._render = render
        self._by_topic: dict[str, tuple[tuple[str, str], ...]] = {}

    def route(self, message: Message, handed_at: float) -> Routed:
        """Name the calls of one round."""
        if message.verdict is not None:
            return Routed(message, handed_at, ())
        work: Work = message.body
        task = work.task
        view = work.view
        if view.verifier is not None and view.verifier not in self._verifiers:
            known = ", ".join(sorted(self._verifiers))
            detail = f"{view.verifier!r} is none of {known}; name it in AUREON_VERIFIERS"
            return Routed(message, handed_at, (), refusal=("unknown_verifier", detail))
        version, nodes = self._get_nodes()
        if version != self._version:
            self._version, self._nodes = version, nodes
            self._by_topic.clear()
        serving = self._serving(task.topic)
        if not serving:
            known = ", ".join(sorted({t for n in self._nodes for t in n.topics}))
            detail = f"no node serves the topic {task.topic!r}; there are nodes for: {known}"
            return Routed(message, handed_at, (), refusal=("no_node", detail))
        prompt, kind = view.text, view.answer_kind.value
        origin = task.origin
        answer, critique = (origin.answer, origin.critique) if origin is not None else (None, "")
        chat = self._render(task.topic, view, answer, critique) if self._render is not None else ()
        calls = tuple([_call(task, node, model, prompt, kind, chat) for node, model in serving])
        return Routed(message, handed_at, calls)

    def _serving(self, topic: str) -> tuple[tuple[str, str], ...]:
        found = self._by_topic.get(topic)
        if found is None:
            found = tuple((n.node, model) for n in self._nodes if n.serves(topic) for model in n.models)
            if len(self._by_topic) < 10_000:  # topics are the users' to invent; do not remember them without bound
                self._by_topic[topic] = found
        return found


def _call(
    task: TaskDescriptor, node: str, model: str, prompt: str, answer_kind: str, messages: tuple[PromptMessage, ...]
) -> Call:
    return Call(
        topic=task.topic,
        logical_id=task.logical_id,
        generation=task.generation,
        round_index=task.round_index,
        attempt=task.attempt,
        node=node,
        model=model,
        sample=0,
        prompt=prompt,
        answer_kind=answer_kind,
        messages=messages,
        previous_answer=task.origin.answer if task.origin is not None else None,
    )
