"""Which nodes there are and how they are: a gate for each, a question every two seconds, and states for all to see.

It belongs to the event loop that the calls run on; `states` may be read from any thread.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from connectors.nodes import CheckedNode, Node, NodeError
from flows.gate import NodeGate, is_far_slower
from flows.terminal import printable
from schemas.node import Call, NodeState

log = logging.getLogger(__name__)

BEAT_EVERY_S = 2.0
CHECK_LIMIT_S = 5.0
CLOSE_LIMIT_S = 5.0
TELL_AGAIN_S = 60.0
"""A model that fails again and again is told so often."""


class Nodes(Protocol):
    """The nodes that there are; they may change at run time."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """By id."""
        ...

    def refresh(self) -> Sequence[Node]:
        """Look whether they have changed; return those that are no more."""
        ...


class NodeWatch:
    """Keeps a gate for each node that there is.

    Args:
        nodes: where they come from.
        cell: who says how they are.
        silence_s: a node that can be asked how it is, and was not heard of for so long, counts as unhealthy.
        publish: takes the states of all nodes, every two seconds, in the loop's thread.
        on_silent: takes the gate of a node that has just become silent.
    """

    def __init__(
        self,
        nodes: Nodes,
        cell: str,
        silence_s: float,
        publish: Callable[[Sequence[NodeState]], None],
        on_silent: Callable[[NodeGate], None],
    ) -> None:
        self._source = nodes
        self._cell = cell
        self._silence_s = silence_s
        self._publish = publish
        self._on_silent = on_silent
        self.gates: dict[str, NodeGate] = {}
        self.nodes: dict[str, Node] = {}
        """As the gates know them."""
        self.states: Mapping[str, NodeState] = {}
        """How the nodes are, as of the last beat or the last change; a new mapping each time."""
        self._tasks: set[asyncio.Task[None]] = set()
        """The beat, and nodes being checked or closed."""
        self._retiring: list[Node] = []
        self._told_at: dict[tuple[str, str], float] = {}
        """When it was last said of a model that it fails, by node and model."""

    def begin(self) -> None:
        """Begin, on the running loop."""
        self._take_nodes()
        self._go_on(self._beat())

    async def close(self) -> None:
        """End, and close all nodes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*map(_close, [*self.nodes.values(), *self._retiring]), return_exceptions=True)

    def note_states(self) -> None:
        """Sum up how the nodes are now."""
        now = time.monotonic()
        self.states = {name: gate.state(now) for name, gate in self.gates.items()}

    def tell_failing(self, node: str, model: str, error: str) -> None:
        """Say that a model is not asked for a while, and why; once in a while of one that comes and goes."""
        now = time.monotonic()
        if now - self._told_at.get((node, model), -math.inf) >= TELL_AGAIN_S:
            self._told_at[node, model] = now
            told = "%s: %s failed too often, and is asked again now and then; the last time: %s"
            log.warning(told, node, model, printable(error))

    def wait_s(self, call: Call) -> float | None:
        """Say how long a call would wait for a seat, at most; None where its node is not asked now."""
        gate = self.gates.get(call.node)
        if gate is None or not gate.is_open(call.model):
            return None
        now = time.monotonic()
        return math.inf if gate.is_rate_limited(now) else gate.wait_s(now, call.topic)

    # -- every two seconds -----------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        due = time.monotonic()
        while True:
            try:
                self._beat_once(time.monotonic() - due)
            except Exception:
                log.exception("how the nodes are")
            due = time.monotonic() + BEAT_EVERY_S
            await asyncio.sleep(BEAT_EVERY_S)

    def _beat_once(self, late_s: float) -> None:
        gone = self._source.refresh()
        self._take_nodes()
        for node in gone:
            self._retiring.append(node)
            self._go_on(self._retire(node))
        for name, gate in self.gates.items():
            node = self.nodes[name]
            if isinstance(node, CheckedNode) and not gate.being_checked:
                gate.being_checked = True
                self._go_on(self._check(gate, node))
        for gate in self.gates.values():
            if gate.check_silence(late_s):
                log.warning("%s: not heard of for %g s", gate.capabilities.node, self._silence_s)
                self._on_silent(gate)
        self._shorten_queues()
        self.note_states()
        self._publish(list(self.states.values()))

    def _take_nodes(self) -> None:
        """Have a gate for each node that there is."""
        for name, node in self._source.nodes.items():
            if self.nodes.get(name) is not node:
                self.nodes[name] = node
                silence_s = self._silence_s if isinstance(node, CheckedNode) else math.inf
                gone = self.gates.get(name)
                self.gates[name] = NodeGate(node.capabilities, self._cell, silence_s)
                if gone is not None:
                    gone.retire()
        for name in self.gates.keys() - self._source.nodes.keys():
            self.gates.pop(name).retire()
            del self.nodes[name]
        self.note_states()

    def _shorten_queues(self) -> None:
        """Where a node has become far slower than another, calls that wait for it look around again."""
        now = time.monotonic()
        waits = {gate: math.inf if gate.is_rate_limited(now) else gate.wait_s(now) for gate in self.gates.values()}
        best = min(waits.values(), default=0.0)
        for gate, wait_s in waits.items():
            if is_far_slower(wait_s, best):
                gate.look_anew()

    # -- beside ----------------------------------------------------------------------------------------------------

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the calls, to its end or that of the loop."""
        self._tasks.add(task := asyncio.get_running_loop().create_task(work))
        task.add_done_callback(self._tasks.discard)

    async def _check(self, gate: NodeGate, node: CheckedNode) -> None:
        try:
            gate.loaded = (await asyncio.wait_for(node.check(), CHECK_LIMIT_S)).loaded
            gate.heard()
        except (NodeError, TimeoutError) as error:
            if isinstance(error, NodeError) and error.failure not in ("refused", "timeout"):
                gate.heard()  # whatever it is that it says
            log.debug("%s: %s", gate.capabilities.node, error)
        except Exception:
            log.exception("%s: check", gate.capabilities.node)
        finally:
            gate.being_checked = False
            self.note_states()

    async def _retire(self, node: Node) -> None:
        """Close a node that is no more, once its calls are over."""
        await asyncio.sleep(node.capabilities.timeout_s)
        self._retiring.remove(node)
        await _close(node)


async def _close(node: Node) -> None:
    """Close a node; one that cannot be closed is no reason not to go on."""
    try:
        await asyncio.wait_for(node.close(), CLOSE_LIMIT_S)
    except Exception:
        log.exception("%s: close", node.capabilities.node)
