"""Whom the router asks: strategies, nodes in trouble, prices, and what an allowance pays for."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.topics import RETRY, TASKS
from flows.affinity import Affinities
from flows.budget import expected
from flows.items import Routed
from flows.judgement import BUDGET_SPENT
from flows.lane import Message, Sealer
from flows.orders import Orders
from flows.steps import route
from flows.steps.intake import Reading, classify
from flows.steps.route import LEARNING, MAX_ROUTING, Router, Strategy, read_strategy
from flows.steps.validate import built_in_verifiers
from schemas.errors import RefusedError
from schemas.node import Answer, Call, NodeCapabilities, NodeHealth, NodeState
from schemas.supervision import Quarantine, Stage
from schemas.task import Allowance
from tests.flows.ensemble import Ensemble

READING = Reading(0, 1, Sealer(b"k" * 32), 1 << 25, RETRY, 5.0)
NODES = [
    NodeCapabilities(node=n, models=("m",), price_in=p, price_out=p) for n, p in (("a", 4.0), ("b", 1.0), ("c", 2.0))
]
VERIFIERS = built_in_verifiers() | {"product": lambda _view, answer: answer == "42"}


def message(logical_id: str = "t", **payload: Any) -> Message:
    """A message with a good task."""
    task = {"topic": "math", "logical_id": logical_id}
    task["payload"] = {"prompt": "6*7", "answer_kind": "number", **payload}  # type: ignore[assignment]
    return classify(READING, TASKS, 3, msgspec.json.encode(task), 100.0)


def state(node: str, health: NodeHealth = NodeHealth.HEALTHY, **fields: Any) -> NodeState:
    """How a node is."""
    figures = dict.fromkeys(("load", "error_rate", "timeout_rate", "latency_s", "tokens_per_s", "last_seen", "at"), 0.0)
    counts = dict.fromkeys(("queue_depth", "active_calls", "limit", "calls"), 0)
    return NodeState(cell="here", node=node, health=health, **{**figures, **counts, **fields})


def router(
    strategy: Strategy | None = None,
    states: Mapping[str, NodeState] | None = None,
    affinities: Affinities | None = None,
    nodes: list[NodeCapabilities] = NODES,
) -> Router:
    """A router of three nodes of different prices."""
    return Router(lambda: (1, nodes), VERIFIERS, affinities, strategy, (lambda: states) if states is not None else None)


def names(calls: tuple[Call, ...]) -> str:
    """Who is asked, in order."""
    return "".join(call.node for call in calls)


def routed(strategy: Strategy | None = None, states: Mapping[str, NodeState] | None = None) -> Routed:
    """What is asked at a time at which no node in trouble was asked lately."""
    return router(strategy, states).route(message(), 100.0)


def past_learning(asked: Router) -> Router:
    """A cascade that knows its topic."""
    for i in range(LEARNING + 3):
        asked.route(message(f"early-{i}"), 100.0)
    return asked


@pytest.mark.parametrize(
    "text, strategy",
    [("all", Strategy()), ("best-3", Strategy("best", 3)), ("cascade", Strategy("cascade", 2, 0.9))],
)
def test_a_strategy_is_read(text: str, strategy: Strategy) -> None:
    """As the setting has it."""
    assert read_strategy(text, 2, 0.9) == strategy


@pytest.mark.parametrize("text", ["", "best", "best-0", "best-²", "best-x", "cascade-2", "any", "all-1"])
def test_another_strategy_is_refused_with_the_cure(text: str) -> None:
    """It says what there is."""
    with pytest.raises(RefusedError, match=re.escape(f"AUREON_ROUTING={text!r}: expected all, best-N")):
        read_strategy(text, 2, 0.9)


def test_all_are_asked_by_default_and_the_record_says_so() -> None:
    """In the order of the nodes."""
    round_ = routed()
    assert (names(round_.calls), names(round_.reserves), round_.escalates) == ("abc", "", False)
    assert round_.routing == "all 3: a/m, b/m, c/m"


def test_the_same_task_is_routed_the_same_way_again() -> None:
    """By whatever process; another task may not be."""
    first, second = (router(Strategy("best", 2)) for _ in range(2))
    asked = [names(first.route(message(str(i)), 100.0).calls) for i in range(50)]
    assert asked == [names(second.route(message(str(i)), 100.0).calls) for i in range(50)]
    assert len(set(asked)) > 3


def test_the_best_are_asked_and_the_others_are_reserves() -> None:
    """The record has the quality of each."""
    round_ = routed(Strategy("best", 2))
    assert sorted(names(round_.calls) + names(round_.reserves)) == ["a", "b", "c"]
    assert len(round_.calls) == 2
    assert not round_.escalates
    assert re.match(r"best-2 of 3: ./m 0\.60, ./m 0\.60; reserve ./m 0\.60", round_.routing)


def test_a_later_round_asks_one_more() -> None:
    """Two that differ need a third."""
    asked = message()
    asked.body = msgspec.structs.replace(asked.body, task=msgspec.structs.replace(asked.body.task, round_index=1))
    assert len(router(Strategy("best", 2)).route(asked, 100.0).calls) == 3


def test_of_equals_the_cheap_one_is_asked_more_and_so_is_the_one_that_weighs_more() -> None:
    """A little for the price, in proportion to the weight."""
    sure = [
        NodeCapabilities(node="dear", models=("m",), affinity={"*": 0.7}, price_out=9.0),
        NodeCapabilities(node="cheap", models=("m",), affinity={"*": 0.7}),
        NodeCapabilities(node="heavy", models=("m",), affinity={"*": 0.7}, weight=1.3),
    ]
    asked = router(Strategy("best", 1), nodes=sure)
    calls = [asked.route(message(str(i)), 100.0).calls[0].node for i in range(600)]
    assert calls.count("heavy") > calls.count("cheap") > calls.count("dear")


# -- a cascade -----------------------------------------------------------------------------------------------------


def test_a_cascade_asks_all_while_the_topic_is_new_and_then_the_cheap_ones_first() -> None:
    """The dearer ones wait, cheapest first."""
    asked = router(Strategy("cascade", 1, 0.9))
    assert names(asked.route(message(), 100.0).calls) == "bca"
    later = [past_learning(asked).route(message(str(i)), 100.0) for i in range(100)]
    climbing = [r for r in later if r.escalates]
    assert {(names(r.calls), names(r.reserves)) for r in climbing} == {("b", "ca")}
    assert len(climbing) >= 90
    assert climbing[0].routing == "cascade, 1 of 3: b/m 0.60; then c/m 0.60, a/m 0.60"


def test_what_a_cascade_stops_at_is_what_is_accepted() -> None:
    """It ends in the same round, with the same answer."""
    ensemble = Ensemble(NODES, Strategy("cascade", 1, 0.9))
    for i in range(200):
        said = {"a": "42", "b": "42" if i % 3 else f"{i}7", "c": "42" if i % 5 else f"{i}8"}

        def ask(call: Call, said: dict[str, str] = said) -> Answer:
            return Answer(node=call.node, model=call.model, text=said[call.node])

        decision = ensemble.task("math", str(i), ask)
        assert decision.result is not None
        assert decision.result.answer == "42" or decision.forced
        assert decision.round_index == 0 or not (i % 3 and i % 5)
    assert ensemble.calls["a"] < 0.6 * ensemble.calls["b"]


# -- nodes in trouble ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [state("b", NodeHealth.UNHEALTHY), state("b", NodeHealth.DEGRADED, open=("m",))], ids=["down", "breaker"]
)
def test_a_node_in_trouble_is_the_last_reserve_and_is_tried_once_a_second(trouble: NodeState) -> None:
    """So that it is found again; that call costs nothing while its breaker says no."""
    asked = router(states={"b": trouble})
    assert names(asked.route(message(), 100.0).calls) == "acb"
    between = asked.route(message(), 100.5)
    assert (names(between.calls), names(between.reserves)) == ("ac", "b")
    assert "reserve b/m" in between.routing
    assert names(asked.route(message(), 101.0).calls) == "acb"


def test_where_all_are_in_trouble_all_are_asked() -> None:
    """Nobody else can serve."""
    round_ = routed(states={n: state(n, NodeHealth.UNHEALTHY) for n in "abc"})
    assert names(round_.calls) == "abc"
    assert round_.routing == "nobody else serves: a/m, b/m, c/m"


def quarantined(*nodes: str, stage: Stage = Stage.QUARANTINED) -> list[bytes]:
    """Orders about nodes on the topic."""
    return [
        msgspec.json.encode(Quarantine(node=node, topic="math", stage=stage, why="noise", since=1.0)) for node in nodes
    ]


def test_a_quarantined_node_is_asked_in_a_tenth_of_the_rounds_to_learn_whether_it_is_fit() -> None:
    """Not as a reserve either; and the same task draws the same again."""
    orders = Orders()
    asked = Router(lambda: (1, NODES), VERIFIERS, orders=orders)
    assert names(asked.route(message(), 100.0).calls) == "abc"
    for order in quarantined("b"):
        orders.take_quarantine(order)
    rounds = [asked.route(message(f"t{i}"), 100.0) for i in range(1000)]
    assert {names(r.calls) for r in rounds} == {"ac", "acb"}
    probes = [r for r in rounds if names(r.calls) == "acb"]
    assert 70 < len(probes) < 130
    assert not any(r.reserves for r in rounds)
    assert rounds[0].routing.partition("; is ")[0].endswith("; quarantined: b/m")
    assert probes[0].routing.endswith("; is b/m fit again?")
    again = [asked.route(message(f"t{i}"), 200.0) for i in range(1000)]
    assert [names(r.calls) for r in again] == [names(r.calls) for r in rounds]


def test_a_node_that_is_free_or_on_probation_is_asked_as_any_other() -> None:
    """Also after it was in quarantine."""
    for stage in (Stage.PROBATION, Stage.FREE):
        orders = Orders()
        asked = Router(lambda: (1, NODES), VERIFIERS, orders=orders)
        for order in (*quarantined("b"), *quarantined("b", stage=stage)):
            orders.take_quarantine(order)
        assert names(asked.route(message(), 100.0).calls) == "abc"


def test_where_all_are_quarantined_all_are_asked() -> None:
    """Whatever they are worth, they are all there is."""
    orders = Orders()
    for order in quarantined("a", "b", "c"):
        orders.take_quarantine(order)
    assert names(Router(lambda: (1, NODES), VERIFIERS, orders=orders).route(message(), 100.0).calls) == "abc"


def test_a_model_that_has_to_be_loaded_costs_more_and_loses_ties() -> None:
    """In a cascade it is asked later."""
    nodes = [NodeCapabilities(node=n, models=("m",), load_cost=1.0) for n in ("cold", "warm")]
    asked = router(Strategy("cascade", 1), {"cold": state("cold"), "warm": state("warm", loaded=("m",))}, nodes=nodes)
    assert past_learning(asked).route(message(), 100.0).calls[0].node == "warm"


def test_nodes_that_change_are_noticed() -> None:
    """By the number that comes with them."""
    present: list[Any] = [1, NODES[:1]]
    asked = Router(lambda: (present[0], present[1]), VERIFIERS)
    assert names(asked.route(message(), 100.0).calls) == "a"
    present[:] = [2, NODES]
    assert names(asked.route(message(), 100.0).calls) == "abc"


# -- allowances ----------------------------------------------------------------------------------------------------


def test_of_what_is_left_the_cheapest_calls_are_paid_and_the_record_says_what_was_spared() -> None:
    """No call beyond the allowance."""
    round_ = router().route(message(), 100.0, Allowance(calls=2))
    assert (names(round_.calls), names(round_.reserves)) == ("bc", "")
    assert round_.routing.endswith("; not in the budget: a/m")
    assert round_.allowance == Allowance(calls=2)


def test_an_allowance_that_pays_for_nothing_ends_the_task() -> None:
    """With that reason, and what the cheapest call would take."""
    round_ = router().route(message(), 100.0, Allowance(cost=1e-9))
    assert not round_.calls
    assert round_.refusal is not None
    assert round_.refusal[0] == BUDGET_SPENT
    assert "b/m" in round_.refusal[1]


def test_where_the_best_is_too_dear_the_next_one_is_asked() -> None:
    """A task ends for its budget only where nobody can be paid."""
    best = NodeCapabilities(node="a", models=("m",), price_out=100.0, weight=9.0)
    second = NodeCapabilities(node="b", models=("m",), price_out=0.01)
    asked = router(Strategy("best", 1), nodes=[best, second])
    assert names(asked.route(message(), 100.0).calls) == "a"
    round_ = asked.route(message(), 100.0, Allowance(cost=0.001))
    assert (names(round_.calls), round_.refusal) == ("b", None)
    nothing = asked.route(message(), 100.0, Allowance(cost=1e-9))
    assert nothing.refusal is not None
    assert "b/m" in nothing.refusal[1]


@given(
    st.sampled_from([Strategy(), Strategy("best", 2), Strategy("cascade", 1, 0.9)]),
    st.none() | st.integers(0, 4),
    st.none() | st.integers(0, 5000),
    st.none() | st.floats(0, 0.01),
)
def test_no_round_asks_more_than_it_may_spend(
    strategy: Strategy, calls: int | None, tokens: int | None, cost: float | None
) -> None:
    """By what its calls are expected to take."""
    round_ = router(strategy).route(message(), 100.0, Allowance(calls=calls, tokens=tokens, cost=cost))
    taken = [expected(n, call) for call in round_.calls for n in NODES if n.node == call.node]
    assert calls is None or len(taken) <= calls
    assert tokens is None or sum(t for t, _ in taken) <= tokens
    assert cost is None or sum(c for _, c in taken) <= cost * (1 + 1e-9)
    assert bool(round_.calls) == (round_.refusal is None)


@given(st.integers(1, 40), st.sampled_from([Strategy(), Strategy("best", 2), Strategy("cascade", 1, 0.9)]))
def test_the_reason_is_bounded(count: int, strategy: Strategy) -> None:
    """However many nodes there are."""
    nodes = [NodeCapabilities(node=f"node-{i}", models=("a-model", "another")) for i in range(count)]
    assert 0 < len(router(strategy, nodes=nodes).route(message(), 100.0).routing) <= MAX_ROUTING


def test_topics_without_number_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for which there is none are asked about anew each time, and are new no longer than others."""
    monkeypatch.setattr(route, "MAX_TOPICS", 1)
    cascade = router(Strategy("cascade", 1, 0.9))
    for topic in ("math", "logic"):
        task = {"topic": topic, "logical_id": "t", "payload": {"prompt": "6*7"}}
        asked = classify(READING, TASKS, 3, msgspec.json.encode(task), 100.0)
        first = [cascade.route(asked, 100.0) for _ in range(LEARNING + 1)]
        assert len(first[0].calls) == len(first[-2].calls) == 3
        assert len(first[-1].calls) == (1 if topic == "math" else 3)
    assert list(cascade._by_topic) == list(cascade._begun) == ["math"]
