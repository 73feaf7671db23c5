"""What `aureon top` and `aureon ui` show: who is asked how often, and what is told of those who do not answer."""

import shutil
import threading
import time
from pathlib import Path

import duckdb
import pytest

from flows.commands import overview
from flows.commands.overview import Kept, Observer
from flows.commands.overview_lake import Lake, Span
from flows.settings import Settings
from one_lake.notes import NoteWriter
from schemas.errors import RefusedError, TryAgainError
from tests.flows.commands.test_overview_lake import root_notes
from tests.flows.commands.test_status import write_lake
from tests.one_lake.lake_data import lake_writer


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


def test_the_end_interrupts_a_question_to_the_lake_and_waits_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it comes between two queries, of which DuckDB then knows nothing; and no question comes after it."""
    write_lake(tmp_path / "lake")
    observer = Observer(Settings(home=str(tmp_path)))
    begun = threading.Event()

    def endless(_span: Span, lake: duckdb.DuckDBPyConnection, *_: object) -> Lake:
        begun.set()
        time.sleep(0.3)
        lake.execute("SELECT sum(sin(range)) FROM range(1_000_000_000_000)")
        raise AssertionError("it came to an end")

    monkeypatch.setattr(overview, "lake_within", endless)
    found: list[Lake] = []
    thread = threading.Thread(target=lambda: found.append(observer.lake()))
    thread.start()
    begun.wait(60)
    observer.end()
    assert not observer._questions
    thread.join(60)
    assert "INTERRUPT" in (found[0].error or "")
    assert "asked no more" in (observer._look_at_lake("all").error or "")
    with pytest.raises(TryAgainError, match="asked no more"):
        observer.tree("math", "a")


def test_the_end_may_come_at_any_moment_of_a_question(tmp_path: Path) -> None:
    """While the lake is opened, or just when it is closed: it is interrupted while it is open only."""
    write_lake(tmp_path / "lake")
    settings = Settings(home=str(tmp_path))
    for number in range(20):
        observer = Observer(settings)
        thread = threading.Thread(target=observer.lake)
        thread.start()
        time.sleep(0.005 * number)
        observer.end()
        thread.join(60)
        assert not observer._questions


def test_a_task_of_no_lake_is_refused(tmp_path: Path) -> None:
    """As any question to it; and that question is over."""
    observer = Observer(Settings(home=str(tmp_path)))
    with pytest.raises(RefusedError, match="no lake at"):
        observer.tree("math", "a")
    observer.end()
    assert not observer._questions
