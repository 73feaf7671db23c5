"""What `aureon top` and `aureon ui` show: made of heartbeats, and of what the lake counts."""

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.heartbeats import HeartbeatReader, HeartbeatWriter
from connectors.kafka import client_config
from connectors.topics import ensure_topics
from flows.commands import overview
from flows.commands.overview import (
    OTHERS,
    SERIES,
    SPANS,
    Kept,
    Observer,
    Pulse,
    RoundView,
    notes_of,
    rounds_of,
    steps_of,
    throughput_of,
    topics_of,
)
from flows.settings import Settings
from one_lake.notes import NoteWriter
from schemas.errors import RefusedError
from schemas.node import NodeHealth
from schemas.supervision import Alert, CellState, Noted, Quarantine, Stage
from tests.aureon_command import until
from tests.brokers import Broker
from tests.flows.commands.test_status import write_lake
from tests.flows.test_registry import cell, node
from tests.one_lake.lake_data import lake_writer


def said(name: str, at: float, decided: int, process: str = "p") -> CellState:
    """A word of a cell that has decided so much."""
    return CellState(cell=name, process=process, lanes=(2, 0), under_way=3, decided=decided, at=at)


def counted(topic: str, round_index: int, **counts: int) -> Any:
    """A row of counts."""
    none = dict.fromkeys(("decided", "last_minute", "converged", "forced", "dead", "cancelled", "calls"), 0)
    return overview._Counted(topic=topic, round_index=round_index, **{**none, **counts}, cost=0.0, first_at=1.0)


def note_of(kind: str, subject: str, topic: str, detail: object, number: int, state: str = "") -> Noted:
    """A row that a root has noted."""
    text = msgspec.json.encode(detail).decode()
    at = number / 1000
    return Noted(number=number, noted_at=at, kind=kind, subject=subject, topic=topic, state=state, detail=text)


def root_notes(now: float) -> list[Noted]:
    """What a root may note at a look: of a cell that is gone, a node that lies, a topic that dies; and an alert."""
    number = int(now * 1000)
    order = Quarantine(node="noisy", topic="math", stage=Stage.QUARANTINED, why="noise", since=now)
    alert = Alert(kind="quarantined", subject="noisy", text="on math: noise", at=now)
    return [
        note_of("cell", "gone", "", said("gone", now - 300, 7, "h:1"), number, "silent"),
        note_of("quarantine", "noisy", "math", order, number, "quarantined"),
        note_of("affinity", "good", "math", {"quality": 0.9, "outcomes": 14.0}, number),
        note_of("affinity", "noisy", "math", {"quality": 0.1, "outcomes": 12.0}, number),
        note_of("topic", "", "law", {"topic": "law"}, number, "dying"),
        note_of("alert", "noisy", "", alert, number, "quarantined"),
    ]


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


def test_rounds_tell_how_far_tasks_had_converged() -> None:
    """Of all topics together; what was no task is no round."""
    rows = [
        counted("math", 0, decided=10, converged=6),
        counted("law", 0, decided=10, converged=3, dead=1),
        counted("law", 1, decided=4, converged=3, forced=2),
        counted("", 0, decided=5, dead=5),
    ]
    assert rounds_of(rows) == [
        RoundView(1, 20, 9, 0, 1, 0.45, 0.75),
        RoundView(2, 4, 3, 2, 0, 0.75, 1.0),
    ]
    assert rounds_of([]) == []
    assert rounds_of([counted("math", 0, decided=1)])[0].by_then == 0.0
    assert [(t.topic, t.decided, t.forced) for t in topics_of(rows)] == [("law", 14, 2), ("math", 10, 0), ("", 5, 0)]


def test_a_throughput_has_a_series_for_each_topic_and_one_for_the_others() -> None:
    """What is from the future, by another machine's clock, is in the last step."""
    made = throughput_of([("math", 0, 4), ("math", 2, 1), ("law", 9, 2)], 1000.0, 10.0, 1029.0)
    assert (made.topics, made.counts) == (["math", "law"], [[4, 0, 1], [0, 0, 2]])
    many = throughput_of([(f"t{n}", 0, 100 - n) for n in range(20)], 0.0, 10.0, 5.0)
    assert len(many.topics) == len(many.counts) == SERIES
    assert many.topics[-1] == OTHERS
    assert sum(map(sum, many.counts)) == sum(100 - n for n in range(20))
    assert throughput_of([], 0.0, 1.0, 5.0).counts == []


@pytest.mark.parametrize("span", [s for s in SPANS.values() if s.back_s is not None])
def test_steps_begin_at_round_times_and_end_now(span: overview.Span) -> None:
    """Whenever that is."""
    assert span.back_s is not None
    now = 1_700_000_123.4
    since, step = steps_of(span, None, now)
    assert since % step == 0
    assert now - span.back_s < since <= now - span.back_s + step


@pytest.mark.parametrize("first_at", [None, 1_700_000_000.0, 1_600_000_000.0, 1_700_000_122.0, 1_800_000_000.0])
def test_all_time_has_some_sixty_steps_at_most(first_at: float | None) -> None:
    """From the first round on, also where that is now or, by another clock, later."""
    now = 1_700_000_123.4
    since, step = steps_of(SPANS["all"], first_at, now)
    assert step >= 1.0
    assert since <= min(first_at or now, now)
    assert (now - since) // step + 1 <= 61


def test_what_the_root_noted_is_read() -> None:
    """Its silence, too."""
    now = 1_700_000_000.0
    noted = root_notes(now)
    rows = [(n.number, n.kind, n.subject, n.topic, n.state, n.detail) for n in noted if n.kind != "alert"]
    notes = notes_of(rows, [noted[-1].detail], now + 30)
    assert (notes.noted_at, notes.silent, notes.dying) == (now, False, ["law"])
    assert [(q.node, q.topic, q.stage) for q in notes.quarantines] == [("noisy", "math", Stage.QUARANTINED)]
    assert [(a.node, a.quality) for a in notes.affinities] == [("good", 0.9), ("noisy", 0.1)]
    assert notes.alerts[0].text == "on math: noise"
    assert notes_of(rows, [], now + 1000).silent
    assert notes_of([], [], now) == overview.Notes()


def test_a_look_is_kept_for_a_while_and_longer_if_it_took_long() -> None:
    """And several who ask at once make one."""
    looks: list[int] = []

    def look() -> int:
        time.sleep(0.05)
        looks.append(1)
        return len(looks)

    kept = Kept(look, 0.01, 100.0)
    asking = [threading.Thread(target=kept) for _ in range(5)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert (kept(), len(looks)) == (1, 1)
    soon = Kept(look, 0.0)
    assert (soon(), soon()) == (2, 3)


def test_the_lake_is_told(tmp_path: Path) -> None:
    """All of it; within an hour there is nothing."""
    write_lake(tmp_path / "lake")
    now = time.time()
    NoteWriter(tmp_path / "lake").add(root_notes(now))
    observer = Observer(Settings(home=str(tmp_path), brokers="127.0.0.1:1"))
    told = observer.lake()
    assert told.error is None
    assert [(t.topic, t.decided, t.converged, t.forced, t.dead) for t in told.topics] == [
        ("math", 6, 3, 1, 1),
        ("", 1, 0, 0, 1),
    ]
    assert [(r.round, r.decided, r.converged) for r in told.rounds] == [(1, 6, 3)]
    assert told.throughput is not None
    assert sum(map(sum, told.throughput.counts)) == 7
    assert len(told.latest) == 7
    assert [a.kind for a in told.notes.alerts] == ["quarantined"]
    assert [c.cell for c in told.notes.cells] == ["gone"]
    recent = observer.lake("1h")
    assert (recent.topics, recent.rounds, recent.latest, recent.error) == ([], [], [], None)
    assert recent.notes.dying == ["law"]
    # what the root knows of a cell that nobody hears any more
    cluster = observer.cluster()
    assert [(c.cell, c.silent) for c in cluster.cells] == [("gone", True)]
    assert "no Kafka answers at 127.0.0.1:1" in (cluster.broker_error or "")


def test_an_empty_lake_has_nothing_to_tell(tmp_path: Path) -> None:
    """And no error."""
    lake_writer(tmp_path / "lake").close()
    told = Observer(Settings(home=str(tmp_path))).lake()
    assert (told.error, told.topics, told.rounds, told.latest) == (None, [], [], [])
    assert told.notes.noted_at is None


def test_a_lake_that_cannot_be_read_is_told_with_what_was_known_of_it(tmp_path: Path) -> None:
    """It may be back soon."""
    write_lake(tmp_path / "lake")
    observer = Observer(Settings(home=str(tmp_path)))
    assert observer._look_at_lake("all").error is None
    shutil.rmtree(tmp_path / "lake")
    told = observer._look_at_lake("all")
    assert "no lake at" in (told.error or "")
    assert [t.topic for t in told.topics] == ["math", ""]


def test_settings_that_are_none_are_refused_at_once(tmp_path: Path) -> None:
    """Not at each look."""
    with pytest.raises(RefusedError, match="expected key=value"):
        Observer(Settings(home=str(tmp_path), kafka_config="nonsense"))


def test_heartbeats_are_followed(own_broker: Broker) -> None:
    """Each once, and from the beginning where the broker begins anew."""
    config = client_config(own_broker.brokers)
    ensure_topics(config, 1)
    reader, writer = HeartbeatReader(config), HeartbeatWriter(config)
    heard: list[object] = []

    def hear() -> int:
        heard.extend(reader.read())
        return len(heard)

    try:
        assert hear() == 0
        writer.publish([cell("one", 1.0), node("one:1", "n", 1.0)])
        until(lambda: hear() == 2)
        assert heard == [cell("one", 1.0), node("one:1", "n", 1.0)]
        writer.publish([cell("one", 2.0)])
        until(lambda: hear() == 3)
        reader._position = 1000
        assert len(reader.read()) == 3
        assert reader.read() == []
    finally:
        writer.close()
        reader.close()
