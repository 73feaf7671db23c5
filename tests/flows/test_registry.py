"""Who is there, and who is well."""

from typing import Any

import msgspec

from flows.registry import SILENT_AFTER_S, Registry
from schemas.node import NodeHealth, NodeState
from schemas.supervision import CellState


def cell(name: str, at: float, *lanes: int) -> CellState:
    """A word of a cell on itself."""
    return CellState(cell=name, process=f"{name}:1", lanes=lanes, under_way=0, decided=0, at=at)


def node(of: str, name: str, at: float, health: NodeHealth = NodeHealth.HEALTHY) -> NodeState:
    """A word of a cell on a node."""
    nothing: dict[str, Any] = dict.fromkeys(("load", "error_rate", "timeout_rate", "latency_s", "tokens_per_s"), 0.0)
    counts: dict[str, Any] = dict.fromkeys(("queue_depth", "active_calls", "limit", "calls"), 0)
    return NodeState(cell=of, node=name, health=health, last_seen=at, at=at, **nothing, **counts)


def told(registry: Registry, now: float) -> list[tuple[str, str]]:
    """What has changed."""
    return [(a.kind, a.subject) for a in registry.look(now)]


def test_a_cell_that_falls_silent_and_comes_back_is_told_once_each() -> None:
    """By missed heartbeats."""
    registry = Registry()
    registry.hear([cell("one", 100.0, 0, 1), cell("two", 100.0, 2)])
    assert not told(registry, 101.0)
    registry.hear([cell("two", 110.0, 2)])
    late = 100.0 + SILENT_AFTER_S
    assert told(registry, late) == [("cell_silent", "one")]
    assert not told(registry, late + 1)
    registry.hear([cell("one", late + 2, 0)])
    assert told(registry, late + 2) == [("cell_back", "one")]


def test_a_cell_that_was_stopped_in_order_is_not_missed() -> None:
    """Until it is heard again."""
    registry = Registry()
    registry.hear([cell("one", 100.0, 0, 1)])
    assert not told(registry, 101.0)
    registry.hear([msgspec.structs.replace(cell("one", 102.0), ended=True)])
    assert not told(registry, 103.0)
    assert not registry.cells
    assert not told(registry, 103.0 + 2 * SILENT_AFTER_S)
    registry.hear([cell("one", 200.0, 0)])
    assert not told(registry, 201.0)
    assert told(registry, 200.0 + SILENT_AFTER_S) == [("cell_silent", "one")]


def test_a_node_is_unhealthy_when_all_who_ask_it_say_so() -> None:
    """One cell may have trouble of its own."""
    registry = Registry()
    bad = NodeHealth.UNHEALTHY
    registry.hear([node("one", "n", 100.0, bad), node("two", "n", 100.0)])
    assert not told(registry, 101.0)
    registry.hear([node("two", "n", 102.0, bad)])
    assert told(registry, 102.0) == [("node_unhealthy", "n")]
    registry.hear([node("one", "n", 103.0)])
    assert told(registry, 103.0) == [("node_back", "n")]


def test_an_older_word_changes_nothing() -> None:
    """Heartbeats of two lives of a root may be read in any order."""
    registry = Registry()
    registry.hear([cell("one", 105.0, 3), cell("one", 100.0, 0)])
    assert registry.cells["one"].lanes == (3,)


def test_a_clock_that_was_ahead_hides_no_later_word_and_no_death() -> None:
    """Neither of a cell nor of a node; a word from tomorrow is one of the look that first saw it."""
    registry, bad = Registry(), NodeHealth.UNHEALTHY
    registry.hear([cell("one", 100.0 + 86_400, 0), node("one", "n", 100.0 + 86_400)])
    assert not told(registry, 101.0)
    registry.hear([cell("one", 103.0, 7), node("one", "n", 103.0, bad)])
    assert told(registry, 103.0) == [("node_unhealthy", "n")]
    assert registry.cells["one"].lanes == (7,)
    assert told(registry, 103.0 + SILENT_AFTER_S) == [("cell_silent", "one")]


def test_who_has_long_been_away_is_forgotten() -> None:
    """A cluster that grows and shrinks leaves no traces for good."""
    registry = Registry()
    registry.hear([cell("one", 100.0), node("one", "n", 100.0)])
    told(registry, 101.0)
    told(registry, 100.0 + 4000)
    left = [registry.cells, registry.nodes, registry.known_cells, registry.known_nodes]
    assert not any(left)


def test_an_older_word_on_a_node_changes_nothing() -> None:
    """Nor does it make a node ill again."""
    registry = Registry()
    registry.hear([node("one", "n", 105.0), node("one", "n", 100.0, NodeHealth.UNHEALTHY)])
    assert registry.nodes["one", "n"].health is NodeHealth.HEALTHY
