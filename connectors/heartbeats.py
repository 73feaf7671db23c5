"""How cells and nodes are: every cell says it on `nodes.heartbeat`, and whoever wants to know reads the last of it."""

import contextlib
import logging
import time
from collections.abc import Sequence

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from connectors.kafka import ASK_LIMIT_S, ClientConfig, new_consumer, watermarks_of
from connectors.topics import HEARTBEATS
from schemas.errors import UNREADABLE
from schemas.node import NodeState
from schemas.supervision import CellState

log = logging.getLogger(__name__)

LAST_MESSAGES = 2000
"""So far back the states are looked for: all nodes of all cells say theirs every two seconds."""
READ_LIMIT_S = 3.0
_PRODUCER = {
    # A heartbeat that is late is worth nothing: it is dropped, and nobody waits for it.
    "acks": "1",
    "message.timeout.ms": 5000,
    "queue.buffering.max.messages": 10_000,
    "linger.ms": 5,
}


_cell = msgspec.json.Decoder(CellState).decode
_node = msgspec.json.Decoder(NodeState).decode


def read_state(value: bytes) -> CellState | NodeState:
    """Read one heartbeat.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _node(value) if b'"node"' in value else _cell(value)


class HeartbeatWriter:
    """Says how a cell and its nodes are; never waits, and drops what the broker does not take.

    Unit of parallelism: the process. Guarantee: none. Replay: says it again.
    """

    def __init__(self, config: ClientConfig) -> None:
        self._producer = Producer({**config, **_PRODUCER})

    def publish(self, states: Sequence[CellState | NodeState]) -> None:
        """Write the states, keyed by cell and node."""
        for state in states:
            key = f"{state.cell}/{state.node}" if isinstance(state, NodeState) else state.cell
            with contextlib.suppress(BufferError, KafkaException):
                self._producer.produce(HEARTBEATS, msgspec.json.encode(state), key, partition=0)
        self._producer.poll(0)

    def close(self) -> None:
        """Give what is left a moment."""
        self._producer.flush(1.0)


class HeartbeatReader:
    """Reads what cells and nodes say, again and again, from shortly before it was made.

    Unit of parallelism: the process; one thread at a time. Guarantee: none; what cannot be read is left out. Replay:
    reads the last of it again.

    Args:
        config: from `client_config`.
    """

    def __init__(self, config: ClientConfig) -> None:
        self._consumer: Consumer = new_consumer(config, "aureon-heartbeats", committed_only=False)
        self._position: int | None = None

    def read(self) -> list[CellState | NodeState]:
        """Read what has been said since the last time, in order.

        Raises:
            TryAgainError: the broker does not answer.
        """
        low, high = watermarks_of(self._consumer, HEARTBEATS, 0, ASK_LIMIT_S)
        position = self._position
        first = max(low, high - LAST_MESSAGES)
        if position is None or not first <= position <= high:  # a broker that lost its tail begins anew
            position = first
        states: list[CellState | NodeState] = []
        if position < high:
            self._consumer.assign([TopicPartition(HEARTBEATS, 0, position)])
        deadline = time.monotonic() + READ_LIMIT_S
        while position < high and time.monotonic() < deadline:
            for message in self._consumer.consume(500, 0.2):
                if message.error() is not None:
                    continue
                position = (message.offset() or 0) + 1
                try:
                    states.append(read_state(message.value() or b""))
                except UNREADABLE as error:
                    log.warning("%s@%s: %s; ignored", HEARTBEATS, message.offset(), error)
        self._consumer.unassign()  # who waits at the end keeps the embedded broker busy
        self._position = position
        return states

    def close(self) -> None:
        """Let go."""
        self._consumer.close()


def latest_states(config: ClientConfig, since: float) -> tuple[list[CellState], list[NodeState]]:
    """Read what each cell said last of itself and of each node, if it was said since a time.

    Args:
        config: from `client_config`.
        since: seconds since the epoch.

    Raises:
        TryAgainError: the broker does not answer.
    """
    reader = HeartbeatReader(config)
    try:
        found = {(s.cell, s.node if isinstance(s, NodeState) else ""): s for s in reader.read()}
    finally:
        reader.close()
    fresh = [s for s in found.values() if s.at >= since]
    nodes = sorted((s for s in fresh if isinstance(s, NodeState)), key=lambda s: (s.node, s.cell))
    cells = [s for s in fresh if isinstance(s, CellState) and not s.ended]
    return sorted(cells, key=lambda s: s.cell), nodes
