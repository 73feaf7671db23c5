"""The supervision root as a pure state machine: heartbeats and winning decisions in; directives, alerts and notes out.

heartbeats ─► registry ───────────────┬─► alerts
decisions ──┬► affinities ─► quarantine ─► directives
            └► topics                 └─► notes for the lake
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from connectors.directives import AFFINITY_KEY, QUARANTINE_KEY
from connectors.topics import HEARTBEATS
from flows.affinity import Affinities
from flows.counts import DECAY_EVERY_S, TopicCounts
from flows.quarantine import Kept, fared_of, judge
from flows.registry import CELL_ALERTS, NODE_ALERTS, Known, Registry
from schemas.decision import Decision, DecisionKind
from schemas.errors import UNREADABLE, RefusedError
from schemas.node import NodeState
from schemas.software import check_version
from schemas.supervision import Alert, CellState, Noted, Quarantine, Stage, quarantine_key

STATE_VERSION = 1
AFFINITY_EVERY_S = 30.0
"""How often what was learned of a topic is published, if anything was."""
NOTES_EVERY_S = 60.0
MEMORY = 0.99
"""What each decision of a topic leaves of those before it, in its figures."""
DYING = 0.5
"""Of the tasks of a topic that ended of late: so many dead ones are worth an alert; it is over at half of that."""
FEWEST_ENDED = 20.0
MAX_TOPICS = 1000
MAX_ALERTS = 1000

_ALERTS = {Stage.QUARANTINED: "quarantined", Stage.PROBATION: "probation", Stage.FREE: "returned"}
_TOPIC_DYING = "topic_dying"


class TopicEnds(Struct, kw_only=True):
    """How a topic fares of late: decisions, each counting less the longer ago it was."""

    topic: str
    decided: int = 0
    """All of them, since the root knows the topic."""
    converged: float = 0.0
    forced: float = 0.0
    """Of the converged."""
    dead: float = 0.0
    rounds: float = 0.0
    """Of the converged: their rounds, added up."""
    dying: bool = False

    def count(self, decision: Decision) -> None:
        """Take in one decision."""
        self.decided += 1
        converged, dead = decision.kind is DecisionKind.CONVERGED, decision.kind is DecisionKind.DEAD
        if not (converged or dead):
            return
        self.converged = self.converged * MEMORY + converged
        self.forced = self.forced * MEMORY + (converged and decision.forced)
        self.dead = self.dead * MEMORY + dead
        self.rounds = self.rounds * MEMORY + (decision.round_index + 1 if converged else 0)


class RootState(Struct, kw_only=True):
    """All that the root remembers."""

    version: int = STATE_VERSION
    affinities: bytes
    kept: list[Kept]
    topics: list[TopicEnds]
    cells: list[CellState]
    nodes: list[NodeState]
    known_cells: list[Known]
    known_nodes: list[Known]


class _Numbered(Struct, frozen=True):
    """Of a state that may be another one, its number."""

    version: int


class Told(Struct, frozen=True, gc=False):
    """What came of a look."""

    directives: list[tuple[bytes, bytes]]
    alerts: list[Alert]
    notes: list[Noted]


class Root:
    """What the root knows.

    Args:
        state: what `encoded` wrote in an earlier life.
        standing: the newest order on Kafka of each node and topic. It is never older than the state: what was ordered
            after that was written is found here alone, and would stand for ever if nobody remembered it. One that is
            in the state alone was lost by a broker, and is given again.
        known: the newest affinities on Kafka of each topic; what a root without a state begins with.
        last_noted: the number of the last look that is noted.
        behind: the names of what is read. Till each was read to where it ended at the start, nothing is said of
            topics: after half of the log it would be wrong.

    Raises:
        RefusedError: the state is nothing that `encoded` wrote, or a newer Aureon wrote it.
    """

    def __init__(
        self,
        state: bytes | None = None,
        standing: Iterable[Quarantine] = (),
        known: Iterable[TopicCounts] = (),
        last_noted: int = 0,
        behind: Iterable[str] = (),
    ) -> None:
        self.registry = Registry()
        self.affinities = Affinities()
        self.kept: dict[tuple[str, str], Kept] = {}
        """By topic and node."""
        self.topics: OrderedDict[str, TopicEnds] = OrderedDict()
        self._published: dict[str, int] = {}
        """By topic, how many rounds had taught when its affinities were published."""
        self._published_at = self._noted_at = 0.0
        self._last_noted = last_noted
        self._behind = set(behind)
        self._told_till: dict[str, float] = {}
        """By topic, while behind: decisions till then may be in the affinities that were begun with. It is not kept: a
        root that is killed meanwhile may count a minute of them twice.
        """
        self._alerts: deque[Alert] = deque(maxlen=MAX_ALERTS)
        """Those not noted yet."""
        self.alerted = Counter(dict.fromkeys((*CELL_ALERTS, *NODE_ALERTS, *_ALERTS.values(), _TOPIC_DYING), 0))
        """All of this life, by kind; from 0 on, or the first one would be no increase."""
        if state is not None:
            try:
                check_version(
                    "the root's snapshot", msgspec.msgpack.decode(state, type=_Numbered).version, STATE_VERSION
                )
                self._restore(msgspec.msgpack.decode(state, type=RootState))
            except UNREADABLE as error:
                raise RefusedError(
                    f"the snapshot of the root is none ({error}): delete the folder `recovery` in its state folder; it "
                    "then begins with the orders that stand"
                ) from None
        else:
            self._begin_with(known)
        taught = {counts.topic: counts.taught for counts in self.affinities.state().topics}
        by_name = {(order.topic, order.node): order for order in standing}
        self._lost = [kept.order for name, kept in self.kept.items() if name not in by_name]
        self._not_told: list[Quarantine] = []
        """Orders of a root that was killed before it had noted their alerts."""
        for name, order in by_name.items():
            kept = self.kept.get(name)
            if (kept.order.stage if kept is not None else Stage.FREE) is order.stage:
                continue
            if order.stage is Stage.FREE:
                del self.kept[name]
            else:
                self.kept[name] = Kept(order, taught.get(order.topic, 0))
            if int(order.since * 1000) > last_noted:
                self._not_told.append(order)

    def _begin_with(self, known: Iterable[TopicCounts]) -> None:
        for counts in sorted(known, key=lambda c: c.at):
            self.affinities.adopt(counts)
            self._published[counts.topic] = counts.taught
            self._told_till[counts.topic] = counts.at + DECAY_EVERY_S  # `at` moves on by so much at a time

    def hear(self, states: Iterable[CellState | NodeState]) -> None:
        """Take heartbeats."""
        self.registry.hear(states)

    def learn(self, lane: int, decisions: Sequence[tuple[int, Decision]]) -> None:
        """Take winning decisions of a lane, in log order."""
        self.affinities.learn(lane, [(o, d) for o, d in decisions if d.decided_at > self._told_till.get(d.topic, -1.0)])
        for _, decision in decisions:
            topic = self.topics.get(decision.topic)
            if topic is None:
                if len(self.topics) >= MAX_TOPICS:
                    self.topics.popitem(last=False)
                topic = self.topics[decision.topic] = TopicEnds(topic=decision.topic)
            self.topics.move_to_end(decision.topic)
            topic.count(decision)

    def reach(self, name: str) -> None:
        """One of what is read was read to where it ended at the start."""
        self._behind.discard(name)
        if not self._behind:
            self._told_till.clear()

    def look(self, now: float) -> Told:
        """Judge what is known, about once a second.

        Args:
            now: seconds since the epoch.
        """
        # as long as heartbeats are read that came while the root was away, nobody is known to be silent
        alerts = self.registry.look(now) if HEARTBEATS not in self._behind else []
        known = {counts.topic: counts for counts in self.affinities.state().topics}
        orders = self._judge(known.values(), now) if not self._behind else []
        alerts += [_alert(order) for order in (*self._not_told, *orders)]
        self._not_told.clear()
        alerts += self._dying(now) if not self._behind else []
        self._alerts += alerts
        self.alerted.update(alert.kind for alert in alerts)
        directives = [
            (QUARANTINE_KEY + quarantine_key(o.node, o.topic).encode(), msgspec.json.encode(o))
            for o in (*self._lost, *orders)
        ]
        self._lost.clear()
        if not self._behind and now - self._published_at >= AFFINITY_EVERY_S:
            self._published_at = now
            directives += self._affinities_to_tell(known.values())
        notes = []
        if alerts or now - self._noted_at >= NOTES_EVERY_S:
            self._noted_at = now
            notes = self._notes(known, now)
        return Told(directives, alerts, notes)

    def _judge(self, known: Iterable[TopicCounts], now: float) -> list[Quarantine]:
        orders = []
        for counts in known:
            of_topic = {node: kept for (topic, node), kept in self.kept.items() if topic == counts.topic}
            for order in judge(counts, of_topic, now):
                orders.append(order)
                if order.stage is Stage.FREE:
                    del self.kept[order.topic, order.node]
                else:
                    self.kept[order.topic, order.node] = Kept(order, counts.taught)
        return orders

    def _dying(self, now: float) -> list[Alert]:
        alerts = []
        for topic in self.topics.values():
            ended = topic.converged + topic.dead
            share = topic.dead / ended if ended >= FEWEST_ENDED else 0.0
            if share > DYING and not topic.dying:
                topic.dying = True
                text = f"of the tasks that ended of late, {share:.0%} are dead letters"
                alerts.append(Alert(kind=_TOPIC_DYING, subject=topic.topic, text=text, at=now))
            elif share < DYING / 2:
                topic.dying = False
        return alerts

    def _affinities_to_tell(self, known: Iterable[TopicCounts]) -> list[tuple[bytes, bytes]]:
        told = []
        for counts in known:
            if self._published.get(counts.topic) != counts.taught:
                self._published[counts.topic] = counts.taught
                told.append((AFFINITY_KEY + counts.topic.encode(), msgspec.json.encode(_lean(counts))))
        return told

    def _notes(self, known: dict[str, TopicCounts], now: float) -> list[Noted]:
        notes: list[Noted] = []
        # the table leaves out what is not beyond its last: a clock that was ahead would keep notes away till it is over
        number = self._last_noted = max(int(now * 1000), self._last_noted + 1)

        def note(kind: str, subject: str, topic: str, state: str, detail: object) -> None:
            text = msgspec.json.encode(detail).decode()
            row = Noted(number=number, noted_at=now, kind=kind, subject=subject, topic=topic, state=state, detail=text)
            notes.append(row)

        registry = self.registry
        for name, cell in registry.cells.items():
            note("cell", name, "", _word(registry.known_cells.get(name)), cell)
        for (cell_name, name), node in registry.nodes.items():
            note("node", name, "", node.health.value, {"cell": cell_name, "state": node})
        for kept in self.kept.values():
            note("quarantine", kept.order.node, kept.order.topic, kept.order.stage.value, kept.order)
        for counts in known.values():
            for name, fared in fared_of(counts).items():
                note("affinity", name, counts.topic, "", {"quality": fared.quality, "outcomes": fared.outcomes})
        for figures in self.topics.values():
            note("topic", "", figures.topic, "dying" if figures.dying else "", figures)
        while self._alerts:
            alert = self._alerts.popleft()
            note("alert", alert.subject, "", alert.kind, alert)
        return notes

    # -- keeping it ------------------------------------------------------------------------------------------------

    def encoded(self) -> bytes:
        """Write down what is known."""
        registry, learned = self.registry, self.affinities.state()
        learned.topics = [_lean(counts) for counts in learned.topics]
        state = RootState(
            affinities=msgspec.json.encode(learned),
            kept=list(self.kept.values()),
            topics=list(self.topics.values()),
            cells=list(registry.cells.values()),
            nodes=list(registry.nodes.values()),
            known_cells=list(registry.known_cells.values()),
            known_nodes=list(registry.known_nodes.values()),
        )
        return msgspec.msgpack.encode(state)

    def _restore(self, state: RootState) -> None:
        self.affinities.restore(state.affinities)
        self.kept = {(k.order.topic, k.order.node): k for k in state.kept}
        self.topics = OrderedDict((f.topic, f) for f in state.topics)
        self.registry.hear([*state.cells, *state.nodes])
        self.registry.known_cells = {k.name: k for k in state.known_cells}
        self.registry.known_nodes = {k.name: k for k in state.known_nodes}


def _alert(order: Quarantine) -> Alert:
    return Alert(kind=_ALERTS[order.stage], subject=order.node, text=f"on {order.topic}: {order.why}", at=order.since)


def _lean(counts: TopicCounts) -> TopicCounts:
    """Without the examples, of which each cell has its own."""
    return msgspec.structs.replace(counts, examples=[])


def _word(known: Known | None) -> str:
    return "silent" if known is not None and not known.healthy else "healthy"
