"""How the cluster is: its cells and nodes by what they said last on Kafka, and what waits there.

Pure: times and heartbeats are handed in.
"""

from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct

from flows.figures import KafkaFigures, Rate
from flows.registry import SILENT_AFTER_S, Registry
from schemas.node import NodeHealth, NodeState
from schemas.supervision import CellState


class CellView(Struct, frozen=True, kw_only=True):
    """A cell, as it said last."""

    cell: str
    process: str
    lanes: tuple[int, ...]
    under_way: int
    decided: int
    """Since its process began."""
    per_s: float | None
    """Decisions a second, over the last heartbeats; None where it is silent, or was heard only once."""
    heard_s: float
    """How many seconds ago that was."""
    silent: bool


class NodeView(Struct, frozen=True, kw_only=True):
    """A node, as a cell that uses it said last."""

    node: str
    cell: str
    health: NodeHealth
    active: int
    limit: int
    waiting: int
    """Calls that wait for a seat."""
    errors: float
    """Of the last calls, 0 to 1; those that timed out included."""
    timeouts: float
    latency_s: float
    """Median of the last calls that were answered."""
    tokens_per_s: float
    calls: int
    not_asked: tuple[str, ...]
    """Models whose circuit breaker is open."""
    silent: bool
    """No cell has said anything of it for a while."""


class Cluster(Struct, frozen=True, kw_only=True):
    """How the cluster is."""

    at: float
    """Seconds since the epoch."""
    broker: str | None = None
    broker_error: str | None = None
    """While the broker is away, cells and nodes are as they were."""
    kafka: KafkaFigures | None = None
    cells: list[CellView] = []
    """Silent ones first."""
    nodes: list[NodeView] = []
    """Those that are not well first."""

    @property
    def per_s(self) -> float:
        """Decisions a second, of all cells."""
        return sum(cell.per_s or 0.0 for cell in self.cells)

    @property
    def under_way(self) -> int:
        """Rounds whose calls are not all answered, in cells that are there."""
        return sum(cell.under_way for cell in self.cells if not cell.silent)


class Pulse:
    """What cells and nodes said last, and how fast each cell decides. Times are handed in."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._rates: dict[str, tuple[str, Rate, float | None]] = {}
        """By cell: its process, the rate of that, and what it told last."""

    def hear(self, states: Iterable[CellState | NodeState]) -> None:
        """Take heartbeats, in order."""
        for state in states:
            if isinstance(state, CellState):
                self._measure(state)
            self._registry.hear([state])

    def _measure(self, state: CellState) -> None:
        before = self._registry.cells.get(state.cell)
        if before is not None and before.at >= state.at:
            return
        process, rate, _ = self._rates.get(state.cell, ("", Rate(), None))
        if process != state.process:  # another life counts from 0
            self._rates[state.cell] = (state.process, rate := Rate(), None)
            rate.add(state.decided, state.at)
        else:
            self._rates[state.cell] = (process, rate, rate.add(state.decided, state.at))

    def look(self, now: float) -> tuple[list[CellView], list[NodeView]]:
        """Tell how cells and nodes are; who has been silent for an hour is forgotten.

        Args:
            now: seconds since the epoch.
        """
        self._registry.look(now)
        cells = [self._cell(state, now) for state in self._registry.cells.values()]
        for name in self._rates.keys() - self._registry.cells.keys():
            del self._rates[name]
        names = {state.process: state.cell for state in self._registry.cells.values()}
        by_node: dict[str, list[NodeState]] = defaultdict(list)
        for state in self._registry.nodes.values():
            by_node[state.node].append(state)
        nodes = []
        for states in by_node.values():
            # A process that has ended says nothing more: while another one does, its word is of no interest.
            fresh = [s for s in states if now - s.at < SILENT_AFTER_S]
            told = fresh or [max(states, key=lambda s: s.at)]
            nodes += [_node(s, names.get(s.cell, s.cell), silent=not fresh) for s in told]
        cells.sort(key=lambda c: (not c.silent, c.cell))
        return cells, sorted(nodes, key=lambda n: (not n.silent, _WELL.index(n.health), n.node, n.cell))

    def _cell(self, state: CellState, now: float) -> CellView:
        silent = now - state.at >= SILENT_AFTER_S
        return CellView(
            cell=state.cell,
            process=state.process,
            lanes=tuple(sorted(state.lanes)),
            under_way=state.under_way,
            decided=state.decided,
            per_s=None if silent else self._rates[state.cell][2],
            heard_s=max(0.0, now - state.at),
            silent=silent,
        )


_WELL = (NodeHealth.UNHEALTHY, NodeHealth.DEGRADED, NodeHealth.HEALTHY)


def _node(state: NodeState, cell: str, *, silent: bool) -> NodeView:
    return NodeView(
        node=state.node,
        cell=cell,
        health=state.health,
        active=state.active_calls,
        limit=state.limit,
        waiting=state.queue_depth,
        errors=state.error_rate,
        timeouts=state.timeout_rate,
        latency_s=state.latency_s,
        tokens_per_s=state.tokens_per_s,
        calls=state.calls,
        not_asked=state.open,
        silent=silent,
    )
