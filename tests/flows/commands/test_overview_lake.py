"""How the cluster fared, made of what the lake counts and the root notes."""

from typing import Any

import msgspec
import pytest

from flows.commands import overview_lake
from flows.commands.overview_lake import (
    OTHERS,
    SERIES,
    SPANS,
    Notes,
    RoundView,
    Span,
    notes_of,
    rounds_of,
    steps_of,
    throughput_of,
    topics_of,
)
from schemas.supervision import Alert, Noted, Quarantine, Stage
from tests.flows.commands.test_overview_cluster import said


def counted(topic: str, round_index: int, **counts: int) -> Any:
    """A row of counts."""
    none = dict.fromkeys(("decided", "last_minute", "converged", "forced", "dead", "cancelled", "calls"), 0)
    return overview_lake._Counted(topic=topic, round_index=round_index, **{**none, **counts}, cost=0.0, first_at=1.0)


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
        note_of("topic", "", "art", {"topic": "art"}, number),
        note_of("alert", "noisy", "", alert, number, "quarantined"),
    ]


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
def test_steps_begin_at_round_times_and_end_now(span: Span) -> None:
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
    rows = [(n.noted_at, n.kind, n.subject, n.topic, n.state, n.detail) for n in noted if n.kind != "alert"]
    notes = notes_of(rows, [noted[-1].detail], now + 30)
    assert (notes.noted_at, notes.silent, notes.dying) == (now, False, ["law"])
    assert [(q.node, q.topic, q.stage) for q in notes.quarantines] == [("noisy", "math", Stage.QUARANTINED)]
    assert [(a.node, a.quality) for a in notes.affinities] == [("good", 0.9), ("noisy", 0.1)]
    assert notes.alerts[0].text == "on math: noise"
    assert notes_of(rows, [], now + 1000).silent
    assert notes_of([], [], now) == Notes()
