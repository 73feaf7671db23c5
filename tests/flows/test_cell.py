"""What a cell makes of its settings before anything is connected."""

import importlib.util
from typing import Any

import pytest

from flows import beat
from flows.cell import Cell
from flows.settings import Settings
from flows.steps.equivalence import Comparison
from flows.steps.symbolic import Prover
from schemas.errors import RefusedError
from tests.aureon_command import until


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
