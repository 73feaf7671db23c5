"""What a cell makes of its settings before anything is connected."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flows import beat, refine
from flows.cell import Cell
from flows.comparing.equivalence import Comparison
from flows.comparing.symbolic import Prover
from flows.settings import Settings
from schemas.errors import RefusedError, TryAgainError
from schemas.supervision import CellState
from tests.aureon_command import until
from tests.flows.voters import independent, taught_by


def test_answers_are_compared_as_the_settings_say() -> None:
    """A prover starts nothing before its first question, and is closed with the cell."""
    assert Cell(Settings(symbolic_s=0)).rules.comparison == Comparison()
    cell = Cell(Settings())
    assert isinstance(cell.rules.comparison.proof, Prover)
    assert cell.rules.comparison.alike is None
    cell.close()


@pytest.mark.skipif(importlib.util.find_spec("wordllama") is not None, reason="the extra `embeddings` is installed")
def test_a_similarity_without_the_extra_is_refused() -> None:
    """With the cure, before any task is read."""
    with pytest.raises(RefusedError, match="needs the extra `embeddings`"):
        _ = Cell(Settings(text_similarity=0.9)).rules.comparison


def test_a_heartbeat_that_fails_is_told_and_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it failed by."""
    monkeypatch.setattr(beat, "BEAT_EVERY_S", 0.01)
    told: list[object] = []

    def state() -> Any:
        told.append(None)
        if len(told) == 1:
            raise KeyError("a fault of our own")
        return "well"

    published: list[object] = []
    begun = beat.Beat(state, published.append).start()
    until(lambda: published)
    begun.close()
    assert published[0] == ["well"]
    assert [record.getMessage() for record in caplog.records] == ["how the cell is"]


@pytest.mark.parametrize("asked", [False, True])
def test_the_last_word_of_a_cell_that_was_asked_to_stop_says_so(*, asked: bool) -> None:
    """One that fails is missed."""
    state = CellState(cell="one", process="one:1", lanes=(0, 1), under_way=3, decided=7, at=100.0)
    published: list[Sequence[CellState]] = []
    begun = beat.Beat(lambda: state, published.append, lambda: asked).start()
    until(lambda: published)
    begun.close()
    (said,) = published[-1]
    assert (said.ended, said.lanes, said.cell) == ((True, (), "one") if asked else (False, (0, 1), "one"))
    assert len(published) == 1 + asked


def test_a_cell_that_is_closed_connects_to_nothing(tmp_path: Path) -> None:
    """A thread that is late must not begin it all anew."""
    cell = Cell(Settings(home=str(tmp_path), brokers="127.0.0.1:1"))
    cell.close()
    with pytest.raises(TryAgainError, match="the cell is closed"):
        cell.connect()


def test_which_votes_are_kept_is_remembered_of_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping them again is harmless."""
    monkeypatch.setattr(refine, "MAX_KEPT", 1)
    cell = Cell(Settings(home=str(tmp_path)))
    steps = refine.Steps(cell)
    votes = [taught_by(independent(2, 0.8), rounds) for rounds in (10, 20)]
    for each in votes:
        steps._keep(each)
    assert steps._kept == {votes[1].version}
    cell.close()
