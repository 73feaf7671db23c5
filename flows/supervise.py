"""The supervision root: how the whole cluster does, and what every cell is to do about it.

    nodes.heartbeat ─┐
    tasks.results ───┴─► root ─┬─► supervision.directives    quarantines, affinities; every cell follows them
                               └─► ONE                       what was known, every minute, and alerts

A dead letter is a decision too, so the log tells of it. Run it with `aureon supervise`, or by itself:

    python -m bytewax.run flows.supervise -r ROOT/recovery -s 5 -b 0
"""

import atexit
import logging
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, Source, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, Sink, StatefulSinkPartition
from msgspec import Struct

from connectors.checked_producer import CheckedProducer
from connectors.directives import publish_directives
from connectors.heartbeats import read_state
from connectors.told_errors import tells_errors
from connectors.topics import HEARTBEATS, RESULTS
from flows import logs
from flows.root import Root, Told
from flows.root_parts import RootParts
from flows.root_status import RootStatus
from flows.settings import read_settings
from flows.telemetry import Telemetry
from one_lake.notes import NoteWriter
from schemas.decision import Decision, DecisionKind, read_decision
from schemas.errors import UNREADABLE, BadRecordError
from schemas.node import NodeState
from schemas.supervision import CellState, Noted

log = logging.getLogger(__name__)

X = TypeVar("X")
ROOT = "root"
"""The one key of the flow's state."""
LOOK_EVERY = timedelta(seconds=1)
FIRST_DECISIONS = 4000
"""So far back in the log of a lane a root begins that knows nothing."""
FIRST_HEARTBEATS = 2000
READ_BATCH = 500
REMEMBERED = 50_000
"""Messages of a lane whose decision has been seen: a later one on the same message counts for nothing."""
PAUSE = timedelta(milliseconds=50)


class Heard(Struct, frozen=True, gc=False):
    """Heartbeats."""

    states: list[CellState | NodeState]


class Judged(Struct, frozen=True, gc=False):
    """Decisions of a lane, each with its offset, in log order."""

    lane: int
    decisions: list[tuple[int, Decision]]


class Reached(Struct, frozen=True, gc=False):
    """What is read was read to where it ended at the start."""

    name: str


Item = tuple[str, Heard | Judged | Reached]


def supervise_flow(
    cluster: Source[Item],
    root: Callable[[bytes | None], "RootLogic"],
    directives: Sink[tuple[str, list[tuple[bytes, bytes]]]],
    one: Sink[tuple[str, list[Noted]]],
) -> Dataflow:
    """Build the flow. The step ids are frozen: the recovery store knows the state by them."""
    flow = Dataflow("supervise")

    seen = op.input("cluster", flow, cluster)
    # Heard | Judged | Reached, all under one key
    told = op.stateful_batch("root", seen, root)
    # Told
    op.output("directives", op.map_value("orders", told, lambda t: t.directives), directives)
    op.output("one", op.map_value("notes", told, lambda t: t.notes), one)
    return flow


@tells_errors
class RootLogic(StatefulBatchLogic[Heard | Judged | Reached, Told, bytes]):
    """The root as a step of the flow: it looks about once a second at what it was told."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._look_at = datetime.now(UTC) + LOOK_EVERY

    def on_batch(self, values: list[Heard | Judged | Reached]) -> tuple[Iterable[Told], bool]:
        """Take in what has come."""
        for value in values:
            if isinstance(value, Heard):
                self._root.hear(value.states)
            elif isinstance(value, Judged):
                self._root.learn(value.lane, value.decisions)
            else:
                self._root.reach(value.name)
        return (), StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[Told], bool]:
        """Look."""
        self._look_at = datetime.now(UTC) + LOOK_EVERY
        told = self._root.look(time.time())
        for alert in told.alerts:
            log.warning("%s %s: %s", alert.kind, alert.subject, alert.text)
        return ([told] if told.directives or told.notes else ()), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[Told], bool]:
        """Go on from the snapshot."""
        return (), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Again and again."""
        return self._look_at

    def snapshot(self) -> bytes:
        """All that it knows."""
        return self._root.encoded()


# -- what it reads -------------------------------------------------------------------------------------------------


class ClusterSource(FixedPartitionedSource[Item, int]):
    """The heartbeats, and the log of each lane.

    Unit of parallelism: the partition; one root reads them all. Guarantee: a decision is emitted once in a life, but
    for one of a message that had another long before. Replay: those since the last snapshot come again.
    """

    def __init__(self, parts: RootParts) -> None:
        self._parts = parts

    def list_parts(self) -> list[str]:
        """Name the heartbeats and the lanes."""
        return self._parts.read

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "_Partition":
        """Open one."""
        del step_id
        if for_part == HEARTBEATS:
            return _Partition(self._parts, for_part, HEARTBEATS, 0, resume_state, FIRST_HEARTBEATS, _heard)
        winning = _Winning(int(for_part))
        return _Partition(self._parts, for_part, RESULTS, int(for_part), resume_state, FIRST_DECISIONS, winning)


@tells_errors
class _Partition(StatefulSourcePartition[Item, int]):
    def __init__(
        self,
        parts: RootParts,
        name: str,
        kafka_topic: str,
        partition: int,
        resume: int | None,
        first: int,
        take: Callable[[list[tuple[int, bytes]]], Heard | Judged | None],
    ) -> None:
        self._parts = parts
        self._take = take
        self._reader = parts.reader(kafka_topic, partition, 0)
        begin, end = self._reader.begin_offset(), self._reader.end_offset()
        if resume is None or not begin <= resume <= end:  # old heartbeats are deleted
            self._reader.close()
            self._reader = parts.reader(kafka_topic, partition, max(begin, end - first))
        else:
            self._reader.close()
            self._reader = parts.reader(kafka_topic, partition, resume)
        self._idle = False
        self._end = end
        self._to_reach = [Reached(name)]

    def next_batch(self) -> list[Item]:
        """Read what is there."""
        self._parts.turned_at = time.monotonic()
        if self._parts.stopping.asked:
            raise StopIteration
        records = self._reader.poll(READ_BATCH)
        self._idle = not records
        taken = self._take([(r.offset() or 0, r.value() or b"") for r in records]) if records else None
        items: list[Item] = [(ROOT, taken)] if taken is not None else []
        if self._to_reach and self._reader.position >= self._end:
            items.append((ROOT, self._to_reach.pop()))
        return items

    def next_awake(self) -> datetime | None:
        """Soon, where there was nothing."""
        return datetime.now(UTC) + PAUSE if self._idle else None

    def snapshot(self) -> int:
        """The next offset."""
        return self._reader.position

    def close(self) -> None:
        """Let go."""
        self._reader.close()


def _heard(records: list[tuple[int, bytes]]) -> Heard:
    states: list[CellState | NodeState] = []
    for offset, value in records:
        try:
            states.append(read_state(value))
        except UNREADABLE as error:
            log.warning("%s@%d: %s; ignored", HEARTBEATS, offset, error)
    return Heard(states)


class _Winning:
    """Of each message the first decision, as far as is remembered."""

    def __init__(self, lane: int) -> None:
        self._lane = lane
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()

    def __call__(self, records: list[tuple[int, bytes]]) -> Judged | None:
        winning = []
        for offset, value in records:
            try:
                decision = read_decision(value)
            except BadRecordError as error:
                log.warning("%s[%d]@%d: %s; ignored", RESULTS, self._lane, offset, error)
                continue
            name = (decision.kafka_topic, decision.offset)
            if decision.kind is DecisionKind.STARTED or name in self._seen:
                continue
            self._seen[name] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            winning.append((offset, decision))
        return Judged(self._lane, winning) if winning else None


# -- what it writes ------------------------------------------------------------------------------------------------


class _OfRoot(FixedPartitionedSink[X, None]):
    """A sink with one partition."""

    def list_parts(self) -> list[str]:
        """There is one."""
        return [ROOT]

    def part_fn(self, item_key: str) -> int:
        """All go there."""
        del item_key
        return 0


class DirectiveSink(_OfRoot[list[tuple[bytes, bytes]]]):
    """Writes directives.

    Unit of parallelism: the root. Guarantee: at the end of an epoch all are acknowledged. Replay: writes them again,
    or what stands by then; the newest one of a key counts.
    """

    def __init__(self, producer: Callable[[], CheckedProducer]) -> None:
        self._producer = producer

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_DirectivePartition":
        """Open it."""
        del step_id, for_part, resume_state
        return _DirectivePartition(self._producer())


@tells_errors
class _DirectivePartition(StatefulSinkPartition[list[tuple[bytes, bytes]], None]):
    def __init__(self, producer: CheckedProducer) -> None:
        self._producer = producer

    def write_batch(self, values: list[list[tuple[bytes, bytes]]]) -> None:
        """Send them on their way."""
        for directives in values:
            if directives:
                publish_directives(self._producer, directives)

    def snapshot(self) -> None:
        """The end of an epoch: all have to be acknowledged."""
        self._producer.flush()


class NoteSink(_OfRoot[list[Noted]]):
    """Writes notes into the lake. As `one_lake.notes` says; a lake that cannot be written is no reason to stop."""

    def __init__(self, writer: Callable[[], NoteWriter]) -> None:
        self._writer = writer

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_NotePartition":
        """Open it."""
        del step_id, for_part, resume_state
        return _NotePartition(self._writer())


class _NotePartition(StatefulSinkPartition[list[Noted], None]):
    def __init__(self, writer: NoteWriter) -> None:
        self._writer = writer

    def write_batch(self, values: list[list[Noted]]) -> None:
        """Write what there is."""
        for notes in values:
            if notes:
                try:
                    self._writer.add(notes)
                except OSError as error:
                    log.warning("%s; what was noted is in the log and on Kafka alone", error)

    def snapshot(self) -> None:
        """Nothing is kept back."""


# -- wired up ------------------------------------------------------------------------------------------------------


def root_flow(parts: RootParts) -> Dataflow:
    """The flow, connected when it runs."""
    return supervise_flow(
        ClusterSource(parts),
        lambda state: RootLogic(parts.root(state)),
        DirectiveSink(lambda: parts.producer),
        NoteSink(lambda: NoteWriter(parts.settings.lake_dir)),
    )


def flow() -> Dataflow:
    """What `python -m bytewax.run flows.supervise` runs: the root that the environment describes."""
    parts = RootParts(read_settings())
    if parts.settings.log_format == "json":
        logs.set_up("warning", "json")
    atexit.register(parts.close)
    atexit.register(Telemetry(parts.settings, RootStatus(parts)).start().close)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: parts.stopping.ask())
    return root_flow(parts)
