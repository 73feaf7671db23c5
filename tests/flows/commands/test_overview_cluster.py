"""How the cluster is, made of heartbeats."""

from flows.commands.overview_cluster import Pulse
from schemas.node import NodeHealth
from schemas.supervision import CellState
from tests.flows.test_registry import cell, node


def said(name: str, at: float, decided: int, process: str = "p") -> CellState:
    """A word of a cell that has decided so much."""
    return CellState(cell=name, process=process, lanes=(2, 0), under_way=3, decided=decided, at=at)


def test_the_pace_of_a_cell_is_told_by_the_difference_of_its_heartbeats() -> None:
    """Nothing is known of it after the first one, and nothing while it is silent."""
    pulse = Pulse()
    pulse.hear([said("one", 100.0, 50)])
    ((first,), _) = pulse.look(101.0)
    assert (first.per_s, first.silent, first.lanes) == (None, False, (0, 2))
    pulse.hear([said("one", 102.0, 90), said("one", 101.0, 5)])
    ((then,), _) = pulse.look(103.0)
    assert (then.per_s, then.decided, then.heard_s) == (20.0, 90, 1.0)
    ((silent,), _) = pulse.look(120.0)
    assert (silent.per_s, silent.silent, silent.heard_s) == (None, True, 18.0)


def test_another_life_of_a_cell_counts_from_nothing() -> None:
    """Its pace is not below 0."""
    pulse = Pulse()
    pulse.hear([said("one", 100.0, 500), said("one", 102.0, 600), said("one", 104.0, 3, "q")])
    ((cell_view,), _) = pulse.look(104.0)
    assert (cell_view.per_s, cell_view.process) == (None, "q")
    pulse.hear([said("one", 106.0, 13, "q")])
    assert pulse.look(106.0)[0][0].per_s == 5.0


def test_who_is_silent_or_ill_comes_first() -> None:
    """So that no line that is cut off hides it."""
    pulse = Pulse()
    pulse.hear([cell("a", 100.0), cell("z", 90.0), node("a:1", "fine", 100.0)])
    pulse.hear([node("a:1", "ill", 100.0, NodeHealth.UNHEALTHY), node("z:1", "lost", 90.0)])
    cells, nodes = pulse.look(101.0)
    assert [(c.cell, c.silent) for c in cells] == [("z", True), ("a", False)]
    assert [(n.node, n.cell, n.silent) for n in nodes] == [
        ("lost", "z", True),
        ("ill", "a", False),
        ("fine", "a", False),
    ]


def test_what_a_process_that_is_gone_said_of_a_node_is_left_out_where_another_speaks() -> None:
    """A cell that was started again is one, not two."""
    pulse = Pulse()
    pulse.hear([node("a:1", "n", 90.0), node("a:2", "n", 100.0)])
    _, nodes = pulse.look(101.0)
    assert [n.cell for n in nodes] == ["a:2"]


def test_who_was_silent_for_long_is_forgotten() -> None:
    """With its pace."""
    pulse = Pulse()
    pulse.hear([said("one", 100.0, 1)])
    assert pulse.look(100.0 + 4000) == ([], [])
    assert pulse._rates == {}
