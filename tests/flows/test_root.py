"""The supervision root, told of rounds whose truth is known."""

import random
import time
from pathlib import Path

import msgspec
import pytest

from connectors.directives import AFFINITY_KEY, QUARANTINE_KEY, publish_directives
from connectors.topics import HEARTBEATS, RESULTS
from flows import root as root_module
from flows import supervise
from flows.affinity import Affinities
from flows.orders import Orders
from flows.root import AFFINITY_EVERY_S, FEWEST_ENDED, NOTES_EVERY_S, Root, Told
from flows.root_parts import RootParts
from flows.root_status import RootStatus
from flows.settings import Settings
from one_lake.notes import NoteWriter, last_number, view
from one_lake.query import session
from schemas.decision import Decision, DecisionKind
from schemas.errors import RefusedError
from schemas.supervision import Noted, Quarantine, Stage
from schemas.task import encode
from tests.brokers import Broker
from tests.flows.test_registry import cell, node
from tests.flows.voters import answers_of, verdict_on


def rounds(*, lies: bool, count: int, seed: int = 1) -> list[Decision]:
    """Rounds in which two nodes are nearly always right, and a third is as long as it does not lie."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        rights = [rng.random() < 0.95, rng.random() < 0.95, not lies and rng.random() < 0.95]
        found.append(verdict_on(answers_of(rights), rights))
    return found


class Cluster:
    """A root that is told decision by decision, and a cell that follows it."""

    def __init__(self, root: Root | None = None) -> None:
        self.root = root or Root()
        self.orders = Orders()
        self.now = 100.0
        self._offset = 0

    def judge(self, decisions: list[Decision]) -> list[Told]:
        """Take decisions, with a look after each."""
        told = []
        for decision in decisions:
            self.root.learn(0, [(self._offset, decision)])
            self._offset += 1
            self.now += 1.0
            told.append(self.look())
        return told

    def look(self) -> Told:
        """Look, and follow."""
        told = self.root.look(self.now)
        for key, value in told.directives:
            take = self.orders.take_quarantine if key.startswith(b"quarantine/") else self.orders.take_affinity
            take(value)
        return told


def test_a_node_that_begins_to_lie_is_kept_out_and_comes_back_when_it_does_not() -> None:
    """Every change is an order and an alert."""
    cluster = Cluster()
    cluster.judge(rounds(lies=False, count=50))
    assert not cluster.orders.quarantined("math")
    told = cluster.judge(rounds(lies=True, count=30))
    assert [a.kind for t in told for a in t.alerts] == ["quarantined"]
    assert set(cluster.orders.quarantined("math")) == {"n2"}
    told = cluster.judge(rounds(lies=False, count=120))
    assert [a.kind for t in told for a in t.alerts] == ["probation", "returned"]
    assert not cluster.orders.quarantined("math")


def test_a_root_goes_on_from_its_snapshot() -> None:
    """With all that it knew."""
    cluster = Cluster()
    cluster.root.hear([cell("one", 100.0, 0), node("one", "n2", 100.0)])
    cluster.judge(rounds(lies=True, count=30))
    again = Root(cluster.root.encoded())
    assert again.kept.keys() == {("math", "n2")}
    assert [t.models for t in again.affinities.state().topics] == [
        t.models for t in cluster.root.affinities.state().topics
    ]
    assert again.registry.cells == cluster.root.registry.cells
    assert again.topics["math"].decided == 30


def test_a_root_without_a_memory_takes_the_orders_that_stand() -> None:
    """Otherwise nobody would ever let those nodes in again."""
    order = Quarantine(node="n2", topic="math", stage=Stage.QUARANTINED, why="it lied", since=1.0)
    free = Quarantine(node="n1", topic="math", stage=Stage.FREE, why="fit", since=1.0)
    cluster = Cluster(Root(standing=[order, free], last_noted=1000))
    told = cluster.judge(rounds(lies=False, count=40))
    assert next(a.kind for t in told for a in t.alerts) == "probation"


def test_a_root_that_was_killed_between_an_order_and_its_snapshot_learns_of_the_order_again() -> None:
    """What it reads again may not bring it to the same order; the cells follow what stands on Kafka."""
    cluster = Cluster()
    cluster.judge(rounds(lies=False, count=50))
    before = cluster.root.encoded()
    cluster.judge(rounds(lies=True, count=30))
    order = cluster.orders.quarantined("math")["n2"]
    cluster.root = Root(before, standing=[order], last_noted=int(order.since * 1000))
    assert cluster.root.kept.keys() == {("math", "n2")}
    told = cluster.judge(rounds(lies=False, count=120))
    assert [a.kind for t in told for a in t.alerts] == ["probation", "returned"]
    assert not cluster.orders.quarantined("math")


def test_the_alert_of_an_order_is_told_by_the_next_root_where_the_last_one_was_killed_before_it_was_noted() -> None:
    """Once, as of when the order was given; also that a node is back."""
    cluster = Cluster()
    cluster.judge(rounds(lies=False, count=50))
    before = cluster.root.encoded()
    cluster.judge(rounds(lies=True, count=30))
    order = cluster.orders.quarantined("math")["n2"]
    again = Root(before, standing=[order], last_noted=int(order.since * 1000) - 1)
    told = again.look(order.since + 1)
    (alert,) = [a for a in told.alerts if a.kind == "quarantined"]
    assert (alert.kind, alert.subject, alert.at) == ("quarantined", "n2", order.since)
    assert [n.state for n in told.notes if n.kind == "alert"].count("quarantined") == 1
    assert not [a for a in again.look(order.since + 2).alerts if a.kind == "quarantined"]
    free = msgspec.structs.replace(order, stage=Stage.FREE, since=order.since + 5)
    back = Root(cluster.root.encoded(), standing=[free], last_noted=int(order.since * 1000))
    assert back.look(order.since + 6).alerts[0].kind == "returned"


def test_what_stands_on_kafka_is_newer_than_a_snapshot() -> None:
    """An order that was taken back since is; one that still stands keeps its place in its probation."""
    cluster = Cluster()
    cluster.judge(rounds(lies=True, count=30))
    quarantined = cluster.orders.quarantined("math")["n2"]
    free = msgspec.structs.replace(quarantined, stage=Stage.FREE)
    probation = msgspec.structs.replace(quarantined, stage=Stage.PROBATION)
    assert not Root(cluster.root.encoded(), standing=[free]).kept
    on_probation = Root(cluster.root.encoded(), standing=[probation])
    begun = on_probation.kept["math", "n2"]
    assert Root(cluster.root.encoded(), standing=[quarantined]).kept == cluster.root.kept
    assert (begun.order.stage, begun.taught) == (Stage.PROBATION, 30)
    later = Cluster(on_probation)
    later.judge(rounds(lies=False, count=10))
    assert Root(later.root.encoded(), standing=[probation]).kept["math", "n2"] == begun


def test_an_order_that_a_broker_lost_is_given_again() -> None:
    """The embedded one may, when it is killed itself; the root would let nobody in again who was never kept out."""
    cluster = Cluster()
    cluster.judge(rounds(lies=True, count=30))
    lost = cluster.orders.quarantined("math")
    again = Cluster(Root(cluster.root.encoded(), behind=["0000"]))
    again.look()
    assert again.orders.quarantined("math") == lost
    assert not again.look().directives


def test_a_root_without_a_memory_begins_with_the_affinities_that_stand() -> None:
    """What is in them already is not counted again, and they are told only when something has come to them."""
    decisions = [msgspec.structs.replace(d, decided_at=100.0 + i) for i, d in enumerate(rounds(lies=True, count=200))]
    before = Root()
    before.learn(0, list(enumerate(decisions[:100])))
    stands = msgspec.structs.replace(before.affinities.state().topics[0], examples=[])
    root = Root(known=[stands], behind=["0000"])
    root.learn(0, list(enumerate(decisions))[50:100])
    assert root.affinities.state().topics == [stands]
    root.reach("0000")
    assert [key for key, _ in root.look(200.0).directives] == [QUARANTINE_KEY + b"n2/math"]
    root.learn(0, list(enumerate(decisions))[100:])
    before.learn(0, list(enumerate(decisions))[100:])
    known, expected = root.affinities.state().topics[0], before.affinities.state().topics[0]
    assert (known.models, known.pairs, known.seen) == (expected.models, expected.pairs, expected.seen)
    assert [key for key, _ in root.look(300.0).directives] == [AFFINITY_KEY + b"math"]


def test_a_root_with_a_memory_goes_on_from_that_and_not_from_what_stands() -> None:
    """What came to it since its snapshot it reads again."""
    cluster = Cluster()
    cluster.judge(rounds(lies=False, count=10))
    before = cluster.root.encoded()
    cluster.judge(rounds(lies=False, count=10))
    again = Root(before, known=cluster.root.affinities.state().topics)
    assert again.affinities.seen("math") == 10


def test_a_root_that_is_behind_says_nothing_of_topics() -> None:
    """Cells would follow what half of the log tells; of cells it knows by their heartbeats."""
    cluster = Cluster(Root(behind=["0000", "0001"]))
    dead = Decision(kind=DecisionKind.DEAD, kafka_topic="t", offset=0, task_id="x:r0", topic="law", decided_at=100.0)
    cluster.root.learn(1, [(offset, dead) for offset in range(2 * int(FEWEST_ENDED))])
    cluster.root.hear([cell("one", 100.0)])
    told = cluster.judge(rounds(lies=True, count=30))
    cluster.root.reach("0001")
    told += cluster.judge(rounds(lies=True, count=1))
    assert not [t.directives for t in told if t.directives]
    assert [a.kind for t in told for a in t.alerts] == ["cell_silent"]
    cluster.root.reach("0000")
    assert [a.kind for a in cluster.look().alerts] == ["quarantined", "topic_dying"]


def test_a_root_that_was_away_calls_nobody_silent_before_it_has_heard_all() -> None:
    """What it knows of the cells is as old as its snapshot; that one of them has gone meanwhile is told then."""
    before = Root()
    before.hear([cell("one", 100.0), cell("two", 100.0)])
    again = Root(before.encoded(), behind=[HEARTBEATS])
    assert not again.look(200.0).alerts
    again.hear([cell("one", 150.0), cell("one", 199.0)])
    assert not again.look(200.0).alerts
    again.reach(HEARTBEATS)
    assert [(a.kind, a.subject) for a in again.look(200.0).alerts] == [("cell_silent", "two")]


def test_a_state_of_a_newer_version_is_refused() -> None:
    """And not read as something else."""
    state = msgspec.msgpack.decode(Root().encoded())
    state["version"] = 99
    state["kept"] = "in another form"
    with pytest.raises(RefusedError, match="snapshot has version 99, and this software reads 1: a newer Aureon"):
        Root(msgspec.msgpack.encode(state))


def test_cells_learn_what_the_cluster_knows() -> None:
    """One that has seen nothing of a topic asks as one that has seen all."""
    cluster = Cluster()
    affinities = Affinities()
    cluster.orders.on_affinity(affinities.adopt)
    cluster.judge(rounds(lies=True, count=40))
    cluster.now += AFFINITY_EVERY_S
    cluster.look()
    names = [("n0", "m"), ("n2", "m")]
    assert affinities.chances("math", names, cluster.now) == cluster.root.affinities.chances("math", names, cluster.now)
    assert affinities.seen("math") == 40


def test_notes_tell_of_everything_now_and_then() -> None:
    """Every minute, and with each alert."""
    cluster = Cluster()
    cluster.root.hear([cell("one", 100.0, 0), node("one", "n2", 100.0)])
    cluster.judge(rounds(lies=True, count=5))
    cluster.now += NOTES_EVERY_S
    cluster.root.hear([cell("one", cluster.now, 0)])
    notes = cluster.look().notes
    assert {n.kind for n in notes} >= {"cell", "node", "affinity", "topic"}
    assert len({n.number for n in notes}) == 1
    assert not cluster.look().notes


def test_notes_are_there_after_a_clock_that_was_ahead(tmp_path: Path) -> None:
    """The table takes no look twice; it knows them by their numbers, and those are times."""
    first, again = Cluster(), Cluster()
    first.now += 86_400
    for cluster in (first, again):
        cluster.root = Root(last_noted=last_number(tmp_path / "lake"))
        cluster.root.hear([cell("one", cluster.now, 0)])
        for _ in range(2):
            NoteWriter(tmp_path / "lake").add(cluster.look().notes)
            cluster.now += NOTES_EVERY_S
    of_cells = f"SELECT epoch(noted_at) FROM ({view(tmp_path / 'lake')}) WHERE kind = 'cell' ORDER BY number"  # noqa: S608
    with session() as connection:
        noted = connection.execute(of_cells).fetchall()
    assert [at for (at,) in noted] == [86_500.0, 86_560.0, 100.0, 160.0]


def test_a_topic_that_is_dying_is_told_once_until_it_is_well_again() -> None:
    """Of the tasks that ended of late, more than half of those that are told."""
    root = Root()
    dead = Decision(kind=DecisionKind.DEAD, kafka_topic="t", offset=0, task_id="x:r0", topic="math", decided_at=100.0)
    root.learn(0, [(offset, dead) for offset in range(2 * int(FEWEST_ENDED))])
    (alert,) = root.look(100.0).alerts
    assert (alert.kind, alert.subject) == ("topic_dying", "math")
    assert alert.text == "of the tasks that ended of late, 100% are dead letters"
    assert not root.look(101.0).alerts
    well = rounds(lies=False, count=150)
    root.learn(0, [(1000 + offset, decision) for offset, decision in enumerate(well)])
    root.look(102.0)
    assert not root.topics["math"].dying


def test_the_topic_that_was_seen_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics are the users' to invent."""
    monkeypatch.setattr(root_module, "MAX_TOPICS", 2)
    root = Root()
    for offset, topic in enumerate(("one", "two", "one", "three")):
        (decision,) = rounds(lies=False, count=1)
        root.learn(0, [(offset, msgspec.structs.replace(decision, topic=topic))])
    assert list(root.topics) == ["one", "three"]


def test_what_is_no_heartbeat_or_no_decision_is_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """Of a message the first decision counts, as far as is remembered."""
    heard = supervise._heard([(7, b"nonsense"), (8, msgspec.json.encode(cell("one", 100.0)))])
    assert [state.cell for state in heard.states] == ["one"]
    (decision,) = rounds(lies=False, count=1)
    values = [encode(msgspec.structs.replace(decision, offset=offset)) for offset in (1, 2, 1, 3, 1)]
    winning = supervise._Winning(4)
    judged = winning([(0, b"nonsense"), *enumerate(values[:4], 1)])
    assert judged is not None
    assert [offset for offset, _ in judged.decisions] == [1, 2, 4]
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        f"{HEARTBEATS}@7",
        f"{RESULTS}[4]@0",
    ]


def test_only_so_many_decisions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes again much later counts again."""
    monkeypatch.setattr(supervise, "REMEMBERED", 2)
    (decision,) = rounds(lies=False, count=1)
    values = [encode(msgspec.structs.replace(decision, offset=offset)) for offset in (1, 2, 3, 1, 3)]
    judged = supervise._Winning(0)(list(enumerate(values)))
    assert judged is not None
    assert [offset for offset, _ in judged.decisions] == [0, 1, 2, 3]


def test_a_root_that_starts_or_stops_is_not_ready(tmp_path: Path) -> None:
    """And says which."""
    parts = RootParts(Settings(home=str(tmp_path)))
    status = RootStatus(parts)
    assert status.lacks() == "it is starting"
    parts.turned_at = 1.0
    parts.stopping.ask()
    assert status.lacks() == "it is stopping"


def test_a_lake_that_cannot_be_written_does_not_stop_the_root(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was noted is told by the log and on Kafka all the same."""
    (tmp_path / "lake").write_text("no folder")
    note = Noted(number=1, noted_at=1.0, kind="topic", subject="", topic="math", state="", detail="{}")
    supervise._NotePartition(NoteWriter(tmp_path / "lake")).write_batch([[], [note]])
    (record,) = caplog.records
    assert record.getMessage().endswith("; what was noted is in the log and on Kafka alone")


def test_a_root_begins_also_where_the_notes_cannot_be_read(
    own_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so."""
    log = tmp_path / "lake" / "supervision" / "_delta_log"
    log.mkdir(parents=True)
    (log / "00000000000000000000.json").write_text("nonsense")
    parts = RootParts(Settings(home=str(tmp_path), brokers=own_broker.brokers, lanes=1))
    _ = parts.topics
    assert not parts.root(None).kept
    parts.close()
    assert "what is noted may be left out" in caplog.text


def test_a_root_without_a_memory_begins_with_what_stands_on_kafka(
    own_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As far as it can be read; and knows when it has read all that there is."""
    parts = RootParts(Settings(home=str(tmp_path), brokers=own_broker.brokers, lanes=1))
    _ = parts.topics
    order = Quarantine(node="n2", topic="math", stage=Stage.QUARANTINED, why="it lies", since=1.0)
    before, decisions = Root(), rounds(lies=False, count=5)
    before.learn(0, list(enumerate(decisions)))
    (known,) = before.affinities.state().topics
    directives = [
        (QUARANTINE_KEY + b"x", msgspec.json.encode(order)),
        (QUARANTINE_KEY + b"y", b"nonsense"),
        (AFFINITY_KEY + b"math", msgspec.json.encode(known)),
        (AFFINITY_KEY + b"law", b"nonsense"),
    ]
    publish_directives(parts.producer, directives)
    values = [encode(msgspec.structs.replace(d, offset=offset)) for offset, d in enumerate(decisions)]
    parts.producer.send(RESULTS, 0, values, [b""] * len(values))
    parts.producer.flush()
    begun = parts.root(None)
    source = supervise.ClusterSource(parts)
    read = {name: source.build_part("cluster", name, None) for name in source.list_parts()}
    assert begun._behind == read.keys() == {HEARTBEATS, "0000"}
    found: dict[str, list[supervise.Item]] = {name: [] for name in read}
    deadline = time.monotonic() + 60
    while not all(any(isinstance(item, supervise.Reached) for _, item in of_part) for of_part in found.values()):
        assert time.monotonic() < deadline
        for name, part in read.items():
            found[name] += part.next_batch()
    for part in read.values():
        part.close()
    parts.close()
    assert begun.kept.keys() == {("math", "n2")}
    assert begun.affinities.seen("math") == 5
    assert caplog.text.count("; ignored") == 2
    *judged, last = [item for _, item in found["0000"]]
    assert sum(len(j.decisions) for j in judged if isinstance(j, supervise.Judged)) == 5
    assert last == supervise.Reached("0000")
