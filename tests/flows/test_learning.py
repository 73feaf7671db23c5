"""What was learned outlives the process: in its file, or else from the lake."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from flows.affinity import Affinities
from flows.items import Decided
from flows.lane import Sealer
from flows.learning import WRITE_EVERY_S, Learning, Memories
from flows.outlook import Outlooks
from one_lake.merge import merge
from schemas.decision import Decision, DecisionKind, Finding
from schemas.ids import payload_digest
from tests.flows.logged import CLUSTER, followed, read_back
from tests.flows.test_affinity import DISSENT, decided, quality, said
from tests.one_lake.lake_data import lake_writer, round_row
from tests.one_lake.lakes_apart import MERGING, converged, write

SEALER = Sealer(b"k" * 32)
Begin = Callable[[], Learning]


@pytest.fixture
def learning(tmp_path: Path) -> Iterator[Begin]:
    """Begin a process that keeps what it learns in a folder, as often as it is called."""
    with contextlib.ExitStack() as stack:

        def begin() -> Learning:
            memories = Memories(affinities=Affinities(), outlooks=Outlooks())
            begun = Learning(memories, tmp_path, tmp_path / "lake", CLUSTER)
            stack.callback(begun.close)
            return begun

        yield begin


def batch(*decisions: Decision, start: int = 0) -> Decided:
    """Decisions as read back."""
    return read_back(*enumerate(decisions, start))


def test_what_was_learned_is_there_after_a_restart(tmp_path: Path, learning: Begin) -> None:
    """And a replay of it teaches nothing again."""
    first = learning()
    first.learn(batch(*[decided(*DISSENT)] * 5), 100.0)
    first.close()
    again = learning()
    again.learn(batch(*[decided(*DISSENT)] * 5), 200.0)
    assert again.memories.affinities.state() == first.memories.affinities.state()
    assert {p.name for p in tmp_path.iterdir()} == {
        "accepted.json",
        "affinities.json",
        "branched.json",
        "learned.lock",
        "outlook.json",
        "supervision.json",
    }


@pytest.mark.parametrize("name", ["accepted", "affinities", "branched", "outlook", "supervision"])
def test_a_file_of_another_version_is_left_alone(
    tmp_path: Path, learning: Begin, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The lake teaches instead; each file has a number, and is read again with its own."""
    first = learning()
    first.learn(batch(decided(*DISSENT)), 100.0)
    first.close()
    path = tmp_path / f"{name}.json"
    kept = msgspec.json.decode(path.read_bytes())
    learning().close()
    assert not caplog.text
    path.write_bytes(msgspec.json.encode({**kept, "version": kept["version"] + 1}))
    learning()
    assert f"{name}.json: it has version {kept['version'] + 1}, and this software reads" in caplog.text


def test_of_several_processes_the_first_one_keeps_the_file(tmp_path: Path, learning: Begin) -> None:
    """Each knows the decisions of its own lanes; what one wrote would be gone with what the next one writes."""
    first, second = learning(), learning()
    first.learn(batch(decided(*DISSENT)), 100.0)
    kept = (tmp_path / "affinities.json").read_bytes()
    second.learn(read_back((0, decided(*DISSENT)), lane=1), 100.0)
    second.close()
    assert (tmp_path / "affinities.json").read_bytes() == kept
    first.close()
    last = learning()
    last.learn(batch(decided(*DISSENT), start=1), 200.0)
    assert msgspec.json.decode((tmp_path / "affinities.json").read_bytes())["next_offsets"] == {"0": 2}


def test_the_file_is_written_now_and_then(tmp_path: Path, learning: Begin) -> None:
    """Every two seconds at most, whatever is learned between."""
    path, kept = tmp_path / "affinities.json", learning()
    kept.learn(batch(decided(*DISSENT)), 100.0)
    first = path.read_bytes()
    kept.learn(batch(decided(*DISSENT), start=1), 100.0 + WRITE_EVERY_S / 2)
    assert path.read_bytes() == first
    kept.learn(batch(decided(*DISSENT), start=2), 100.0 + WRITE_EVERY_S)
    assert msgspec.json.decode(path.read_bytes())["next_offsets"] == {"0": 3}


def test_the_file_is_written_before_a_snapshot(tmp_path: Path, learning: Begin) -> None:
    """However short a time ago it was, and only where there is anything new."""
    path, kept = tmp_path / "affinities.json", learning()
    kept.learn(batch(decided(*DISSENT)), 100.0)
    kept.learn(batch(decided(*DISSENT), start=1), 100.0)
    kept.keep(100.0)
    assert msgspec.json.decode(path.read_bytes())["next_offsets"] == {"0": 2}
    written = path.stat().st_ino
    kept.keep(200.0)
    assert path.stat().st_ino == written


def test_a_file_that_cannot_be_read_is_as_good_as_none(
    tmp_path: Path, learning: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and written anew."""
    (tmp_path / "affinities.json").write_bytes(b'{"version": 1, "topics": [')
    kept = learning()
    assert "affinities.json" in caplog.text
    kept.learn(batch(decided(*DISSENT)), 100.0)
    assert learning().memories.affinities.state() == kept.memories.affinities.state()


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was learned is in memory."""
    memories = Memories(affinities=Affinities(), outlooks=Outlooks())
    kept = Learning(memories, tmp_path / "gone", tmp_path / "lake", CLUSTER)
    kept.learn(batch(decided(*DISSENT)), 100.0)
    assert "kept in memory alone" in caplog.text
    assert quality(kept.memories.affinities, "c") < 0.6


def test_without_a_file_the_lake_tells_which_topics_are_stopped_and_what_was_accepted(
    tmp_path: Path, learning: Begin
) -> None:
    """What supervision found is in the rows of the rounds, what was asked in those of the records."""
    stop = Finding(policy="mine", action="stop_topic", reason="so", pause_s=600.0)
    history = [
        decided(*DISSENT, at=100.0),
        decided(said("a"), said("b"), at=101.0, kind=DecisionKind.NEXT_ROUND, result={"findings": (stop,)}),
    ]
    writer = lake_writer(tmp_path / "lake")
    writer.add(followed(enumerate(history), SEALER).rows)
    writer.flush()
    writer.close()
    memories = learning().memories
    assert "mine: so" in memories.supervision.stopped(history[0].topic, 200.0)
    found = memories.accepted.record_of(history[0].topic, payload_digest(bytes(history[0].payload)))
    assert found is not None
    assert found.logical_id == history[0].logical_id


def test_without_a_file_the_lake_teaches(tmp_path: Path, learning: Begin) -> None:
    """The same as the log did, as far as the lake goes, also where the rounds of several tasks alternate."""
    early = decided(said("a"), said("c", "7"), kind=DecisionKind.NEXT_ROUND, logical_id="one", at=90.0)
    between = decided(said("c"), said("d", "7"), logical_id="two", at=91.0, kind=DecisionKind.NEXT_ROUND)
    history = [
        early,
        between,
        decided(said("a"), said("b"), logical_id="one", at=92.0),
        decided(said("c"), said("a"), logical_id="two", at=93.0),
        decided(said("a"), said("c", "7"), at=94.0, result={"verified": True, "verifier": "number", "leading": (0,)}),
        decided(*DISSENT, at=100.0),
        decided(*DISSENT, at=101.0, forced=True),
        decided(said("a"), said("c", "7"), said("b", "", status="abstained"), at=102.0, kind=DecisionKind.NEXT_ROUND),
        decided(said("a"), said("b", "42.0"), said("c", "7"), said("d", "7"), said("e"), at=103.0),
        decided(said("a"), said("c", "7"), at=104.0, result={"verified": True, "evidence": "verifier"}),
        decided(said("a", status="failed", error="NodeError"), at=105.0, kind=DecisionKind.RETRY),
    ]
    writer = lake_writer(tmp_path / "lake")
    writer.add(followed(enumerate(history), SEALER).rows)
    writer.flush()
    writer.close()
    live = Affinities()
    live.learn(0, enumerate(history))
    assert learning().memories.affinities.state() == live.state()


def test_merged_rounds_of_another_cluster_do_not_stop_a_lane_from_learning(tmp_path: Path, learning: Begin) -> None:
    """Its offsets are far beyond the own ones, in a lane with the same number."""
    stop = Finding(policy="mine", action="stop_topic", reason="so", pause_s=600.0)
    stopped = decided(said("a"), said("b"), at=101.0, kind=DecisionKind.NEXT_ROUND, result={"findings": (stop,)})
    own = lake_writer(tmp_path / "lake")
    own.add(followed([(19_999, decided(*DISSENT, at=100.0))], SEALER).rows)
    own.flush()
    own.close()
    theirs = write(tmp_path / "theirs", "b", *[converged("b", 1_000_000 + i, f"t{i}") for i in range(3)])
    merge(tmp_path / "lake", theirs, MERGING)
    begun = learning()
    assert begun.memories.affinities.state().next_offsets == {0: 20_000}
    begun.learn(batch(stopped, start=20_000), 102.0)
    assert "mine: so" in begun.memories.supervision.stopped(stopped.topic, 200.0)


def test_a_round_of_the_lake_that_cannot_be_read_teaches_nothing(
    tmp_path: Path, learning: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    """And keeps none of the others from it."""
    writer = lake_writer(tmp_path / "lake")
    writer.add([round_row(0, 0, candidates="nonsense")])
    writer.flush()
    writer.close()
    with caplog.at_level(logging.DEBUG, "flows.learning"):
        begun = learning()
    assert not begun.memories.affinities.state().topics
    assert "rounds, lane 0, decision 0: " in caplog.text
