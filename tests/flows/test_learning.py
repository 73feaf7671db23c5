"""What was learned outlives the process: in its file, or else from the lake."""

from pathlib import Path

import msgspec
import pytest

from flows.affinity import Affinities
from flows.lane import Sealer
from flows.learning import WRITE_EVERY_S, Learning
from flows.steps.derive import derive
from flows.steps.intake import Decided
from one_lake.sink import LakeWriter
from schemas.decision import Decision, DecisionKind
from tests.flows.test_affinity import DISSENT, decided, quality, said

SEALER = Sealer(b"k" * 32)


def learning(folder: Path) -> Learning:
    """Begin a process that keeps what it learns in a folder."""
    return Learning(Affinities(), folder / "affinities.json", folder / "lake")


def batch(*decisions: Decision, start: int = 0) -> Decided:
    """Decisions as read back."""
    return Decided(0, list(enumerate(decisions, start)))


def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    """And a replay of it teaches nothing again."""
    first = learning(tmp_path)
    first.learn(batch(*[decided(*DISSENT)] * 5), 100.0)
    first.close()
    again = learning(tmp_path)
    again.learn(batch(*[decided(*DISSENT)] * 5), 200.0)
    assert again.affinities.state() == first.affinities.state()
    assert [p.name for p in tmp_path.iterdir()] == ["affinities.json"]


def test_the_file_is_written_now_and_then(tmp_path: Path) -> None:
    """Every two seconds at most, whatever is learned between."""
    path, kept = tmp_path / "affinities.json", learning(tmp_path)
    kept.learn(batch(decided(*DISSENT)), 100.0)
    first = path.read_bytes()
    kept.learn(batch(decided(*DISSENT), start=1), 100.0 + WRITE_EVERY_S / 2)
    assert path.read_bytes() == first
    kept.learn(batch(decided(*DISSENT), start=2), 100.0 + WRITE_EVERY_S)
    assert msgspec.json.decode(path.read_bytes())["next_offsets"] == {"0": 3}


def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and written anew."""
    (tmp_path / "affinities.json").write_bytes(b'{"version": 1, "topics": [')
    kept = learning(tmp_path)
    assert "affinities.json" in caplog.text
    kept.learn(batch(decided(*DISSENT)), 100.0)
    assert learning(tmp_path).affinities.state() == kept.affinities.state()


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was learned is in memory."""
    kept = Learning(Affinities(), tmp_path / "gone" / "affinities.json", tmp_path / "lake")
    kept.learn(batch(decided(*DISSENT)), 100.0)
    assert "kept in memory alone" in caplog.text
    assert quality(kept.affinities, "c") < 0.6


def test_without_a_file_the_lake_teaches(tmp_path: Path) -> None:
    """The same as the log did, as far as the lake goes."""
    history = [
        decided(*DISSENT, at=100.0),
        decided(*DISSENT, at=101.0, forced=True),
        decided(said("a"), said("c", "7"), said("b", "", status="abstained"), at=102.0, kind=DecisionKind.NEXT_ROUND),
        decided(said("a"), said("b", "42.0"), said("c", "7"), said("d", "7"), said("e"), at=103.0),
        decided(said("a"), said("c", "7"), at=104.0, result={"verified": True, "evidence": "verifier"}),
        decided(said("a", status="failed", error="NodeError"), at=105.0, kind=DecisionKind.RETRY),
    ]
    writer = LakeWriter(tmp_path / "lake")
    writer.add(derive(batch(*history), SEALER).rows)
    writer.flush()
    writer.close()
    live = Affinities()
    live.learn(0, enumerate(history))
    assert learning(tmp_path).affinities.state() == live.state()
