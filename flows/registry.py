"""The registry of cells and nodes: who is there, who is well, told by their heartbeats. Pure: times are handed in."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec import Struct

from schemas.node import NodeHealth, NodeState
from schemas.supervision import Alert, CellState

SILENT_AFTER_S = 8.0
"""Cells say how they are every two seconds."""
CELL_ALERTS = ("cell_silent", "cell_back")
NODE_ALERTS = ("node_unhealthy", "node_back")
"""Of the bad and the good."""
FORGOTTEN_AFTER_S = 3600.0

State = TypeVar("State", CellState, NodeState)


class Known(Struct):
    """A cell, or a node, as the registry has it."""

    name: str
    healthy: bool
    since: float
    """For how long it has been so, in seconds since the epoch."""


class Registry:
    """Takes heartbeats, and tells what has changed."""

    def __init__(self) -> None:
        self.cells: dict[str, CellState] = {}
        """The last word of each."""
        self.nodes: dict[tuple[str, str], NodeState] = {}
        """The last word of each cell on each node: (cell, node)."""
        self.known_cells: dict[str, Known] = {}
        self.known_nodes: dict[str, Known] = {}

    def hear(self, states: Iterable[CellState | NodeState]) -> None:
        """Take heartbeats; of two of one sender the younger counts."""
        for state in states:
            if isinstance(state, CellState):
                before = self.cells.get(state.cell)
                if before is None or before.at <= state.at:
                    self.cells[state.cell] = state
            else:
                earlier = self.nodes.get((state.cell, state.node))
                if earlier is None or earlier.at <= state.at:
                    self.nodes[state.cell, state.node] = state

    def look(self, now: float) -> list[Alert]:
        """Note who has fallen silent, or is back; forget who was stopped in order, or has long been away.

        A word from later than now, of a clock that was ahead, counts as one of now: it would otherwise be the last till
        then, also of one that is dead.

        Args:
            now: seconds since the epoch.
        """
        alerts: list[Alert] = []
        there = {n: s for n, s in self.cells.items() if not s.ended and now - s.at < FORGOTTEN_AFTER_S}
        self.cells = {n: _capped(s, now) for n, s in there.items()}
        self.nodes = {n: _capped(s, now) for n, s in self.nodes.items() if now - s.at < FORGOTTEN_AFTER_S}
        for name, cell in self.cells.items():
            silent_s = now - cell.at
            lanes = ", ".join(map(str, cell.lanes)) or "none"
            told = (
                f"not heard of for {silent_s:.0f} s; it had the lanes {lanes}",
                f"heard again, with the lanes {lanes}",
            )
            self._note(self.known_cells, name, silent_s < SILENT_AFTER_S, CELL_ALERTS, told, now, alerts)
        by_node: dict[str, list[NodeState]] = {}
        for (_, node), state in self.nodes.items():
            by_node.setdefault(node, []).append(state)
        for name, states in by_node.items():
            fresh = [s for s in states if now - s.at < SILENT_AFTER_S]
            if not fresh:
                continue  # nobody is there to tell
            bad = [s for s in fresh if s.health is NodeHealth.UNHEALTHY]
            told = f"unhealthy in all of {len(fresh)} cells", f"well in {len(fresh) - len(bad)} of {len(fresh)} cells"
            self._note(self.known_nodes, name, len(bad) < len(fresh), NODE_ALERTS, told, now, alerts)
        for known, present in ((self.known_cells, self.cells), (self.known_nodes, by_node)):
            for name in known.keys() - present.keys():
                del known[name]
        return alerts

    @staticmethod
    def _note(
        known: dict[str, Known],
        name: str,
        healthy: bool,  # noqa: FBT001 - one of two words for each
        kinds: tuple[str, str],
        told: tuple[str, str],
        now: float,
        alerts: list[Alert],
    ) -> None:
        before = known.get(name)
        if before is None:
            before = known[name] = Known(name, healthy=True, since=now)
        if before.healthy is not healthy:
            known[name] = Known(name, healthy, now)
            alerts.append(Alert(kind=kinds[healthy], subject=name, text=told[healthy], at=now))


def _capped(state: State, now: float) -> State:
    return msgspec.structs.replace(state, at=now) if state.at > now else state
