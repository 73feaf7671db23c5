"""Whether a cascade may stop with the answers that there are."""

from typing import Any

from flows.affinity import Affinities
from flows.escalation import Escalation
from flows.items import Routed
from flows.lane import Message
from flows.policies import Value
from flows.steps.route import Strategy
from schemas.node import Answer
from tests.flows.steps.test_route import NODES, VERIFIERS, message, past_learning, router


def escalating(asked: Message, **more: Any) -> tuple[Escalation, Routed]:
    """A round of a cascade of three nodes that begins with one, and who judges it."""
    affinities = Affinities()
    cascade = past_learning(router(Strategy("cascade", 1), affinities=affinities))
    return Escalation(VERIFIERS, affinities, lambda: (1, NODES), 0.9, **more), cascade.route(asked, 100.0)


def answers(**texts: str) -> list[Answer]:
    """What each node said."""
    return [Answer(node=node, model="m", text=text) for node, text in texts.items()]


def test_a_cascade_stops_where_several_agree_and_not_at_one_models_word() -> None:
    """With the confidence that it is told."""
    asked, round_ = escalating(message())
    assert not asked.enough(round_, [])
    assert not asked.enough(round_, answers(a="42"))
    assert not asked.enough(round_, answers(a="42", b="7"))
    assert asked.enough(round_, answers(a="42", b="42"))


def test_a_cascade_stops_at_what_the_verifier_accepts() -> None:
    """One answer is enough then; several that it refuses are not."""
    asked, round_ = escalating(message(verifier="product"))
    assert asked.enough(round_, answers(a="42"))
    assert not asked.enough(round_, answers(a="7", b="7"))


def test_a_cascade_does_not_stop_at_one_models_word_in_good_form() -> None:
    """That it is a number makes it no better; that it is none makes it worthless."""
    asked, round_ = escalating(message(verifier="number"))
    assert not asked.enough(round_, answers(a="42"))
    assert asked.enough(round_, answers(a="42", b="42"))
    assert not asked.enough(round_, answers(a="no idea", b="no idea"))


def test_a_cascade_under_the_policy_of_value_asks_while_an_answer_is_worth_its_price() -> None:
    """One more is worth more to who pays more for a right answer, and less the surer one is already."""

    def stops(worth: float, *texts: str) -> bool:
        asked, round_ = escalating(message(), pays=Value(worth).pays)
        return asked.enough(round_, answers(**dict(zip("bca", texts, strict=False))))

    assert not stops(0.1, "42")
    assert stops(0.001, "42")
    assert not stops(0.1, "42", "7")
    assert stops(0.01, "42", "42")
